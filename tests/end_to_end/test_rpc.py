"""Python handlers, asked by each kind of client of a real server."""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.handlers_app.gates import DEADLINE_SECONDS
from tests.support import backed
from tests.support.backed import Backed
from tests.support.raw_client import Closed, CommandError
from tests.support.servers import token

pytestmark = pytest.mark.end_to_end

CALL_LIMIT = 16
THREADS = 6
SHARE = THREADS // 2  # of one user
BLOCKED_SECONDS = 0.3


@pytest.fixture(scope="module")
def pair(tmp_path_factory, database) -> Iterator[Backed]:
    """One server with the handlers of ``tests.handlers_app``; what it logs is the tests' matter."""
    folder = tmp_path_factory.mktemp("handlers")
    variables = {"REALTIME_SYNC_HANDLER_THREADS": str(THREADS)}
    with backed.running(folder, database, variables=variables) as server:
        yield server


@pytest.fixture
def gate() -> str:
    """Name a gate of this test's own."""
    return uuid.uuid4().hex


async def refused(call) -> CommandError:
    with pytest.raises(CommandError) as raised:
        await call
    return raised.value


def names(error: CommandError, field: str) -> bool:
    """Tell whether a message has the name as such: ``$.field`` or `field`, in backticks."""
    return re.search(rf"[`.]{field}`", error.message) is not None


def data_of(result):
    """Return the data of what an SDK hands out: JavaScript's is the whole result."""
    return result["data"] if isinstance(result, dict) else result


async def ask(client, method: str, **data):
    """Call a method as the raw client does, and return its data."""
    return (await client.call("rpc", method=method, data=data)).get("data")


async def asked(client, method: str, count: int = 1, **data) -> list[int]:
    """Send calls in one frame, and return their ids without waiting for answers."""
    commands = [{"rpc": {"method": method, "data": data}} for _ in range(count)]
    return await client.send_commands(*commands)


async def waiting(client, gate: str, count: int) -> None:
    """Return once so many calls stand before a gate."""
    async with asyncio.timeout(10):
        while (await ask(client, "gate.counts", gate=gate))["waiting"] < count:
            await asyncio.sleep(0.01)


# Arguments and results ---------------------------------------------------------------------------


async def test_a_handler_answers_each_sdk(connect, sdk) -> None:
    client = await connect(sdk)

    assert data_of(await client.rpc("sum", {"a": 40, "b": 2})) == 42


async def test_arguments_are_what_the_annotations_say(connect) -> None:
    client = await connect()

    assert await ask(client, "sum", a=1) == 1
    assert await ask(client, "age", born="2000-01-01", on="2000-03-01") == {
        "days": 60,
        "born": "2000-01-01",
    }
    assert await client.call("rpc", method="nothing") in ({}, {"data": None})


async def test_a_handler_knows_who_asks(connect) -> None:
    client, stranger = await connect(user="1"), await connect(user="nobody")

    known = await ask(client, "whoami")

    assert (known["user"], known["client"]) == ("1", client.client_id)
    assert known["name"] == "ada"
    assert (await ask(stranger, "whoami"))["name"] == ""


@pytest.mark.parametrize(
    ("method", "data", "named"),
    [
        ("sum", {"a": "x"}, "a"),
        ("sum", {}, "a"),
        ("sum", {"a": 1, "other": 2}, "other"),
        ("age", {"born": "2000-13-01", "on": "2000-01-01"}, "born"),
        ("sum", [1, 2], "object"),
        ("nothing", {"extra": 1}, "extra"),
    ],
)
async def test_arguments_that_do_not_fit_are_an_error_that_names_the_field(
    connect, method, data, named
) -> None:
    client = await connect()

    error = await refused(client.call("rpc", method=method, data=data))

    assert (error.code, error.temporary) == (107, False)
    assert names(error, named)
    assert len(error.message) <= 200


async def test_a_field_name_of_the_clients_does_not_make_the_message_long(connect) -> None:
    client = await connect()

    error = await refused(ask(client, "sum", a=1, **{"x" * 5000: 1}))

    assert error.code == 107
    assert len(error.message) <= 200


# Errors ------------------------------------------------------------------------------------------


async def test_an_error_of_the_application_reaches_each_sdk(connect, sdk) -> None:
    client = await connect(sdk)

    error = await refused(client.rpc("refuse", {"code": 1422, "message": "out of stock"}))

    assert (error.code, error.message, error.temporary) == (1422, "out of stock", False)


