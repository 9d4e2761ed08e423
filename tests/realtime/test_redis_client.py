"""Acts on a real server: deadlines, order, scripts, and who gets which answer."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
import redis
from channels_redis.utils import _consistent_hash
from redis.asyncio.connection import Connection

from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_act import Act, script
from realtime.redis_client import (
    RedisServers,
    SyncRedisServers,
    group_address,
    name_of_redis,
    pool_options,
    shard_of,
)
from realtime.redis_lane import _packed
from tests.realtime.conftest import once_redis_is_back, until, within
from tests.support.processes import free_port
from tests.support.valkey import Valkey


@pytest.fixture
def client(redis_server):
    # The server may be at work when it is asked, see below.
    with redis.Redis.from_url(redis_server, protocol=2, socket_timeout=60) as client:
        yield client


@pytest.fixture
def echo(tmp_path):
    """Return a maker of acts that answer what they are given."""
    path = tmp_path / "echo.lua"
    path.write_text("redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")

    def echo(text):
        return Act("g", script(path), ("said",), (text,), lambda answer: answer.decode())

    return echo


@pytest.fixture
def fail(tmp_path):
    path = tmp_path / "fail.lua"
    path.write_text("return redis.error_reply('ERR no')")
    return Act("g", script(path), ("said",), (), lambda answer: answer)


@pytest.fixture
def work(tmp_path):
    """Return a maker of acts that keep the server busy for so long, by the time that it gets."""
    path = tmp_path / "work.lua"
    path.write_text(
        "local ends_at = os.clock() + ARGV[1] while os.clock() < ends_at do end"
        " redis.call('RPUSH', KEYS[1], 'work') return 'work'"
    )

    def work(seconds):
        return Act("g", script(path), ("said",), (seconds,), lambda answer: answer.decode())

    return work


def said(client):
    return [each.decode() for each in client.lrange("said", 0, -1)]


async def test_an_act_is_carried_out_and_its_answer_read(servers, echo, client):
    assert await servers.run(echo("a")) == "a"
    assert said(client) == ["a"]


async def test_calls_one_after_another_are_answered_at_once(servers, echo):
    started_at = time.monotonic()

    for number in range(300):
        assert await servers.run(echo(str(number))) == str(number)

    assert time.monotonic() - started_at < 3  # nobody waits for more to come


async def test_hundreds_of_callers_at_once_are_all_answered(servers, echo):
    async def call(number):
        return [await servers.run(echo(f"{number}.{turn}")) for turn in range(5)]

    answers = await within(asyncio.gather(*(call(number) for number in range(300))))

    assert answers == [[f"{number}.{turn}" for turn in range(5)] for number in range(300)]


async def test_the_number_of_connections_is_bounded(servers, echo, client):
    before = client.info("clients")["connected_clients"]

    await within(asyncio.gather(*(servers.run(echo("x")) for _ in range(500))))

    assert client.info("clients")["connected_clients"] - before <= 32


async def test_a_script_that_the_server_forgot_is_brought_again(servers, echo, client):
    await servers.run(echo("a"))
    client.script_flush()

    assert await servers.run(echo("b")) == "b"
    client.script_flush()
    assert await servers.run_many([echo("c"), echo("d")]) == ["c", "d"]
    assert said(client) == ["a", "b", "c", "d"]


async def test_a_batch_keeps_its_order_beside_others(servers, echo, client):
    client.script_flush()
    batch = [echo(f"{number:03}") for number in range(300)]

    outcomes, *_ = await within(
        asyncio.gather(servers.run_many(batch), *(servers.run(echo("single")) for _ in range(5)))
    )

    assert outcomes == [f"{number:03}" for number in range(300)]
    assert [each for each in said(client) if each != "single"] == outcomes


async def test_each_part_of_a_large_batch_has_its_own_deadline(servers, work, monkeypatch):
    monkeypatch.setattr("realtime.redis_client.PART_MAX", 2)

    outcomes = await within(servers.run_many([work(0.1)] * 20), timeout_seconds=30)

    assert outcomes == ["work"] * 20


@pytest.mark.rule("api-publishes-in-parts")
async def test_a_large_batch_ends_with_its_first_part_without_an_answer(
    servers, echo, work, client, monkeypatch
):
    monkeypatch.setattr("realtime.redis_client.PART_MAX", 2)
    await servers.run(echo("before"))
    batch = [echo("1"), echo("2"), work(1.6), echo("4"), echo("5"), echo("6"), echo("7")]

    outcomes = await within(servers.run_many(batch))

    assert outcomes[:2] == ["1", "2"]
    assert [type(each) for each in outcomes[2:]] == [BrokerUnavailable] * 5
    await until(lambda: servers._lanes[0]._workers == set())
    assert said(client) == ["before", "1", "2", "work", "4"]


async def test_an_error_of_the_server_ends_no_batch(servers, echo, fail, monkeypatch):
    monkeypatch.setattr("realtime.redis_client.PART_MAX", 2)

    outcomes = await servers.run_many([echo("a"), fail, echo("c")])

    assert (outcomes[0], outcomes[2]) == ("a", "c")
    assert isinstance(outcomes[1], BrokerUnavailable)


async def test_an_empty_batch_is_nothing_to_do(servers):
    assert await servers.run_many([]) == []


async def test_an_error_of_the_server_is_one_acts_outcome(servers, echo, fail):
    with pytest.raises(BrokerUnavailable, match="no"):
        await servers.run(fail)

    first, second, third = await servers.run_many([echo("a"), fail, echo("c")])

    assert (first, third) == ("a", "c")
    assert isinstance(second, BrokerUnavailable)


async def test_one_callers_error_is_not_its_neighbours(servers, echo, fail):
    outcomes = await asyncio.gather(
        *(servers.run(act) for act in [echo("a"), fail, echo("b"), fail, echo("c")]),
        return_exceptions=True,
    )

    assert [str(each) for each in outcomes[::2]] == ["a", "b", "c"]
    assert all(isinstance(each, BrokerUnavailable) for each in outcomes[1::2])


async def test_callers_that_leave_take_nothing_from_the_others(servers, echo):
    leaving = [asyncio.create_task(servers.run(echo("leaving"))) for _ in range(100)]
    staying = [asyncio.create_task(servers.run(echo(str(number)))) for number in range(100)]
    await asyncio.sleep(0)
    for task in leaving[::2]:
        task.cancel()
    await asyncio.sleep(0)
    for task in leaving[1::2]:
        task.cancel()

    answers = await within(asyncio.gather(*staying))

    assert answers == [str(number) for number in range(100)]
    assert await servers.run(echo("after")) == "after"


@pytest.mark.parametrize("count", [1, 200])
async def test_a_frozen_server_is_given_up_within_two_seconds(valkey, servers, echo, count):
    await servers.run(echo("before"))
    valkey.freeze()
    started_at = time.monotonic()

    outcomes = await asyncio.gather(
        *(servers.run(echo("frozen")) for _ in range(count)), return_exceptions=True
    )
    took_seconds = time.monotonic() - started_at
    valkey.thaw()

    assert all(isinstance(each, BrokerUnavailable) for each in outcomes)
    assert took_seconds < 2
    await once_redis_is_back(lambda: servers.run(echo("after")))
    answers = await within(asyncio.gather(*(servers.run(echo(str(n))) for n in range(50))))
    assert answers == [str(number) for number in range(50)]


async def test_a_stopped_server_fails_at_once_and_is_found_again(valkey, servers, echo):
    await servers.run(echo("before"))
    await asyncio.to_thread(valkey.stop)
    started_at = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        await servers.run(echo("away"))
    with pytest.raises(BrokerUnavailable):
        await servers.ping()
    assert time.monotonic() - started_at < 2
    await asyncio.to_thread(valkey.start)

    assert await servers.run(echo("again")) == "again"
    await servers.ping()


async def test_a_silent_server_keeps_nobody_waiting_until_it_answers_again(valkey, servers, echo):
    await servers.run(echo("before"))
    valkey.freeze()
    with pytest.raises(BrokerUnavailable):
        await servers.run(echo("frozen"))
    started_at = time.monotonic()

    for _ in range(100):  # as a client does whose channels are all there
        with pytest.raises(BrokerUnavailable):
            await servers.run(echo("frozen"))

    assert time.monotonic() - started_at < 5  # and not 1.5 s each
    valkey.thaw()
    assert await once_redis_is_back(lambda: servers.run(echo("after"))) == "after"


async def test_an_error_of_the_server_is_no_silence(servers, echo, fail, valkey):
    with pytest.raises(BrokerUnavailable):
        await servers.run(fail)
    valkey.freeze()
    asked = asyncio.create_task(servers.run(echo("late")))
    await asyncio.sleep(0.5)

    valkey.thaw()

    assert await within(asked) == "late"


async def test_nothing_is_left_when_the_servers_are_closed(redis_server, echo, client):
    before = len(client.client_list())
    servers = RedisServers()
    await asyncio.gather(*(servers.run(echo("x")) for _ in range(50)))
    tasks = asyncio.all_tasks()

    await servers.close()

    assert asyncio.all_tasks() <= tasks
    assert len(client.client_list()) == before


async def test_who_waits_when_the_servers_are_closed_is_told(valkey, echo):
    servers = RedisServers()
    valkey.freeze()
    waiting = [asyncio.create_task(servers.run(echo("x"))) for _ in range(10)]
    await asyncio.sleep(0.05)

    await within(servers.close())
    outcomes = await within(asyncio.gather(*waiting, return_exceptions=True))
    valkey.thaw()

    assert all(isinstance(each, BrokerUnavailable) for each in outcomes)


def test_acts_are_packed_as_redis_py_packs_them(echo):
    args = ("text", "é€😀", b"\x00\xff\r\n", 0, -1, 2**64 - 1, 0.25, "", b"")
    act = echo("")._replace(keys=("a", "b"), args=args)

    packed = _packed([act, act._replace(args=("x" * 100_000,))])

    expected = Connection().pack_commands(
        [
            ("EVAL", act.script.text, 2, "a", "b", *args),
            ("EVALSHA", act.script.sha, 2, "a", "b", "x" * 100_000),
        ]
    )
    assert packed == b"".join(expected)


# Threads ---------------------------------------------------------------------------------------


@pytest.fixture
def sync_servers(redis_server):
    servers = SyncRedisServers()
    yield servers
    servers.close()


def test_a_thread_carries_out_the_same_acts(sync_servers, echo, fail, client):
    assert sync_servers.run(echo("a")) == "a"
    client.script_flush()
    assert sync_servers.run(echo("b")) == "b"
    with pytest.raises(BrokerUnavailable):
        sync_servers.run(fail)


def test_threads_share_the_connections(sync_servers, echo, client):
    answers = []

    def call(number):
        answers.extend(sync_servers.run(echo(f"{number}.{turn}")) for turn in range(20))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(answers) == sorted(said(client))
    assert len(answers) == 400


def test_a_thread_gives_a_frozen_server_up_within_two_seconds(valkey, echo):
    servers = SyncRedisServers()
    servers.run(echo("before"))
    valkey.freeze()
    started_at = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        servers.run(echo("frozen"))

    took_seconds = time.monotonic() - started_at
    valkey.thaw()
    assert took_seconds < 2
    assert servers.run(echo("after")) == "after"
    servers.close()


# Several servers -------------------------------------------------------------------------------


@pytest.fixture
async def shared(valkey, tmp_path, settings):
    """Return the coroutines' way to two servers, and the second of them."""
    second = Valkey(tmp_path / "second", port=free_port())
    second.start()
    settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"].append({"address": second.url})
    servers = RedisServers()
    yield servers, second
    await servers.close()
    second.close()


