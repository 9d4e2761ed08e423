"""Handshakes that are bad, too many or never finished leave nothing behind."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect

from tests.faults.bounded import counting_server, leaving_nothing
from tests.faults.sockets import HANDSHAKE, Line, ask, request, status
from tests.realtime.server.test_server import BAD_HANDSHAKES, CountingServer
from tests.support.raw_client import RawClient
from tests.support.servers import Filled, token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

RATE, LIMIT = 20, 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[CountingServer]:
    with counting_server(tmp_path_factory.mktemp("unlimited"), database) as server:
        yield server


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[CountingServer]:
    """A server that takes a few connections, and a few handshakes a second."""
    limits = {"REALTIME_CONNECTION_LIMIT": str(LIMIT), "REALTIME_CONNECTION_RATE": str(RATE)}
    with counting_server(tmp_path_factory.mktemp("limits"), database, **limits) as server:
        yield server


async def test_bad_handshakes_leave_nothing_and_take_no_place(limited) -> None:
    kinds = [text.encode("latin-1") for text in BAD_HANDSHAKES.values()]
    async with leaving_nothing(limited):
        for _ in range(500 // len(kinds) + 1):
            await asyncio.gather(*(cut_short(limited, text) for text in kinds))
        await limited.until_empty()

        async with RawClient(limited.websocket_url) as client:
            await client.connect(token("42"))


async def cut_short(server: CountingServer, text: bytes) -> None:
    """Send a handshake, and go as soon as anything is answered."""
    line = await Line.open(server.port, text)
    async with asyncio.timeout(10):
        await line.reader.read(16)
    line.cut()


@pytest.mark.rule("connection-rate-503")
async def test_a_flood_of_handshakes_is_answered_with_503_beyond_the_rate(limited) -> None:
    log_before = len(limited.log())
    async with leaving_nothing(limited):
        started_at = time.monotonic()
        statuses = await asyncio.gather(*(shake_hands(limited) for _ in range(500)))
        health = status(await ask(limited.port, request("/health")))
        seconds = time.monotonic() - started_at
        await asyncio.sleep(1.1)  # the handshakes of the next second
        async with RawClient(limited.websocket_url) as client:
            await client.connect(token("42"))

    told = limited.log()[log_before:].count("handshakes refused with 503")
    assert set(statuses) == {101, 503}
    assert statuses.count(101) <= RATE * (seconds + 1)
    assert health == 200
    assert 1 <= told <= seconds + 3


async def shake_hands(server: CountingServer) -> int:
    """Shake hands and go; return the status."""
    line = await Line.open(server.port, HANDSHAKE)
    async with asyncio.timeout(20):
        answer = await line.reader.read(64)
    line.cut()
    return status(answer)


@pytest.mark.rule("connection-limit-503")
async def test_a_connection_beyond_the_limit_is_answered_with_503(limited) -> None:
    async with leaving_nothing(limited):
        held = []
        while len(held) < LIMIT:
            line = await Line.open(limited.port, HANDSHAKE)
            if b"101" in await line.reader.readline():
                held.append(line)
            else:
                line.cut()
                await asyncio.sleep(1 / RATE)  # beyond the rate
        await asyncio.sleep(2 / RATE)

        beyond = await ask(limited.port, HANDSHAKE)
        health = status(await ask(limited.port, request("/health")))
        held.pop().cut()
        await asyncio.sleep(0.2)
        again = await shake_hands(limited)
        for line in held:
            line.cut()

    assert beyond.startswith(b"HTTP/1.1 503 Connection Limit\r\n")
    assert health == 200
    assert again == 101


async def test_what_hangs_in_the_middle_of_a_handshake_ends_by_its_deadline(server) -> None:
    """The server of the tests has two seconds for it, and knows nothing of TCP without a byte."""
    async with leaving_nothing(server):
        lines = [await Line.open(server.port, HANDSHAKE[:cut]) for cut in (0, 1, 20, 70, 150)]
        trickles = [asyncio.create_task(trickle(line)) for line in lines[1:]]
        async with asyncio.timeout(8):
            answers = await asyncio.gather(*(line.rest() for line in lines))
        for task in trickles:
            task.cancel()

    assert answers == [b""] * len(lines)


async def trickle(line: Line) -> None:
    """Send a byte now and then, as a client that wants to hold on for ever."""
    while True:
        await asyncio.sleep(0.3)
        line.writer.write(b"x")


async def test_without_a_limit_everybody_is_let_in(server) -> None:
    sockets = [await connect(server.websocket_url, proxy=None) for _ in range(3 * LIMIT)]
    for opened in sockets:
        opened.transport.abort()

    assert len(sockets) == 3 * LIMIT
