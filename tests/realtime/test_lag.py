"""A blocked loop is seen, and its culprit named. The blocks are real and take their time."""

import asyncio
import statistics
import time
import weakref

import pytest
from prometheus_client import REGISTRY

from realtime.handlers import rpc
from realtime.lag import LagMonitor
from tests.realtime.conftest import until

BLOCK_SECONDS = 0.3


def counted(what: str) -> float:
    return REGISTRY.get_sample_value("heliograph_loop_blocked_total", {"what": what}) or 0.0


def told(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == "realtime.lag"]
    return [line for line in lines if f"by {what}, " in line]


@pytest.fixture
async def monitor():
    task = asyncio.create_task(LagMonitor().run())
    await asyncio.sleep(0)
    yield
    task.cancel()
    await asyncio.wait([task])


async def block(seconds: float = BLOCK_SECONDS) -> None:
    time.sleep(seconds)


def this_line(text: str) -> str:
    """Return the place of the line of this file that holds a text, as the log names it."""
    with open(__file__) as file:
        return f"test_lag.py:{next(n for n, line in enumerate(file, 1) if text in line)} in "


async def test_who_blocks_the_loop_is_named_with_the_line(monitor, caplog):
    before = counted("the culprit")

    await asyncio.create_task(block(), name="the culprit")

    await until(lambda: counted("the culprit") == before + 1)
    (line,) = told(caplog, "the culprit")
    assert this_line("time.sleep(seconds)") in line


async def test_a_task_without_a_name_is_called_by_its_function(monitor, caplog):
    before = counted("block")

    await asyncio.create_task(block())

    await until(lambda: counted("block") == before + 1)


async def test_of_a_library_the_line_that_calls_it_is_named(monitor, caplog):
    async def count() -> None:
        deadline = time.monotonic() + BLOCK_SECONDS
        while time.monotonic() < deadline:
            statistics.fmean(range(100_000))  # the call

    await asyncio.create_task(count(), name="counting")

    await until(lambda: told(caplog, "counting"))
    assert this_line("  # the call") in told(caplog, "counting")[0]


async def test_a_loop_that_hangs_is_told_of_before_it_ends(monitor, caplog):
    async def hang() -> None:
        time.sleep(1.3)
        assert any("is blocked by hanging" in record.getMessage() for record in caplog.records)

    await asyncio.create_task(hang(), name="hanging")


async def test_of_several_the_one_that_took_longest_is_named(monitor, caplog):
    before = counted("the long one")

    first = asyncio.create_task(block(0.5), name="the long one")
    await asyncio.gather(first, asyncio.create_task(block(0.15), name="the short one"))

    await until(lambda: counted("the long one") == before + 1)
    assert not told(caplog, "the short one")


async def test_nothing_is_kept_of_who_blocked(monitor):
    class Connection:
        pass

    kept = []

    async def hold() -> None:
        connection = Connection()
        kept.append(weakref.ref(connection))
        time.sleep(BLOCK_SECONDS)

    before = counted("holding")
    await asyncio.create_task(hold(), name="holding")
    await until(lambda: counted("holding") == before + 1)

    assert kept[0]() is None


async def test_the_same_culprit_fills_no_log_but_is_counted(monitor, caplog):
    before = counted("again")

    for _ in range(3):
        await asyncio.create_task(block(0.15), name="again")
        await asyncio.sleep(0.06)

    await until(lambda: counted("again") == before + 3)
    assert len(told(caplog, "again")) == 1


async def test_a_loop_that_goes_on_is_left_alone(monitor, caplog):
    waits = REGISTRY.get_sample_value("heliograph_loop_lag_seconds_count") or 0.0

    async with asyncio.timeout(5):
        while (REGISTRY.get_sample_value("heliograph_loop_lag_seconds_count") or 0.0) < waits + 3:
            await asyncio.sleep(0.01)

    assert not told(caplog, "test_a_loop_that_goes_on_is_left_alone")


async def test_a_handler_that_blocks_is_named(handlers, connect, caplog):
    @rpc("stop.the.world")
    async def stop() -> None:
        time.sleep(BLOCK_SECONDS)

    client = await connect()
    await client.call("rpc", method="stop.the.world")

    await until(lambda: told(caplog, "rpc stop.the.world"))
    assert counted("rpc stop.the.world") == 1