def on_each_server(echo):
    """Return an act for each of two servers, in their order."""
    acts = [echo("x")._replace(group=f"g{number}") for number in range(50)]
    return [next(act for act in acts if shard_of(act.group, 2) == place) for place in (0, 1)]


async def test_a_frozen_server_takes_nothing_of_the_others_away(shared, echo):
    servers, second = shared
    on_first, on_second = on_each_server(echo)
    second.freeze()

    batch = asyncio.create_task(servers.run_many([on_second, on_first, on_second]))
    for _ in range(100):
        assert await servers.run(on_first) == "x"
    assert not batch.done()
    outcomes = await within(batch)

    second.thaw()
    assert outcomes[1] == "x"
    assert isinstance(outcomes[0], BrokerUnavailable)
    assert isinstance(outcomes[2], BrokerUnavailable)


def test_a_thread_reaches_the_one_while_the_other_is_frozen(shared, echo):
    _, second = shared
    servers = SyncRedisServers()
    on_first, on_second = on_each_server(echo)
    second.freeze()

    with pytest.raises(BrokerUnavailable):
        servers.run(on_second)

    assert servers.run(on_first) == "x"
    second.thaw()
    assert servers.run(on_second) == "x"
    servers.close()


async def test_one_server_away_is_named_and_no_reason_to_fail(shared):
    servers, second = shared
    assert await servers.ping() == []

    await asyncio.to_thread(second.kill)

    assert await servers.ping() == [1]


