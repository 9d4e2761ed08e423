"""Commands of one connection beside one another, and frames that end in the middle."""

import asyncio

import pytest

from realtime import services
from tests.realtime.conftest import until
from tests.realtime.test_commands import closes, refused


class Held:
    """Presence reads that wait until they may go, each by its channel."""

    def __init__(self, members):
        self._members = members
        self.entered = []
        self.gates = {}

    async def __call__(self, channel):
        self.entered.append(channel)
        await self.gates.setdefault(channel, asyncio.Event()).wait()
        return await self._members(channel)

    def let(self, *channels):
        for channel in channels:
            self.gates.setdefault(channel, asyncio.Event()).set()


@pytest.fixture
def held(engine, monkeypatch):
    held = Held(engine.presence.members)
    monkeypatch.setattr(engine.presence, "members", held)
    return held


@pytest.fixture
async def alice(connect, configure):
    """Have two commands of a connection at once."""
    configure(COMMAND_CONCURRENCY_LIMIT=2)
    return await connect()


def presence(number, channel):
    return {"id": number, "presence": {"channel": channel}}


def ids(client):
    return [message["id"] for message in client.log if "id" in message][1:]


@pytest.mark.rule("commands-concurrent")
async def test_so_many_commands_are_handled_at_once_and_no_more(alice, held):
    await alice.send_commands(presence(7, "open:a"), presence(8, "open:b"))
    await alice.send_commands(presence(9, "open:c"))
    await until(lambda: len(held.entered) == 2)
    await asyncio.sleep(0.02)
    assert held.entered == ["open:a", "open:b"]

    held.let("open:b")
    await alice.reply(8)
    await until(lambda: "open:c" in held.entered)
    held.let("open:a", "open:c")

    await alice.reply(7)
    await alice.reply(9)
    assert ids(alice)[0] == 8


@pytest.mark.rule("commands-concurrent")
async def test_a_slow_question_does_not_hold_up_what_follows(alice, held):
    await alice.send_commands(
        presence(7, "open:a"),
        {"id": 8, "subscribe": {"channel": "open:b"}},
        {"id": 9, "publish": {"channel": "open:b", "data": 1}},
        {"id": 10, "unsubscribe": {"channel": "open:b"}},
    )

    await alice.reply(10)
    held.let("open:a")

    await alice.reply(7)
    assert ids(alice)[-1] == 7
    assert sorted(ids(alice)) == [7, 8, 9, 10]


@pytest.mark.rule("unsubscribe-waits-for-subscribe")
async def test_an_unsubscribe_waits_for_the_subscribe_of_its_channel(alice, engine, hold_read):
    read = hold_read("open:a")
    await alice.send_commands({"id": 7, "subscribe": {"channel": "open:a"}})
    await read.until_answered()
    await alice.send_commands({"id": 8, "unsubscribe": {"channel": "open:a"}})
    await asyncio.sleep(0.02)
    assert ids(alice) == []

    read.may_go.set()

    await alice.reply(8)
    assert ids(alice) == [7, 8]
    assert engine.hub.client_counts("") == {}


async def test_a_place_is_given_back_whatever_becomes_of_a_command(alice, monkeypatch, engine):
    async def fail(channel):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(engine.presence, "members", fail)
    for _ in range(5):
        assert await refused(alice, "presence", channel="open:a") == 100
        assert await refused(alice, "presence", channel="live:a") == 108

    assert await alice.call("history", channel="open:a")


async def test_a_command_beside_others_may_close_the_connection(alice, held):
    await alice.send_commands(presence(7, "open:a"), {"id": 8, "publish": {"data": 1}})

    assert await closes(alice)
    held.let("open:a")
    await alice.leave()
    assert ids(alice) == []


@pytest.mark.rule("frame-rest-discarded")
async def test_what_came_before_the_close_is_carried_out_and_nothing_after_it(alice, engine):
    await alice.send_commands(
        {"id": 7, "publish": {"channel": "open:a", "data": 1}},
        {"send": {}},
        {"id": 8, "publish": {"channel": "open:a", "data": 2}},
        {"id": 9, "publish": {"channel": "open:a", "data": 3}},
    )

    assert await closes(alice, code=3508)
    await alice.leave()
    await until(lambda: not engine.tasks._tasks)
    assert (await services.ahistory("open:a")).offset == 1


async def test_before_connect_nothing_runs_beside_anything(dial, configure, engine):
    configure(COMMAND_CONCURRENCY_LIMIT=2)
    client = await dial()

    await client.send_commands(presence(1, "open:a"))

    assert await closes(client)


async def test_who_waits_for_a_place_begins_nothing_after_the_close(alice, held, engine):
    await alice.send_commands(
        presence(7, "open:a"),
        presence(8, "open:b"),
        {"id": 9, "publish": {"channel": "open:a", "data": 1}},
    )
    await until(lambda: len(held.entered) == 2)

    await services.adisconnect("42")
    assert await closes(alice, code=3503)
    held.let("open:a", "open:b")

    await until(lambda: not engine.tasks._tasks)
    assert (await services.ahistory("open:a")).offset == 0


async def test_who_leaves_with_commands_under_way_leaves_no_trace(alice, held, engine):
    await alice.send_commands(presence(7, "open:a"), presence(8, "open:b"))
    await until(lambda: len(held.entered) == 2)

    await alice.leave()
    held.let("open:a", "open:b")

    await until(lambda: not engine.tasks._tasks)
    assert len(engine.connections) == 0


# Frames ----------------------------------------------------------------------------------------


@pytest.mark.rule("frame-runs-up-to-malformed-line", "frame-malformed-3501")
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("rest", ["nonsense", "", "[]", '{"id":"9"}', '{"id":9,"subscribe":7}'])
async def test_what_stands_before_a_malformed_line_is_carried_out(
    connect, configure, engine, limit, rest
):
    configure(COMMAND_CONCURRENCY_LIMIT=limit)
    client = await connect()
    first = '{"id":7,"publish":{"channel":"open:a","data":1}}'
    last = '{"id":8,"publish":{"channel":"open:a","data":2}}'

    await client.send(f"{first}\n{rest}\n{last}\n")

    assert await closes(client)
    await until(lambda: not engine.tasks._tasks)
    history = await services.ahistory("open:a", limit=-1)
    assert [bytes(each.data) for each in history.publications] == [b"1"]


@pytest.mark.rule("frame-runs-up-to-malformed-line")
async def test_the_reply_to_what_was_carried_out_comes_before_the_close(connect):
    client = await connect()

    await client.send('{"id":7,"subscribe":{"channel":"open:a"}}\n\n')

    assert await closes(client)
    assert ids(client) == [7]


async def test_a_frame_that_is_not_utf8_is_refused_as_a_whole(connect):
    client = await connect()

    await client.send(b'{"id":7,"publish":{"channel":"open:a","data":1}}\n{"id":8,"rpc":"\xff"}')

    assert await closes(client)
    assert (await services.ahistory("open:a")).offset == 0
