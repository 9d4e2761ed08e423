"""A server that is told to end answers what it has taken, and takes nothing more."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import Deployment, Filled, Server

pytestmark = pytest.mark.end_to_end

REQUEST = b"GET /login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def server(tmp_path: Path, database: Filled) -> Iterator[Server]:
    variables = {"REALTIME_DRAIN_SECONDS": "2"}
    deployment = Deployment(
        tmp_path, database=database, redis_url=os.environ["REDIS_URL"], variables=variables
    )
    try:
        server = deployment.add("ending")
        server.wait_ready()
        yield server
    finally:
        deployment.close()


UPGRADE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


async def ask_until_refused(server: Server, answers: list[bytes], is_busy: asyncio.Event) -> None:
    """Note the beginning of each answer, one after the other until nobody listens."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        except ConnectionRefusedError:
            return
        writer.write(REQUEST)
        try:
            answers.append((await reader.read())[:12])
        except ConnectionError as error:
            answers.append(repr(error).encode())
        finally:
            writer.close()
        if len(answers) > 40:
            is_busy.set()


async def test_what_was_taken_is_answered_and_nothing_more_is_taken(server: Server):
    answers: list[bytes] = []
    is_busy = asyncio.Event()
    async with asyncio.timeout(20):
        # Does not answer the close, for which the server waits longer than a refusal takes.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        asking = asyncio.gather(*(ask_until_refused(server, answers, is_busy) for _ in range(8)))
        await is_busy.wait()

        server.process.send_signal(signal.SIGTERM)
        await asking
        is_draining = server.process.poll() is None
        code = await asyncio.to_thread(server.process.wait, 10)
        writer.close()

    assert set(answers) == {b"HTTP/1.1 200"}
    assert is_draining
    assert code == 0
