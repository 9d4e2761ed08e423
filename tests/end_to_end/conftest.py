"""Clients of every kind, connected to the pair of instances."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import Pair
from tests.support.publisher import Api
from tests.support.raw_client import RawClient
from tests.support.sdk import JavaScriptClient, PythonClient
from tests.support.servers import Server, token

KINDS = {"raw": RawClient, "js": JavaScriptClient, "python": PythonClient}
Client = RawClient | JavaScriptClient | PythonClient
Connect = Callable[..., Awaitable[Any]]


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
