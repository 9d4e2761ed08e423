"""A backend hangs, drips, babbles, breaks off, fails and sends elsewhere: who asked fails closed.

Nobody else notices, nothing is asked twice, and nothing stays behind in the server.
"""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import backed
from tests.support.backed import Backed
from tests.support.fault_upstream import (
    FAULTS,
    MORE_FAULTS,
    Asked,
    Behaviour,
    FaultUpstream,
    answer,
    echo,
    error500,
    hang,
    redirect,
    sequence,
)
from tests.support.processes import free_port
from tests.support.publisher import Api
from tests.support.raw_client import Closed, CommandError, RawClient
from tests.support.sdk import JavaScriptClient, PythonClient
from tests.support.servers import token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

TIMEOUT_SECONDS = 0.6
RENEWAL_SECONDS = 1
BREAKER_SECONDS = 1.0
BREAKER_FAILURES = 3
NARROW = 4
CALLS = 300
CALLS_PER_CLIENT = 15
ALL_FAULTS = {**FAULTS, **MORE_FAULTS}
SDKS = {"js": JavaScriptClient, "python": PythonClient}


def upstreams(secret_port: int) -> list[dict[str, Any]]:
    """Return the backends: one for each thing that a backend may be."""
    inside = {"allow_private_addresses": True, "breaker_failures": 10_000}

    def calls(name: str, **options: Any) -> dict[str, Any]:
        routes = [{"kind": "rpc", "match": f"{name}:*", "path": f"/{name}"}]
        return {"name": name, "routes": routes, **inside, **options}

    backend = calls("backend", timeout_seconds=TIMEOUT_SECONDS)
    backend["routes"] += [
        {"kind": "connect", "path": "/connect"},
        {"kind": "refresh", "path": "/refresh"},
        {"kind": "subscribe", "match": "asked", "path": "/subscribe"},
        {"kind": "publish", "match": "asked", "path": "/publish"},
        {"kind": "sub_refresh", "match": "asked", "path": "/sub_refresh"},
    ]
    patient = calls("patient", timeout_seconds=30)
    patient["routes"] += [
        {"kind": "subscribe", "match": "patient", "path": "/patient"},
        {"kind": "publish", "match": "patient", "path": "/patient"},
        {"kind": "sub_refresh", "match": "patient", "path": "/sub_refresh"},
    ]
    return [
        backend,
        patient,
        calls("well", timeout_seconds=10),
        calls(
            "fragile",
            timeout_seconds=10,
            breaker_failures=BREAKER_FAILURES,
            breaker_seconds=BREAKER_SECONDS,
        ),
        calls("narrow", timeout_seconds=20, concurrency=NARROW),
        calls("wide", timeout_seconds=20, concurrency=CALLS),
        # Its name is harmless until it is looked up.
        calls("outside", base_url=f"http://localhost:{secret_port}", allow_private_addresses=False),
    ]


NAMESPACES = [
    {
        "name": name,
        "presence": True,
        "history_size": 10,
        "history_ttl": 600,
        "allow_presence_for_subscriber": True,
    }
    for name in ("asked", "patient")
]


@pytest.fixture(scope="module")
def secret_port() -> int:
    """Return the port of what nobody may be led to."""
    return free_port()


@pytest.fixture(scope="module")
def pair(tmp_path_factory, database, secret_port) -> Iterator[Backed]:
    # Subscriptions are looked at whenever their presence is renewed.
    variables = {"REALTIME_PRESENCE_RENEWAL_SECONDS": str(RENEWAL_SECONDS)}
    with backed.running(
        tmp_path_factory.mktemp("upstreams"),
        database,
        upstreams=upstreams(secret_port),
        namespaces=NAMESPACES,
        variables=variables,
    ) as server:
        yield server
        assert "Traceback" not in server.a.log(), server.a.log()[-5000:]


@pytest.fixture
async def upstream(pair) -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream(port=pair.upstream_port) as upstream:
        upstream.on("/well", echo())
        yield upstream


