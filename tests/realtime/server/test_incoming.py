import asyncio

import pytest

from realtime.server.incoming import MAX_BYTES, MESSAGES_MAX, Incoming


class Transport:
    """Says whether it is read."""

    def __init__(self):
        self.is_read = True
        self.turns = 0

    def pauseProducing(self):
        self.is_read = False
        self.turns += 1

    def resumeProducing(self):
        self.is_read = True
        self.turns += 1


@pytest.fixture
def transport():
    return Transport()


@pytest.fixture
def incoming(transport):
    return Incoming(transport)


def text(content="x"):
    return {"type": "websocket.receive", "text": content}


async def test_messages_come_in_the_order_in_which_they_were_put(incoming):
    for number in range(10):
        incoming.put(text(str(number)))

    assert [(await incoming.get())["text"] for _ in range(10)] == list("0123456789")


async def test_a_reader_waits_for_the_next_message(incoming):
    reader = asyncio.create_task(incoming.get())
    await asyncio.sleep(0)
    assert not reader.done()

    incoming.put(text("late"))

    async with asyncio.timeout(1):
        assert (await reader)["text"] == "late"


async def test_a_reader_that_gives_up_loses_nothing(incoming):
    reader = asyncio.create_task(incoming.get())
    await asyncio.sleep(0)
    incoming.put(text("kept"))
    reader.cancel()
    await asyncio.wait([reader])

    async with asyncio.timeout(1):
        assert (await incoming.get())["text"] == "kept"


async def test_the_socket_is_not_read_while_many_messages_wait(incoming, transport):
    for _ in range(MESSAGES_MAX - 1):
        incoming.put(text())
    assert transport.is_read

    incoming.put(text())
    assert not transport.is_read

    while transport.is_read is False:
        await incoming.get()
    assert len(incoming._messages) == MESSAGES_MAX // 2


async def test_the_socket_is_not_read_while_many_bytes_wait(incoming, transport):
    for _ in range(4):
        incoming.put({"type": "websocket.receive", "bytes": b"x" * (MAX_BYTES // 4)})
    assert not transport.is_read

    await incoming.get()
    assert not transport.is_read
    await incoming.get()
    assert transport.is_read


async def test_the_transport_is_told_once_each_time(incoming, transport):
    for _ in range(3 * MESSAGES_MAX):  # one read may bring more than the bound
        incoming.put(text())
    for _ in range(3 * MESSAGES_MAX):
        await incoming.get()

    assert transport.turns == 2


async def test_the_end_is_told_behind_what_waits_also_if_nothing_more_is_read(incoming):
    for _ in range(MESSAGES_MAX):
        incoming.put(text())

    incoming.put({"type": "websocket.disconnect", "code": 1006})

    got = [await incoming.get() for _ in range(MESSAGES_MAX + 1)]
    assert got[-1]["type"] == "websocket.disconnect"


async def test_the_socket_can_be_read_again_whatever_waits(incoming, transport):
    for _ in range(MESSAGES_MAX):
        incoming.put(text())

    incoming.resume()

    assert transport.is_read
