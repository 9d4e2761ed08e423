import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
import redis

from realtime import control
from realtime.control import ControlReader, DisconnectCommand, UnsubscribeCommand
from realtime.layers import LayerMessage
from realtime.redis_client import group_address
from realtime.redis_keys import CONTROL, CONTROL_GROUP
from tests.realtime.conftest import until, within


class Reading:
    """A reader that runs, and what it was told to do."""

    def __init__(self, layer, servers):
        self.obeyed = []
        self.lost = 0
        self.noticed = []
        self.reader = ControlReader(
            layer, servers, obey=self.obeyed.append, lose=self.lose, notice=self.noticed.append
        )
        self.task = asyncio.create_task(self.reader.run())

    def lose(self):
        self.lost += 1

    @property
    def users(self):
        return [command.user for command in self.obeyed]

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
def reading(layer, servers):
    @asynccontextmanager
    async def reading():
        reading = Reading(layer, servers)
        try:
            await until(lambda: reading.reader._position is not None)
            yield reading
        finally:
            await reading.stop()

    return reading


@pytest.fixture
def send(servers):
    async def send(*users):
        for user in users:
            await servers.run(control.send(DisconnectCommand(user, 3503, "force disconnect")))

    return send


def break_links(client):
    return client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def test_commands_are_obeyed_in_order(reading, send):
    async with reading() as one:
        await send("a", "b", "c")

        await until(lambda: one.users == ["a", "b", "c"])


async def test_a_command_arrives_as_it_was_sent(reading, servers):
    sent = [
        DisconnectCommand("42", 4000, "why", client="c", session="s", whitelist=["x"]),
        UnsubscribeCommand("", "news", client="c"),
    ]
    async with reading() as one:
        for command in sent:
            await servers.run(control.send(command))

        await until(lambda: one.obeyed == sent)


async def test_commands_from_before_the_reader_are_for_others(reading, send):
    await send("before")
    async with reading() as one:
        await send("after")

        await until(lambda: one.users == ["after"])


async def test_every_instance_obeys(reading, send, layer):
    # Two instances share a loop here, and a layer hands a group to one listener: theirs is read
    # from the stream.
    async with reading() as one, reading() as two:
        await send("a")

        await until(lambda: two.users == ["a"])
        one.reader._wake.set()
        await until(lambda: one.users == ["a"])


async def test_commands_sent_while_the_link_was_down_are_obeyed_later(reading, send, client, layer):
    async with reading() as one:
        await send("a")
        await until(lambda: one.users == ["a"])
        lost = asyncio.Event()
        layer.watchers.append(lambda shard, is_up: None if is_up else lost.set())

        break_links(client)
        await within(lost.wait())
        await send("b", "c")

        await until(lambda: one.users == ["a", "b", "c"])
        assert one.lost == 0


async def test_a_command_that_the_layer_lost_is_obeyed_with_the_next_one(reading, servers, send):
    async with reading() as one:
        quiet = control.send(DisconnectCommand("quiet", 3503, "x"))
        args = list(quiet.args)
        args[5] = "another-address"  # stored, and carried to nobody
        await servers.run(quiet._replace(args=args))
        await send("loud")

        await until(lambda: one.users == ["quiet", "loud"])


async def test_a_command_that_the_layer_lost_is_found_without_a_next_one(
    reading, servers, monkeypatch
):
    monkeypatch.setattr(control, "CHECK_SECONDS", 0.1)
    async with reading() as one:
        quiet = control.send(DisconnectCommand("quiet", 3503, "x"))
        args = list(quiet.args)
        args[5] = "another-address"
        await servers.run(quiet._replace(args=args))

        await until(lambda: one.users == ["quiet"])


async def test_a_command_that_arrives_during_a_read_is_obeyed_once(layer, servers, send):
    gate, answered = asyncio.Event(), asyncio.Event()

    class PausedServers:
        async def run(self, act):
            answer = await servers.run(act)
            answered.set()
            await gate.wait()
            return answer

    gate.set()
    one = Reading(layer, PausedServers())
    try:
        await until(lambda: one.reader.has_begun)
        await send("a")
        await until(lambda: one.users == ["a"])
        gate.clear()
        answered.clear()
        one.reader._wake.set()
        await within(answered.wait())

        await send("b")
        await until(lambda: one.users == ["a", "b"])
        gate.set()
        await send("c")

        await until(lambda: one.users[-1] == "c")
        assert one.users == ["a", "b", "c"]
        assert one.lost == 0
    finally:
        gate.set()
        await one.stop()


