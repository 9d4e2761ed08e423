"""Data sources in the admin: forms, the last poll, a poll on request, a dry run."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.urls import reverse

from realtime import reach
from realtime.models import Namespace
from tests.support.fault_upstream import FaultUpstream, redirect
from upstreams.models import DataSource, DataSourceState, SourceMapping, Upstream

pytestmark = pytest.mark.django_db

LIST = "admin:upstreams_datasource_changelist"
PAGE = "admin:upstreams_datasource_change"
POLL = "admin:upstreams_datasource_poll_now"
DRY = "admin:upstreams_datasource_dry_run"


@pytest.fixture
def backend(monkeypatch):
    # What a test before it had polled must not be taken for its own.
    monkeypatch.setattr(reach, "_polled", reach._PolledSnapshot())
    with FaultUpstream() as backend:
        yield backend


@pytest.fixture
def row(backend):
    Namespace.objects.create(name="rates", history_size=1, history_ttl=60)
    bank = Upstream.objects.create(
        name="bank", base_url=backend.url, allow_private_addresses=True, breaker_failures=1
    )
    row = DataSource.objects.create(name="rates", upstream=bank, path="/rates")
    SourceMapping.objects.create(source=row, channel="rates:usd", pointer="/usd")
    SourceMapping.objects.create(source=row, channel="rates:chf", pointer="/chf")
    return row


@pytest.fixture
def editor(client):
    """Sign in somebody with single permissions."""

    def editor(*codenames):
        user = User.objects.create_user("eve", password="x", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client.force_login(user)
        return client

    return editor


def page(name, row):
    return reverse(name, args=[row.pk])


def said(response):
    return [str(message) for message in get_messages(response.wsgi_request)]


def text(response):
    return re.sub(r"<[^>]+>|\s+", " ", response.content.decode())


# Forms -------------------------------------------------------------------------------------------


def test_a_source_is_added_with_its_channels(admin_client, row):
    form = {
        "name": "weather",
        "upstream": row.upstream_id,
        "path": "/weather",
        "is_enabled": "on",
        "interval_seconds": 10,
        "jitter_seconds": 0,
        "only_while_watched": "on",
        "headers": "{}",
        "mappings-TOTAL_FORMS": 1,
        "mappings-INITIAL_FORMS": 0,
        "mappings-0-channel": "rates:weather",
        "mappings-0-pointer": "/now",
    }

    refused = admin_client.post(
        reverse("admin:upstreams_datasource_add"), {**form, "mappings-0-channel": "other:weather"}
    )
    admin_client.post(reverse("admin:upstreams_datasource_add"), form)

    assert "add one, with history size" in refused.content.decode()
    assert SourceMapping.objects.get(channel="rates:weather").source.name == "weather"


def test_the_list_and_the_page_show_the_last_poll(admin_client, row):
    now = datetime.now(UTC)
    DataSourceState.objects.create(
        source=row, state="failing", error="status 503", polled_at=now, latency_seconds=0.1234
    )

    for response in (admin_client.get(reverse(LIST)), admin_client.get(page(PAGE, row))):
        for shown in ("failing", "status 503", "123 ms"):
            assert shown in text(response)
        assert "not polled now" not in text(response)


def test_a_source_that_nobody_watches_shows_that_it_rests(admin_client, row):
    DataSourceState.objects.create(
        source=row,
        state="ok",
        polled_at=datetime.now(UTC) - timedelta(seconds=60),
        latency_seconds=0.1,
    )

    assert "ok, not polled now" in text(admin_client.get(reverse(LIST)))


def test_a_source_without_a_poll_says_so(admin_client, row):
    assert "never polled" in text(admin_client.get(reverse(LIST)))
    assert "never polled" in text(admin_client.get(page(PAGE, row)))


# Poll now ----------------------------------------------------------------------------------------


def test_a_poll_is_asked_for_on_the_page_and_in_the_list(admin_client, row):
    response = admin_client.post(page(POLL, row))
    first = DataSource.objects.get().poll_asked_at
    admin_client.post(reverse(LIST), {"action": "poll_now", "_selected_action": [row.pk]})

    assert said(response) == ["“rates” is polled within two seconds."]
    assert DataSource.objects.get().poll_asked_at > first
    assert {entry.get_change_message() for entry in LogEntry.objects.all()} == {"Asked for a poll."}


@pytest.mark.parametrize(
    ("hinder", "reason"),
    [
        (lambda: DataSource.objects.update(is_enabled=False), "it is not enabled"),
        (lambda: Upstream.objects.update(is_enabled=False), "its upstream is not enabled"),
        (lambda: SourceMapping.objects.all().delete(), "it has no channel"),
    ],
)
def test_what_cannot_be_polled_says_why(admin_client, row, hinder, reason):
    hinder()

    response = admin_client.post(page(POLL, row))

    assert said(response) == [f"“rates” is not polled: {reason}."]
    assert DataSource.objects.get().poll_asked_at is None


# Dry run -----------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_be_published_and_publishes_nothing(
    admin_client, row, backend, flushed_redis
):
    import redis

    backend.respond("/rates", {"usd": [1.5, "<b>"]})

    response = admin_client.post(page(DRY, row))

    shown = response.content.decode()
    assert "&quot;state&quot;: &quot;ok&quot;" in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert "no /chf in the answer" in text(response)
    assert backend.count("/rates") == 1
    with redis.Redis.from_url(flushed_redis) as client:
        assert client.keys("*") == []
    assert not DataSourceState.objects.exists()


def test_a_dry_run_shows_why_there_is_no_answer(admin_client, row, backend):
    backend.on("/rates", redirect("http://169.254.169.254/"))

    first, second = (text(admin_client.post(page(DRY, row))) for _ in range(2))

    assert "gave no answer: status 302" in first
    assert "status 302" in second  # nobody gave it up for a while
    assert backend.count("/rates") == 2


def test_a_dry_run_asks_no_private_address(admin_client, row, backend):
    Upstream.objects.update(allow_private_addresses=False)

    assert "address refused" in text(admin_client.post(page(DRY, row)))
    assert backend.connection_count == 0


def test_a_dry_run_of_an_upstream_that_is_off_says_so(admin_client, row, backend):
    Upstream.objects.update(is_enabled=False)

    assert "is not enabled" in text(admin_client.post(page(DRY, row)))
    assert backend.connection_count == 0


# Who may -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [POLL, DRY])
def test_it_takes_the_permission_to_change(editor, row, backend, name):
    client = editor("view_datasource")

    response = client.post(page(name, row))

    assert response.status_code == 403
    assert backend.connection_count == 0
    assert DataSource.objects.get().poll_asked_at is None
    assert "Poll now" not in client.get(page(PAGE, row)).content.decode()
    assert "poll_now" not in client.get(reverse(LIST)).content.decode()


@pytest.mark.parametrize("name", [POLL, DRY])
def test_who_may_change_sources_may(editor, row, backend, name):
    client = editor("view_datasource", "change_datasource")

    assert client.post(page(name, row)).status_code in (200, 302)
    assert "Poll now" in client.get(page(PAGE, row)).content.decode()


@pytest.mark.parametrize("name", [POLL, DRY])
def test_a_link_alone_does_nothing(admin_client, client, row, backend, name):
    assert admin_client.get(page(name, row)).status_code == 405
    assert admin_client.post(reverse(name, args=[row.pk + 1])).status_code == 404
    client.logout()
    assert "/login/" in client.post(page(name, row)).url
    assert backend.connection_count == 0


@pytest.mark.parametrize("name", [POLL, DRY])
def test_another_site_cannot_press_the_button(row, backend, name):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))

    assert client.post(page(name, row)).status_code == 403
    assert backend.connection_count == 0
