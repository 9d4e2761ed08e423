"""How many commands a second a connection may give, and what is not carried out any more."""

import json

import pytest

from realtime.outbox import Outbox
from realtime.protocol.disconnects import FORCE_DISCONNECT
from realtime.session import Session
from tests.realtime.frames import RecordingWriter
from tests.realtime.test_commands import closes


class Clock:
    """A loop's clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now


def publish(number):
    return {"id": number + 100, "publish": {"channel": "live:a", "data": number}}


@pytest.fixture
async def bob(connect):
    """Listens to what others publish, and came before any limit."""
    bob = await connect("43")
    await bob.call("subscribe", channel="live:a")
    return bob


@pytest.fixture
def limited(bob, configure):
    configure(COMMAND_RATE=5)


@pytest.fixture
def session(engine, configure, monkeypatch):
    """Return a session whose clock stands still, and the clock."""
    configure(COMMAND_RATE=5)
    clock = Clock()
    monkeypatch.setattr(engine, "loop", clock)
    return Session(engine, Outbox(RecordingWriter(), limit_bytes=1000)), clock


async def has_got(bob, count):
    return [(await bob.push("pub"))["data"] for _ in range(count)]


@pytest.mark.rule("ws-flood-3013")
@pytest.mark.usefixtures("limited")
async def test_beyond_the_commands_of_a_second_the_connection_is_closed(bob, connect):
    alice = await connect()  # the first command of five

    await alice.send_commands(*map(publish, range(6)))

    assert await closes(alice, code=3013)
    assert await has_got(bob, 4) == [0, 1, 2, 3]
    assert await bob.has_nothing()


@pytest.mark.usefixtures("limited")
async def test_what_was_sent_behind_the_command_too_many_is_not_carried_out(bob, connect):
    alice = await connect()

    for number in range(50):
        await alice.send(json.dumps(publish(number)))
    assert await closes(alice, code=3013)

    assert await has_got(bob, 4) == [0, 1, 2, 3]
    assert await bob.has_nothing()


async def test_what_was_sent_behind_any_disconnect_is_not_carried_out(bob, connect, engine):
    alice = await connect()
    (session,) = engine.connections.find("42")

    session.disconnect(FORCE_DISCONNECT)
    for number in range(5):
        await alice.send(json.dumps(publish(number)))

    assert await closes(alice, code=3503)
    assert await bob.has_nothing()


@pytest.mark.usefixtures("limited")
async def test_pongs_count_too(connect, engine):
    alice = await connect()
    (session,) = engine.connections.find("42")
    session.unanswered_pings = 100

    await alice.send("\n".join(["{}"] * 5))

    assert await closes(alice, code=3013)


@pytest.mark.usefixtures("limited")
async def test_commands_that_may_run_beside_others_count_too(bob, connect, configure):
    configure(COMMAND_RATE=5, COMMAND_CONCURRENCY_LIMIT=4)
    alice = await connect()

    await alice.send_commands(*map(publish, range(6)))

    assert await closes(alice, code=3013)


async def test_a_command_is_allowed_again_after_its_part_of_a_second(session):
    session, clock = session
    assert [session.may_command() for _ in range(6)] == [True] * 5 + [False]

    clock.now += 0.41

    assert [session.may_command() for _ in range(3)] == [True, False, False]


async def test_silence_saves_up_no_more_than_a_second(session):
    session, clock = session
    session.may_command()

    clock.now += 3600

    assert [session.may_command() for _ in range(6)] == [True] * 5 + [False]


async def test_without_a_rate_nothing_is_counted(connect):
    alice = await connect()

    await alice.send_commands(*map(publish, range(300)))

    await alice.reply(399)