async def test_commands_that_nobody_kept_are_a_loss(reading, send, client, layer):
    async with reading() as one:
        await send("a")
        await until(lambda: one.users == ["a"])
        lost = asyncio.Event()
        layer.watchers.append(lambda shard, is_up: None if is_up else lost.set())
        break_links(client)
        await within(lost.wait())

        await send("b", "c", "d")
        client.xtrim(CONTROL.stream, maxlen=1, approximate=False)

        await until(lambda: one.lost)
        assert one.users == ["a"]


async def test_a_hole_among_the_missed_commands_is_a_loss(reading, send, client, layer):
    async with reading() as one:
        lost = asyncio.Event()
        layer.watchers.append(lambda shard, is_up: None if is_up else lost.set())
        break_links(client)
        await within(lost.wait())

        await send("a", "b", "c")
        client.xdel(CONTROL.stream, "2-0")

        await until(lambda: one.lost)


async def test_after_a_loss_the_reader_goes_on(reading, send, client, layer):
    async with reading() as one:
        await send("a")
        client.delete(CONTROL.meta)
        await send("b")

        await until(lambda: one.lost)
        await send("c")

        await until(lambda: "c" in one.users)
        assert one.lost == 1


async def test_a_quiet_stream_whose_entries_have_lapsed_is_no_loss(
    reading, send, client, monkeypatch
):
    monkeypatch.setattr(control, "CHECK_SECONDS", 0.05)
    async with reading() as one:
        await send("a")
        await until(lambda: one.users == ["a"])

        client.delete(CONTROL.stream)
        await asyncio.sleep(0.2)

        assert one.lost == 0
        await send("b")
        await until(lambda: one.users == ["a", "b"])


async def test_a_restart_that_lost_nothing_is_no_loss(valkey, layer, servers, send):
    one = Reading(layer, servers)
    try:
        await until(lambda: one.reader._position is not None)
        await send("a")
        await until(lambda: one.users == ["a"])

        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(valkey.start)
        await until(lambda: layer.is_linked)
        await send("b")

        await until(lambda: one.users == ["a", "b"])
        assert one.lost == 0
    finally:
        await one.stop()


async def test_the_reader_begins_when_redis_comes(valkey, layer, servers, send):
    valkey.stop()
    one = Reading(layer, servers)
    try:
        await asyncio.sleep(0.1)
        await asyncio.to_thread(valkey.start)
        await until(lambda: one.reader._position is not None, timeout_seconds=10)

        await send("a")

        await until(lambda: one.users == ["a"])
    finally:
        await one.stop()


async def test_a_newer_versions_command_is_passed_over(reading, send, servers, client):
    async with reading() as one:
        newer = control.send(DisconnectCommand("x", 3503, "x"))
        args = list(newer.args)
        args[7] = b'{"data":{"op":"new","what":1}}'
        await servers.run(newer._replace(args=args))
        await send("a")

        await until(lambda: one.users == ["a"])


async def test_other_messages_on_the_group_are_noticed(reading, layer):
    async with reading() as one:
        message = LayerMessage("realtime.survey", 0, "", "{}")
        address = group_address(CONTROL_GROUP)
        await layer._get_shard(address).publish(address, msgspec.msgpack.encode(message))

        await until(lambda: one.noticed == [message])


@pytest.mark.parametrize(
    "junk",
    [b"", b"\xff\xff", msgspec.msgpack.encode({"type": "chat.message"}), b"\x81\xa4type\xa1\xff"],
)
async def test_junk_on_the_control_group_does_not_end_the_link(reading, send, client, junk):
    async with reading() as one:
        client.publish(group_address(CONTROL_GROUP), junk)
        await send("a")

        await until(lambda: one.users == ["a"])


async def test_the_reader_leaves_no_watcher_behind(reading, layer):
    watching = len(layer.watchers)

    async with reading():
        assert len(layer.watchers) == watching + 1

    assert len(layer.watchers) == watching