@pytest.fixture
async def secret(secret_port) -> AsyncIterator[FaultUpstream]:
    """What an answer may name and nobody may ask; whoever does is allowed everything."""
    async with FaultUpstream(port=secret_port) as secret:
        for path in ("/", "/outside"):
            secret.respond(path, {"result": {"user": "42", "data": "secret"}})
        yield secret


@pytest.fixture(params=list(FAULTS))
async def fault(request, secret) -> AsyncIterator[Behaviour]:
    """Each of the faults; in the end nobody has asked for what a redirect named."""
    is_redirect = request.param == "redirect"
    yield redirect(f"{secret.url}/") if is_redirect else FAULTS[request.param]
    assert secret.requests == []


@pytest.fixture
async def connect(pair) -> AsyncIterator[Any]:
    """Return a maker of raw clients with a token."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(user: str = "ada") -> RawClient:
            client = await stack.enter_async_context(RawClient(pair.a.websocket_url))
            await client.connect(token(user))
            return client

        yield connect


@pytest.fixture
async def witness(pair, upstream) -> AsyncIterator[RawClient]:
    """Somebody else; what the first call of a server brings is there from now on."""
    async with RawClient(pair.a.websocket_url, who="witness") as witness:
        await witness.connect(token("witness"))
        await call(witness, "well:x", 1)
        yield witness


@pytest.fixture
async def unharmed(pair, witness, upstream) -> AsyncIterator[None]:
    """In the end nothing is under way, and the server has no task that it had not before.

    A test names it first: then its own clients have left by then.
    """
    before = await tasks(witness)
    yield
    await upstream.wait_idle()
    async with asyncio.timeout(10):
        while more := (await tasks(witness)) - before:
            await asyncio.sleep(0.05)
            assert more  # for the message of a timeout
        while any(await under_way(pair)):
            await asyncio.sleep(0.05)


async def call(client: RawClient, method: str, data: Any = None) -> Any:
    return (await client.call("rpc", method=method, data=data or {})).get("data")


async def refused(asked) -> CommandError:
    with pytest.raises(CommandError) as raised:
        await asked
    return raised.value


async def tasks(witness: RawClient) -> Counter[str]:
    """Return the server's tasks by name, whatever their numbers."""
    names = (await call(witness, "process"))["tasks"]
    return Counter(re.sub(r"\d+|[0-9a-f]{8,}", "N", name) for name in names)


async def under_way(pair: Backed) -> list[float]:
    """Return what the server says to have under way and queued, one number an upstream."""
    names = ("heliograph_upstream_in_flight", "heliograph_upstream_queued")
    return [value for name, value in (await pair.metrics()).items() if name.startswith(names)]


async def finished(pair: Backed, kind: str) -> float:
    """Return how many requests of a kind have had an outcome."""
    samples = await pair.metrics()
    return sum(
        value
        for name, value in samples.items()
        if name.startswith("heliograph_upstream_requests_total") and f'kind="{kind}"' in name
    )


async def goes_on(client: RawClient, fresh, *, publishes: bool = True) -> None:
    """Have a client do all it may, without the backend and with one that is well."""
    channel = fresh("stream")
    await client.subscribe(channel)
    if publishes:
        await client.publish(channel, {"id": "x"})
        await client.log.wait("pub", channel=channel, id="x")
    await client.presence(channel)
    await client.unsubscribe(channel)
    assert await call(client, "well:x", {"a": 1}) == {"a": 1}
    assert await call(client, "sum", {"a": 1}) == 1


def soon() -> int:
    return int(time.time()) + 2


# One call that fails -----------------------------------------------------------------------------


async def test_a_call_is_a_temporary_error(
    unharmed, connect, witness, upstream, fault, fresh
) -> None:
    upstream.on("/backend", fault)
    client = await connect()
    failing = asyncio.ensure_future(refused(call(client, "backend:x")))
    await upstream.wait_asked("/backend")

    await goes_on(client, fresh)
    await goes_on(witness, fresh)

    error = await failing
    assert (error.code, error.temporary) == (100, True)
    assert error.message == "internal server error"
    assert upstream.count("/backend") == 1


