"""The fault proxy does each harm it promises, and none unasked."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Direction, FaultProxy


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
async def proxy(echo_port: int) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo_port) as proxy:
        yield proxy


class Line:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(5):
            return await self.reader.readexactly(len(data))


@pytest.fixture
async def dial(proxy: FaultProxy) -> AsyncIterator[object]:
    lines: list[Line] = []

    async def dial() -> Line:
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return lines[-1]

    yield dial
    for line in lines:
        line.writer.close()


async def test_bytes_pass_unchanged(dial) -> None:
    line = await dial()
    data = bytes(range(256)) * 4096

    assert await line.echo(data) == data


async def test_an_end_of_stream_passes(dial) -> None:
    line = await dial()
    line.writer.write(b"last words")
    line.writer.write_eof()

    assert await line.reader.read() == b"last words"


async def test_a_cut_is_a_reset_for_every_connection(proxy, dial) -> None:
    lines = [await dial(), await dial()]
    for line in lines:
        await line.echo(b"x")

    assert proxy.cut_all() == 2

    for line in lines:
        with pytest.raises(ConnectionResetError):
            await line.reader.read()


async def test_the_next_connection_is_cut_after_so_many_bytes(proxy, dial) -> None:
    proxy.cut_next_after("up", 3)
    line = await dial()

    line.writer.write(b"12345")

    with pytest.raises(ConnectionResetError):
        await line.reader.readexactly(5)
    assert proxy.cut_count == 1
    assert await (await dial()).echo(b"12345") == b"12345"


async def test_a_frozen_direction_holds_back_and_the_thaw_gives_all(proxy, dial) -> None:
    line = await dial()
    await line.echo(b"x")
    proxy.freeze("down")
    line.writer.write(b"held")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await line.reader.read(1)

    proxy.thaw()

    assert await line.reader.readexactly(4) == b"held"


async def test_a_delay_does_not_slow_the_flow(proxy, dial) -> None:
    line = await dial()
    proxy.delay_seconds = 0.1
    started_at = time.monotonic()

    for _ in range(10):
        line.writer.write(b"x")
        await asyncio.sleep(0.02)
    await line.reader.readexactly(10)

    assert 0.2 <= time.monotonic() - started_at < 1.0


async def test_only_subscribers_are_delayed(proxy, dial) -> None:
    proxy.subscriber_delay_seconds = 0.2
    commands, subscriber = await dial(), await dial()

    started_at = time.monotonic()
    await commands.echo(b"*1\r\n$4\r\nPING\r\n")
    quick = time.monotonic() - started_at
    await subscriber.echo(b"*2\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n")
    slow = time.monotonic() - started_at - quick

    assert quick < 0.2
    assert slow >= 0.4


async def test_a_new_target_takes_the_next_connection(proxy, dial) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"other")
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    proxy.target = other.sockets[0].getsockname()[1]

    line = await dial()

    assert await line.reader.read() == b"other"
    other.close()
    await other.wait_closed()


async def test_a_target_that_refuses_is_a_reset(proxy, dial) -> None:
    proxy.target = 1

    line = await dial()

    with pytest.raises(ConnectionResetError):
        await line.reader.read()


async def test_a_tap_sees_what_passes(echo_port: int) -> None:
    seen: list[tuple[int, Direction, bytes]] = []
    async with FaultProxy(echo_port, tap=lambda *passed: seen.append(passed)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hi")
        await reader.readexactly(2)
        writer.close()

    assert seen == [(1, "up", b"hi"), (1, "down", b"hi")]
