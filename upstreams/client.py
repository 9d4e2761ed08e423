"""Requests to upstreams: one pool for a process, bounded, fair, and with a deadline for everything.

Asked by the provider and by the data sources. What a request means is not known here.
"""

import asyncio
import hashlib
import hmac
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver

from upstreams import addresses, metrics, states
from upstreams.breaker import Breaker
from upstreams.configuration import UpstreamConfig
from upstreams.failures import Failed
from upstreams.resolving import CheckedResolver
from upstreams.turns import Turns

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS: Final = 15.0
REPEAT_SECONDS: Final = 0.05  # before the first repeat, about; twice that before the next
SIGNATURE: Final = "X-Heliograph-Signature"


class Answer(NamedTuple):
    """What an upstream answered."""

    status: int
    body: bytes


class _Call(NamedTuple):
    """One request, and the deadline for it with everything that goes before."""

    upstream: UpstreamConfig
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    user: str
    timeout_seconds: float
    deadline: asyncio.Timeout


class _Lane:
    """What is held of one upstream, whatever it is called meanwhile."""

    def __init__(self, upstream: UpstreamConfig) -> None:
        self.upstream = upstream
        self.turns = Turns()
        self.breaker = Breaker(on_change=self._note)

    def _note(self, is_open: bool, reason: str) -> None:
        states.note(self.upstream.id, self.upstream.name, is_open, reason)


class Client:
    """The requests of one event loop.

    Args:
        resolver: Makes what asks for the addresses of names; a test's has its own.
    """

    def __init__(
        self, *, resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver
    ) -> None:
        self._resolver = resolver
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._lanes: dict[int, _Lane] = {}

    async def fetch(
        self, upstream: UpstreamConfig, path: str, *, headers: Mapping[str, str]
    ) -> bytes:
        """Return the body of a GET.

        Raises:
            Failed: There was none, or its status is not 200.
        """
        answer = await self.request(
            upstream, "GET", path, headers=headers, kind="source", may_repeat=True
        )
        if answer.status != 200:
            raise Failed(f"status {answer.status}")
        return answer.body

    async def request(
        self,
        upstream: UpstreamConfig,
        method: str,
        path: str,
        *,
        kind: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        user: str = "",
        timeout_seconds: float | None = None,
        may_repeat: bool = False,
    ) -> Answer:
        """Return what an upstream answers.

        Args:
            kind: For metrics.
            headers: Besides those of the upstream, which they replace.
            user: Whose turn it takes, where there are not places for all; the server's own calls
                have none.
            timeout_seconds: For all of it; None is the upstream's.
            may_repeat: Whether it may be sent again after a failure.
        Raises:
            Failed: It did not answer, or something too large.
        """
        started_at = time.monotonic()
        outcome = "cancelled"
        seconds = timeout_seconds or upstream.timeout_seconds
        deadline = asyncio.timeout(seconds)
        call = _Call(upstream, method, path, headers, body, user, seconds, deadline)
        try:
            async with deadline:
                answer = await self._try(call, repeats=upstream.retries if may_repeat else 0)
            outcome = "ok" if answer.status == 200 else f"status {answer.status}"
            return answer
        except TimeoutError as error:
            outcome = "timeout"
            raise Failed("timeout") from error
        except Failed as error:
            outcome = error.reason
            raise
        finally:
            metrics.REQUESTS.labels(upstream.name, kind, outcome).inc()
            metrics.SECONDS.labels(upstream.name, kind).observe(time.monotonic() - started_at)

    async def _try(self, call: _Call, *, repeats: int) -> Answer:
        pause_seconds = REPEAT_SECONDS
        while True:
            try:
                async with self._turn(call):
                    return await self._send(call)
            except Failed as error:
                if not repeats or not error.is_of_upstream:
                    raise
                repeats -= 1
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause_seconds)
            pause_seconds *= 2

    @asynccontextmanager
    async def _turn(self, call: _Call) -> AsyncIterator[None]:
        upstream = call.upstream
        lane = self._lanes.get(upstream.id)
        if lane is None:
            lane = self._lanes[upstream.id] = _Lane(upstream)
        lane.upstream = upstream
        with metrics.QUEUED.labels(upstream.name).track_inprogress():
            await lane.turns.take(
                call.user, places=upstream.concurrency, queue_max=upstream.queue_max
            )
        try:
            with metrics.IN_FLIGHT.labels(upstream.name).track_inprogress():
                async with _judged(call, lane.breaker):
                    yield
        finally:
            lane.turns.give_back(places=upstream.concurrency)

    async def _send(self, call: _Call) -> Answer:
        upstream = call.upstream
        _check_host(upstream)
        sent = {**upstream.static_headers, **call.headers}
        if call.body:
            sent["content-type"] = "application/json"
        if upstream.signing_secret:
            sent[SIGNATURE] = signature(upstream.signing_secret, call.body, now=int(time.time()))
        try:
            async with self._session(upstream).request(
                call.method,
                upstream.url + call.path,
                data=call.body or None,
                headers=sent,
                allow_redirects=False,
            ) as response:
                answer = Answer(response.status, await _read(response, upstream.body_max_bytes))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failed(_reason(error)) from error
        if _is_failure(answer.status) and answer.status not in upstream.status_transforms:
            raise Failed(f"status {answer.status}")
        return answer

    def _session(self, upstream: UpstreamConfig) -> aiohttp.ClientSession:
        may_private = upstream.allow_private_addresses
        if may_private not in self._sessions:
            connector = aiohttp.TCPConnector(
                resolver=CheckedResolver(self._resolver(), allow_private=may_private),
                limit=0,  # each upstream has its own
                keepalive_timeout=KEEPALIVE_SECONDS,
            )
            self._sessions[may_private] = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,  # or a small body could unpack to a large one
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "heliograph",
                },
                timeout=aiohttp.ClientTimeout(total=None),  # each request has its own
                trust_env=False,
            )
        return self._sessions[may_private]

    async def close(self) -> None:
        """Close every connection."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()


def _check_host(upstream: UpstreamConfig) -> None:
    """Refuse a host that is written as an address of the wrong kind; names are the resolver's."""
    try:
        addresses.check_literal(upstream.host, allow_private=upstream.allow_private_addresses)
    except addresses.Refused as error:
        raise Failed("address refused") from error