async def test_a_client_is_not_let_in(unharmed, pair, witness, upstream, fault, fresh) -> None:
    upstream.on("/connect", fault)
    async with RawClient(pair.a.websocket_url) as client:
        await client.open()
        failing = asyncio.ensure_future(refused(client.connect()))
        await upstream.wait_asked("/connect")

        await goes_on(witness, fresh)

        error = await failing
        assert (error.code, error.temporary) == (100, True)
        assert upstream.count("/connect") == 1
        with contextlib.suppress(Closed):
            await client.subscribe(fresh("stream"))
        assert (await client.closed())["code"] == 3501


async def test_a_subscription_is_not_made(
    unharmed, pair, connect, witness, upstream, fault, fresh
) -> None:
    upstream.on("/subscribe", fault)
    client, channel = await connect(), fresh("asked")
    failing = asyncio.ensure_future(refused(client.subscribe(channel)))
    await upstream.wait_asked("/subscribe")

    await goes_on(client, fresh)
    await goes_on(witness, fresh)

    error = await failing
    assert (error.code, error.temporary) == (100, True)
    assert upstream.count("/subscribe") == 1
    async with Api(pair.a.url) as api:
        assert (await api.call("presence", channel=channel))["presence"] == {}
        await api.call("publish", channel=channel, data={"id": "not for it"})
    await goes_on(client, fresh)
    assert client.log.published(channel) == []


async def test_a_publication_is_not_published(
    unharmed, pair, connect, witness, upstream, fault, fresh
) -> None:
    upstream.respond("/subscribe", {"result": {}})
    upstream.on("/publish", fault)
    client, channel = await connect(), fresh("asked")
    await client.subscribe(channel)
    failing = asyncio.ensure_future(refused(client.publish(channel, {"id": "refused"})))
    await upstream.wait_asked("/publish")

    await goes_on(client, fresh)
    await goes_on(witness, fresh)

    error = await failing
    assert (error.code, error.temporary) == (100, True)
    assert upstream.count("/publish") == 1
    async with Api(pair.a.url) as api:
        assert (await api.call("history", channel=channel, limit=10))["publications"] == []
    assert client.log.published(channel) == []


# All of them at once: what the server asks by itself has its time --------------------------------


