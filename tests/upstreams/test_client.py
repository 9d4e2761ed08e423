"""Requests to a real HTTP server that misbehaves."""

import asyncio
import hashlib
import hmac
import socket

import pytest
from aiohttp.abc import AbstractResolver

from tests.support.fault_upstream import (
    FaultUpstream,
    answer,
    echo,
    error500,
    garbage,
    gzip_bomb,
    hang,
    huge,
    redirect,
    reset,
    sequence,
    trickle,
    trickle_head,
)
from tests.support.processes import free_port
from upstreams.client import Client
from upstreams.configuration import Transform, UpstreamConfig
from upstreams.failures import Failed


@pytest.fixture
async def backend():
    async with FaultUpstream() as upstream:
        yield upstream


@pytest.fixture
async def client():
    client = Client()
    yield client
    await client.close()


@pytest.fixture(autouse=True)
def changes(monkeypatch):
    """Keep what would be written of the upstream's state."""
    changes = []
    monkeypatch.setattr(
        "upstreams.states.note", lambda _id, _name, is_open, why: changes.append((is_open, why))
    )
    return changes


def config(backend, **options):
    defaults = {"timeout_seconds": 5.0, "allow_private_addresses": True, "breaker_failures": 100}
    url = backend if isinstance(backend, str) else backend.url
    host = url.partition("://")[2].partition(":")[0]
    return UpstreamConfig(1, "backend", url, host, **(defaults | options))


async def post(client, upstream, path="/", **options):
    options = {"kind": "rpc", "headers": {}, "body": b"{}", **options}
    return await client.request(upstream, "POST", path, **options)


async def failure(call):
    with pytest.raises(Failed) as failed:
        await call
    return failed.value.reason


async def test_an_answer_comes_with_its_status(client, backend):
    backend.on("/a", answer({"result": 1}))
    backend.on("/b", answer(b"gone", status=404))

    assert await post(client, config(backend), "/a") == (200, b'{"result": 1}')
    assert await post(client, config(backend), "/b") == (404, b"gone")


async def test_a_request_carries_what_is_configured_and_nothing_else(client, backend):
    backend.respond("/a", {})
    upstream = config(
        backend, static_headers={"x-a": "static", "x-b": "static"}, signing_secret="s3cret"
    )

    await post(client, upstream, "/a", headers={"x-b": "given"}, body=b'{"n":1}')

    (asked,) = backend.asked("/a")
    assert asked.body == b'{"n":1}'
    assert asked.headers["content-type"] == "application/json"
    assert (asked.headers["x-a"], asked.headers["x-b"]) == ("static", "given")
    time, _, digest = asked.headers["x-heliograph-signature"].partition(",v1=")
    signed = f"{time.removeprefix('t=')}.".encode() + b'{"n":1}'
    assert digest == hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert set(asked.headers) == {
        *("host", "accept", "accept-encoding", "user-agent", "content-type", "content-length"),
        *("x-a", "x-b", "x-heliograph-signature"),
    }


async def test_connections_are_kept(client, backend):
    backend.respond("/a", {})

    for _ in range(5):
        await post(client, config(backend), "/a")

    assert {asked.connection for asked in backend.asked("/a")} == {1}


async def test_cookies_are_not_kept(client, backend):
    backend.respond("/a", {}, headers={"set-cookie": "session=1"})

    for _ in range(2):
        await post(client, config(backend), "/a")

    assert "cookie" not in backend.asked("/a")[1].headers


@pytest.mark.parametrize("behaviour", [hang, trickle, trickle_head])
async def test_who_takes_too_long_is_not_waited_for(client, backend, behaviour):
    backend.on("/a", behaviour)

    assert await failure(post(client, config(backend, timeout_seconds=0.2), "/a")) == "timeout"
    await backend.wait_idle()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (garbage, "broken off"),
        (reset, "broken off"),
        (error500, "status 500"),
        (huge, "too large"),
        (answer(b"x" * 2000), "too large"),
    ],
)
async def test_a_broken_answer_is_a_failure_with_its_reason(client, backend, behaviour, reason):
    backend.on("/a", behaviour)

    assert await failure(post(client, config(backend, body_max_bytes=1000), "/a")) == reason


