"""The whole deployment, started once; whoever breaks something of it mends it again."""

import http.client
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.message import Message

import jwt
import pytest

from tests.compose.containers import Stack
from tests.support import processes
from tests.support.publisher import Api
from tests.support.raw_client import RawClient

Connect = Callable[..., Awaitable[RawClient]]

INSTANCES = ("instance-1", "instance-2", "instance-3")

# Files of the volume that hold a secret in plain text.
_SHOWN = re.compile(r"^  (Sign in|API key) .*\(shown only this once\)$")
SECRETS = ("secret_key", "token_hmac_secret", "redis_password", "postgres_password")


@dataclass(frozen=True)
class FirstStart:
    """What the first start shows, and nothing after it."""

    password: str
    api_key: str

    @classmethod
    def shown_in(cls, log: str) -> "FirstStart":
        """Read it out of a log that shows it once."""
        (password,) = re.findall(r"^  Sign in +admin / (\S+)", log, re.MULTILINE)
        (api_key,) = re.findall(r"^  API key +(\S+)", log, re.MULTILINE)
        return cls(password, api_key)


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Message
    body: str


class Visitor:
    """Somebody outside, at an address of their own, who speaks plain HTTP to a service.

    Args:
        stack: The deployment.
        host: The last number of their address.
        service: Whom they reach; those of a container engine reach nginx alone.
    """

    def __init__(self, stack: Stack, *, host: int = 200, service: str = "nginx") -> None:
        self._to = stack[service].place.here("0.0.0.0")
        self._port = 8080 if service in ("nginx", "tls") else 8000
        self.address = f"{stack.network}.{host}"

    def ask(
        self, path: str, *, method: str = "GET", body: str | bytes = "", **headers: str
    ) -> Answer:
        """Ask once, with ``Host: localhost``; underscores of header names become hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(
            self._to, self._port, timeout=15, source_address=(self.address, 0)
        )
        try:
            connection.request(method, path, body, {"Host": "localhost", **named})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()


def secrets_of(stack: Stack) -> dict[str, str]:
    """Return every secret that the deployment has made, by name."""
    folder = stack.folder / "volumes" / "secrets"
    made = {name: (folder / name).read_text().strip() for name in SECRETS}
    first = FirstStart.shown_in(stack["migrate"].log())
    return {**made, "password": first.password, "api_key": first.api_key}


def leaks(stack: Stack, secrets: dict[str, str]) -> list[str]:
    """Return who has printed which secret in which line, apart from what the first start shows."""
    return [
        f"{service}, {name}: {line}"
        for service, log in stack.logs().items()
        for line in log.splitlines()
        for name, value in secrets.items()
        if value in line and not (service == "migrate" and _SHOWN.search(line))
    ]


def instance_of(stack: Stack, client: RawClient) -> str:
    """Return which instance holds a client: the one whose log says so, a little later."""

    def holders() -> list[str]:
        return [each for each in INSTANCES if stack[each].lines(client=client.client_id)]

    processes.wait_until(holders, timeout_seconds=5, what=f"a log with {client.client_id}")
    (name,) = holders()
    return name


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Everything that compose starts. At the end no log may hold a secret of it."""
    stack = Stack()
    try:
        stack.up()
        yield stack
        assert leaks(stack, secrets_of(stack)) == []
    finally:
        stack.close()


@pytest.fixture(scope="session")
def first(stack: Stack) -> FirstStart:
    """What the first start has shown."""
    return FirstStart.shown_in(stack["migrate"].log())


@pytest.fixture
async def api(stack: Stack, first: FirstStart) -> AsyncIterator[Api]:
    """The server API, through nginx, with the key of the first start."""
    async with Api(stack.url, key=first.api_key) as api:
        yield api


@pytest.fixture
async def connect(stack: Stack) -> AsyncIterator[Connect]:
    """Return a maker of clients that are connected through nginx, and end with the test."""
    secret = secrets_of(stack)["token_hmac_secret"]

    async with AsyncExitStack() as clients:

        async def connect(client: RawClient | None = None, **options: object) -> RawClient:
            if client is None:
                url = stack.url.replace("http", "ws") + "/connection/websocket"
                client = await clients.enter_async_context(RawClient(url))
            await client.open(**options)
            await client.connect(jwt.encode({"sub": "42"}, secret, algorithm="HS256"))
            return client

        yield connect
