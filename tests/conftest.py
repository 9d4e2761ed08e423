"""Real servers for the tests that want them, and their logs for the tests that fail."""

import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk import install_packages
from tests.support.servers import Deployment, make_database
from tests.support.valkey import Valkey


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Deployment):
                report.sections.append(("servers", value.log_tails()))
    return report


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a filled SQLite file to copy; migrating is too slow to be done for each deployment."""
    return make_database(tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="session")
def sdk_packages() -> None:
    """Have the JavaScript SDK installed, as its lock file says."""
    install_packages()


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """Return a maker of channels that no other test uses, in a namespace of ``world``."""

    def fresh(namespace: str) -> str:
        return f"{namespace}:{uuid.uuid4().hex[:10]}"

    return fresh


class Pair(Deployment):
    """Two instances, a and b, that are ready."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.a = self.add("a")
        self.b = self.add("b")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Pair]:
    """Two instances for all tests that break nothing.

    Pings and the stale close come sooner than in production, so that a test can wait for them.
    """
    folder = tmp_path_factory.mktemp("pair")
    valkey = Valkey(folder / "redis")
    pair = None
    try:
        valkey.start()
        pair = Pair(
            folder,
            database=database,
            redis_url=valkey.url,
            variables={
                "REALTIME_PING_INTERVAL_SECONDS": "4",
                "REALTIME_PONG_TIMEOUT_SECONDS": "3",
                "REALTIME_STALE_CLOSE_SECONDS": "2",
            },
        )
        pair.wait_ready()
        yield pair
        for server in pair.servers:
            server.terminate()
            assert "Traceback" not in server.log(), server.log()[-5000:]
    finally:
        if pair is not None:
            pair.close()
        valkey.close()
