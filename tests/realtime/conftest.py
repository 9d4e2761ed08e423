"""The parts of the engine on a real Valkey, each cleaned up after its test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from channels.layers import get_channel_layer
from django.db.models.signals import m2m_changed, post_delete, post_save

from realtime import answering, hooks, instance, threads
from realtime.broker.broker import Broker
from realtime.instance import Instance
from realtime.layers import LoopLayer
from realtime.presence import Presence
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_client import RedisServers
from tests.realtime.answerers import Asking
from tests.realtime.client import SECRET, SNAPSHOT, Client, CommandError, token
from tests.support.processes import free_port
from tests.support.valkey import Valkey

T = TypeVar("T")

WAIT_SECONDS = 5


async def until(condition: Callable[[], object], *, timeout_seconds: float = WAIT_SECONDS) -> None:
    """Let the loop run until a condition of this process holds."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def within(awaitable: Awaitable[Any], *, timeout_seconds: float = WAIT_SECONDS) -> Any:
    """Await something under a deadline."""
    async with asyncio.timeout(timeout_seconds):
        return await awaitable


async def once_redis_is_back(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until it is not refused for want of Redis, and return that answer.

    Nobody is kept waiting for a server that has been silent until it has answered again. So the
    first calls after a thaw may be refused, rightly.
    """
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await ask()
            except BrokerUnavailable:
                await asyncio.sleep(0.02)
            except CommandError as error:
                if error.code != BrokerUnavailable.code:
                    raise
                await asyncio.sleep(0.02)


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """Return a way to change single keys of ``settings.REALTIME``."""

    def configure(**values: Any) -> None:
        settings.REALTIME = {**settings.REALTIME, **values}

    return configure


@pytest.fixture
def no_rules() -> Iterator[None]:
    """Forget every channel rule, and afterwards those of the test with what they watch."""
    signals = (post_save, post_delete, m2m_changed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("realtime.rules._rules", [])
        patched.setattr("realtime.decision_signals._watched", {})
        for signal in signals:
            patched.setattr(signal, "receivers", list(signal.receivers))
        yield
    for signal in signals:
        signal.sender_receivers_cache.clear()


@pytest.fixture
def valkey(tmp_path: Path, settings: Any) -> Iterator[Valkey]:
    """Point everything at a server that the test may stop, kill and freeze; it keeps its data."""
    valkey = Valkey(tmp_path / "valkey", port=free_port(), append_only=True)
    valkey.start()
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "realtime.layers.HeliographChannelLayer",
            "CONFIG": {"hosts": [{"address": valkey.url}]},
        }
    }
    yield valkey
    valkey.close()


@pytest.fixture
def redis_server(request: pytest.FixtureRequest) -> str:
    """Return the address of the server in use: the test's own, or this run's, empty."""
    if "valkey" in request.fixturenames:
        return str(request.getfixturevalue("valkey").url)
    return str(request.getfixturevalue("flushed_redis"))


@pytest.fixture
async def servers(redis_server: str) -> AsyncIterator[RedisServers]:
    servers = RedisServers()
    yield servers
    await servers.close()


@pytest.fixture
def broker(servers: RedisServers) -> Broker:
    return Broker(servers)


@pytest.fixture
def presence(servers: RedisServers) -> Presence:
    return Presence(servers)


@pytest.fixture
async def layer(redis_server: str) -> AsyncIterator[LoopLayer]:
    layer = get_channel_layer().on_this_loop()
    yield layer
    await layer.flush()


@pytest.fixture
async def engine(
    redis_server: str, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Instance]:
    """Run an instance with the namespaces of ``client``; it needs no database."""
    configure(
        TOKEN_HMAC_SECRET=SECRET,
        INSECURE=False,
        ALLOW_ANONYMOUS=False,
        ALLOWED_ORIGINS=(),
        DEMO=False,
    )
    monkeypatch.setattr("realtime.snapshot.load_if_changed", lambda known: SNAPSHOT)
    threads.close()  # those of tests that run no instance have connections to the database
    running = await instance.ensure_started()
    await running.load_snapshot()
    await until(lambda: running.hears_control)
    yield running
    await instance.stop_current()


@pytest.fixture
async def dial(engine: Instance) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Return a way to open connections that have said nothing yet; they end after the test."""
    opened: list[Client] = []

    async def dial(**options: Any) -> Client:
        opened.append(await Client(**options).open())
        return opened[-1]

    yield dial
    for client in opened:
        await client.leave()


@pytest.fixture
def connect(dial: Callable[..., Awaitable[Client]]) -> Callable[..., Awaitable[Client]]:
    """Return a way to open connections of a user, 42 unless told otherwise."""

    async def connect(user: str | None = "42", **claims: Any) -> Client:
        client = await dial()
        await client.connect(token(user, **claims))
        return client

    return connect


class HeldRead:
    """The next read of a channel's stream, held back after Redis has answered."""

    def __init__(self) -> None:
        self.has_answer = asyncio.Event()
        self.may_go = asyncio.Event()

    async def until_answered(self) -> None:
        await within(self.has_answer.wait())


@pytest.fixture
def hold_read(engine: Instance, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], HeldRead]:
    """Return a way to hold back one read, so that something may happen between it and the reply."""
    held_reads: dict[str, HeldRead] = {}
    read = engine.reads.read

    async def slow(channel: str, **options: Any) -> Any:
        answer = await read(channel, **options)
        held = held_reads.pop(channel, None)
        if held is not None:
            held.has_answer.set()
            await held.may_go.wait()
        return answer

    def hold_read(channel: str) -> HeldRead:
        held_reads[channel] = held = HeldRead()
        return held

    monkeypatch.setattr(engine.reads, "read", slow)
    return hold_read


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    """Give the engine a provider of answers that the test fills, and none but that."""
    asking = Asking()
    monkeypatch.setattr(hooks, "_providers", [asking])
    return asking


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> answering.Registry:
    """Have what the test declares with the decorators asked, and nothing else."""
    registry = answering.Registry()
    monkeypatch.setattr(answering, "registry", registry)
    return registry
