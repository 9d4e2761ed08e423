"""Polling for all viewers of two instances: counted where it is asked, and broken on the way."""

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pair
from tests.faults.sockets import HANDSHAKE, Line, text_frame
from tests.support.fault_upstream import FaultUpstream
from tests.support.processes import free_port
from tests.support.raw_client import RawClient
from tests.support.servers import Filled, Server, token
from tests.support.valkey import Valkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

INTERVAL_SECONDS = 1.0
STALE_AFTER_SECONDS = 2.5
VIEWERS = 1000
CHANNEL = "rates:usd"
PATH = "/rates"
# What a busy machine may add to any of it.
SLACK_SECONDS = 1.5
# A second until an instance leaves a channel, two looks of a second, and a poll under way.
QUIET_AFTER_SECONDS = 4 + SLACK_SECONDS
AT_ONCE = 50  # connections that are opened together
INTRODUCTION = "\n".join(
    json.dumps(command)
    for command in (
        {"id": 1, "connect": {"token": token("ada")}},
        {"id": 2, "subscribe": {"channel": CHANNEL}},
    )
)

_CONFIGURE = """
import json, sys
from realtime.models import Namespace
from upstreams.models import DataSource, SourceMapping, Upstream

def made(model, **fields):
    row = model(**fields)
    row.full_clean()
    row.save()
    return row

wanted = json.load(sys.stdin)
made(
    Namespace,
    name="rates",
    history_size=10,
    history_ttl=600,
    force_recovery=True,
    allow_subscribe_for_client=True,
)
bank = made(Upstream, name="bank", allow_private_addresses=True, **wanted["upstream"])
source = made(DataSource, name="rates", upstream=bank, **wanted["source"])
made(SourceMapping, source=source, channel=wanted["channel"], pointer="/usd")
"""


class PolledPair(Pair):
    """Two instances with a source; ``upstream_port`` is where it is polled."""

    def __init__(self, folder: Path, *, upstream_port: int, **options: Any) -> None:
        super().__init__(folder, **options)
        self.upstream_port = upstream_port

    def configure(self) -> None:
        wanted = {
            "upstream": {
                "base_url": f"http://127.0.0.1:{self.upstream_port}",
                # Whether it is up again is what these tests ask.
                "breaker_failures": 10_000,
            },
            "source": {
                "path": PATH,
                "interval_seconds": INTERVAL_SECONDS,
                "stale_after_seconds": STALE_AFTER_SECONDS,
            },
            "channel": CHANNEL,
        }
        self.manage("shell", "-c", _CONFIGURE, stdin=json.dumps(wanted))

    def heal(self) -> None:
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.start()
        self.wait_ready()

    async def leader(self, *, since: float) -> Server:
        """Return the instance that has polled last, as it said after a time of the clock."""
        async with asyncio.timeout(15):
            while True:
                found = self._said_to_lead(since)
                if found is not None:
                    return found
                await asyncio.sleep(0.1)

    def _said_to_lead(self, since: float) -> Server | None:
        with sqlite3.connect(self.database_url.removeprefix("sqlite:///")) as database:
            row = database.execute(
                "SELECT instance, strftime('%s', polled_at) FROM upstreams_datasourcestate"
            ).fetchone()
        if row is None or float(row[1]) < since - 1:
            return None
        pid = int(row[0].rpartition(":")[2])
        return next((each for each in self.servers if each.process.pid == pid), None)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[PolledPair]:
    folder = tmp_path_factory.mktemp("sources")
    valkey = Valkey(folder / "redis")
    pair = None
    try:
        valkey.start()
        pair = PolledPair(
            folder,
            upstream_port=free_port(),
            database=database,
            redis_url=valkey.url,
            # The light connections of a crowd answer none.
            variables={"REALTIME_PING_INTERVAL_SECONDS": "300"},
        )
        pair.configure()
        pair.wait_ready()
        yield pair
        for server in pair.servers:
            assert "Traceback" not in server.log(), server.log()[-5000:]
    finally:
        if pair is not None:
            pair.close()
        valkey.close()


@pytest.fixture
async def polled(deployment: PolledPair) -> PolledPair:
    await asyncio.to_thread(deployment.heal)
    return deployment


@pytest.fixture
async def upstream(polled: PolledPair) -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream(port=polled.upstream_port) as upstream:
        upstream.respond(PATH, {"usd": "first"})
        yield upstream


@pytest.fixture
async def viewer(polled: PolledPair) -> AsyncIterator[Any]:
    """Return a maker of viewers who log all that they are told."""
    async with asynccontextmanager(_viewers)() as viewer:
        yield viewer


async def _viewers() -> AsyncIterator[Any]:
    opened: list[RawClient] = []

    async def viewer(server: Server) -> RawClient:
        client = RawClient(server.websocket_url)
        opened.append(client)
        await client.connect(token("ada"))
        await client.subscribe(CHANNEL)
        return client

    yield viewer
    for client in opened:
        await client.close()


@asynccontextmanager
async def crowd(*servers: Server, count: int) -> AsyncIterator[list[Line]]:
    """Open light connections that are subscribed; nobody reads them, or answers their pings."""
    lines: list[Line] = []
    try:
        for server in servers:
            for _ in range(0, count, AT_ONCE):
                await asyncio.gather(*(_join(server, lines) for _ in range(AT_ONCE)))
        yield lines
    finally:
        for line in lines:
            line.cut()