@asynccontextmanager
async def _judged(call: _Call, breaker: Breaker) -> AsyncIterator[None]:
    """Ask the breaker before, and tell it how it went."""
    failures = call.upstream.breaker_failures
    entered = breaker.enter(seconds=call.upstream.breaker_seconds)
    began_at = asyncio.get_running_loop().time()
    try:
        yield
    except Failed as error:
        breaker.fail(entered, error.reason, failures=failures)
        raise
    except asyncio.CancelledError:
        if _had_its_time(call, began_at):
            breaker.fail(entered, "timeout", failures=failures)
        else:
            breaker.abandon(entered)
        raise
    except BaseException:
        breaker.abandon(entered)
        raise
    breaker.succeed(entered)


def _had_its_time(call: _Call, began_at: float) -> bool:
    """Tell whether a call ended because the upstream took too long.

    Not if nobody waits for it any more, nor if most of its time went by before it was its turn.
    """
    ends_at = call.deadline.when()
    return (
        call.deadline.expired()
        and ends_at is not None
        and ends_at - began_at >= call.timeout_seconds / 2
    )


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, addresses.Refused):
            return "address refused"
        cause = cause.__cause__
    return "connect" if isinstance(error, aiohttp.ClientConnectorError) else "broken off"


def _is_failure(status: int) -> bool:
    """Tell whether the upstream itself is in trouble, not only this request."""
    return status >= 500 or status == 429


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise Failed("too large")
    return bytes(body)


def signature(secret: str, body: bytes, *, now: int) -> str:
    """Return the header that proves who sent a body, and when."""
    digest = hmac.new(secret.encode(), b"%d." % now + body, hashlib.sha256)
    return f"t={now},v1={digest.hexdigest()}"


# One for each event loop -------------------------------------------------------------------------

_clients: dict[asyncio.AbstractEventLoop, Client] = {}


def of_this_loop() -> Client:
    """Return the client of the running loop, made at its first use."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = Client()
    return _clients[loop]


async def close_of_this_loop() -> None:
    """Close it, if there is one."""
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.close()


async def fetch(upstream: UpstreamConfig, path: str, *, headers: Mapping[str, str]) -> bytes:
    """Return the body of a GET; see ``Client.fetch``."""
    return await of_this_loop().fetch(upstream, path, headers=headers)
