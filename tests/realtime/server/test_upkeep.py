import asyncio
import logging
import time
from typing import Any

import pytest

from realtime.server.upkeep import SLICES, Upkeep


class Protocol:
    """What Daphne's protocols are to the look after them."""

    def __init__(self) -> None:
        self.looks = 0
        self.failures: list[BaseException] = []

    def check_timeouts(self) -> None:
        self.looks += 1

    def handle_exception(self, error: BaseException) -> None:
        self.failures.append(error)


@pytest.fixture
def connections() -> dict[Any, dict[str, Any]]:
    return {}


@pytest.fixture
def stops() -> list[bool]:
    return []


@pytest.fixture
def upkeep(connections: dict[Any, dict[str, Any]], stops: list[bool]) -> Upkeep:
    return Upkeep(connections, close_seconds=lambda: 10.0, stop=lambda: stops.append(True))


async def ended(outcome: object = None) -> asyncio.Task[object]:
    """Return a task that has ended with a result or an error."""

    async def end() -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    task = asyncio.create_task(end())
    await asyncio.wait([task])
    return task


def a_round(upkeep: Upkeep) -> None:
    for _ in range(SLICES):
        upkeep.turn()


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 99, 1000])
def test_everybody_is_looked_after_once_in_a_round(upkeep, connections, count):
    protocols = [Protocol() for _ in range(count)]
    connections.update({each: {"connected": 0.0} for each in protocols})

    a_round(upkeep)

    assert sum(each.looks for each in protocols) >= count
    assert all(1 <= each.looks <= SLICES for each in protocols)


def test_no_turn_looks_after_more_than_its_share(upkeep, connections):
    protocols = [Protocol() for _ in range(1000)]
    connections.update({each: {"connected": 0.0} for each in protocols})

    upkeep.turn()

    assert sum(each.looks for each in protocols) == 1000 / SLICES


def test_who_is_gone_meanwhile_is_passed_over(upkeep, connections):
    protocols = [Protocol() for _ in range(100)]
    connections.update({each: {"connected": 0.0} for each in protocols})
    upkeep.turn()

    connections.clear()
    a_round(upkeep)

    assert sum(each.looks for each in protocols) == 100 / SLICES


async def test_what_has_ended_with_its_application_is_forgotten(upkeep, connections):
    connections[Protocol()] = {"disconnected": time.time(), "application_instance": await ended()}
    connections[Protocol()] = {"disconnected": time.time()}

    a_round(upkeep)

    assert connections == {}


async def test_an_application_that_outlives_its_connection_too_long_is_cancelled(
    upkeep, connections
):
    tasks = [asyncio.create_task(asyncio.sleep(100)) for _ in range(2)]
    for task, seconds in zip(tasks, (11, 9), strict=True):
        connections[Protocol()] = {
            "disconnected": time.time() - seconds,
            "application_instance": task,
        }

    a_round(upkeep)
    await asyncio.wait([tasks[0]], timeout=1)
    a_round(upkeep)

    assert [task.cancelled() for task in tasks] == [True, False]
    assert [each["application_instance"] for each in connections.values()] == [tasks[1]]
    tasks[1].cancel()


async def test_an_application_that_fails_is_logged_and_its_client_told(upkeep, connections, caplog):
    protocol, error = Protocol(), ValueError("ours")
    connections[protocol] = {"application_instance": await ended(error)}

    a_round(upkeep)

    assert protocol.failures == [error]
    assert [record.exc_info[1] for record in caplog.records] == [error]
    assert connections == {protocol: {}}


async def test_an_application_that_fails_behind_its_connection_is_logged(
    upkeep, connections, caplog
):
    protocol = Protocol()
    connections[protocol] = {
        "disconnected": time.time(),
        "application_instance": await ended(ValueError("ours")),
    }

    a_round(upkeep)

    assert protocol.failures == []
    assert len(caplog.records) == 1
    assert connections == {}


def test_one_that_cannot_be_looked_after_keeps_nobody_from_their_turn(upkeep, connections, caplog):
    class Broken(Protocol):
        def check_timeouts(self) -> None:
            raise RuntimeError

    others = [Protocol() for _ in range(19)]
    connections.update({each: {} for each in (*others[:10], Broken(), *others[10:])})
    caplog.set_level(logging.ERROR)

    a_round(upkeep)
    a_round(upkeep)

    assert all(each.looks == 2 for each in others)
    assert len(caplog.records) == 2


async def test_an_application_may_end_the_server(upkeep, connections, stops):
    task: Any = asyncio.get_running_loop().create_future()
    task.set_exception(KeyboardInterrupt())
    connections[Protocol()] = {"application_instance": task}

    a_round(upkeep)

    assert stops == [True]
