"""Turns at something of which few have room at once."""

import asyncio
import random

import pytest

from upstreams.failures import Failed
from upstreams.turns import Turns


async def settle():
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def turns():
    return Turns()


@pytest.fixture
async def ask(turns):
    """Return a way to have users wait; the names of those whose turn it is are gathered."""
    tasks, came = [], []

    def ask(user, *, name="", queue_max=100):
        async def wait():
            await turns.take(user, places=1, queue_max=queue_max)
            came.append(name or user)

        task = asyncio.create_task(wait())
        tasks.append(task)
        return task

    ask.came = came
    yield ask
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_comes_to_a_free_place_does_not_wait(turns):
    await turns.take("ada", places=2, queue_max=0)
    await turns.take("ada", places=2, queue_max=0)

    assert turns.in_flight == 2


async def test_the_users_take_turns_however_many_calls_one_has(turns, ask):
    await turns.take("first", places=1, queue_max=100)
    for number in range(3):
        ask("greedy", name=f"greedy {number}")
    await settle()
    ask("modest")
    await settle()

    for _ in range(4):
        turns.give_back(places=1)
        await settle()

    assert ask.came == ["greedy 0", "modest", "greedy 1", "greedy 2"]


async def test_more_than_may_wait_fail_at_once(turns, ask):
    await turns.take("ada", places=1, queue_max=1)
    ask("bob", queue_max=1)
    await settle()

    with pytest.raises(Failed, match="queue full"):
        await turns.take("carol", places=1, queue_max=1)
    assert turns.waiting == 1


async def test_who_goes_away_while_waiting_is_forgotten(turns, ask):
    await turns.take("ada", places=1, queue_max=100)
    gone = ask("bob")
    ask("carol")
    await settle()

    gone.cancel()
    await settle()
    turns.give_back(places=1)
    await settle()

    assert ask.came == ["carol"]
    assert (turns.in_flight, turns.waiting) == (1, 0)


async def test_who_goes_away_as_its_turn_comes_passes_it_on(turns, ask):
    await turns.take("ada", places=1, queue_max=100)
    gone = ask("bob")
    ask("carol")
    await settle()

    turns.give_back(places=1)
    gone.cancel()
    await settle()

    assert ask.came == ["carol"]
    assert (turns.in_flight, turns.waiting) == (1, 0)


async def test_fewer_places_than_before_are_not_given_on(turns, ask):
    for _ in range(3):
        await turns.take("ada", places=3, queue_max=100)
    ask("bob")
    await settle()

    turns.give_back(places=1)
    turns.give_back(places=1)
    await settle()
    assert ask.came == []

    turns.give_back(places=1)
    await settle()
    assert ask.came == ["bob"]


async def test_who_is_cancelled_as_a_place_is_given_back_keeps_none(turns, ask):
    await turns.take("ada", places=1, queue_max=100)
    gone = ask("bob")
    ask("carol")
    await settle()

    gone.cancel()  # it has not run since, and is in the queue still
    turns.give_back(places=1)
    await settle()

    assert ask.came == ["carol"]
    assert gone.cancelled()
    assert (turns.in_flight, turns.waiting) == (1, 0)
    turns.give_back(places=1)
    assert turns.in_flight == 0


async def test_where_as_many_wait_as_may_the_greediest_goes_without(turns, ask):
    await turns.take("first", places=1, queue_max=3)
    greedy = [ask("greedy", name=f"greedy {number}", queue_max=3) for number in range(3)]
    await settle()

    ask("modest", queue_max=3)
    await settle()

    with pytest.raises(Failed, match="queue full"):
        await greedy[2]
    assert turns.waiting == 3
    for _ in range(3):
        turns.give_back(places=1)
        await settle()
    assert ask.came == ["greedy 0", "modest", "greedy 1"]


async def test_the_greediest_takes_nobody_elses_place_in_the_queue(turns, ask):
    await turns.take("first", places=1, queue_max=2)
    ask("modest", queue_max=2)
    ask("greedy", queue_max=2)
    await settle()

    with pytest.raises(Failed, match="queue full"):
        await turns.take("greedy", places=1, queue_max=2)


async def test_places_are_neither_lost_nor_made_whatever_is_cancelled_when(turns):
    chance = random.Random(7)
    most = 0

    async def call(user):
        nonlocal most
        await turns.take(user, places=4, queue_max=30)
        try:
            most = max(most, turns.in_flight)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            turns.give_back(places=4)

    calls = []
    for _ in range(2000):
        calls.append(asyncio.create_task(call(f"user {chance.randrange(6)}")))
        if chance.random() < 0.5:
            chance.choice(calls[-20:]).cancel()
        if chance.random() < 0.7:
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(each) for each in outcomes} <= {type(None), asyncio.CancelledError, Failed}
    assert most == 4
    assert (turns.in_flight, turns.waiting) == (0, 0)
