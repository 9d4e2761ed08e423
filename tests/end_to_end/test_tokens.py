"""Clients whose tokens live for two seconds, while the keys are changed under them.

Publications are numbered and flow all the time, to a subscription of the client's own and to one
of its token. Whatever happens to tokens and keys, each arrives once and in order.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import jwt
import pytest

from tests.conftest import Pair
from tests.support import world
from tests.support.event_log import EventLog
from tests.support.key_source import KeySource
from tests.support.oracle import check
from tests.support.proxy import FaultProxy
from tests.support.publisher import Api, Publisher
from tests.support.raw_client import RawClient
from tests.support.sdk import JavaScriptClient, PythonClient
from tests.support.servers import Filled, Server, websocket_url
from tests.support.tokens import jwk, private_key
from tests.support.valkey import Valkey

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(180)]

TTL_SECONDS = 2
PER_SECOND = 50
OLD, NEW = world.TOKEN_SECRET, secrets.token_hex(32)
KINDS = {"js": JavaScriptClient, "python": PythonClient}
Sign = Callable[[dict[str, object]], str]


class Issuer:
    """Signs tokens as the application does, with the key of the day.

    Attributes:
        log: Takes one ``token`` for each that an SDK has asked for.
    """

    def __init__(self, sign: Sign, *channels: str) -> None:
        self.sign = sign
        self.channels = channels
        self.log = EventLog("issuer")

    def token(self) -> str:
        claims = {"sub": "ada", "exp": int(time.time()) + TTL_SECONDS, "channels": self.channels}
        return self.sign(claims)

    async def get_token(self) -> str:
        self.log.add("token")
        return self.token()

    async def has_issued(self, count: int) -> None:
        """Wait until so many more tokens were asked for.

        One may be long in coming: keys that were shown anew are asked for every ten seconds.
        """
        after = len(self.log.events)
        await self.log.wait("token", after=after, count=count, timeout_seconds=30)


def with_secret(secret: str) -> Sign:
    return lambda claims: jwt.encode(claims, secret, algorithm="HS256")


def with_key(number: int) -> Sign:
    key, headers = private_key("RSA", number), {"kid": str(number)}
    return lambda claims: jwt.encode(claims, key, algorithm="RS256", headers=headers)


@pytest.fixture
def valkey(tmp_path) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path / "redis")
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.close()


@pytest.fixture
def start(tmp_path, valkey: Valkey, database: Filled) -> Iterator[Callable[..., Pair]]:
    """Return a way to start two instances of this test's own."""
    pairs: list[Pair] = []

    def start(**variables: str) -> Pair:
        pair = Pair(tmp_path / "pair", database=database, redis_url=valkey.url, variables=variables)
        pairs.append(pair)
        pair.wait_ready()
        return pair

    yield start
    for pair in pairs:
        pair.close()


@pytest.fixture
async def source() -> AsyncIterator[KeySource]:
    source = await KeySource().start()
    yield source
    await source.stop()


@asynccontextmanager
async def following(kind: str, url: str, issuer: Issuer, own_channel: str):
    """Connect an SDK that asks the issuer for tokens, and wait until it follows all channels."""
    async with KINDS[kind](url, who=kind) as client:
        await client.connect(issuer.token(), get_token=issuer.get_token)
        await client.log.wait("connected")
        await client.subscribed(own_channel)
        for channel in issuer.channels:
            await client.log.wait("subscribed", channel=channel)
        yield client


@asynccontextmanager
async def publishing(api: Api, client, *channels: str):
    """Publish all the time; at the end each publication must have been seen once, in order."""
    publisher, ended = Publisher(api), asyncio.Event()

    async def publish() -> None:
        while not ended.is_set():
            await publisher.run(channels, per_second=PER_SECOND, count=10)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish())
        yield
        ended.set()
    for channel in channels:
        last = publisher.log.of("ok", channel=channel)[-1]["id"]
        await client.log.wait("pub", channel=channel, id=last)
    assert check([*publisher.log.events, *client.log.events]) == []
    for channel in channels:
        # The checker lets a loss pass that the client was told of; here there must be none.
        assert all(each["recovered"] for each in client.log.of("subscribed", channel=channel)[1:])
        assert len(client.log.published(channel)) > PER_SECOND


