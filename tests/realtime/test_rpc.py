"""Methods in Python and of providers, asked over a connection."""

import asyncio
import threading
from datetime import date
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from msgspec import Raw

from realtime import answering, hooks
from realtime.handlers import Connection, rpc, show_headers
from realtime.hooks import ApplicationError, CallFailed, Kind
from realtime.protocol.disconnects import Disconnect, Disconnected
from realtime.protocol.errors import LimitExceeded
from tests.realtime.client import Client, CommandError, token
from tests.realtime.conftest import until, within

CALL_LIMIT = 16


async def refused(client: Client, method: str, data: Any = None) -> dict[str, Any]:
    with pytest.raises(CommandError) as outcome:
        await client.call("rpc", method=method, data=data)
    return outcome.value.error


async def ask(client: Client, method: str, data: Any = None) -> Any:
    return (await client.call("rpc", method=method, data=data)).get("data")


@pytest.fixture
async def alice(connect):
    return await connect()


# Handlers ----------------------------------------------------------------------------------------


async def test_a_handler_answers(handlers, alice):
    @rpc("orders.total")
    async def total(connection: Connection, customer: int, since: date | None = None) -> dict:
        return {
            "customer": customer,
            "since": since,
            "for": connection.user,
            "by": connection.client,
        }

    answer = await ask(alice, "orders.total", {"customer": 7, "since": "2026-01-31"})

    assert answer == {"customer": 7, "since": "2026-01-31", "for": "42", "by": alice.id}
    assert (await ask(alice, "orders.total", {"customer": 7}))["since"] is None


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"customer": "x"}, "customer"),
        ({}, "customer"),
        (None, "customer"),
        ({"customer": 1, "other": 1}, "other"),
        ({"customer": 1, "since": "soon"}, "since"),
        ([1], "object"),
        ({"customer": 1, "x" * 5000: 1}, "unknown field"),
    ],
)
async def test_what_does_not_fit_is_named(handlers, alice, data, named):
    @rpc("total")
    async def total(customer: int, since: date | None = None) -> None: ...

    error = await refused(alice, "total", data)

    assert error["code"] == 107
    assert named in error["message"]
    assert len(error["message"]) <= 200


async def test_a_default_is_not_shared(handlers, alice):
    @rpc("collect")
    async def collect(into: list[int] = [1]) -> list[int]:  # noqa: B006 (as others may write it)
        return [*into, 2]

    assert await ask(alice, "collect") == [1, 2]
    assert await ask(alice, "collect", {"into": []}) == [2]


@pytest.mark.rule("error-application-codes")
@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ApplicationError(1422, "out of stock"), {"code": 1422, "message": "out of stock"}),
        (LimitExceeded(), {"code": 106, "message": "limit exceeded"}),
        (PermissionDenied("why"), {"code": 103, "message": "permission denied"}),
        (
            RuntimeError("a secret"),
            {"code": 100, "message": "internal server error", "temporary": True},
        ),
        (
            TimeoutError("its own"),
            {"code": 100, "message": "internal server error", "temporary": True},
        ),
    ],
)
async def test_what_a_handler_raises(handlers, alice, caplog, raised, error):
    @rpc("fail")
    async def fail() -> None:
        raise raised

    assert await refused(alice, "fail") == error
    is_unexpected = isinstance(raised, RuntimeError | TimeoutError)
    assert ("rpc fail failed" in caplog.text) is is_unexpected


async def test_a_handler_may_end_the_connection(handlers, alice):
    @rpc("leave")
    async def leave() -> None:
        raise Disconnected(Disconnect(4501, "go"))

    await alice.send_commands({"id": 9, "rpc": {"method": "leave"}})

    assert (await alice.closed()).code == 4501


@pytest.mark.parametrize("result", [object(), Raw(b"[1,"), Raw(b"[" * 200 + b"]" * 200)])
async def test_a_result_that_nobody_could_read_is_the_servers_fault(handlers, alice, result):
    @rpc("odd")
    async def odd() -> Any:
        return result

    assert (await refused(alice, "odd"))["code"] == 100


async def test_a_result_that_would_cut_off_who_asked_is_not_sent(handlers, alice, configure):
    @rpc("big")
    async def big(count: int) -> str:
        return "x" * count

    configure(QUEUE_MAX_BYTES=4096)

    assert len(await ask(alice, "big", {"count": 2000})) == 2000
    assert (await refused(alice, "big", {"count": 3000}))["code"] == 100


async def test_nothing_is_a_result_too(handlers, alice):
    @rpc("nothing")
    async def nothing() -> None: ...

    assert await alice.call("rpc", method="nothing") == {}


