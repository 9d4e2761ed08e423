"""Threads for code that blocks."""

import asyncio
import contextlib
import contextvars
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from asgiref.sync import sync_to_async

from realtime import threads
from realtime.threads import Lanes, Threads
from tests.realtime.conftest import until, within


@pytest.fixture
async def pool():
    pool = Threads("test", 4)
    yield pool
    pool.close()


@pytest.fixture
async def lanes():
    lanes = Lanes("lane", 2)
    yield lanes
    lanes.close()


@pytest.fixture
def gate():
    gate = threading.Event()
    yield gate
    gate.set()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


# Functions ---------------------------------------------------------------------------------------


async def test_a_function_runs_in_a_thread_with_the_context_of_who_asks(pool):
    asked = contextvars.ContextVar("asked")
    asked.set("yes")

    found = await pool.run("", lambda: (threading.current_thread().name, asked.get()))

    assert found == ("test_0", "yes")


async def test_one_user_gets_half_of_the_threads(pool, gate):
    slow = [asyncio.create_task(pool.run("greedy", lambda: gate.wait(10))) for _ in range(8)]
    await until(lambda: pool.busy_count == 2)

    assert await within(pool.run("modest", lambda: 1)) == 1
    assert pool.busy_count == 2

    gate.set()
    assert await within(asyncio.gather(*slow)) == [True] * 8


async def test_what_nobody_waits_for_any_more_waits_nowhere(pool, gate):
    calls = [
        asyncio.create_task(pool.run(f"user {number}", lambda: gate.wait(10)))
        for number in range(40)
    ]
    await until(lambda: pool.busy_count == 4)

    for call in calls:
        call.cancel()
    await asyncio.wait(calls)

    assert pool.busy_count == 4  # a thread cannot be ended
    assert pool._executor._work_queue.qsize() == 0
    gate.set()
    await until(lambda: pool.busy_count == 0)
    assert await within(asyncio.gather(*(pool.run("one", lambda: 1) for _ in range(9)))) == [1] * 9
    await until(lambda: pool.busy_count == 0)
    assert (pool._held, pool._queues) == ({}, {})


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), StopIteration(1)])
async def test_what_would_end_the_loop_or_nothing_is_an_error_like_others(pool, raised):
    def function():
        raise raised

    with pytest.raises(RuntimeError, match=type(raised).__name__):
        await within(pool.run("", function))


