"""Instances and a Redis that may be broken, and the judgement afterwards."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Pair
from tests.support.event_log import EventLog
from tests.support.oracle import check
from tests.support.processes import free_port
from tests.support.servers import Filled, Server
from tests.support.valkey import Valkey


class BreakablePair(Pair):
    """Two instances on a Redis with an append-only file; heal() mends whatever a test broke.

    Args:
        valkeys: The servers, in the order of ``REDIS_URL``; ``valkey`` is the first one.
    """

    def __init__(self, folder: Path, *valkeys: Valkey, **options: object) -> None:
        self.valkeys = valkeys
        self.valkey = valkeys[0]
        # Pings come soon, so that a test sees them go on while Redis is away.
        pings = {"REALTIME_PING_INTERVAL_SECONDS": "4", "REALTIME_PONG_TIMEOUT_SECONDS": "3"}
        redis_url = " ".join(valkey.url for valkey in valkeys)
        super().__init__(folder, redis_url=redis_url, variables=pings, **options)

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

    def started_again(self, server: Server) -> None:
        server.start()
        server.wait_ready()


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
def breakable(deployment: BreakablePair) -> Iterator[BreakablePair]:
    """Hand the pair out whole, whatever the test before did to it."""
    deployment.heal()
    yield deployment
    deployment.heal()


@pytest.fixture(scope="package")
def shared_deployment(
    tmp_path_factory: pytest.TempPathFactory, database: Filled
) -> Iterator[BreakablePair]:
    with running(tmp_path_factory.mktemp("shared"), database, redis_count=2) as pair:
        yield pair


@pytest.fixture
def two_servers(shared_deployment: BreakablePair) -> Iterator[BreakablePair]:
    """Hand out a whole pair whose channels are shared by two Redis servers."""
    shared_deployment.heal()
    yield shared_deployment
    shared_deployment.heal()


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