async def test_a_sync_handler_runs_in_one_of_a_few_threads(handlers, alice, configure):
    configure(SYNC_HANDLER_THREADS=4)  # of which one user gets half
    may_end, names = threading.Event(), []

    @rpc("block", timeout_seconds=30)
    def block() -> str:
        names.append(threading.current_thread().name)
        may_end.wait(10)
        return "done"

    @rpc("quick")
    async def quick() -> int:
        return 1

    await alice.send_commands(*({"id": 100 + n, "rpc": {"method": "block"}} for n in range(4)))
    await until(lambda: len(names) == 2)
    assert await ask(alice, "quick") == 1
    assert len(names) == 2
    may_end.set()

    assert [await alice.reply(100 + n) for n in range(4)] == [{"data": "done"}] * 4
    assert len(names) == 4
    assert threading.main_thread().name not in names


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_what_would_end_the_loop_or_the_task_is_the_handlers_failure(
    handlers, alice, caplog, raised
):
    @rpc("async")
    async def one() -> None:
        raise raised

    @rpc("sync")
    def other() -> None:
        raise raised

    for method in ("async", "sync"):
        error = await refused(alice, method)
        assert (error["code"], error["temporary"]) == (100, True)
        assert f"rpc {method} failed" in caplog.text


async def test_an_async_function_behind_a_decorator_is_awaited(handlers, alice):
    def plain(function):
        def call():
            return function()

        return call

    @rpc("decorated")
    @plain
    async def decorated() -> int:
        return 7

    assert await ask(alice, "decorated") == 7


@pytest.mark.django_db(transaction=True)
async def test_a_slow_query_of_one_call_delays_no_other(handlers, connect):
    may_go = threading.Event()

    @rpc("slow", timeout_seconds=30)
    async def slow() -> str:
        await sync_to_async(may_go.wait)(10)  # as a query that takes long
        return "done"

    @rpc("count")
    async def count() -> int:
        return await get_user_model().objects.acount()

    one, other = await connect(), await connect("43")
    await one.send_commands({"id": 100, "rpc": {"method": "slow"}})
    await one.call("presence", channel="open:a")

    try:
        assert await ask(other, "count") == 0
    finally:
        may_go.set()
    assert await one.reply(100) == {"data": "done"}


@pytest.mark.django_db(transaction=True)
async def test_a_user_has_one_name(handlers, connect):
    user = await get_user_model().objects.acreate_user("ada")

    @rpc("whoami")
    async def whoami(connection: Connection) -> str:
        return (await connection.auser()).get_username()

    assert await ask(await connect(str(user.pk)), "whoami") == "ada"
    assert await ask(await connect(f"0{user.pk}"), "whoami") == ""


async def test_a_handler_sees_the_headers_it_asked_for(handlers, dial, asking, monkeypatch):
    @rpc("headers")
    async def headers(connection: Connection) -> dict:
        return dict(connection.headers)

    show_headers("X-Tenant")
    monkeypatch.setattr(hooks, "_providers", [answering._provider])
    client = await dial(
        headers=[
            (b"host", b"testserver"),
            (b"x-tenant", b"one"),
            (b"x-tenant", b"two"),
            (b"cookie", b"a=b"),
        ]
    )
    await client.connect()

    assert await ask(client, "headers") == {"x-tenant": "one, two"}


@pytest.mark.rule("claim-meta-proxies")
async def test_meta_of_a_token_is_seen_by_handlers_alone(handlers, connect):
    @rpc("meta")
    async def meta(connection: Connection) -> Raw:
        return connection.meta

    client = await connect(meta={"plan": "gold"})
    plain = await connect()

    assert await ask(client, "meta") == {"plan": "gold"}
    assert (await refused(plain, "meta"))["code"] == 100


@pytest.mark.rule("refresh-meta")
async def test_meta_of_a_new_token_replaces_that_of_the_old_one(handlers, connect):
    @rpc("meta")
    async def meta(connection: Connection) -> Raw:
        return connection.meta

    client = await connect(meta={"plan": "gold"})

    await client.call("refresh", token=token(meta={"plan": "none"}))
    assert await ask(client, "meta") == {"plan": "none"}
    await client.call("refresh", token=token())
    assert await ask(client, "meta") == {"plan": "none"}


# Which one ---------------------------------------------------------------------------------------


@pytest.mark.rule("rpc-108")
@pytest.mark.parametrize("method", ["unknown", "", None])
async def test_without_any_method_it_is_108(handlers, alice, method):
    assert (await refused(alice, method))["code"] == 108


@pytest.mark.rule("rpc-namespaces")
@pytest.mark.parametrize("method", ["unknown", "ns:unknown", "", None])
async def test_beside_others_an_unknown_method_is_104(handlers, alice, method):
    @rpc("known")
    async def known() -> None: ...

    assert (await refused(alice, method))["code"] == 104


def test_a_method_has_one_handler(handlers):
    @rpc("one")
    async def one() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="'one' is taken"):
        rpc("one")(one)


async def positional(a: int, /) -> None: ...


