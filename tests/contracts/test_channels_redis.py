"""What the channel layer takes for granted of channels_redis, Channels and redis-py."""

import inspect

import pytest
import redis
import redis.asyncio as aioredis
from channels.layers import get_channel_layer
from channels_redis import pubsub, utils
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from redis.asyncio.connection import AbstractConnection, ConnectionPool

from realtime.layer_link import ShardLink


def parameters(function):
    return list(inspect.signature(function).parameters)


def methods(kind):
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction)}


def test_a_shard_link_does_all_that_the_layer_asks_of_a_shard():
    asked = {"publish", "subscribe", "unsubscribe", "flush"}

    assert asked <= methods(pubsub.RedisSingleShardConnection)
    assert asked <= methods(ShardLink)
    for name in asked:
        ours, theirs = (
            inspect.signature(getattr(kind, name))
            for kind in (ShardLink, pubsub.RedisSingleShardConnection)
        )
        assert len(ours.parameters) == len(theirs.parameters)
    # Whatever the layer calls on a shard is among them.
    text = inspect.getsource(RedisPubSubLoopLayer)
    called = {
        line.split("shard.")[1].split("(")[0] for line in text.splitlines() if "shard." in line
    }
    assert called <= asked


def test_the_layers_parts_are_where_they_are_used():
    layer = inspect.getsource(RedisPubSubChannelLayer)
    loop_layer = inspect.getsource(RedisPubSubLoopLayer)

    for name in ("self._args", "self._kwargs", "self._layers", "def _get_layer", "_wrap_close("):
        assert name in layer
    for name in ("self.channels", "self.groups", "self._shards", "def _get_shard"):
        assert name in loop_layer
    assert parameters(RedisPubSubLoopLayer._subscribe_to_channel) == ["self", "channel"]
    assert parameters(RedisPubSubLoopLayer.group_discard) == ["self", "group", "channel"]
    assert parameters(RedisPubSubLoopLayer.flush) == ["self"]


async def test_a_groups_address_is_the_parents(flushed_redis):
    layer = get_channel_layer().on_this_loop()

    assert layer._get_group_channel_name("g") == "asgi__group__g"


def test_the_ring_of_servers_is_a_stable_function_of_the_name():
    # Another one would move every channel to another server at an update.
    names = [f"asgi__group__{name}" for name in "abcd"]

    assert [utils._consistent_hash(name, 1) for name in names] == [0, 0, 0, 0]
    assert [utils._consistent_hash(name, 3) for name in names] == [1, 2, 2, 2]


def test_hosts_are_decoded_to_dicts_with_an_address():
    decoded = utils.decode_hosts(["redis://a:1/0", {"address": "unix:///x", "password": "p"}])

    assert decoded == [
        {"address": "redis://a:1/0"},
        {"address": "unix:///x", "password": "p"},
    ]


def test_a_connection_is_driven_by_hand():
    assert "disconnect_on_error" in parameters(AbstractConnection.read_response)
    assert parameters(AbstractConnection.send_command)[:2] == ["self", "args"]
    assert parameters(AbstractConnection.connect) == ["self"]
    assert "nowait" in parameters(AbstractConnection.disconnect)
    assert parameters(ConnectionPool.make_connection) == ["self"]


def test_a_pool_is_taken_over_by_a_client():
    for kind in (redis.Redis, aioredis.Redis):
        assert "connection_pool" in parameters(kind.from_pool)
    assert "close_connection_pool" in parameters(aioredis.Redis.aclose)


@pytest.mark.parametrize("protocol", [2])
async def test_raw_answers_are_resp2(flushed_redis, protocol):
    pool = ConnectionPool.from_url(flushed_redis, protocol=protocol)
    connection = pool.make_connection()
    await connection.connect()
    try:
        await connection.send_command("PING")
        assert await connection.read_response() == b"PONG"
        await connection.send_command("SUBSCRIBE", "a", "b")
        assert await connection.read_response() == [b"subscribe", b"a", 1]
        assert await connection.read_response() == [b"subscribe", b"b", 2]
        await connection.send_command("PING")
        assert await connection.read_response() == [b"pong", b""]
        with redis.Redis.from_url(flushed_redis) as client:
            client.publish("a", b"\x00\xff")
        assert await connection.read_response() == [b"message", b"a", b"\x00\xff"]
        await connection.send_command("UNSUBSCRIBE", "a")
        assert await connection.read_response() == [b"unsubscribe", b"a", 1]
    finally:
        await connection.disconnect()
