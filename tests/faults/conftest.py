"""Instances and a Redis that may be broken, and the judgement afterwards."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pair
from tests.support.event_log import EventLog
from tests.support.oracle import check
from tests.support.processes import free_port
from tests.support.servers import Server
from tests.support.valkey import Valkey


class BreakablePair(Pair):
    """Two instances on a Redis with an append-only file; heal() mends whatever a test broke."""

    def __init__(self, folder: Path, valkey: Valkey, **options: object) -> None:
        self.valkey = valkey
        # Pings come soon, so that a test sees them go on while Redis is away.
        pings = {"REALTIME_PING_INTERVAL_SECONDS": "4", "REALTIME_PONG_TIMEOUT_SECONDS": "3"}
        super().__init__(folder, redis_url=valkey.url, variables=pings, **options)

    def heal(self) -> None:
        if self.valkey.process is not None and self.valkey.process.poll() is None:
            self.valkey.thaw()
        else:
            self.valkey.start()
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.start()
        self.wait_ready()

    def started_again(self, server: Server) -> None:
        server.start()
        server.wait_ready()


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[BreakablePair]:
    folder = tmp_path_factory.mktemp("breakable")
    valkey = Valkey(folder / "redis", port=free_port(), append_only=True)
    pair = None
    try:
        valkey.start()
        pair = BreakablePair(folder, valkey, database=database)
        yield pair
        for server in pair.servers:
            assert "Traceback" not in server.log(), server.log()[-5000:]
    finally:
        if pair is not None:
            pair.close()
        valkey.close()


@pytest.fixture
def breakable(deployment: BreakablePair) -> Iterator[BreakablePair]:
    """Hand the pair out whole, whatever the test before did to it."""
    deployment.heal()
    yield deployment
    deployment.heal()


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