async def test_a_validation_error_names_the_field_to_each_sdk(connect, sdk) -> None:
    client = await connect(sdk)

    error = await refused(client.rpc("sum", {"a": "many"}))

    assert error.code == 107
    assert names(error, "a")


@pytest.mark.parametrize(
    ("method", "code"), [("forbid", 103), ("limit", 106), ("fail", 100), ("unspeakable", 100)]
)
async def test_what_a_handler_raises_is_told_without_its_reasons(
    pair, connect, method, code
) -> None:
    client = await connect()

    error = await refused(ask(client, method))

    assert (error.code, error.temporary) == (code, code == 100)
    assert "reason" not in error.message
    assert "secret" not in error.message
    assert await ask(client, "sum", a=1) == 1


async def test_an_unexpected_error_is_logged_with_the_name_of_the_handler(pair, connect) -> None:
    client = await connect()

    await refused(ask(client, "fail"))

    log = pair.a.log()
    assert "a secret of the handler" in log
    assert "rpc fail" in log


async def test_an_unknown_method_is_104_where_there_are_handlers(connect, sdk) -> None:
    client = await connect(sdk)

    assert (await refused(client.rpc("no.such", {}))).code == 104
    assert (await refused(client.rpc("", {}))).code == 104


# Time --------------------------------------------------------------------------------------------


async def test_a_call_that_takes_too_long_is_a_temporary_error_and_is_ended(connect, gate) -> None:
    client = await connect()
    started_at = time.monotonic()

    error = await refused(ask(client, "gate.wait_briefly", gate=gate))

    assert (error.code, error.temporary) == (100, True)
    assert time.monotonic() - started_at >= DEADLINE_SECONDS
    assert await ask(client, "gate.cancelled", gate=gate) == 1


async def test_slow_calls_of_a_connection_delay_neither_its_commands_nor_each_other(
    connect, fresh, gate
) -> None:
    client, other = await connect(), await connect()
    channel = fresh("stream")
    slow = await asked(client, "gate.wait", 10, gate=gate)
    await waiting(other, gate, 10)

    await client.subscribe(channel)
    await client.publish(channel, {"id": "x"})
    await client.log.wait("pub", channel=channel)
    assert await ask(client, "sum", a=1) == 1
    assert (await ask(other, "gate.counts", gate=gate))["waiting"] == 10

    await ask(client, "gate.open", gate=gate)
    answers = await asyncio.gather(*(client.reply(number) for number in slow))
    assert answers == [{"data": gate}] * 10


async def test_one_call_more_than_the_limit_of_a_connection_is_111_for_a_while(
    connect, gate
) -> None:
    client, other = await connect(), await connect()
    slow = await asked(client, "gate.wait", CALL_LIMIT, gate=gate)
    await waiting(other, gate, CALL_LIMIT)

    error = await refused(ask(client, "sum", a=1))

    assert (error.code, error.temporary) == (111, True)
    assert await ask(other, "sum", a=1) == 1  # the limit is of each connection
    await ask(other, "gate.open", gate=gate)
    await asyncio.gather(*(client.reply(number) for number in slow))
    assert await ask(client, "sum", a=1) == 1


@pytest.mark.parametrize("leave", ["close", "drop"])
async def test_calls_are_cancelled_when_their_client_leaves(connect, gate, leave) -> None:
    client, other = await connect(), await connect()
    await asked(client, "gate.wait", 3, gate=gate)
    await waiting(other, gate, 3)

    await getattr(client, leave)()

    assert await ask(other, "gate.cancelled", gate=gate) == 3
    assert (await ask(other, "gate.counts", gate=gate))["waiting"] == 0


async def test_calls_are_cancelled_when_the_server_ends_the_connection(connect, gate) -> None:
    client, other = await connect(), await connect()
    await asked(client, "gate.wait", gate=gate)
    await waiting(other, gate, 1)

    await client.send_text("not JSON")

    assert (await client.closed())["code"] == 3501
    assert await ask(other, "gate.cancelled", gate=gate) == 1