async def test_a_server_that_never_answered_is_a_reason_to_fail(shared):
    servers, second = shared
    await asyncio.to_thread(second.kill)

    with pytest.raises(BrokerUnavailable):
        await servers.ping()


async def test_servers_that_are_all_away_are_a_reason_to_fail(shared, valkey):
    servers, second = shared
    await servers.ping()
    await asyncio.to_thread(second.kill)
    await asyncio.to_thread(valkey.kill)

    with pytest.raises(BrokerUnavailable):
        await servers.ping()


# Where things are ------------------------------------------------------------------------------


def test_a_groups_server_is_the_layers_choice():
    groups = [f"group{number}" for number in range(200)]

    shards = [shard_of(group, 3) for group in groups]

    assert shards == [_consistent_hash(group_address(group), 3) for group in groups]
    assert set(shards) == {0, 1, 2}


def test_the_prefix_of_the_layer_is_that_of_the_scripts(settings):
    assert group_address("g") == "asgi__group__g"
    config = {"hosts": [{"address": "redis://a"}], "prefix": "mine"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "x", "CONFIG": config}}

    assert group_address("g") == "mine__group__g"


def test_what_a_deployment_says_of_a_host_stands_but_not_its_timeout():
    host = {
        "address": "redis://a",
        "password": "p",
        "socket_timeout": 99,
        "retry_on_error": [OSError],
    }

    options = pool_options(host, timeout_seconds=1.5)

    assert options["password"] == "p"
    assert options["retry_on_error"] == [OSError]
    assert options["socket_timeout"] == 1.5
    assert options["protocol"] == 2
    assert "address" not in options


def test_a_unix_socket_is_not_asked_for_what_it_does_not_know():
    options = pool_options({"address": "unix:///x"}, timeout_seconds=1.5)

    assert not {"socket_keepalive", "socket_connect_timeout"} & options.keys()


def test_a_script_is_known_by_what_it_says(tmp_path: Path):
    first, second = tmp_path / "a.lua", tmp_path / "b.lua"
    first.write_text("local a = 1")
    second.write_text("return a")

    both = script(first, second)

    assert both.text == "local a = 1\nreturn a"
    assert len(both.sha) == 40
    assert script(first, second) is both


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("redis://user:pa55word@db.example:6380/1", "redis at db.example:6380"),
        ("rediss://:pa55word@10.0.0.1", "redis at 10.0.0.1:6379"),
        ("redis://", "redis at localhost:6379"),
        ("unix://user:pa55word@/run/valkey.sock?db=1", "redis at /run/valkey.sock"),
        ("redis://user:pa55word/x@host:port/0", "redis"),
    ],
)
def test_a_server_is_named_without_its_password(address, name):
    assert name_of_redis({"address": address, "password": "pa55word"}) == name
