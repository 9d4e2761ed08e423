"""Clients of every kind, connected to the pair of instances, on every combination of stores.

What both SDKs, ``cent`` and the raw client do runs on SQLite and on PostgreSQL, on one Redis and on
two: four pairs of instances, one after another, each started once. What takes long, or is about
the process rather than its stores, runs ``on_the_ends`` alone: the least and the most there is.
What takes long and asks nothing of the stores runs ``on_the_least``.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import Pair, running_pair
from tests.support.publisher import Api
from tests.support.raw_client import RawClient
from tests.support.sdk import JavaScriptClient, PythonClient
from tests.support.servers import Server, token

KINDS = {"raw": RawClient, "js": JavaScriptClient, "python": PythonClient}
Client = RawClient | JavaScriptClient | PythonClient
Connect = Callable[..., Awaitable[Any]]

# Fixture of the database, and how many Redis servers share the channels.
BACKENDS = {
    "sqlite-one": ("database", 1),
    "postgres-one": ("postgres_database", 1),
    "sqlite-two": ("database", 2),
    "postgres-two": ("postgres_database", 2),
}
THE_ENDS = ["sqlite-one", "postgres-two"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses the pair on every combination of stores, or on those it is marked with."""
    if "backend" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker
        backends = list(BACKENDS)
        if marked("on_the_least"):
            backends = THE_ENDS[:1]
        elif marked("on_the_ends"):
            backends = THE_ENDS
        metafunc.parametrize("backend", backends, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Name the combination of stores of this test."""
    return str(request.param)


@pytest.fixture(scope="session")
def pair(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two instances on these stores."""
    database, redis_count = BACKENDS[backend]
    folder = tmp_path_factory.mktemp(backend)
    filled = request.getfixturevalue(database)
    with running_pair(folder, filled, redis_count=redis_count) as pair:
        yield pair


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test with each kind of client."""
    return str(request.param)


@pytest.fixture(params=["js", "python"])
def sdk(request: pytest.FixtureRequest) -> str:
    """Run the test with each official SDK."""
    return str(request.param)


@pytest.fixture
async def client_of(sdk_packages: None) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Return a maker of clients that are not connected yet; they end with the test."""
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:

        async def client_of(kind: str, url: str) -> Client:
            client = KINDS[kind](url, who=f"{kind}-{next(numbers)}")
            return await stack.enter_async_context(client)

        yield client_of


@pytest.fixture
async def connect(pair: Pair, client_of: Callable[..., Awaitable[Client]]) -> Connect:
    """Return a maker of connected clients: ``await connect("js", to=pair.b, user="42")``."""

    async def connect(
        kind: str = "raw",
        *,
        to: Server = pair.a,
        url: str = "",
        user: str = "ada",
        claims: dict[str, Any] | None = None,
        **options: Any,
    ) -> Client:
        client = await client_of(kind, url or to.websocket_url)
        await client.connect(token(user, **(claims or {})), **options)
        await client.log.wait("connected")
        return client

    return connect


@pytest.fixture
async def api_a(pair: Pair) -> AsyncIterator[Api]:
    """The server API of instance a."""
    async with Api(pair.a.url) as api:
        yield api


@pytest.fixture
async def api_b(pair: Pair) -> AsyncIterator[Api]:
    """The server API of instance b."""
    async with Api(pair.b.url) as api:
        yield api
