"""Data sources on a real Redis and a real HTTP server: who polls, when, what viewers are told."""

import asyncio
import contextlib
import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from realtime import instance, services
from realtime.models import Namespace
from realtime.protocol.errors import BrokerUnavailable
from realtime.snapshot import Snapshot
from tests.realtime.client import NAMESPACES, SECRET, Client, token
from tests.support.fault_upstream import (
    FAULTS,
    MORE_FAULTS,
    FaultUpstream,
    answer,
    error500,
    hang,
    redirect,
    sequence,
)
from upstreams import client
from upstreams import configuration as upstream_configuration
from upstreams.configuration import Configuration, UpstreamConfig
from upstreams.models import DataSource, DataSourceState, SourceMapping, Upstream
from upstreams.sources import configuration, poller, polling, records
from upstreams.sources.configuration import SourceConfig
from upstreams.sources.polling import UNWATCHED_MAX, Polling
from upstreams.sources.records import Record, Records

CHANNEL = "cache:rate"
PATH = "/rates"
LONG_SECONDS = 3600.0  # an interval that ends with no test
WAIT_SECONDS = 10


@pytest.fixture
async def backend():
    async with FaultUpstream() as backend:
        backend.respond(PATH, {"usd": 1})
        yield backend


@pytest.fixture
def upstream(backend):
    return UpstreamConfig(
        id=1,
        name="bank",
        url=backend.url,
        host="127.0.0.1",
        allow_private_addresses=True,
        breaker_failures=10_000,
    )


def source(**fields):
    defaults = {
        "id": 1,
        "name": "rates",
        "upstream_id": 1,
        "path": PATH,
        "interval_seconds": LONG_SECONDS,
        "stale_after_seconds": LONG_SECONDS,
        "mappings": ((CHANNEL, ""),),
        "only_while_watched": False,
    }
    return SourceConfig(**(defaults | fields))