async def accepts(server: Server, token: str) -> bool:
    """Tell whether a server lets somebody in with a token."""
    async with RawClient(server.websocket_url) as client:
        await client.open()
        await client.send_commands({"connect": {"token": token}})
        event = await client.log.until(
            lambda: (client.log.of("connected") or client.log.of("close") or [None])[0]
        )
        return event["event"] == "connected"


def restart(server: Server, **variables: str) -> None:
    """End a server in peace, and start it with other variables."""
    server.terminate()
    server.variables.update(variables)
    server.start()
    server.wait_ready()


@pytest.mark.rule("expiry-sdk-refreshes", "refresh-result")
@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_client_outlives_its_tokens_and_a_change_of_the_secret(
    start, sdk_packages, fresh, kind
):
    pair = start(REALTIME_DRAIN_SECONDS="1")
    own, named = fresh("stream"), fresh("stream")
    issuer = Issuer(with_secret(OLD), named)
    async with (
        FaultProxy(pair.a.port) as proxy,
        Api(pair.b.url) as api,
        following(kind, websocket_url(proxy.port), issuer, own) as client,
    ):

        async def renew(server: Server, other: Server, **variables: str) -> None:
            # Who is on the server goes to the other one, publisher included.
            proxy.target, api.url = other.port, other.url
            await asyncio.sleep(1 / PER_SECOND)
            await asyncio.to_thread(restart, server, **variables)

        async with publishing(api, client, own, named):
            await issuer.has_issued(2)
            assert len(client.log.of("connected")) == 1

            both = {
                "REALTIME_TOKEN_HMAC_SECRET": NEW,
                "REALTIME_TOKEN_HMAC_PREVIOUS_SECRET": OLD,
            }
            await renew(pair.a, pair.b, **both)
            await renew(pair.b, pair.a, **both)
            connected = len(client.log.of("connected"))
            issuer.sign = with_secret(NEW)
            await issuer.has_issued(2)
            assert len(client.log.of("connected")) == connected

            await renew(pair.b, pair.a, REALTIME_TOKEN_HMAC_PREVIOUS_SECRET="")
            await renew(pair.a, pair.b, REALTIME_TOKEN_HMAC_PREVIOUS_SECRET="")
            await issuer.has_issued(1)

        for server in pair.servers:
            assert await accepts(server, issuer.token())
            assert not await accepts(server, with_secret(OLD)({"sub": "ada"}))
        assert client.log.of("disconnect") == []


@pytest.mark.rule("expiry-sdk-refreshes", "refresh-result")
async def test_a_client_outlives_a_change_of_keys_that_a_server_shows(
    start, sdk_packages, fresh, source
):
    source.show(jwk("RSA", 1))
    pair = start(REALTIME_TOKEN_JWKS_URL=source.url)
    own, named = fresh("stream"), fresh("stream")
    issuer = Issuer(with_key(1), named)
    async with (
        Api(pair.b.url) as api,
        following("js", pair.a.websocket_url, issuer, own) as client,
        publishing(api, client, own, named),
    ):
        await issuer.has_issued(1)
        source.show(jwk("RSA", 1), jwk("RSA", 2))
        issuer.sign = with_key(2)
        await issuer.has_issued(2)
        source.show(jwk("RSA", 2))
        await issuer.has_issued(1)
        assert await accepts(pair.b, issuer.token())

    # A refresh may have been put off by error 100, which is temporary: the source is not asked
    # again within ten seconds (docs/decisions/0010). The connection has its grace meanwhile.
    assert len(client.log.of("connected")) == 1
    assert not await accepts(pair.a, with_key(3)({"sub": "ada"}))