async def anything(*args: int) -> None: ...


async def unknown(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def meaningless(a: date | str) -> None: ...  # a text would fit both


@pytest.mark.parametrize("function", [positional, anything, unknown, meaningless])
def test_a_handler_whose_parameters_cannot_be_given_is_refused(handlers, function):
    with pytest.raises(ImproperlyConfigured, match=function.__name__):
        rpc("x")(function)


# Time --------------------------------------------------------------------------------------------


async def test_slow_calls_delay_nobody_and_may_be_answered_in_any_order(asking, alice):
    slow = asking.add(Kind.RPC, "slow", answer=Raw(b'"slow"'), waits=True)
    asking.add(Kind.RPC, "quick", answer=Raw(b'"quick"'))

    await alice.send_commands(
        {"id": 100, "rpc": {"method": "slow"}},
        {"id": 101, "subscribe": {"channel": "open:a"}},
        {"id": 102, "rpc": {"method": "quick"}},
    )
    await alice.reply(101)
    assert await alice.reply(102) == {"data": "quick"}
    slow.may_answer.set()

    assert await alice.reply(100) == {"data": "slow"}


@pytest.mark.rule("error-111")
async def test_one_more_than_may_be_under_way_is_111(asking, connect):
    alice, bob = await connect(), await connect()
    slow = asking.add(Kind.RPC, "slow", waits=True)
    calls = [{"id": 100 + n, "rpc": {"method": "slow"}} for n in range(CALL_LIMIT)]
    await alice.send_commands(*calls)
    await until(lambda: len(slow.requests) == CALL_LIMIT)

    error = await refused(alice, "slow")
    await bob.send_commands({"id": 100, "rpc": {"method": "slow"}})
    await until(lambda: len(slow.requests) == CALL_LIMIT + 1)

    assert error == {"code": 111, "message": "too many requests", "temporary": True}
    slow.may_answer.set()
    for n in range(CALL_LIMIT):
        await alice.reply(100 + n)
    assert await alice.call("rpc", method="slow") == {}


async def test_a_process_has_so_many_calls_at_most(asking, connect, configure):
    configure(CALLS_MAX=1)
    alice, bob = await connect(), await connect()
    slow = asking.add(Kind.RPC, "slow", waits=True)
    await alice.send_commands({"id": 100, "rpc": {"method": "slow"}})
    await within(slow.is_asked.wait())

    assert (await refused(bob, "slow"))["code"] == 111
    slow.may_answer.set()
    await alice.reply(100)
    assert await bob.call("rpc", method="slow") == {}


async def test_an_answer_that_comes_too_late_is_a_temporary_error(asking, alice, caplog):
    slow = asking.add(Kind.RPC, "slow", waits=True, timeout_seconds=0.05)

    error = await refused(alice, "slow")

    assert (error["code"], error["temporary"]) == (100, True)
    assert slow.cancelled == 1
    assert "rpc slow took longer than 0.05 s" in caplog.text


async def test_who_failed_is_told_as_a_temporary_error(asking, alice):
    asking.add(Kind.RPC, "broken", answer=CallFailed("connection refused"))

    error = await refused(alice, "broken")

    assert error == {"code": 100, "message": "internal server error", "temporary": True}


async def test_calls_end_with_their_connection(asking, connect, engine):
    alice = await connect()
    slow = asking.add(Kind.RPC, "slow", waits=True)
    await alice.send_commands(*({"id": 100 + n, "rpc": {"method": "slow"}} for n in range(3)))
    await until(lambda: len(slow.requests) == 3)

    await alice.leave()

    await until(lambda: slow.cancelled == 3)
    await until(lambda: not engine.tasks._tasks)


async def test_a_connection_without_calls_holds_nothing_of_them(asking, alice, engine):
    asking.add(Kind.RPC, "quick")
    (session,) = engine.connections

    await alice.call("rpc", method="quick")

    await until(lambda: session.calls is None)
    assert session.extra is None


async def test_the_task_has_the_name_of_who_is_asked(asking, alice):
    names: list[str] = []

    def answer(_: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    asking.add(Kind.RPC, "named", answer=answer)

    await alice.call("rpc", method="named")

    assert names == ["rpc named"]


async def test_a_call_before_connect_ends_the_connection(handlers, dial):
    client = await dial()

    await client.send_commands({"id": 1, "rpc": {"method": "x"}})

    assert (await client.closed()).code == 3501


async def test_a_payload_that_breaks_receivers_is_not_passed_on(asking, alice):
    echo = asking.add(Kind.RPC, "echo", answer=lambda request: request.data)
    deep = "[" * 200 + "]" * 200

    await alice.send('{"id":50,"rpc":{"method":"echo","data":' + deep + "}}")

    with pytest.raises(CommandError) as outcome:
        await alice.reply(50)
    assert outcome.value.code == 107
    assert not echo.requests
