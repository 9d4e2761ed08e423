"""Pings and pongs on the tick. Source: Centrifugo client protocol, ping and pong."""

import asyncio
import time

import pytest

from tests.realtime.client import CommandError
from tests.realtime.conftest import once_redis_is_back


@pytest.fixture(autouse=True)
def _quick(configure):
    configure(PING_INTERVAL_SECONDS=1, PONG_TIMEOUT_SECONDS=0.5)


@pytest.mark.rule("ping-first-after-half", "ping-every-interval", "ping-empty-object")
async def test_pings_come_at_their_interval_the_first_after_half_of_it(connect):
    alice = await connect()
    connected_at = time.monotonic()
    at = []
    for _ in range(3):
        await alice.ping()
        at.append(time.monotonic() - connected_at)
        await alice.send("{}")

    # None comes too early; a busy machine may let one be late, and not the next one too.
    assert [seconds >= 0.4 + 0.95 * number for number, seconds in enumerate(at)] == [True] * 3
    assert at[2] <= 1.0 + 2 + 0.9


@pytest.mark.rule("ping-on-busy-connection")
async def test_pings_come_also_on_a_busy_connection(connect):
    alice = await connect()
    await alice.call("subscribe", channel="live:a")
    pings, publications = 0, 0
    async with asyncio.timeout(10):
        while pings < 2:
            await alice.call("publish", channel="live:a", data=1)
            while alice._waiting:
                if alice._waiting.pop(0) == {}:
                    pings += 1
                    await alice.send("{}")
                else:
                    publications += 1
            await asyncio.sleep(0.01)

    assert publications > 10


@pytest.mark.rule("pong-missing-3012")
async def test_who_does_not_answer_in_time_is_closed_with_3012(connect):
    alice = await connect()
    await alice.ping()
    pinged_at = time.monotonic()

    closed = await alice.closed()

    assert closed.push == {"code": 3012, "reason": "no pong"}
    assert 0.3 <= time.monotonic() - pinged_at <= 2


async def test_a_pong_may_wait_behind_a_command_that_takes_its_time(valkey, connect):
    alice = await connect()
    await alice.ping()
    valkey.freeze()

    await alice.send_commands({"id": 9, "publish": {"channel": "live:a", "data": 0}})
    await alice.send("{}")
    with pytest.raises(CommandError) as refused:
        await alice.reply(9)
    valkey.thaw()

    assert refused.value.code == 100
    await once_redis_is_back(lambda: alice.call("publish", channel="live:a", data=1))


async def test_each_pong_counts_that_waits_behind_a_slow_command(connect, hold_read):
    alice = await connect()
    held = hold_read("open:a")
    await alice.send_commands({"id": 50, "subscribe": {"channel": "open:a"}})
    await held.until_answered()
    for _ in range(2):
        await alice.ping()
        await alice.send("{}")
    held.may_go.set()
    await alice.reply(50)

    await alice.call("publish", channel="live:a", data=1)

    assert await alice.has_nothing()


async def test_a_pong_more_than_pings_closes_also_behind_a_slow_command(connect, hold_read):
    alice = await connect()
    held = hold_read("open:a")
    await alice.send_commands({"id": 50, "subscribe": {"channel": "open:a"}})
    await held.until_answered()
    for _ in range(2):
        await alice.ping()
    for _ in range(3):
        await alice.send("{}")

    held.may_go.set()

    assert (await alice.closed()).code == 3501


async def test_who_has_not_connected_is_not_pinged(dial):
    client = await dial()

    await asyncio.sleep(1.3)

    assert await client.has_nothing()


@pytest.mark.rule("pong-second-3501")
async def test_a_pong_that_comes_twice_closes(connect):
    alice = await connect()
    await alice.ping()

    await alice.send("{}")
    await alice.send("{}")

    assert (await alice.closed()).code == 3501
