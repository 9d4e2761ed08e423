"""Instances and a Redis that may be broken, and the judgement afterwards."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Pair
from tests.support.event_log import EventLog
from tests.support.oracle import check
from tests.support.processes import free_port
from tests.support.raw_client import CommandError, RawClient
from tests.support.servers import Filled, Server, token
from tests.support.valkey import Valkey

SERVED_SECONDS = 10.0
PRESENCE_SECONDS = 20


class BreakablePair(Pair):
    """Two instances on a Redis with an append-only file; heal() mends whatever a test broke.

    Args:
        valkeys: The servers, in the order of ``REDIS_URL``; ``valkey`` is the first one.
    """

    def __init__(self, folder: Path, *valkeys: Valkey, **options: object) -> None:
        self.valkeys = valkeys
        self.valkey = valkeys[0]
        variables = {
            # Pings come soon, so that a test sees them go on while Redis is away.
            "REALTIME_PING_INTERVAL_SECONDS": "4",
            "REALTIME_PONG_TIMEOUT_SECONDS": "3",
            # The dead are not present for long, and a Redis that is frozen costs no living one.
            "REALTIME_PRESENCE_TTL_SECONDS": str(PRESENCE_SECONDS),
            "REALTIME_PRESENCE_RENEWAL_SECONDS": "3",
        }
        redis_url = " ".join(valkey.url for valkey in valkeys)
        super().__init__(folder, redis_url=redis_url, variables=variables, **options)

    def heal(self) -> None:
        for valkey in self.valkeys:
            if valkey.process is not None and valkey.process.poll() is None:
                valkey.thaw()
            else:
                valkey.start()
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.start()
        self.wait_ready()

    async def wait_served(self) -> None:
        """Return once each instance serves channels of every Redis.

        ``/ready`` does not say so: one of several is enough for it, and a Redis that was silent
        keeps nobody waiting until it has answered again, so that the first call may be refused.
        """
        async with asyncio.timeout(SERVED_SECONDS):
            for server in self.servers:
                async with RawClient(server.websocket_url) as client:
                    await client.connect(token("ada"))
                    for number in range(16):  # some on either of two
                        await _until_subscribed(client, f"stream:served-{number}")

    def started_again(self, server: Server) -> None:
        server.start()
        server.wait_ready()


async def _until_subscribed(client: RawClient, channel: str) -> None:
    while True:
        try:
            await client.subscribe(channel)
            return
        except CommandError as error:
            if not error.temporary:
                raise
            await asyncio.sleep(0.05)


@contextmanager
def running(folder: Path, database: Filled, *, redis_count: int) -> Iterator[BreakablePair]:
    """Run a breakable pair on so many Redis servers."""
    valkeys = [
        Valkey(folder / f"redis-{number}", port=free_port(), append_only=True)
        for number in range(redis_count)
    ]
    pair = None
    try:
        for valkey in valkeys:
            valkey.start()
        pair = BreakablePair(folder, *valkeys, database=database)
        yield pair
        for server in pair.servers:
            assert "Traceback" not in server.log(), server.log()[-5000:]
    finally:
        if pair is not None:
            pair.close()
        for valkey in valkeys:
            valkey.close()


@pytest.fixture(scope="package")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, database: Filled
) -> Iterator[BreakablePair]:
    with running(tmp_path_factory.mktemp("breakable"), database, redis_count=1) as pair:
        yield pair


@pytest.fixture
async def breakable(deployment: BreakablePair) -> BreakablePair:
    """Hand the pair out whole, whatever the test before did to it."""
    await asyncio.to_thread(deployment.heal)
    await deployment.wait_served()
    return deployment


@pytest.fixture(scope="package")
def shared_deployment(
    tmp_path_factory: pytest.TempPathFactory, database: Filled
) -> Iterator[BreakablePair]:
    with running(tmp_path_factory.mktemp("shared"), database, redis_count=2) as pair:
        yield pair


@pytest.fixture
async def two_servers(shared_deployment: BreakablePair) -> BreakablePair:
    """Hand out a whole pair whose channels are shared by two Redis servers."""
    await asyncio.to_thread(shared_deployment.heal)
    await shared_deployment.wait_served()
    return shared_deployment


Judge = Callable[..., None]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Return the checker over logs; they are kept beside the test for who wants to look."""

    def judge(*logs: EventLog, gone: tuple[str, ...] = ()) -> None:
        events = [event for log in logs for event in log.events]
        for log in logs:
            log.write(tmp_path / "events.jsonl")
        violations = check(events, gone=gone)
        assert violations == [], f"{len(violations)} of them; {tmp_path}/events.jsonl"

    return judge


@pytest.fixture
def stopwatch() -> Callable[[], float]:
    """Return a clock that starts now."""
    started_at = time.monotonic()
    return lambda: time.monotonic() - started_at
