"""Walks in slices: everybody has a turn in between, and nothing is left out."""

import asyncio
import time

from realtime import slices
from realtime.slices import sliced


async def test_everything_comes_once_and_in_order():
    assert [item async for item in sliced(range(1000))] == list(range(1000))
    assert [item async for item in sliced([])] == []


async def test_others_have_their_turn_before_a_long_walk_ends(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0.0)
    walked = []
    seen = []
    other = asyncio.get_running_loop().create_task(look(walked, seen))

    async for item in sliced(range(10)):
        walked.append(item)

    await other
    assert seen == [1, 2, 3]


async def look(walked, seen):
    for _ in range(3):
        seen.append(len(walked))
        await asyncio.sleep(0)


async def test_a_short_walk_keeps_its_turn(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_SECONDS", 3600.0)
    other = asyncio.get_running_loop().create_task(asyncio.sleep(0))

    async for _ in sliced(range(100)):
        pass

    assert not other.done()
    await other


async def test_the_next_item_is_fetched_after_the_others_turn(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0.0)
    open_ones = {1, 2, 3}
    asyncio.get_running_loop().call_soon(open_ones.discard, 2)

    walked = [item async for item in sliced(item for item in (1, 2, 3) if item in open_ones)]

    assert walked == [1, 3]


async def test_a_slice_is_measured_by_the_clock(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0.01)
    turns = []
    other = asyncio.get_running_loop().create_task(count(turns))

    async for _ in sliced(range(4)):
        time.sleep(0.006)  # every second item ends a slice

    other.cancel()
    assert len(turns) == 2


async def count(turns):
    while True:
        turns.append(1)
        await asyncio.sleep(0)