async def test_its_own_errors_are_the_functions(pool):
    with pytest.raises(ZeroDivisionError):
        await pool.run("", lambda: 1 // 0)


async def test_places_are_neither_lost_nor_made_whatever_is_cancelled_when(pool):
    chance, running, most = random.Random(3), set(), []

    def work(number):
        running.add(number)
        most.append(len(running))
        time.sleep(chance.random() / 1000)  # what a thread is for
        running.discard(number)

    calls = []
    for number in range(400):
        job = partial(work, number)
        calls.append(asyncio.create_task(pool.run(f"user {chance.randrange(5)}", job)))
        if chance.random() < 0.4:
            chance.choice(calls[-10:]).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.wait(calls)

    await until(lambda: pool.busy_count == 0)
    assert max(most) <= 4
    assert (pool._held, pool._queues) == ({}, {})


def test_several_loops_share_the_threads(gate):
    pool = Threads("test", 4)

    async def slow():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.run("ada", lambda: gate.wait(10))

    async def quick():
        return await within(asyncio.gather(*(pool.run("ada", lambda: 1) for _ in range(8))))

    asyncio.run(slow())
    assert asyncio.run(quick()) == [1] * 8
    gate.set()
    with ThreadPoolExecutor(4) as loops:
        jobs = [loops.submit(asyncio.run, quick()) for _ in range(8)]
        assert [job.result() for job in jobs] == [[1] * 8] * 8
    deadline = time.monotonic() + 5
    while pool.busy_count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pool.busy_count == 0
    pool.close()


# What asynchronous functions use of the ORM ------------------------------------------------------


def here():
    return threading.current_thread().name


async def test_without_a_call_that_needs_a_thread_none_is_started(lanes):
    before = threading.active_count()

    async with lanes.chosen():
        await asyncio.sleep(0)

    assert threading.active_count() == before


async def test_one_call_keeps_to_a_thread_and_another_takes_another(lanes):
    async def call():
        async with lanes.chosen():
            found = {await sync_to_async(here)()}
            await both.wait()
            return found | {await sync_to_async(here)() for _ in range(3)}

    both = asyncio.Barrier(2)

    one, other = await within(asyncio.gather(call(), call()))

    assert len(one) == len(other) == 1
    assert one != other


async def test_a_slow_one_holds_up_nobody_who_finds_another_thread(lanes, gate):
    async def slow():
        async with lanes.chosen():
            await sync_to_async(gate.wait)(10)

    async def quick():
        async with lanes.chosen():
            return await sync_to_async(here)()

    waiting = asyncio.create_task(slow())
    await settle()

    assert len({await within(quick()) for _ in range(5)}) == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    # Its deadline has ended it, but not the query: the thread is as busy as before.
    assert len({await within(quick()) for _ in range(5)}) == 1
    gate.set()
    await until(lambda: [each.count for each in lanes._lanes] == [0, 0])


async def test_a_task_that_outlives_its_function_may_go_on(lanes):
    async def late():
        await may_go.wait()
        return await sync_to_async(here)()

    may_go = asyncio.Event()
    async with lanes.chosen():
        await sync_to_async(here)()
        task = asyncio.create_task(late())
    may_go.set()

    assert (await within(task)).startswith("lane")
    await until(lambda: [each.count for each in lanes._lanes] == [0, 0])


async def test_a_connection_that_broke_is_closed_though_others_use_the_thread(monkeypatch):
    class Connection:
        errors_occurred = True
        in_atomic_block = False
        is_closed = False

        def is_usable(self):
            return False

        def close(self):
            self.is_closed = True

    class Connections:
        def all(self, *, initialized_only):
            return [broken]

    lanes, broken = Lanes("lane", 1), Connection()
    monkeypatch.setattr(threads, "connections", Connections())
    async with lanes.chosen():
        await sync_to_async(here)()
        assert not broken.is_closed

        async def other():
            async with lanes.chosen():
                await sync_to_async(here)()

        await asyncio.create_task(other())
        assert broken.is_closed
    lanes.close()


async def test_a_connection_to_the_database_is_looked_at_before_and_given_back_after(
    lanes, monkeypatch
):
    seen = []
    monkeypatch.setattr(threads, "close_old_connections", lambda: seen.append("closes"))

    async def ask(text):
        await sync_to_async(seen.append)(text)

    async with lanes.chosen():
        await ask("first")
        await ask("second")
    await until(lambda: seen == ["closes", "first", "second", "closes"])

    async with lanes.chosen():
        await ask("third")
    await until(lambda: seen[4:] == ["closes", "third", "closes"])


async def test_who_shares_a_thread_does_not_take_the_connection_from_the_other(monkeypatch):
    lanes, seen = Lanes("lane", 1), []
    monkeypatch.setattr(threads, "close_old_connections", lambda: seen.append("closes"))

    async with lanes.chosen():
        await sync_to_async(seen.append)("one")

        async def other():
            async with lanes.chosen():
                await sync_to_async(seen.append)("other")

        await asyncio.create_task(other())
        await sync_to_async(seen.append)("one")
    await until(lambda: seen == ["closes", "one", "other", "one", "closes"])
    lanes.close()


# Those of the process ----------------------------------------------------------------------------


async def test_those_that_hang_are_counted_at_the_end(gate):
    hanging = asyncio.create_task(threads.threads("hangs", 2).run("", lambda: gate.wait(10)))
    await until(lambda: threads.threads("hangs", 2).busy_count == 1)
    await threads.threads("hangs", 2).run("other", lambda: None)

    threads.close()

    assert threads.left_over(seconds=0.2) == 1
    gate.set()
    await within(hanging)
    assert threads.left_over(seconds=5) == 0