async def whom(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Let each be who it says."""
    user = {"user": asked.json["data"], "expire_at": soon()}
    await answer({"result": user})(asked, writer)


async def fault_of_the_user(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await ALL_FAULTS[asked.json["user"]](asked, writer)


async def all_failed(pair: Backed, upstream: FaultUpstream, kind: str, before: float) -> None:
    """Return once the server was disappointed by every fault."""
    await upstream.wait_asked(f"/{kind}", count=len(FAULTS))
    async with asyncio.timeout(10):
        while await finished(pair, kind) < before + len(FAULTS):
            await asyncio.sleep(0.05)


async def test_connections_live_on_where_the_backend_cannot_say(
    unharmed, pair, upstream, fresh
) -> None:
    upstream.on("/connect", whom)
    upstream.on("/refresh", fault_of_the_user)
    before = await finished(pair, "refresh")
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(RawClient(pair.a.websocket_url, who=name))
            for name in FAULTS
        ]
        for client in clients:
            await client.connect(data=client.log.who)

        await all_failed(pair, upstream, "refresh", before)

        for client in clients:
            await goes_on(client, fresh)
            assert client.log.of("close") == []
        assert sorted(asked.json["user"] for asked in upstream.asked("/refresh")) == sorted(FAULTS)


async def test_subscriptions_live_on_where_the_backend_cannot_say(
    unharmed, pair, connect, upstream, fresh
) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", {"result": {"expire_at": soon()}})
    upstream.on("/sub_refresh", fault_of_the_user)
    before = await finished(pair, "sub_refresh")
    clients = [await connect(name) for name in FAULTS]
    for client in clients:
        await client.subscribe(channel)

    await all_failed(pair, upstream, "sub_refresh", before)

    async with Api(pair.a.url) as api:
        await api.call("publish", channel=channel, data={"id": "later"})
    for client in clients:
        await client.log.wait("pub", channel=channel, id="later")
        assert client.log.of("unsub") == []
    assert sorted(asked.json["user"] for asked in upstream.asked("/sub_refresh")) == sorted(FAULTS)


async def test_a_subscription_is_asked_about_once_however_long_that_takes(
    unharmed, connect, upstream, fresh
) -> None:
    upstream.respond("/patient", {"result": {"expire_at": soon()}})
    upstream.on("/sub_refresh", hang)
    client = await connect()
    await client.subscribe(fresh("patient"))
    await upstream.wait_asked("/sub_refresh")

    await asyncio.sleep(2 * RENEWAL_SECONDS)  # it has its turn again meanwhile

    assert upstream.count("/sub_refresh") == 1
    await client.drop()
    await upstream.wait_idle()  # long before its 30 s


# Faults that only a body can have ----------------------------------------------------------------


@pytest.mark.parametrize("name", list(MORE_FAULTS))
async def test_no_body_is_worth_more_memory_than_it_may_have(
    unharmed, pair, connect, upstream, name
) -> None:
    upstream.on("/backend", MORE_FAULTS[name])
    client = await connect()
    pid = (await call(client, "process"))["pid"]
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before_bytes = memory_bytes(pid, "VmRSS")

    error = await refused(call(client, "backend:x"))

    assert error.code == 100
    assert memory_bytes(pid, "VmHWM") < before_bytes + 32 * 2**20


def memory_bytes(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


# SDKs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sdk", list(SDKS))
async def test_an_sdk_gets_in_and_subscribes_when_the_backend_is_well_again(
    pair, upstream, fresh, sdk, sdk_packages
) -> None:
    channel = fresh("asked")
    upstream.on("/connect", sequence([error500, answer({"result": {"user": "42"}})]))
    upstream.on("/subscribe", sequence([error500, answer({"result": {}})]))
    async with SDKS[sdk](pair.a.websocket_url) as client:
        await client.connect()
        await client.log.wait("connected")
        await client.subscribed(channel)

    assert (upstream.count("/connect"), upstream.count("/subscribe")) == (2, 2)


# Who waits ---------------------------------------------------------------------------------------


async def begin(client: RawClient, kind: str, channel: str) -> int:
    """Send a command that waits for the patient backend; return its id."""
    command = {
        "rpc": {"rpc": {"method": "patient:x", "data": {}}},
        "subscribe": {"subscribe": {"channel": channel}},
        "publish": {"publish": {"channel": channel, "data": {"id": "held"}}},
    }[kind]
    (number,) = await client.send_commands(command)
    return number


@pytest.mark.parametrize("kind", ["rpc", "subscribe", "publish"])
async def test_who_waits_for_a_backend_delays_nobody(
    unharmed, connect, witness, upstream, fresh, kind
) -> None:
    may_answer = asyncio.Event()

    async def held(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        await answer({"result": {}})(asked, writer)

    upstream.on("/patient", held)
    client, channel = await connect(), fresh("patient")
    number = await begin(client, kind, channel)
    await upstream.wait_asked("/patient")

    # What a connection publishes keeps its order.
    await goes_on(client, fresh, publishes=kind != "publish")
    await goes_on(witness, fresh)

    assert upstream.in_flight == 1
    may_answer.set()
    await client.reply(number)


async def test_publications_keep_their_order_however_long_each_is_asked_about(
    unharmed, connect, upstream, fresh
) -> None:
    async def as_told(asked: Asked, writer: asyncio.StreamWriter) -> None:
        delay_seconds = (asked.json.get("data") or {}).get("delay_seconds", 0)
        await answer({"result": {}}, delay_seconds=delay_seconds)(asked, writer)

    upstream.on("/patient", as_told)
    client, channel = await connect(), fresh("patient")
    await client.subscribe(channel)
    delays = [0.2, 0, 0.1, 0]

    await client.send_commands(
        *(
            {"publish": {"channel": channel, "data": {"id": str(n), "delay_seconds": delay}}}
            for n, delay in enumerate(delays)
        )
    )

    await client.log.wait("pub", channel=channel, count=len(delays))
    assert [event["id"] for event in client.log.published(channel)] == list("0123")


@pytest.mark.parametrize("leave", ["close", "drop"])
@pytest.mark.parametrize("kind", ["rpc", "subscribe", "publish"])
async def test_the_backend_is_left_alone_when_the_client_has_left(
    unharmed, connect, upstream, fresh, kind, leave
) -> None:
    upstream.on("/patient", hang)
    client = await connect()
    await begin(client, kind, fresh("patient"))
    await upstream.wait_asked("/patient")

    await getattr(client, leave)()

    await upstream.wait_idle()  # long before its 30 s


# Protection of the backend -----------------------------------------------------------------------


async def test_a_backend_that_fails_is_spared_and_tried_again(
    pair, connect, upstream, fresh
) -> None:
    client = await connect()
    upstream.on("/fragile", error500)
    for _ in range(BREAKER_FAILURES):
        assert (await refused(call(client, "fragile:x"))).code == 100

    error = await refused(call(client, "fragile:x"))

    assert (error.code, error.temporary) == (100, True)
    assert upstream.count("/fragile") == BREAKER_FAILURES
    assert await is_open(pair) == 1
    await goes_on(client, fresh)  # the others' breakers are theirs
    upstream.on("/fragile", echo())
    async with asyncio.timeout(10 * BREAKER_SECONDS):
        while True:
            with contextlib.suppress(CommandError):
                assert await call(client, "fragile:x", {"a": 1}) == {"a": 1}
                break
            await asyncio.sleep(0.05)
    assert upstream.count("/fragile") == BREAKER_FAILURES + 1
    assert await is_open(pair) == 0


async def is_open(pair: Backed) -> float:
    samples = await pair.metrics()
    return samples['heliograph_upstream_breaker_open{upstream="fragile"}']


async def many_calls(clients: list[RawClient], method: str, count: int) -> list[Any]:
    """Call from each client so many times, all at once."""
    return await asyncio.gather(
        *(call(client, method, {"n": n}) for client in clients for n in range(count))
    )


async def test_a_backend_is_asked_no_more_at_once_than_it_may_be(
    unharmed, connect, upstream
) -> None:
    upstream.on("/narrow", echo(delay_seconds=0.02))
    clients = [await connect(f"user-{number}") for number in range(5)]

    answers = await many_calls(clients, "narrow:x", 8)

    assert len(answers) == 40
    assert upstream.most_in_flight == NARROW
    connections = {asked.connection for asked in upstream.asked("/narrow")}
    assert len(connections) <= NARROW  # they were kept


async def test_a_name_that_leads_inside_is_not_asked(connect, secret, upstream) -> None:
    client = await connect()

    error = await refused(call(client, "outside:x"))

    assert (error.code, error.message) == (100, "internal server error")
    assert secret.connection_count == 0


# Threads -----------------------------------------------------------------------------------------


async def test_hundreds_of_calls_under_way_start_no_threads(unharmed, connect, upstream) -> None:
    upstream.on("/wide", echo(delay_seconds=0.2))
    clients = [await connect(f"user-{n}") for n in range(CALLS // CALLS_PER_CLIENT)]
    threads = Path(f"/proc/{(await call(clients[0], 'process'))['pid']}/task")
    before = len(list(threads.iterdir()))
    most = before
    calling = asyncio.ensure_future(many_calls(clients, "wide:x", CALLS_PER_CLIENT))

    while not calling.done():
        most = max(most, len(list(threads.iterdir())))
        await asyncio.sleep(0.01)

    assert len(await calling) == CALLS
    assert upstream.most_in_flight > CALLS / 2  # they were under way together
    assert most <= before + 2  # of the loop's own pool, whose threads are few and stay


# The end -----------------------------------------------------------------------------------------


async def test_a_server_whose_backend_hangs_ends_in_time(pair, connect, upstream) -> None:
    upstream.on("/patient", hang)
    client = await connect()
    await begin(client, "rpc", "")
    await upstream.wait_asked("/patient")
    try:
        await asyncio.to_thread(pair.a.terminate)

        await upstream.wait_idle()
    finally:
        await asyncio.to_thread(pair.a.close)
        pair.a.start()
        await asyncio.to_thread(pair.a.wait_ready)