async def test_calls_leave_no_task_behind(connect, gate) -> None:
    """Of every end that a call can have: answered, failed, overdue, and left alone."""
    client, other = await connect(), await connect()
    before = await ask(other, "process")
    await asked(client, "gate.wait", 5, gate=gate)
    await waiting(other, gate, 5)
    await refused(ask(client, "fail"))
    await refused(ask(client, "gate.wait_briefly", gate=gate))
    assert len((await ask(other, "process"))["tasks"]) > len(before["tasks"])

    await client.drop()

    async with asyncio.timeout(10):
        while len((await ask(other, "process"))["tasks"]) >= len(before["tasks"]):
            await asyncio.sleep(0.05)


# Threads and the loop ----------------------------------------------------------------------------


async def test_sync_handlers_wait_in_so_many_threads_and_nobody_waits_for_them(
    pair, connect, gate
) -> None:
    client, other = await connect(), await connect(user="eve")
    slow = await asked(client, "gate.wait_in_a_thread", SHARE + 2, gate=gate)
    await waiting(other, gate, SHARE)

    assert await ask(client, "sum", a=1) == 1
    assert await ask(other, "users") == ["ada"]  # a sync one too
    assert (await ask(other, "gate.counts", gate=gate))["most"] == SHARE

    await ask(client, "gate.open", gate=gate)
    answers = await asyncio.gather(*(client.reply(number) for number in slow))
    assert answers == [{"data": {"gate": gate, "is_main": False}}] * (SHARE + 2)


async def test_a_sync_handler_may_ask_the_database(connect, sdk) -> None:
    client = await connect(sdk)

    assert data_of(await client.rpc("users", {})) == ["ada"]


async def test_sync_handlers_are_named_in_the_log_once(pair) -> None:
    naming = [line for line in lines(pair) if "gate.wait_in_a_thread" in line]

    assert len(naming) == 1
    assert "WARNING" in naming[0].upper()
    assert "users" in naming[0]
    assert "gate.wait_briefly" not in naming[0]


async def test_a_handler_that_blocks_the_loop_is_named_and_counted(pair, connect) -> None:
    client = await connect()
    before = blocked(await pair.metrics())

    await ask(client, "block", seconds=BLOCKED_SECONDS)

    async with asyncio.timeout(10):
        while blocked(await pair.metrics()) <= before:
            await asyncio.sleep(0.05)
        while not any("blocked" in line and "rpc block" in line for line in lines(pair)):
            await asyncio.sleep(0.05)


def lines(pair: Backed) -> list[str]:
    return pair.a.log().splitlines()


def blocked(samples: dict[str, float]) -> float:
    """Return how often the loop was seen blocked by the handler that does."""
    return samples.get('heliograph_loop_blocked_total{what="rpc block"}', 0)


# Hooks -------------------------------------------------------------------------------------------


async def test_a_handler_adds_data_to_the_connect_reply_or_refuses(pair, client_of) -> None:
    guest, unwelcome = [await client_of("raw", pair.a.websocket_url) for _ in range(2)]

    reply = await guest.connect(token("guest-1"))

    assert reply["data"] == {"welcome": "guest-1"}
    assert (await refused(unwelcome.connect(token("unwelcome")))).code == 1403


async def test_a_handler_hears_who_has_left(connect) -> None:
    client, other = await connect(user="leaver"), await connect()

    await client.drop()

    await ask(other, "left", user="leaver")


async def test_a_handler_guards_a_channel(connect) -> None:
    ada, eve = await connect(user="ada"), await connect(user="eve")

    await ada.subscribe("live:guarded-ada")

    assert (await refused(eve.subscribe("live:guarded-ada"))).code == 103
    await eve.subscribe("live:guarded-eve")


async def test_a_handler_replaces_what_is_published_or_refuses_it(connect, fresh) -> None:
    channel = f"live:marked-{uuid.uuid4().hex[:8]}"
    client = await connect()
    await client.subscribe(channel)

    await client.publish(channel, "hello")
    await client.publish(channel, {"id": "as it was"})
    assert (await refused(client.publish(channel, "refuse"))).code == 1422

    await client.publish(channel, {"id": "last"})
    await client.log.wait("pub", id="last")
    data = [event["data"] for event in client.log.published(channel)]
    assert data == [{"by": "ada", "text": "hello"}, {"id": "as it was"}, {"id": "last"}]


async def test_a_call_of_a_connection_that_is_not_introduced_ends_it(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    await client.open()

    with contextlib.suppress(Closed):
        await ask(client, "sum", a=1)

    assert (await client.closed())["code"] == 3501