async def test_a_bomb_is_not_unpacked(client, backend):
    backend.on("/a", gzip_bomb)

    status, body = await post(client, config(backend), "/a")

    assert status == 200
    assert body.startswith(b"\x1f\x8b")


async def test_nobody_there_is_a_failure(client):
    assert await failure(post(client, config(f"http://127.0.0.1:{free_port()}"))) == "connect"


async def test_a_redirect_is_not_followed(client, backend):
    backend.on("/a", redirect(f"{backend.url}/b"))
    backend.respond("/b", {})

    assert (await post(client, config(backend), "/a")).status == 302
    assert backend.count("/b") == 0


# Addresses ---------------------------------------------------------------------------------------


class Names(AbstractResolver):
    """A resolver that answers with one address after the other."""

    def __init__(self, *addresses):
        self.left = list(addresses)
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        address = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        common = {"family": socket.AF_INET, "proto": 0, "flags": socket.AI_NUMERICHOST}
        return [{"hostname": host, "host": address, "port": port, **common}]

    async def close(self):
        """Nothing is open."""


@pytest.fixture
async def client_of():
    """Return a maker of clients that ask a resolver of the test."""
    clients = []

    def client_of(names):
        clients.append(Client(resolver=lambda: names))
        return clients[-1]

    yield client_of
    for client in clients:
        await client.close()


async def test_a_name_that_leads_to_a_private_address_is_refused(client_of, backend):
    port = backend.url.rpartition(":")[2]
    upstream = config(f"http://backend.test:{port}", allow_private_addresses=False)

    assert await failure(post(client_of(Names("127.0.0.1")), upstream)) == "address refused"
    assert backend.count("/") == 0


async def test_a_name_that_may_lead_to_a_private_address_is_asked(client_of, backend):
    backend.respond("/", {})
    port = backend.url.rpartition(":")[2]

    status, _ = await post(client_of(Names("127.0.0.1")), config(f"http://backend.test:{port}"))

    assert status == 200


async def test_a_name_that_changes_is_connected_to_where_it_was_looked_at(client_of, backend):
    """The one address that is judged is the one that is connected to, whatever comes next."""
    port = backend.url.rpartition(":")[2]
    names = Names("127.0.0.2", "127.0.0.1")  # nobody listens at the first

    reason = await failure(post(client_of(names), config(f"http://backend.test:{port}")))

    assert reason == "connect"
    assert names.asked == 1
    assert backend.count("/") == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001"])
async def test_an_address_is_refused_however_it_is_written(client, backend, host):
    port = backend.url.rpartition(":")[2]
    upstream = config(f"http://{host}:{port}", allow_private_addresses=False)

    assert await failure(post(client, upstream)) == "address refused"
    assert backend.count("/") == 0


# Bounds ------------------------------------------------------------------------------------------


async def test_no_more_are_under_way_than_may_be(client, backend):
    going = asyncio.Event()
    most = 0
    now = 0

    async def count(asked, writer):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await going.wait()
        now -= 1
        await answer({})(asked, writer)

    backend.on("/a", count)
    upstream = config(backend, concurrency=3)
    calls = [asyncio.create_task(post(client, upstream, "/a")) for _ in range(10)]
    async with asyncio.timeout(5):
        while now < 3:
            await asyncio.sleep(0.01)
        going.set()
        await asyncio.gather(*calls)

    assert most == 3
    assert backend.count("/a") == 10