async def _join(server: Server, lines: list[Line]) -> None:
    line = await Line.open(server.port, HANDSHAKE)
    lines.append(line)
    await line.reader.readuntil(b"\r\n\r\n")
    line.writer.write(text_frame(INTRODUCTION))
    async with asyncio.timeout(30):
        await line.reader.readuntil(b'"subscribe":{')


async def until_told(viewer: RawClient, state: str, value: str | None) -> dict[str, Any]:
    """Return what the viewer was told once it has this state and value."""
    async with asyncio.timeout(20):
        while True:
            for event in viewer.log.of("pub", channel=CHANNEL):
                told = event["data"]
                if (told["state"], told["value"]) == (state, value):
                    return dict(told)
            await asyncio.sleep(0.02)


async def until_quiet(upstream: FaultUpstream) -> None:
    """Return once nothing was asked for several intervals; that must begin in time."""
    begun_at, quiet_seconds = time.monotonic(), 3 * INTERVAL_SECONDS
    async with asyncio.timeout(QUIET_AFTER_SECONDS + quiet_seconds):
        while True:
            last_at = max([begun_at, *(asked.at for asked in upstream.asked(PATH))])
            if time.monotonic() - last_at > quiet_seconds:
                return
            await asyncio.sleep(0.1)


def spans(upstream: FaultUpstream) -> list[float]:
    return [later.at - one.at for one, later in itertools.pairwise(upstream.asked(PATH))]


async def test_a_thousand_viewers_cost_one_request_an_interval(polled, upstream):
    async with crowd(polled.a, polled.b, count=VIEWERS // 2) as lines:
        assert len(lines) == VIEWERS
        begun = upstream.count(PATH)
        last = await upstream.wait_asked(PATH, count=begun + 6, timeout_seconds=30)

        upstream.respond(PATH, {"usd": "changed"})
        async with asyncio.timeout(30):
            for line in lines:
                await line.reader.readuntil(b'"changed"')

        assert min(spans(upstream)) > 0.8 * INTERVAL_SECONDS
        assert last.at - upstream.asked(PATH)[begun].at < 5 * INTERVAL_SECONDS + 2 * SLACK_SECONDS
        assert upstream.most_in_flight == 1
    await until_quiet(upstream)


async def test_the_first_viewer_has_a_value_at_once_and_the_last_one_ends_the_polling(
    polled, upstream, viewer
):
    await until_quiet(upstream)
    upstream.respond(PATH, {"usd": "fresh"})
    asked_at = time.monotonic()
    first = await viewer(polled.b)

    await until_told(first, "ok", "fresh")

    # A second until it is seen, and one until what was polled before is as old as the interval.
    assert time.monotonic() - asked_at < 1 + INTERVAL_SECONDS + SLACK_SECONDS
    await first.close()
    await until_quiet(upstream)


async def test_another_instance_polls_on_when_the_leader_is_killed(polled, upstream, viewer):
    viewers = {server: await viewer(server) for server in polled.servers}
    begun_at = time.time()
    await upstream.wait_asked(PATH, count=2)
    leader = await polled.leader(since=begun_at)
    (survivor,) = set(polled.servers) - {leader}
    count = upstream.count(PATH)

    await asyncio.to_thread(leader.kill)
    killed_at = time.monotonic()
    asked = await upstream.wait_asked(PATH, count=count + 2, timeout_seconds=15)

    assert asked.at - killed_at < 3 * INTERVAL_SECONDS + SLACK_SECONDS
    upstream.respond(PATH, {"usd": "after the kill"})
    await until_told(viewers[survivor], "ok", "after the kill")
    assert await polled.leader(since=time.time()) is survivor


async def test_a_leader_that_was_frozen_is_one_no_more(polled, upstream, viewer):
    viewers = [await viewer(server) for server in polled.servers]
    begun_at = time.time()
    await upstream.wait_asked(PATH, count=2)
    leader = await polled.leader(since=begun_at)
    (other,) = set(polled.servers) - {leader}
    os.kill(leader.process.pid, signal.SIGSTOP)
    try:
        count = upstream.count(PATH)
        await upstream.wait_asked(PATH, count=count + 3, timeout_seconds=15)
        upstream.respond(PATH, {"usd": "of the other"})
        await until_told(viewers[polled.servers.index(other)], "ok", "of the other")
    finally:
        os.kill(leader.process.pid, signal.SIGCONT)

    thawed = upstream.count(PATH)
    await upstream.wait_asked(PATH, count=thawed + 4, timeout_seconds=15)

    assert min(spans(upstream)[thawed:]) > 0.8 * INTERVAL_SECONDS
    assert await polled.leader(since=time.time()) is other


async def test_an_outage_is_told_and_its_end(polled, upstream, viewer):
    watching = await viewer(polled.a)
    upstream.respond(PATH, {"usd": "before"})
    good = await until_told(watching, "ok", "before")

    await upstream.stop()
    failing = await until_told(watching, "failing", "before")
    stale = await until_told(watching, "stale", "before")
    await upstream.start()
    upstream.respond(PATH, {"usd": "after"})
    await until_told(watching, "ok", "after")

    assert failing["error"]
    assert good["at"] <= failing["at"] <= stale["at"]
    states = [event["data"]["state"] for event in watching.log.of("pub", channel=CHANNEL)]
    outage = states[states.index("failing") :]
    assert outage == ["failing", "stale", "ok"]
