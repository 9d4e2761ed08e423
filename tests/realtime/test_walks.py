"""What is done to many connections at once: in order, in slices, and to everybody meant."""

import asyncio

import pytest

from realtime import walks
from realtime.connections import ConnectionTable
from realtime.control import DisconnectCommand, RefreshCommand, UnsubscribeCommand
from realtime.presence import Member
from realtime.protocol.disconnects import SHUTDOWN
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import ClientInfo
from realtime.tasks import TaskOwner
from realtime.walks import Walks
from tests.realtime.conftest import until


class FakeConnection:
    """What the walks ask of a session, noted in a list shared with others."""

    def __init__(self, client, user, log):
        self.client = client
        self.user = user
        self.due_at = self.timer_at = 0.0
        self.held = [f"channel{number}" for number in range(3)]
        self._log = log

    def disconnect(self, disconnect):
        self._log.append((self.client, disconnect.code))

    def unsubscribe_later(self, channel):
        self._log.append((self.client, channel))

    def refresh_later(self, expire_at, info):
        self._log.append((self.client, expire_at))

    def members(self):
        return [Member(channel, ClientInfo(self.user, self.client)) for channel in self.held]

    def holds(self, channel):
        return channel in self.held


class FakePresence:
    """Presence that notes what it is asked, and fails from some call on."""

    def __init__(self):
        self.renewed = []
        self.removed = []
        self.fails = False
        self.on_renew = lambda: None

    async def renew(self, batch):
        self.renewed.append([(member.channel, member.info.client) for member in batch])
        self.on_renew()
        return [BrokerUnavailable("away") if self.fails else None for _ in batch]

    async def remove_many(self, entries):
        self.removed += entries


@pytest.fixture
def log():
    return []


@pytest.fixture
async def table():
    return ConnectionTable()


@pytest.fixture
def connect(table, log):
    def connect(count, user="42"):
        made = [FakeConnection(f"{user}-{number:03}", user, log) for number in range(count)]
        for connection in made:
            table.open(connection)
            table.identify(connection)
        return made

    return connect


@pytest.fixture
def presence():
    return FakePresence()


@pytest.fixture
async def walking(table, presence):
    tasks = TaskOwner()
    yield Walks(table, presence, tasks)
    await tasks.close()


def disconnect(user="42"):
    return DisconnectCommand(user, 3503, "force disconnect")


# Commands --------------------------------------------------------------------------------------


async def test_a_command_to_few_is_done_at_once(walking, connect, log):
    connect(walks.OBEYED_AT_ONCE)

    walking.obey(disconnect())

    assert len(log) == walks.OBEYED_AT_ONCE


async def test_a_command_to_many_lets_others_have_a_turn(walking, connect, log, monkeypatch):
    monkeypatch.setattr("realtime.slices.SLICE_SECONDS", 0.0)
    connect(100)

    walking.obey(disconnect())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(log) < 100

    await until(lambda: len(log) == 100)


async def test_commands_are_done_one_after_another(walking, connect, log, monkeypatch):
    monkeypatch.setattr("realtime.slices.SLICE_SECONDS", 0.0)
    many, few = connect(50), connect(1, "43")

    walking.obey(UnsubscribeCommand("42", "first"))
    walking.obey(RefreshCommand("42", expire_at=2))
    walking.obey(RefreshCommand("43", expire_at=3))

    await until(lambda: len(log) == 101)
    expected = [(each.client, "first") for each in many]
    expected += [(each.client, 2) for each in many] + [(few[0].client, 3)]
    assert log == expected


async def test_who_connects_after_a_command_is_not_meant(walking, connect, log, monkeypatch):
    monkeypatch.setattr("realtime.slices.SLICE_SECONDS", 0.0)
    connect(50)

    walking.obey(disconnect())
    late = connect(51)[50:]
    await until(lambda: len(log) >= 50)
    await asyncio.sleep(0.01)

    assert late[0].client not in dict(log)


async def test_when_too_many_commands_wait_they_are_done_at_once(
    walking, connect, log, monkeypatch
):
    monkeypatch.setattr("realtime.slices.SLICE_SECONDS", 0.0)
    monkeypatch.setattr(walks, "ORDERS_MAX", 3)
    clients = [each.client for each in connect(30)]

    for number in range(4):
        walking.obey(RefreshCommand("42", expire_at=number))
    assert log == [(client, number) for number in range(3) for client in clients]

    await until(lambda: len(log) == 120)
    assert log[90:] == [(client, 3) for client in clients]


# Presence --------------------------------------------------------------------------------------


async def test_presence_is_renewed_in_parts(walking, presence, connect, monkeypatch):
    monkeypatch.setattr(walks, "RENEWED_AT_ONCE", 4)
    connections = connect(3)

    await walking.renew(connections)

    assert [len(part) for part in presence.renewed] == [4, 4, 1]
    renewed = [entry for part in presence.renewed for entry in part]
    assert sorted(renewed) == sorted(
        (channel, each.client) for each in connections for channel in each.held
    )
    assert presence.removed == []


async def test_with_redis_away_the_rest_waits_for_its_next_turn(
    walking, presence, connect, monkeypatch, caplog
):
    monkeypatch.setattr(walks, "RENEWED_AT_ONCE", 4)
    presence.fails = True

    await walking.renew(connect(3))

    assert len(presence.renewed) == 1
    assert "not all of 9 presence entries were renewed" in caplog.text


async def test_who_left_during_the_renewal_is_taken_out(walking, presence, connect):
    (connection,) = connect(1)
    presence.on_renew = connection.held.clear

    await walking.renew([connection])

    assert presence.removed == [(f"channel{number}", connection.client) for number in range(3)]


# All of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 100])
async def test_everybody_is_closed_once(walking, connect, log, count):
    connections = connect(count)

    await walking.close_all(SHUTDOWN, seconds=0.2)

    assert sorted(log) == sorted((each.client, 3001) for each in connections)