@pytest.fixture
def written(monkeypatch):
    """Return what was written of polls, in place of the database."""
    written = []
    monkeypatch.setattr(records, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(records, "_write", lambda due: written.extend(due.items()))
    return written


@pytest.fixture
async def configured(flushed_redis, written, settings, monkeypatch, upstream):
    """Run an instance with a poller; return a way to say what its sources are."""
    versions = itertools.count(1)
    known = Snapshot(0, NAMESPACES)
    settings.REALTIME = {**settings.REALTIME, "TOKEN_HMAC_SECRET": SECRET, "DEMO": False}
    monkeypatch.setattr("realtime.snapshot.load_if_changed", lambda _: known)
    monkeypatch.setattr("upstreams.states.note", lambda *_: None)
    monkeypatch.setattr(poller, "TICK_SECONDS", 0.05)
    running = await instance.ensure_started()

    async def configured(*sources, upstreams=(upstream,), namespaces=NAMESPACES):
        nonlocal known
        parts = {
            upstream_configuration.PART: Configuration({each.id: each for each in upstreams}),
            configuration.PART: {each.id: each for each in sources},
        }
        known = Snapshot(next(versions), namespaces, (), parts)
        await running.load_snapshot()

    await running.load_snapshot()
    await until(lambda: running.hears_control)
    yield configured
    await instance.stop_current()
    await client.close_of_this_loop()


@pytest.fixture
async def watch(configured):
    """Return a way to have somebody watch a channel, who is returned."""
    async with contextlib.AsyncExitStack() as viewers:

        async def watch(channel=CHANNEL):
            viewer = await Client().open()
            viewers.push_async_callback(leave, viewer)
            await viewer.connect(token())
            await viewer.call("subscribe", channel=channel)
            return viewer

        yield watch


async def leave(viewer):
    if viewer.closed_with is None:
        await viewer.leave()
        viewer.closed_with = True


async def until(condition):
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def told(channel=CHANNEL):
    """Return what was ever published in a channel."""
    history = await services.ahistory(channel, limit=-1)
    return [msgspec.json.decode(each.data) for each in history.publications]


async def until_told(*states, channel=CHANNEL):
    """Return what was published once it has these states."""
    async with asyncio.timeout(WAIT_SECONDS):
        while [each["state"] for each in await told(channel)] != list(states):
            await asyncio.sleep(0.01)
    return await told(channel)


@contextlib.asynccontextmanager
async def running(task):
    """Run a poller of another instance."""
    task = asyncio.ensure_future(task)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


# What is published -------------------------------------------------------------------------------


async def test_a_value_is_published_with_the_time_it_was_read(configured, backend):
    before = datetime.now(UTC).replace(microsecond=0)

    await configured(source(mappings=((CHANNEL, "/usd"),)))

    (first,) = await until_told("ok")
    assert first["value"] == 1
    assert before <= datetime.fromisoformat(first["at"]) <= datetime.now(UTC)
    assert set(first) == {"state", "value", "at"}


async def test_only_a_change_is_published(configured, backend):
    bodies = [b'{"usd": 1}', b'{"usd":1 }', b'{"usd": 2}', b'{"usd": 2}']
    backend.on(PATH, sequence([answer(body) for body in bodies]))

    await configured(source(interval_seconds=0.05))

    await backend.wait_asked(PATH, count=8)
    assert [each["value"] for each in await told()] == [{"usd": 1}, {"usd": 2}]


async def test_an_answer_goes_into_several_channels(configured, backend):
    backend.respond(PATH, {"usd": [1, 2], "chf": {"a/b": None}})

    await configured(
        source(mappings=(("open:a", "/usd/1"), ("open:b", "/chf/a~1b"), ("open:c", "")))
    )

    assert (await until_told("ok", channel="open:a"))[0]["value"] == 2
    assert (await until_told("ok", channel="open:b"))[0]["value"] is None
    assert (await until_told("ok", channel="open:c"))[0]["value"]["usd"] == [1, 2]


async def test_the_request_carries_the_headers_of_the_source(configured, backend):
    await configured(source(path=f"{PATH}?base=EUR", headers={"x-team": "blue"}))

    asked = await backend.wait_asked(PATH)
    assert (asked.method, asked.path) == ("GET", f"{PATH}?base=EUR")
    assert asked.headers["x-team"] == "blue"


async def test_a_value_lives_on_while_it_is_true(configured, backend, monkeypatch):
    kept = []
    akeep = services.akeep

    async def watched_akeep(channel):
        kept.append(channel)
        return await akeep(channel)

    monkeypatch.setattr(services, "akeep", watched_akeep)
    await configured(source(interval_seconds=0.05))
    await until_told("ok")
    await services.ahistory_remove(CHANNEL)  # as if its time had come

    await until_told("ok")

    assert len(kept) > 1


# Failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({**FAULTS, **MORE_FAULTS}))
async def test_a_fault_is_told_with_the_last_value_and_ends(
    configured, backend, upstream, written, name
):
    quick = dataclasses.replace(upstream, timeout_seconds=0.3)
    await configured(source(interval_seconds=0.1), upstreams=[quick])
    (good,) = await until_told("ok")

    backend.on(PATH, {**FAULTS, **MORE_FAULTS}[name])
    _, failing = await until_told("ok", "failing")

    assert failing["value"] == {"usd": 1}
    assert failing["at"] >= good["at"]
    assert 0 < len(failing["error"]) < 60
    await until(lambda: written and written[-1][1].state == "failing" and written[-1][1].error)
    backend.respond(PATH, {"usd": 1})
    *_, again = await until_told("ok", "failing", "ok")
    assert "error" not in again


async def test_a_redirect_to_a_private_address_is_not_followed(configured, backend):
    async with FaultUpstream() as secret:
        secret.respond("/", {"usd": "secret"})
        backend.on(PATH, redirect(f"{secret.url}/"))

        await configured(source(interval_seconds=0.1))

        (failing,) = await until_told("failing")
        await backend.wait_asked(PATH, count=3)
        assert (failing["value"], failing["at"]) == (None, None)
        assert "302" in failing["error"]
        assert secret.connection_count == 0


async def test_a_private_address_is_not_asked(configured, backend, upstream):
    named = upstream.url.replace("127.0.0.1", "localhost")
    outside = dataclasses.replace(
        upstream, url=named, host="localhost", allow_private_addresses=False
    )

    await configured(source(), upstreams=[outside])

    (failing,) = await until_told("failing")
    assert "address" in failing["error"]
    assert backend.connection_count == 0


async def test_what_fails_for_long_is_stale_until_there_is_a_value(configured, backend):
    await configured(source(interval_seconds=0.1, stale_after_seconds=0.4))
    await until_told("ok")

    backend.on(PATH, error500)
    *_, stale = await until_told("ok", "failing", "stale")

    assert stale["value"] == {"usd": 1}
    assert stale["error"] == "status 500"
    backend.respond(PATH, {"usd": 2})
    *_, good = await until_told("ok", "failing", "stale", "ok")
    assert good["value"] == {"usd": 2}


async def test_an_answer_that_takes_as_long_as_a_value_lives_is_not_waited_for(
    configured, backend, upstream, written
):
    patient = dataclasses.replace(upstream, timeout_seconds=60.0)
    backend.on(PATH, sequence([answer({"usd": 1}), hang]))

    await configured(source(interval_seconds=0.1, stale_after_seconds=0.3), upstreams=[patient])

    await backend.wait_asked(PATH, count=3)
    await until(lambda: written and written[-1][1].error == "timeout")


async def test_a_value_is_stale_in_time_while_the_api_hangs(configured, backend, upstream, written):
    patient = dataclasses.replace(upstream, timeout_seconds=60.0)
    backend.on(PATH, sequence([answer({"usd": 1}), hang, answer({"usd": 2})]))

    await configured(source(interval_seconds=1.0, stale_after_seconds=1.5), upstreams=[patient])
    good, stale = await until_told("ok", "stale")

    late = datetime.now(UTC) - datetime.fromisoformat(good["at"])
    assert 1.4 < late.total_seconds() < 2.2  # the poll would have ended after 2.5
    assert (stale["value"], stale["error"]) == ({"usd": 1}, "no value for 1.5 seconds")
    await until(lambda: written[-1][1].state == "stale")
    assert written[-1][1].error == stale["error"]
    *_, again = await until_told("ok", "stale", "ok")
    assert again["value"] == {"usd": 2}


async def test_a_value_that_fails_is_stale_in_time_between_polls(configured, backend, upstream):
    await configured()
    backend.on(PATH, sequence([answer({"usd": 1}), error500]))
    polling = Polling(source(stale_after_seconds=0.5), upstream, Records())
    async with running(polling.run()):
        await until_told("ok")
        polling.see_asked(datetime.now(UTC))

        *_, stale = await until_told("ok", "failing", "stale")

        assert stale["error"] == "status 500"
        assert backend.count(PATH) == 2


async def test_who_comes_after_long_is_told_the_new_value_and_nothing_else(
    configured, backend, upstream
):
    await configured()
    short = source(interval_seconds=0.2, stale_after_seconds=0.3, only_while_watched=True)
    polling = Polling(short, upstream, Records())
    async with running(polling.run()):
        polling.see_watched(True)
        await until_told("ok")
        await nobody_watches(polling)
        await asyncio.sleep(0.5)  # longer than the value stays fresh
        backend.respond(PATH, {"usd": 2}, delay_seconds=0.2)

        polling.see_watched(True)

        await until(lambda: polling.is_leading)
        await backend.wait_idle()
        assert [each["value"] for each in await until_told("ok", "ok")] == [{"usd": 1}, {"usd": 2}]


async def test_what_fails_grows_stale_though_viewers_come_and_go(configured, backend, upstream):
    await configured()
    backend.on(PATH, error500)
    fields = {"interval_seconds": 0.2, "stale_after_seconds": 1.0, "only_while_watched": True}
    polling = Polling(source(**fields), upstream, Records())
    async with running(polling.run()):
        for count in range(1, 7):
            polling.see_watched(True)
            await backend.wait_asked(PATH, count=count)
            await nobody_watches(polling)
            await asyncio.sleep(0.2)

    assert [each["state"] for each in await told()] == ["failing", "stale"]


async def nobody_watches(polling):
    for _ in range(UNWATCHED_MAX):
        polling.see_watched(False)
    await until(lambda: not polling.is_leading)


async def test_a_part_that_is_missing_fails_alone(configured, backend, written):
    await configured(source(mappings=((CHANNEL, "/usd"), ("open:b", "/chf"))))

    (failing,) = await until_told("failing", channel="open:b")
    await until_told("ok")

    assert failing["error"] == "no /chf in the answer"
    await until(lambda: written)
    assert (written[-1][1].state, written[-1][1].error) == ("failing", "no /chf in the answer")


async def test_a_value_that_is_too_large_is_a_failure(configured, backend, settings):
    settings.REALTIME = {**settings.REALTIME, "PUBLICATION_MAX_BYTES": 500}
    backend.on(PATH, sequence([answer({"usd": "x" * 400}), answer({"usd": "x" * 600})]))
    await configured(source(interval_seconds=0.05))

    _, failing = await until_told("ok", "failing")

    assert "500 bytes" in failing["error"]


async def test_a_reason_is_told_though_the_value_leaves_no_room_for_it(
    configured, backend, settings
):
    settings.REALTIME = {**settings.REALTIME, "PUBLICATION_MAX_BYTES": 500}
    backend.on(PATH, sequence([answer({"usd": "x" * 420}), error500]))
    await configured(source(interval_seconds=0.05))

    good, failing = await until_told("ok", "failing")

    assert len(msgspec.json.encode(good)) + len('"error":"status 500"failing') > 500
    assert failing["error"] == "status 500"
    assert failing["value"] is None


async def test_a_channel_that_keeps_nothing_any_more_is_recorded(configured, backend, written):
    bare = {**NAMESPACES, "cache": dataclasses.replace(NAMESPACES["cache"], history_size=0)}

    await configured(source(interval_seconds=0.05), namespaces=bare)

    await backend.wait_asked(PATH, count=3)
    await until(lambda: written)
    assert "keeps no history" in written[0][1].error


async def test_a_surprise_costs_one_poll(configured, backend, monkeypatch, caplog):
    check = polling.mapping.checked
    surprises = iter([RuntimeError("what?")])

    def surprising(body):
        for surprise in surprises:
            raise surprise
        return check(body)

    monkeypatch.setattr(polling.mapping, "checked", surprising)

    await configured(source(interval_seconds=0.05))

    await until_told("ok")
    assert "a poll of data source rates has failed" in caplog.text


# Who polls ---------------------------------------------------------------------------------------


async def test_two_instances_ask_once(configured, backend, upstream):
    async with running(poller.run()):
        await configured(source(interval_seconds=0.3))
        started_at = asyncio.get_running_loop().time()

        last = await backend.wait_asked(PATH, count=5)

        spans = [later.at - one.at for one, later in itertools.pairwise(backend.asked(PATH))]
        assert min(spans) > 0.25  # the timer of a poll may be late, and the next then early
        assert last.at - started_at < WAIT_SECONDS
        assert len(await told()) == 1


async def test_another_instance_takes_over_from_one_that_died(configured, backend, upstream):
    await configured()
    short = source(interval_seconds=0.4)
    first = Polling(short, upstream, Records())
    second = Polling(short, upstream, Records())
    async with running(first.run()) as leading, running(second.run()):
        await until_told("ok")
        assert first.is_leading
        leading.cancel()  # it gives nothing back
        died_at = asyncio.get_running_loop().time()

        await backend.wait_asked(PATH, count=2)
        await until(lambda: second.is_leading)

        assert asyncio.get_running_loop().time() - died_at < 4 * 0.4  # twice what is promised
        assert len(await told()) == 1  # the same value is not told again


async def test_a_poll_that_takes_long_keeps_its_lease(configured, backend, upstream):
    await configured()
    patient = dataclasses.replace(upstream, timeout_seconds=60.0)
    backend.on(PATH, hang)
    first, second = (Polling(source(interval_seconds=0.2), patient, Records()) for _ in range(2))
    async with running(first.run()), running(second.run()):
        await backend.wait_asked(PATH)

        await asyncio.sleep(1.0)  # three times what a lease holds

        assert first.is_leading
        assert backend.count(PATH) == 1


async def test_what_is_stale_stays_so_whoever_polls(configured, backend, upstream):
    await configured()
    backend.on(PATH, error500)
    short = {"interval_seconds": 0.1, "stale_after_seconds": 0.2}
    first, second = (Polling(source(**short), upstream, Records()) for _ in range(2))
    async with running(first.run()):
        await until_told("failing", "stale")
    count = backend.count(PATH)

    async with running(second.run()):
        await backend.wait_asked(PATH, count=count + 3)

        assert [each["state"] for each in await told()] == ["failing", "stale"]


async def test_what_another_has_read_a_moment_ago_is_not_stale(configured, backend, upstream):
    await configured()
    fields = {"interval_seconds": 0.2, "stale_after_seconds": 1.0}
    first, second = (Polling(source(**fields), upstream, Records()) for _ in range(2))
    async with running(first.run()):
        await until_told("ok")
    await services.agive_back_leases([(first.lease_name, first.owner)])
    async with running(second.run()):
        await asyncio.sleep(1.2)  # what the first one has read is old now
    await services.agive_back_leases([(second.lease_name, second.owner)])
    backend.on(PATH, error500)

    async with running(first.run()):
        *_, failing = await until_told("ok", "failing")
        assert failing["value"] == {"usd": 1}
        await until_told("ok", "failing", "stale")


async def test_an_instance_that_stops_lets_others_poll_at_once(configured, backend, upstream):
    await configured(source())
    await until_told("ok")

    await instance.stop_current()

    name = Polling(source(), upstream, Records()).lease_name
    assert (await services.atake_lease(name, "another", ttl_seconds=1)).is_held


async def test_the_next_one_does_not_ask_before_the_interval_is_over(configured, backend, upstream):
    await configured()
    first, second = (Polling(source(), upstream, Records()) for _ in range(2))
    async with running(first.run()):
        await until_told("ok")
    await services.agive_back_leases([(first.lease_name, first.owner)])

    async with running(second.run()):
        await until(lambda: second.is_leading)

        assert backend.count(PATH) == 1


async def test_what_a_deposed_leader_publishes_is_dropped(configured, backend, upstream):
    await configured()
    may_tell = asyncio.Event()

    class Slow(Polling):
        """Is frozen between its answer and what it tells."""

        async def _ask(self):
            answered = await super()._ask()
            await may_tell.wait()
            return answered

    backend.on(PATH, sequence([answer({"usd": "old"}), answer({"usd": "new"})]))
    slow = Slow(source(), upstream, Records())
    next_one = Polling(source(), upstream, Records())
    frozen = await slow._take(marks=True)
    telling = asyncio.ensure_future(slow._poll(frozen.fence, is_asked=False))
    await backend.wait_asked(PATH)
    await services.agive_back_leases([(slow.lease_name, slow.owner)])  # it has lapsed
    lease = await next_one._take(marks=True)
    await next_one._poll(lease.fence, is_asked=False)
    await until_told("ok")

    may_tell.set()
    await telling

    assert [each["value"] for each in await told()] == [{"usd": "new"}]


async def test_a_value_that_is_being_told_is_not_overtaken_by_its_age(
    configured, backend, upstream, monkeypatch
):
    await configured()
    may_tell, is_telling = asyncio.Event(), asyncio.Event()
    akeep = services.akeep

    async def slow_first(channel):
        if not is_telling.is_set():
            is_telling.set()
            await may_tell.wait()
        return await akeep(channel)

    monkeypatch.setattr(services, "akeep", slow_first)
    lone = Polling(source(stale_after_seconds=0.2), upstream, Records())
    lease = await lone._take(marks=True)
    lone._begin(lease)
    poll = asyncio.ensure_future(lone._poll(lease.fence, is_asked=False))
    await is_telling.wait()
    await asyncio.sleep(0.2)  # nothing has been read for long enough now

    age = asyncio.ensure_future(lone._tell_stale(lease.fence))
    await asyncio.sleep(0.1)
    may_tell.set()
    await asyncio.gather(poll, age)

    assert [each["state"] for each in await told()] == ["ok"]


# Only while somebody watches ---------------------------------------------------------------------


async def test_nobody_is_asked_while_nobody_watches(configured, backend, watch):
    await configured(source(interval_seconds=0.05, only_while_watched=True))
    await asyncio.sleep(0.5)  # nothing could be awaited: nothing is to happen
    assert backend.count(PATH) == 0

    viewer = await watch()

    first = await viewer.push("pub", CHANNEL)
    assert first["data"]["value"] == {"usd": 1}
    await backend.wait_asked(PATH, count=3)
    await leave(viewer)
    async with asyncio.timeout(WAIT_SECONDS):
        while await services.awatched([CHANNEL]) != [False]:
            await asyncio.sleep(0.01)
        count = -1
        while count != backend.count(PATH):
            count = backend.count(PATH)
            await asyncio.sleep(0.5)  # ten intervals without a poll


async def test_who_comes_later_has_the_last_value_at_once(configured, backend, watch):
    await configured(source(only_while_watched=True))
    await leave(await watch())
    await until_told("ok")

    viewer = await Client().open()
    await viewer.connect(token())
    result = await viewer.call("subscribe", channel=CHANNEL, recover=True, offset=0, epoch="")

    assert result["publications"][0]["data"]["value"] == {"usd": 1}
    assert backend.count(PATH) == 1
    await leave(viewer)


# Changes of the configuration --------------------------------------------------------------------


async def test_a_change_of_a_source_is_in_force(configured, backend):
    backend.respond("/others", {"usd": 2})
    await configured(source())
    await until_told("ok")

    await configured(source(path="/others"))

    await backend.wait_asked("/others")


async def test_a_change_of_the_upstream_is_in_force_without_a_poll_more(
    configured, backend, upstream
):
    await configured(source())
    await until_told("ok")
    async with FaultUpstream() as other:
        other.respond(PATH, {"usd": 2})

        await configured(
            source(poll_asked_at=datetime.now(UTC)),
            upstreams=[dataclasses.replace(upstream, url=other.url)],
        )

        await until_told("ok", "ok")
        assert (backend.count(PATH), other.count(PATH)) == (1, 1)


async def test_what_is_gone_is_stale_also_where_nobody_watches(configured, backend, watch):
    await configured(source(only_while_watched=True))
    await leave(await watch())
    await until_told("ok")
    async with asyncio.timeout(WAIT_SECONDS):
        while await services.awatched([CHANNEL]) != [False]:
            await asyncio.sleep(0.01)

    await configured()

    await until_told("ok", "stale")


async def test_a_channel_that_is_taken_out_is_stale_and_no_other(configured, backend):
    await configured(source(mappings=((CHANNEL, ""), ("open:a", ""), ("open:b", ""))))
    for channel in (CHANNEL, "open:a", "open:b"):
        await until_told("ok", channel=channel)

    await configured(source(), source(id=2, name="moved", mappings=(("open:b", ""),)))

    _, stale = await until_told("ok", "stale", channel="open:a")
    assert (stale["value"], stale["error"]) == ({"usd": 1}, "it is not polled any more")
    await backend.wait_asked(PATH, count=3)
    assert [each["state"] for each in await told()] == ["ok"]
    assert [each["state"] for each in await told("open:b")] == ["ok"]


async def test_what_is_gone_is_stale_though_it_was_taken_over(configured, backend, upstream):
    await configured()
    fields = {"interval_seconds": 0.2}
    first, second = (Polling(source(**fields), upstream, Records()) for _ in range(2))
    async with running(first.run()):
        await until_told("ok")
    await services.agive_back_leases([(first.lease_name, first.owner)])
    async with running(second.run()):
        await until(lambda: second.is_leading)

    await second.retire(but=())

    await until_told("ok", "stale")


async def test_what_is_switched_on_again_is_polled_at_once(configured, backend, monkeypatch):
    monkeypatch.setattr(polling, "RETIRED_SECONDS", 0.3)
    await configured(source())
    await until_told("ok")
    await configured()
    await until_told("ok", "stale")
    await asyncio.sleep(0.3)

    await configured(source())

    await until_told("ok", "stale", "ok")


async def test_who_does_not_know_yet_does_not_poll_what_is_gone(configured, backend, upstream):
    short = source(interval_seconds=0.4)
    await configured(short)
    await until_told("ok")
    async with running(Polling(short, upstream, Records()).run()):
        await configured()
        await until_told("ok", "stale")
        count = backend.count(PATH)

        await asyncio.sleep(1.0)  # ten attempts to take the lease

        assert backend.count(PATH) == count
        assert [each["state"] for each in await told()] == ["ok", "stale"]


async def test_nobody_is_told_of_a_source_that_never_was(configured, backend):
    await configured(source(only_while_watched=True))
    await asyncio.sleep(0.2)

    await configured()

    await asyncio.sleep(0.3)
    assert await told() == []


@pytest.mark.parametrize("what", ["source", "upstream"])
async def test_what_is_gone_is_polled_no_more(configured, backend, what):
    await configured(source(interval_seconds=0.05))
    await until_told("ok")

    await configured(*([] if what == "source" else [source()]), upstreams=[])

    _, stale = await until_told("ok", "stale")
    assert (stale["value"], stale["error"]) == ({"usd": 1}, "it is not polled any more")
    async with asyncio.timeout(WAIT_SECONDS):
        count = -1
        while count != backend.count(PATH):
            count = backend.count(PATH)
            await asyncio.sleep(0.5)


async def test_a_poll_that_is_asked_for_is_done_at_once_and_once(configured, backend, written):
    async with running(poller.run()):
        await configured(source())
        await until_told("ok")

        await configured(source(poll_asked_at=datetime.now(UTC)))

        await backend.wait_asked(PATH, count=2)
        await until(lambda: written and written[-1][1].is_asked)
        await asyncio.sleep(0.5)  # ten looks of each poller
        assert backend.count(PATH) == 2


async def test_a_poll_may_be_asked_for_where_nobody_watches(configured, backend):
    async with running(poller.run()):
        await configured(source(only_while_watched=True))
        await asyncio.sleep(0.2)

        await configured(source(only_while_watched=True, poll_asked_at=datetime.now(UTC)))

        await until_told("ok")
        await asyncio.sleep(0.5)
        assert backend.count(PATH) == 1


async def test_a_poll_may_be_asked_for_with_the_change_itself(configured, backend):
    backend.respond("/others", {"usd": 2})
    async with running(poller.run()):
        await configured(source(only_while_watched=True, poll_asked_at=datetime.now(UTC)))
        await until_told("ok")

        await configured(
            source(path="/others", only_while_watched=True, poll_asked_at=datetime.now(UTC))
        )

        await backend.wait_asked("/others")
        await asyncio.sleep(0.5)
        assert (backend.count(PATH), backend.count("/others")) == (1, 1)


async def test_a_wish_of_long_ago_is_none_to_who_has_just_started(configured, backend):
    asked_at = datetime.now(UTC) - timedelta(minutes=1)

    await configured(source(only_while_watched=True, poll_asked_at=asked_at))

    await asyncio.sleep(0.5)
    assert backend.count(PATH) == 0


async def test_a_poll_may_be_asked_for_right_after_another(configured, backend):
    async with running(poller.run()):
        for count in (1, 2, 3):
            await configured(source(only_while_watched=True, poll_asked_at=datetime.now(UTC)))

            await backend.wait_asked(PATH, count=count)
            await asyncio.sleep(0.3)  # a poll so short before the wish is no answer to it

        assert backend.count(PATH) == 3


async def test_a_wish_outlives_a_holder_that_died(configured, backend, upstream):
    await configured()
    lone = Polling(source(interval_seconds=0.4, only_while_watched=True), upstream, Records())
    assert (await services.atake_lease(lone.lease_name, "dead", ttl_seconds=0.5)).is_held
    async with running(lone.run()):
        lone.see_asked(datetime.now(UTC))

        await until_told("ok")


async def test_a_wish_outlives_a_redis_that_does_not_answer(
    configured, backend, upstream, monkeypatch
):
    await configured()
    lone = Polling(source(interval_seconds=0.4, only_while_watched=True), upstream, Records())
    failures = iter([BrokerUnavailable()])
    atake_lease = services.atake_lease

    async def flaky(*args, **options):
        for failure in failures:
            raise failure
        return await atake_lease(*args, **options)

    monkeypatch.setattr(services, "atake_lease", flaky)
    async with running(lone.run()):
        lone.see_asked(datetime.now(UTC))

        await until_told("ok")


# Rows --------------------------------------------------------------------------------------------


@pytest.fixture
def row(db):
    Namespace.objects.create(name="cache", history_size=1, history_ttl=60)
    bank = Upstream.objects.create(name="bank", base_url="https://example.com")
    row = DataSource.objects.create(
        name="rates", upstream=bank, path=PATH, interval_seconds=5, headers={"X-Team": "blue"}
    )
    SourceMapping.objects.create(source=row, channel=CHANNEL, pointer="/usd")
    return row


def test_rows_are_read_as_they_are_polled(row):
    (found,) = configuration.load().values()

    assert found == source(
        id=row.pk,
        upstream_id=row.upstream_id,
        interval_seconds=5.0,
        stale_after_seconds=15.0,
        mappings=((CHANNEL, "/usd"),),
        only_while_watched=True,
        headers={"x-team": "blue"},
    )


def test_what_is_off_or_goes_nowhere_is_not_polled(row):
    DataSource.objects.update(is_enabled=False)
    assert configuration.load() == {}
    DataSource.objects.update(is_enabled=True)
    SourceMapping.objects.all().delete()

    assert configuration.load() == {}


def test_what_was_written_past_the_models_is_left_out_and_told(row, caplog):
    SourceMapping.objects.update(pointer="usd")

    assert configuration.load() == {}
    assert "data source rates cannot be used" in caplog.text


def test_any_change_makes_a_new_snapshot(row):
    from realtime import snapshot

    known = snapshot.load()

    DataSource.objects.update(poll_asked_at=datetime.now(UTC))
    newer = snapshot.load_if_changed(known)
    SourceMapping.objects.update(pointer="")
    newest = snapshot.load_if_changed(newer)

    assert known is not newer is not newest
    assert configuration.of(newest.parts)[row.pk].mappings == ((CHANNEL, ""),)


def test_how_it_went_is_kept_beside_the_source(row, monkeypatch):
    monkeypatch.setattr(records, "close_old_connections", lambda: None)
    now = datetime.now(UTC)

    records._write({row.pk: Record("ok", "", now, 0.2, now), 10_000: Record("ok", "", now, 0.1)})
    records._write({row.pk: Record("failing", "timeout", now, 0.3)})

    kept = DataSourceState.objects.get()
    assert (kept.source, kept.state, kept.error) == (row, "failing", "timeout")
    assert kept.answered_at == now


async def test_what_is_as_it_was_is_written_now_and_then(written):
    kept = Records()
    now = datetime.now(UTC)
    async with running(kept.keep_writing()):
        for number in range(3):
            kept.note(1, Record("ok", "", now, number))
            await asyncio.sleep(0.1)
        kept.note(1, Record("failing", "timeout", now, 3))
        await until(lambda: len(written) > 1)

    assert [each.latency_seconds for _, each in written] == [0, 3]
