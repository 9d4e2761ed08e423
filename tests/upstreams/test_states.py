"""How upstreams are doing, as the admin is told."""

import asyncio

import pytest

from upstreams import states
from upstreams.models import Upstream, UpstreamState

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def upstream():
    return Upstream.objects.create(name="backend", base_url="http://example.com")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    """Leave nothing to be taken back by a test that has no database."""
    monkeypatch.setattr(states, "_told", set())
    monkeypatch.setattr(states, "_pending", {})
    monkeypatch.setattr(states, "_writing", None)


async def written():
    while states._writing is not None and not states._writing.done():
        await asyncio.wait([states._writing])


async def rows():
    return [(row.upstream_id, row.is_open) async for row in UpstreamState.objects.all()]


async def test_the_newest_state_is_the_one_that_stays(upstream):
    for number in range(11):
        states.note(upstream.pk, "backend", number % 2 == 0, "timeout")
        await asyncio.sleep(0)
    await written()

    assert await rows() == [(upstream.pk, True)]
    states.note(upstream.pk, "backend", False, "")
    await written()
    assert await rows() == [(upstream.pk, False)]


async def test_an_upstream_may_be_renamed_meanwhile(upstream):
    states.note(upstream.pk, "backend", True, "timeout")
    await written()
    await Upstream.objects.aupdate(name="other")
    await Upstream.objects.acreate(name="backend", base_url="http://example.org")

    states.note(upstream.pk, "other", False, "")
    await written()

    assert await rows() == [(upstream.pk, False)]


async def test_one_that_is_deleted_meanwhile_leaves_no_row(upstream):
    await Upstream.objects.all().adelete()

    states.note(upstream.pk or 1, "backend", True, "timeout")
    await written()

    assert await rows() == []


async def test_a_process_that_ends_takes_its_states_back(upstream):
    await UpstreamState.objects.acreate(
        upstream=upstream, instance="another:1", is_open=True, changed_at="2100-01-01T00:00Z"
    )
    states.note(upstream.pk, "backend", True, "timeout")
    await written()

    await states.forget()

    assert [row.instance async for row in UpstreamState.objects.all()] == ["another:1"]
