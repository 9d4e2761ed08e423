"""Real servers for the tests that want them, and their logs for the tests that fail."""

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from tests.support.databases import FilledPostgres, FilledSqlite
from tests.support.postgres import Postgres
from tests.support.sdk import install_packages
from tests.support.servers import Deployment, Filled
from tests.support.valkey import Valkey


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Deployment):
                report.sections.append(("servers", value.log_tails()))
    return report


@pytest.fixture(scope="session", autouse=True)
def _quick_settings() -> Iterator[None]:
    """Spare the tests of this process what each would pay for and none asks for.

    The first request of every test client would look at all static files, and a password is made
    slow to guess. Servers that tests start do both.
    """
    with override_settings(
        SERVESTATIC_USE_FINDERS=False,
        SERVESTATIC_USE_STATIC_ROOT=False,
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ):
        yield


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Return a filled SQLite file to copy."""
    return FilledSqlite(tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL for all tests that break nothing of it."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_database(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Filled:
    """Return a filled database of ``postgres`` to copy."""
    return FilledPostgres(tmp_path_factory.mktemp("postgres"), postgres)


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


@contextmanager
def running_pair(folder: Path, database: Filled, *, redis_count: int = 1) -> Iterator[Pair]:
    """Run a pair on so many Redis servers; whatever a log has to complain of fails its end.

    Pings and the stale close come sooner than in production, so that a test can wait for them.
    """
    valkeys = [Valkey(folder / f"redis-{number}") for number in range(redis_count)]
    pair = None
    try:
        for valkey in valkeys:
            valkey.start()
        pair = Pair(
            folder,
            database=database,
            redis_url=" ".join(valkey.url for valkey in valkeys),
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
        for valkey in valkeys:
            valkey.close()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[Pair]:
    """Two instances on SQLite and one Redis, for all tests that break nothing."""
    with running_pair(tmp_path_factory.mktemp("pair"), database) as pair:
        yield pair