async def test_the_wait_for_a_turn_is_part_of_the_deadline(client, backend):
    backend.on("/slow", hang)
    upstream = config(backend, concurrency=1, timeout_seconds=0.4)
    first = asyncio.create_task(post(client, upstream, "/slow"))
    await backend.wait_asked("/slow")

    assert await failure(post(client, upstream, "/fast", timeout_seconds=0.1)) == "timeout"
    assert backend.count("/fast") == 0
    assert await failure(first) == "timeout"


async def test_a_call_that_may_be_repeated_is(client, backend):
    backend.on("/a", sequence([error500, reset, answer({"ok": 1})]))

    _, body = await post(client, config(backend, retries=2), "/a", may_repeat=True)

    assert body == b'{"ok": 1}'
    assert backend.count("/a") == 3


async def test_a_call_that_may_not_be_repeated_is_not(client, backend):
    backend.on("/a", error500)

    assert await failure(post(client, config(backend, retries=2), "/a")) == "status 500"
    assert backend.count("/a") == 1


async def test_who_fails_again_and_again_is_not_asked_for_a_while(client, backend, changes):
    backend.on("/a", error500)
    upstream = config(backend, breaker_failures=3, breaker_seconds=0.2)

    reasons = [await failure(post(client, upstream, "/a")) for _ in range(5)]
    assert reasons == ["status 500"] * 3 + ["breaker open"] * 2
    assert backend.count("/a") == 3

    backend.respond("/a", {})
    await asyncio.sleep(0.2)  # its own clock
    assert (await post(client, upstream, "/a")).status == 200
    assert changes == [(True, "status 500"), (False, "")]


async def test_a_time_out_counts_for_the_breaker(client, backend, changes):
    backend.on("/a", hang)
    upstream = config(backend, breaker_failures=2, timeout_seconds=0.1)

    reasons = [await failure(post(client, upstream, "/a")) for _ in range(3)]

    assert reasons == ["timeout", "timeout", "breaker open"]
    assert changes == [(True, "timeout")]


async def test_who_waited_too_long_for_its_turn_says_nothing_of_the_upstream(
    client, backend, changes
):
    backend.on("/a", echo(delay_seconds=0.15))
    upstream = config(backend, concurrency=2, breaker_failures=2, timeout_seconds=0.4)

    calls = [post(client, upstream, "/a", user=f"user {number}") for number in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    late = [each for each in outcomes if isinstance(each, Failed)]
    assert {each.reason for each in late} == {"timeout"}
    assert len(late) >= 12
    assert changes == []
    assert (await post(client, upstream, "/a")).status == 200


async def test_a_repeat_is_not_sent_at_once(client, backend):
    backend.on("/a", sequence([error500, error500, answer({})]))
    started_at = asyncio.get_running_loop().time()

    await post(client, config(backend, retries=2), "/a", may_repeat=True)

    assert asyncio.get_running_loop().time() - started_at >= 0.5 * (0.05 + 0.1)


async def test_a_caller_that_goes_away_says_nothing_of_the_upstream(client, backend, changes):
    backend.on("/a", hang)
    upstream = config(backend, breaker_failures=1)
    call = asyncio.create_task(post(client, upstream, "/a"))
    await backend.wait_asked("/a")

    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await backend.wait_idle()

    backend.respond("/a", {})
    assert (await post(client, upstream, "/a")).status == 200
    assert changes == []


async def test_a_status_that_means_something_is_no_failure(client, backend):
    backend.on("/a", error500)
    upstream = config(backend, breaker_failures=1, status_transforms={500: Transform(500)})

    for _ in range(3):
        assert (await post(client, upstream, "/a")).status == 500


async def test_a_source_is_fetched(client, backend):
    backend.respond("/a", {"n": 1})
    backend.respond("/b", {}, status=404)

    assert await client.fetch(config(backend), "/a", headers={"x-a": "1"}) == b'{"n": 1}'
    assert await failure(client.fetch(config(backend), "/b", headers={})) == "status 404"
    (asked,) = backend.asked("/a")
    assert (asked.method, asked.headers["x-a"], asked.body) == ("GET", "1", b"")
