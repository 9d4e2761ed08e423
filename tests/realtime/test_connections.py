import gc
import weakref

import pytest

from realtime.connections import TICK_SECONDS, TIMERS_MIN, ConnectionTable


class FakeConnection:
    """What the table asks of a session, noted."""

    def __init__(self, client, user="42"):
        self.client = client
        self.user = user
        self.due_at = self.timer_at = 0.0
        self.did = []

    def ping(self):
        self.did.append("ping")

    def check_pong(self):
        self.did.append("pong?")

    def check_time(self):
        self.did.append("time")

    def check_subscriptions(self):
        self.did.append("subscriptions")

    def disconnect(self, disconnect):
        self.did.append(disconnect)

    def unsubscribe_later(self, channel):
        self.did.append(channel)


@pytest.fixture(autouse=True)
def _timing(settings):
    settings.REALTIME = {
        "PING_INTERVAL_SECONDS": 4,
        "PONG_TIMEOUT_SECONDS": 1,
        "PRESENCE_RENEWAL_SECONDS": 2.0,
    }


@pytest.fixture
async def table():
    return ConnectionTable()


def opened(table, client):
    connection = FakeConnection(client)
    table.open(connection)
    return connection


def connect(table, client, user="42"):
    connection = FakeConnection(client, user)
    table.open(connection)
    table.identify(connection)
    return connection


async def tick(table, seconds, *, now=0.0):
    """Let time pass; return whose presence was to be renewed."""
    renewed = []
    for _ in range(round(seconds / TICK_SECONDS)):
        renewed += await table.tick(now)
    return renewed


def clients(found):
    return {connection.client for connection in found}


async def test_a_connection_is_found_by_user_once_it_has_said_who_it_is(table):
    connection = FakeConnection("c1")
    table.open(connection)
    assert table.find("42") == []
    assert len(table) == 0
    assert list(table) == [connection]

    table.identify(connection)

    assert table.find("42") == [connection]
    assert len(table) == 1


@pytest.mark.rule(
    "api-disconnect-whitelist",
    "api-disconnect-client",
    "api-session-narrows",
    "api-narrows-the-user",
)
async def test_a_users_connections_are_narrowed(table):
    for client in ("c1", "c2", "c3"):
        connect(table, client)
    connect(table, "other", "43")

    assert clients(table.find("42")) == {"c1", "c2", "c3"}
    assert clients(table.find("42", client="c2")) == {"c2"}
    assert clients(table.find("42", whitelist=["c1", "other"])) == {"c2", "c3"}
    assert table.find("42", client="c1", whitelist=["c1"]) == []
    assert table.find("42", client="other") == []
    assert table.find("42", session="any") == []
    assert table.find("nobody") == []


@pytest.mark.rule("api-anonymous-user")
async def test_the_anonymous_user_is_a_user(table):
    connect(table, "c1", "")
    connect(table, "c2", "")
    connect(table, "c3")

    assert clients(table.find("")) == {"c1", "c2"}
    assert table.user_count == 2


async def test_a_discarded_connection_is_forgotten(table):
    connection = connect(table, "c1")

    table.discard(connection)
    table.discard(connection)

    assert table.find("42") == []
    assert list(table) == []
    assert table.user_count == 0
    assert await tick(table, 5) == []
    assert connection.did == []


async def test_discarding_one_of_a_user_keeps_the_others(table):
    first, _ = connect(table, "c1"), connect(table, "c2")

    table.discard(first)

    assert clients(table.find("42")) == {"c2"}
    assert table.user_count == 1


async def test_a_connection_that_never_said_who_it_is_can_be_discarded(table):
    connection = FakeConnection("c1")
    table.open(connection)

    table.discard(connection)

    assert table.is_empty.is_set()


async def test_the_table_is_empty_when_the_last_one_has_gone(table):
    assert table.is_empty.is_set()
    first, second = connect(table, "c1"), connect(table, "c2")

    table.discard(first)
    assert not table.is_empty.is_set()
    table.discard(second)

    assert table.is_empty.is_set()


@pytest.mark.rule("ping-every-interval")
async def test_every_connection_is_pinged_once_an_interval_and_then_asked_for_its_pong(table):
    connection = connect(table, "c1")
    await tick(table, 4)
    connection.did.clear()

    await tick(table, 4)

    did = [each for each in connection.did if each in ("ping", "pong?")]
    assert sorted(did) == ["ping", "pong?"]


