"""Channel rules on the way of a client's commands; the user is the anonymous one."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

from realtime.handlers import Allow, channel_rule, on_subscribe
from realtime.hooks import Kind
from realtime.tokens import SubscribeOptions
from tests.realtime.client import CommandError, token
from tests.realtime.conftest import until, within

pytestmark = pytest.mark.usefixtures("no_rules")


async def refused(call: Any) -> int:
    with pytest.raises(CommandError) as outcome:
        await call
    return int(outcome.value.code)


@pytest.fixture
def rule():
    """Declare a rule of ``closed:`` whose answer the test changes and holds back."""
    rule = SimpleNamespace(answer=True, asked=0, may_answer=asyncio.Event())
    rule.may_answer.set()

    @channel_rule("closed:{name}")
    async def decide(name: str) -> Any:
        rule.asked += 1
        await rule.may_answer.wait()
        return rule.answer

    return rule


@pytest.fixture
async def nobody(connect):
    return await connect(user="")


def session_of(engine: Any) -> Any:
    (session,) = engine.connections
    return session


async def test_a_subscription_knows_that_a_rule_allowed_it(rule, nobody, engine):
    await nobody.call("subscribe", channel="closed:a")
    await nobody.call("subscribe", channel="anon:a")

    held = session_of(engine).subscriptions
    assert held.get("closed:a").is_by_rule is True
    assert held.get("anon:a").is_by_rule is False


async def test_a_token_stands_above_the_rule(rule, nobody, engine):
    rule.answer = False
    signed = token("", channel="closed:a")

    await nobody.call("subscribe", channel="closed:a", token=signed)

    assert rule.asked == 0
    assert session_of(engine).subscriptions.get("closed:a").is_by_rule is False


async def test_a_rule_that_takes_time_delays_nobody_else(rule, nobody):
    rule.may_answer.clear()
    await nobody.send_commands(
        {"id": 100, "subscribe": {"channel": "closed:a"}},
        {"id": 101, "subscribe": {"channel": "anon:a"}},
        {"id": 102, "publish": {"channel": "anon:a", "data": 1}},
    )

    await nobody.reply(101)
    await nobody.reply(102)
    await until(lambda: rule.asked)
    rule.may_answer.set()
    await nobody.reply(100)


async def test_what_is_taken_back_before_it_is_live_ends(rule, nobody, engine, hold_read):
    read = hold_read("closed:a")
    await nobody.send_commands(
        {"id": 100, "subscribe": {"channel": "closed:a", "positioned": True}}
    )
    await read.until_answered()
    rule.answer = False
    engine.rules.forget()
    read.may_go.set()

    await nobody.reply(100)

    assert (await nobody.push("unsubscribe", "closed:a"))["code"] == 2000
    await until(lambda: not session_of(engine).channels())


async def test_what_a_rule_refuses_nobody_else_is_asked_about(rule, nobody, asking):
    asked = asking.add(Kind.SUBSCRIBE, "closed", answer=SubscribeOptions(data=Raw(b'"hi"')))
    rule.answer = False
    assert await refused(nobody.call("subscribe", channel="closed:a")) == 103
    assert not asked.requests
    rule.answer = True

    result = await nobody.call("subscribe", channel="closed:b")

    assert result["data"] == "hi"


async def test_handlers_hear_of_what_a_rule_allowed_alone(rule, nobody, handlers):
    heard = []

    @on_subscribe("closed:{name}")
    async def note(name: str) -> None:
        heard.append(name)

    await nobody.call("subscribe", channel="closed:a")
    rule.answer = False
    assert await refused(nobody.call("subscribe", channel="closed:b")) == 103

    assert heard == ["a"]


async def test_publications_keep_their_order_while_a_rule_is_asked(nobody, asking):
    may_answer, asked = asyncio.Event(), asyncio.Event()

    @channel_rule("anon:{name}")
    async def decide() -> Any:
        asked.set()
        await may_answer.wait()
        return Allow(publish=True, history=True)

    await nobody.send_commands(
        *({"id": 100 + n, "publish": {"channel": "anon:a", "data": n}} for n in range(5))
    )
    await within(asked.wait())
    may_answer.set()
    await nobody.send_commands(
        *({"id": 105 + n, "publish": {"channel": "anon:a", "data": 5 + n}} for n in range(5))
    )
    for n in range(10):
        await nobody.reply(100 + n)

    history = await nobody.call("history", channel="anon:a", limit=100)
    assert [each["data"] for each in history["publications"]] == list(range(10))


async def test_a_publication_does_not_overtake_one_that_the_rule_has_just_allowed(
    rule, nobody, engine, monkeypatch
):
    rule.answer = Allow(publish=True)
    publish, may_go, begun = engine.broker.publish, asyncio.Event(), []

    async def held(act: Any) -> Any:
        begun.append(act)
        if len(begun) == 1:
            await may_go.wait()
        return await publish(act)

    monkeypatch.setattr(engine.broker, "publish", held)

    def command(number: int) -> dict[str, Any]:
        return {"id": number, "publish": {"channel": "closed:a", "data": number}}

    await nobody.send_commands(command(100))
    await until(lambda: begun)
    await nobody.send_commands(command(101))
    await nobody.send_commands({"id": 102, "unsubscribe": {"channel": "anon:a"}})
    await nobody.reply(102)
    may_go.set()

    await nobody.reply(101)
    assert [message["id"] for message in nobody.log[1:]] == [102, 100, 101]
