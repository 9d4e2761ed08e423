"""What slow clients and floods can make a server hold: its memory is sampled all the time."""

import asyncio
import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.faults.bounded import (
    ALLOWANCE_BYTES,
    MIB,
    QUEUE_MAX_BYTES,
    MemoryWatch,
    ask_server,
    counting_server,
    rss_bytes,
    talking,
    warm_up,
)
from tests.faults.sockets import text_frame
from tests.realtime.server.test_server import CountingServer
from tests.support import processes
from tests.support.raw_client import RawClient
from tests.support.servers import Filled, token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

FRAME_MAX_BYTES = 64 * 1024  # one more is taken onto a queue that is not full
READERS = 100
SLOW = r'"code": ?3008'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[CountingServer]:
    with counting_server(tmp_path_factory.mktemp("bounds"), database) as server:
        yield server


async def test_readers_that_never_read_cost_their_queue_and_no_more(server, fresh) -> None:
    await warm_up(server)

    first = await starve(server, fresh("stream"), count=READERS)
    kept_bytes = rss_bytes(server)
    second = await starve(server, fresh("stream"), count=READERS)

    bound = READERS * (QUEUE_MAX_BYTES + 2 * FRAME_MAX_BYTES) + ALLOWANCE_BYTES
    for added_bytes in (first, second):
        assert added_bytes < bound, f"{added_bytes / MIB:.0f} MiB"
    # What the allocator keeps of the first time serves the second one.
    assert rss_bytes(server) - kept_bytes < ALLOWANCE_BYTES


async def starve(server: CountingServer, channel: str, *, count: int) -> int:
    """Have readers that read nothing, until all are cut off; return the memory they added.

    Each asks for 10 MB of its own, and gets what is published to all of them besides.
    """
    closes = len(re.findall(SLOW, server.log()))
    async with RawClient(server.websocket_url) as publisher:
        await publisher.connect(token("43"))
        for _ in range(2):
            await publisher.publish(channel, "x" * 50_000)
        with MemoryWatch(server) as memory:
            lines = [await talking(server, channel) for _ in range(count)]
            history = text_frame(padded({"history": {"channel": channel, "limit": 2}}))
            for line in lines:
                line.writer.write(history * 100)
            for _ in range(50):
                await publisher.publish(channel, "x" * 50_000)
            await asyncio.to_thread(
                processes.wait_until,
                lambda: len(re.findall(SLOW, server.log())) >= closes + count,
                timeout_seconds=30,
                what=server.log_tail,
            )
            for line in lines:
                line.cut()
    await server.until_empty()
    return memory.added_bytes


def padded(command: dict[str, object]) -> str:
    return json.dumps({"id": 3, **command}) + " " * 126


async def test_a_flood_of_commands_adds_nothing_that_lasts(server, fresh) -> None:
    channel = fresh("stream")
    await warm_up(server)
    floods = 20
    with MemoryWatch(server) as memory:
        await asyncio.gather(*(flood(server, channel, seconds=3) for _ in range(floods)))
    await server.until_empty()

    bound = floods * (QUEUE_MAX_BYTES + FRAME_MAX_BYTES) + ALLOWANCE_BYTES
    assert memory.added_bytes < bound, f"{memory.added_bytes / MIB:.0f} MiB"
    assert rss_bytes(server) - memory.before_bytes < ALLOWANCE_BYTES
    async with RawClient(server.websocket_url) as client:
        await client.connect(token("42"))


async def flood(server: CountingServer, channel: str, *, seconds: float) -> None:
    """Send commands without reading a reply, as fast as they are taken."""
    line = await talking(server, channel)
    command = padded({"presence": {"channel": channel}})
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            line.writer.write(text_frame(command) * 1000)
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + seconds):
                await line.writer.drain()
    except (ConnectionError, TimeoutError):
        pass  # closed as too slow, or not read any more: both keep the flood out
    finally:
        line.cut()


async def test_pings_whose_answers_nobody_reads_end_the_connection(server) -> None:
    await warm_up(server)
    closes = len(re.findall(SLOW, server.log()))
    # With less room the kernel drops what it has no room for, and with it the word that there is.
    line = await talking(server, "live:pings", room_bytes=MIB)
    ping = b"\x89\xfd" + bytes(4 + 125)
    with MemoryWatch(server) as memory:
        try:
            async with asyncio.timeout(30):
                while True:
                    line.writer.write(ping * 1000)
                    await line.writer.drain()
        except ConnectionError:
            pass
        finally:
            line.cut()
    await server.until_empty()

    assert len(re.findall(SLOW, server.log())) == closes + 1
    assert memory.added_bytes < ALLOWANCE_BYTES


@pytest.mark.parametrize("last", [b"\x88\x82\0\0\0\0\x03\xe8", b"\x8b\x80\0\0\0\0" * 2])
async def test_who_ends_and_reads_nothing_is_not_waited_for(server, fresh, last) -> None:
    """By a close, or by breaking the protocol twice; its queue has no room in its socket."""
    channel = fresh("stream")
    async with RawClient(server.websocket_url) as publisher:
        await publisher.connect(token("43"))
        line = await talking(server, channel)
        while not ask_server(server, "/queued"):
            await publisher.publish(channel, "x" * 20_000)

        line.writer.write(last)
        await asyncio.to_thread(
            processes.wait_until,
            lambda: server.counts()["sockets"] == 1,
            timeout_seconds=8,
            what=lambda: f"still held: {server.counts()}",
        )
        line.cut()


async def test_connections_that_come_and_go_make_no_cycles(server) -> None:
    """Or their memory would wait for the collector: docs/decisions/0020 builds on that."""
    count = 100
    await warm_up(server)
    before = ask_server(server, "/garbage")

    lines = [await talking(server, "live:cycles") for _ in range(count)]
    for number, line in enumerate(lines):
        if number % 2:
            line.writer.write(b"\x88\x82\0\0\0\0\x03\xe8")
            line.writer.close()
        else:
            line.cut()
    await server.until_empty()

    assert ask_server(server, "/garbage") - before < count