async def test_the_pong_is_asked_for_its_time_after_the_ping(table):
    connection = connect(table, "c1")
    while "ping" not in connection.did:
        await table.tick(0.0)
    connection.did.clear()

    await tick(table, 0.9)
    assert "pong?" not in connection.did
    await tick(table, 0.1)

    assert "pong?" in connection.did


@pytest.mark.rule("presence-renewed", "sub-expiry-checked-at-renewal")
async def test_presence_is_renewed_once_an_interval(table):
    for number in range(50):
        connect(table, str(number))
    await tick(table, 2)

    renewed = await tick(table, 2)

    assert sorted(each.client for each in renewed) == sorted(map(str, range(50)))
    assert all("subscriptions" in each.did for each in renewed)


async def test_a_connection_may_go_while_its_slice_is_pinged(table):
    connections = [connect(table, str(number)) for number in range(200)]
    for connection in connections:
        connection.ping = lambda connection=connection: table.discard(connection)

    await tick(table, 4)

    assert len(table) == 0


async def test_a_time_asked_for_comes_when_it_is_due_and_once(table):
    late, soon = opened(table, "late"), opened(table, "soon")
    table.call_at(20.0, late)
    table.call_at(10.0, soon)

    await table.tick(9.9)
    assert soon.did == []
    await table.tick(10.0)
    await table.tick(10.1)

    assert soon.did == ["time"]
    assert late.did == []


async def test_two_connections_may_be_due_at_once(table):
    both = [opened(table, client) for client in "ab"]
    for connection in both:
        table.call_at(10.0, connection)

    await table.tick(11.0)

    assert [connection.did for connection in both] == [["time"], ["time"]]


@pytest.mark.parametrize(("first", "second"), [(10.0, 20.0), (20.0, 10.0)])
async def test_the_last_time_asked_for_holds(table, first, second):
    connection = opened(table, "c1")
    table.call_at(first, connection)
    table.call_at(second, connection)

    await table.tick(second - 0.1)
    assert connection.did == []
    await table.tick(second)
    await table.tick(100.0)

    assert connection.did == ["time"]


async def test_a_time_can_be_taken_back(table):
    connection = opened(table, "c1")
    table.call_at(10.0, connection)

    table.forget_timer(connection)
    await table.tick(11.0)

    assert connection.did == []


async def test_a_connection_may_ask_again_when_its_time_has_come(table):
    connection = opened(table, "c1")
    connection.check_time = lambda: table.call_at(20.0, connection)
    table.call_at(10.0, connection)
    await table.tick(10.0)

    connection.check_time = lambda: connection.did.append("again")
    await table.tick(20.0)

    assert connection.did == ["again"]


async def test_a_time_of_a_connection_that_has_gone_never_comes(table):
    connection = connect(table, "c1")
    table.call_at(10.0, connection)

    table.discard(connection)
    await table.tick(11.0)

    assert connection.did == []


async def test_a_time_asked_for_after_the_end_does_no_harm(table):
    connection = connect(table, "c1")
    table.discard(connection)

    table.call_at(10.0, connection)

    await table.tick(11.0)
    assert connection.did == []


async def test_a_connection_that_has_gone_is_not_kept_until_its_token_would_have_expired(table):
    connection = connect(table, "c1")
    table.call_at(365 * 24 * 3600.0, connection)
    known = weakref.ref(connection)

    table.discard(connection)
    del connection
    gc.collect()

    assert known() is None


async def test_times_that_were_put_off_do_not_pile_up(table):
    connection = opened(table, "c1")

    for number in range(10 * TIMERS_MIN):
        table.call_at(1000.0 + number, connection)

    assert len(table._timers) <= TIMERS_MIN + 1
    await table.tick(999.0 + 10 * TIMERS_MIN)
    assert connection.did == ["time"]


async def test_an_ending_connection_is_found_no_more_and_still_counts_as_open(table):
    connection = connect(table, "c1")

    table.conceal(connection)

    assert table.find("42") == []
    assert await tick(table, 5) == []
    assert not table.is_empty.is_set()
    table.discard(connection)
    assert table.is_empty.is_set()
