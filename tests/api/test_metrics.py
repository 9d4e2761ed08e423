"""Who may read the metrics, and how they are written."""

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncRequestFactory
from django.urls import resolve
from prometheus_client.parser import text_string_to_metric_families

from realtime.models import ApiKey

METRICS_KEY = "a-key-for-metrics-alone"


async def get(key="", *, address="127.0.0.1", method="get"):
    headers = {"X-API-Key": key} if key else {}
    request = getattr(AsyncRequestFactory(), method)("/metrics", headers=headers)
    request.META["REMOTE_ADDR"] = address
    return await resolve("/metrics").func(request)


@pytest.fixture
def scoped(configured):
    """Return a maker of a key with the given scopes."""

    def scoped(*scopes):
        ApiKey.create("scoped", key=METRICS_KEY, scopes=list(scopes))

    return scoped


@pytest.fixture
def open_to(configured, settings):
    """Return a way to let networks in without a key."""

    def open_to(*networks):
        settings.REALTIME = {**settings.REALTIME, "METRICS_NETWORKS": networks}

    return open_to


@pytest.mark.parametrize("scope", ["metrics", "*"])
async def test_a_key_for_metrics_reads_them(scoped, scope):
    await sync_to_async(scoped)(scope)

    response = await get(METRICS_KEY)

    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.content.decode())
    assert {"heliograph_loop_lag_seconds", "heliograph_loop_blocked"} <= {
        family.name for family in families
    }


async def test_without_a_key_nothing_is_told(configured):
    assert ((await get()).status_code, (await get()).content) == (401, b"")
    assert (await get("wrong-key-of-nobody")).status_code == 401


async def test_a_key_for_something_else_is_refused(scoped):
    await sync_to_async(scoped)("info", "publish:metrics")

    response = await get(METRICS_KEY)

    assert (response.status_code, response.content) == (403, b"")


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::7"])
async def test_a_network_may_read_without_a_key(open_to, address):
    open_to("10.0.0.0/8", "fd00::/8")

    assert (await get(address=address)).status_code == 200


@pytest.mark.parametrize("address", ["11.1.2.3", "::1", "", "unix", "10.1.2.3, 11.0.0.1"])
async def test_nobody_else_may(open_to, address):
    open_to("10.0.0.0/8", "fd00::/8")

    assert (await get(address=address)).status_code == 401


async def test_metrics_are_only_read(open_to):
    open_to("127.0.0.0/8")

    assert (await get(method="post")).status_code == 405
    assert (await get(method="head")).status_code == 200
