"""Channel rules: patterns, what a rule may be and say, and how long its answers are kept."""

import asyncio
import threading
from dataclasses import fields, replace

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404

from realtime import decisions, rules, threads
from realtime.channel_patterns import ChannelPattern
from realtime.decisions import Decisions
from realtime.handlers import Allow, channel_rule
from realtime.protocol import errors
from realtime.protocol.errors import InternalError
from realtime.snapshot import ChannelOptions
from tests.realtime.client import CommandError
from tests.realtime.conftest import until, within

CLOSED = ChannelOptions(history_size=10, history_ttl=60, presence=True)

pytestmark = pytest.mark.usefixtures("no_rules")
# Users are looked for in threads of their own.
database = pytest.mark.django_db(transaction=True)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def asked(clock, configure):
    """Return the decisions of a server that is not in insecure mode."""
    configure(INSECURE=False)
    asked = Decisions(clock=clock)
    yield asked
    await asked.close()


@pytest.fixture
def ada():
    return get_user_model().objects.create_user("ada", is_staff=True)


# Patterns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "channel", "found"),
    [
        ("news", "news", {}),
        ("orders:{pk}", "orders:5", {"pk": "5"}),
        ("orders:{pk:int}", "orders:007", {"pk": 7}),
        ("{kind}:{pk:int}:x", "a-b:1:x", {"kind": "a-b", "pk": 1}),
        ("$orders:{pk}", "$orders:é#1,2", {"pk": "é#1,2"}),
        ("a.{b}*", "a.\n*", {"b": "\n"}),
        ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
        ("{a}1{b:int}", "x1y12", {"a": "x1y", "b": 2}),
        ("{a}--{b}", "x-y--z", {"a": "x-y", "b": "z"}),
    ],
)
def test_a_pattern_gives_the_fields_of_a_channel(pattern, channel, found):
    assert ChannelPattern(pattern).match(channel) == found


@pytest.mark.parametrize(
    ("pattern", "channel"),
    [
        ("news", "news2"),
        ("news", "news\n"),
        ("orders:{pk}", "orders:"),
        ("orders:{pk}", "orders:5:6"),
        ("orders:{pk}", "$orders:5"),
        ("orders:{pk}", "Orders:5"),
        ("orders:{pk:int}", "orders:5x"),
        ("orders:{pk:int}", "orders:-5"),
        ("orders:{pk:int}", "orders:\u0665"),
        ("orders:{pk:int}", "orders:5\n"),
        ("a.{b}", "axb"),
    ],
)
def test_a_pattern_matches_nothing_else(pattern, channel):
    assert ChannelPattern(pattern).match(channel) is None


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "{", "a}", "{{a}}", "{}", "{a b}", "{1}", "{a:str}", "{a:}"),
        *("{a}{b}", "{a}:{a}", "{a}-{b}-{c}"),
    ],
)
def test_a_pattern_that_could_be_misread_is_refused(pattern):
    with pytest.raises(ImproperlyConfigured):
        ChannelPattern(pattern)


def test_a_name_that_does_not_match_takes_no_long_time():
    pattern = ChannelPattern(":".join(f"{{a{number}}}-{{b{number}}}x" for number in range(16)))

    # Each split of each part with each of every other would take longer than the world is old.
    assert pattern.match(":".join(["-" * 14 + "x"] * 15 + ["-" * 15])) is None


# Registering ------------------------------------------------------------------------------------


def test_the_first_pattern_that_matches_decides():
    channel_rule("orders:all")(lambda: True)
    channel_rule("orders:{pk}")(lambda: False)

    assert rules.find("orders:all").rule.pattern.text == "orders:all"
    assert rules.find("orders:x").rule.pattern.text == "orders:{pk}"
    assert rules.find("orders:x").fields == {"pk": "x"}
    assert rules.find("other:x") is None


@pytest.mark.parametrize("again", ["orders:{pk}", "orders:{number}"])
def test_two_rules_with_one_pattern_are_refused(again):
    channel_rule("orders:{pk}")(lambda: True)
    channel_rule("orders:{pk:int}")(lambda: True)

    with pytest.raises(ImproperlyConfigured, match="two channel rules"):
        channel_rule(again)(lambda: True)


@pytest.mark.parametrize(
    "function",
    [lambda pk, other: True, lambda pk, /: True, lambda *args: True, lambda user, request: True],
)
def test_a_rule_that_wants_what_there_is_not_is_refused(function):
    with pytest.raises(ImproperlyConfigured, match="nothing is given"):
        channel_rule("orders:{pk}")(function)


@pytest.mark.parametrize("pattern", ["{user}", "a:{channel}"])
def test_a_field_that_hides_what_is_given_is_refused(pattern):
    with pytest.raises(ImproperlyConfigured):
        channel_rule(pattern)(lambda: True)


def test_answers_last_some_time():
    with pytest.raises(ImproperlyConfigured, match="expires_seconds"):
        channel_rule("orders:{pk}", expires_seconds=0)(lambda: True)


def test_a_rule_may_have_defaults_of_its_own():
    @channel_rule("orders:{pk}")
    def rule(pk, limit=5):
        return True

    assert rules.find("orders:1").rule.wanted == ("pk",)


@pytest.mark.parametrize("value", [None, 1, "yes", []])
def test_only_true_and_false_are_allowances(value):
    with pytest.raises(TypeError):
        Allow(publish=value)


# What it is asked, and what it says -------------------------------------------------------------

FLAGS = ("subscribe", "publish", "history", "presence")


def allowed(options):
    """Return what a client may do, anonymous or not, subscribed or not."""
    found = set()
    for flag in FLAGS:
        names = [
            each.name for each in fields(options) if each.name.startswith(f"allow_{flag}_for_")
        ]
        values = {getattr(options, name) for name in names}
        assert len(values) == 1
        if values == {True}:
            found.add(flag)
    return found


@database
@pytest.mark.parametrize(
    ("verdict", "may"),
    [
        (True, {"subscribe", "history", "presence"}),
        (False, set()),
        (Allow(), set()),
        (Allow(publish=True), {"publish"}),
        (Allow(subscribe=True, history=True), {"subscribe", "history"}),
        (Allow(presence=True), {"presence"}),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_rule_says_replaces_the_namespace(asked, ada, verdict, may, is_async):
    async def later():
        return verdict

    channel_rule("orders:{pk}")(later if is_async else lambda: verdict)
    open_for_all = rules.applied(
        Allow(subscribe=True, publish=True, presence=True, history=True), CLOSED
    )

    for options in (CLOSED, open_for_all):
        assert allowed(await asked.options_for(str(ada.pk), "orders:1", options)) == may


@pytest.mark.parametrize("has_history", [True, False])
def test_who_may_not_read_the_history_recovers_nothing_of_it(has_history):
    options = replace(CLOSED, allow_recovery=True, force_recovery=True)

    changed = rules.applied(Allow(subscribe=True, history=has_history), options)

    assert (changed.allow_recovery, changed.force_recovery) == (has_history, has_history)


@database
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_rule_is_given_what_it_names(asked, ada, is_async):
    seen = []

    def rule(user, pk, channel):
        seen.append((user, pk, channel, threading.current_thread() is threading.main_thread()))
        return user.is_staff

    async def later(user, pk, channel):
        return rule(user, pk, channel)

    channel_rule("orders:{pk:int}")(later if is_async else rule)

    options = await asked.options_for(str(ada.pk), "orders:7", CLOSED)

    assert "subscribe" in allowed(options)
    assert seen == [(ada, 7, "orders:7", is_async)]


@database
async def test_a_rule_may_ask_the_database(asked, ada):
    @channel_rule("users:{name}")
    def rule(user, name):
        return get_user_model().objects.filter(username=name).exists()

    assert allowed(await asked.options_for(str(ada.pk), "users:ada", CLOSED))
    assert not allowed(await asked.options_for(str(ada.pk), "users:eve", CLOSED))


@database
async def test_an_object_that_is_called_is_a_rule(asked, ada):
    class Later:
        async def __call__(self, pk):
            return pk == "1"

    channel_rule("orders:{pk}")(Later())

    assert allowed(await asked.options_for(str(ada.pk), "orders:1", CLOSED))


@database
async def test_the_anonymous_user_is_asked_about(asked):
    @channel_rule("orders:{pk}")
    def rule(user):
        return user.is_anonymous

    assert "subscribe" in allowed(await asked.options_for("", "orders:1", CLOSED))


@database
@pytest.mark.parametrize("is_async", [True, False])
async def test_who_is_no_active_user_is_refused_without_asking(asked, ada, is_async):
    seen = []

    def rule(user):
        seen.append(user)
        return True

    async def later(user):
        return rule(user)

    channel_rule("orders:{pk}")(later if is_async else rule)
    await get_user_model().objects.filter(pk=ada.pk).aupdate(is_active=False)
    eve = await get_user_model().objects.acreate(username="eve")

    for user in (str(ada.pk), "0", f"0{eve.pk}", f" {eve.pk}", "9" * 40, "eve", "\0", "é"):
        assert allowed(await asked.options_for(user, "orders:1", CLOSED)) == set()

    assert seen == []
    assert allowed(await asked.options_for(str(eve.pk), "orders:1", CLOSED))


def raising(error):
    def rule():
        raise error

    return rule


@database
@pytest.mark.parametrize(
    "error",
    [
        PermissionDenied("x"),
        Http404("x"),
        errors.PermissionDenied("x"),
        get_user_model().DoesNotExist("x"),
    ],
)
async def test_a_refusal_is_no_and_no_error(asked, caplog, error):
    channel_rule("orders:{pk}")(raising(error))

    assert allowed(await asked.options_for("", "orders:1", CLOSED)) == set()

    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


@database
@pytest.mark.parametrize(
    "rule",
    [
        raising(RuntimeError("broken")),
        raising(StopIteration()),
        raising(errors.LimitExceeded()),
        lambda: None,
        lambda: 1,
        lambda: "yes",
        lambda: [Allow(subscribe=True)],
    ],
)
async def test_whatever_else_a_rule_does_is_no_and_an_error(asked, caplog, rule):
    channel_rule("orders:{pk}")(rule)

    assert allowed(await asked.options_for("", "orders:1", CLOSED)) == set()

    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "channel_rule orders:{pk}" in record.message


@database
async def test_a_channel_with_nul_is_refused_without_asking(asked):
    channel_rule("orders:{pk}")(lambda: True)

    assert allowed(await asked.options_for("", "orders:\0", CLOSED)) == set()


async def test_without_a_rule_the_options_are_the_same_object(asked):
    channel_rule("orders:{pk}")(lambda: False)

    assert await asked.options_for("1", "news", CLOSED) is CLOSED
    assert asked.users == set()


async def test_insecure_mode_asks_no_rule(asked, configure):
    configure(INSECURE=True)
    channel_rule("orders:{pk}")(raising(AssertionError))

    assert await asked.options_for("1", "orders:1", CLOSED) is CLOSED


# Without an answer ------------------------------------------------------------------------------


@database
@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("x"), TimeoutError()])
async def test_a_database_that_fails_is_a_temporary_error(asked, error):
    outcomes = iter([error, None])

    @channel_rule("orders:{pk}")
    def rule():
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return True

    with pytest.raises(InternalError) as raised:
        await asked.options_for("", "orders:1", CLOSED)

    assert raised.value.temporary
    assert allowed(await asked.options_for("", "orders:1", CLOSED))  # nothing was kept


@database
async def test_a_thread_that_takes_too_long_is_a_temporary_error(asked, monkeypatch):
    monkeypatch.setattr(decisions, "RULE_SECONDS", 0.05)
    may_end = threading.Event()
    channel_rule("orders:{pk}")(lambda: may_end.wait(10))
    pool = threads.threads("rule", decisions.THREADS_MAX)
    try:
        with pytest.raises(InternalError):
            await within(asked.options_for("", "orders:1", CLOSED))
        assert pool.busy_count == 1  # it has its thread still
    finally:
        may_end.set()

    await until(lambda: pool.busy_count == 0)
    assert not asked.is_known("", "orders:1")


@database
async def test_a_coroutine_that_takes_too_long_is_a_temporary_error(asked, monkeypatch):
    monkeypatch.setattr(decisions, "RULE_SECONDS", 0.05)

    @channel_rule("orders:{pk}")
    async def rule():
        await asyncio.Event().wait()

    with pytest.raises(InternalError):
        await within(asked.options_for("", "orders:1", CLOSED))


@database
async def test_a_rule_that_cancels_itself_cancels_nobody_else(asked):
    @channel_rule("orders:{pk}")
    async def rule():
        raise asyncio.CancelledError

    with pytest.raises(InternalError):
        await asked.options_for("", "orders:1", CLOSED)


# Keeping ----------------------------------------------------------------------------------------


@pytest.fixture
def counted():
    """Return the channels that a rule of all orders was asked about, in order."""
    seen = []

    @channel_rule("orders:{pk}", expires_seconds=60)
    async def rule(channel):
        seen.append(channel)
        return True

    return seen


@database
async def test_an_answer_is_kept_until_it_expires(asked, clock, counted):
    await asked.options_for("", "orders:1", CLOSED)
    clock.now += 59
    await asked.options_for("", "orders:1", CLOSED)
    assert counted == ["orders:1"]

    clock.now += 1
    await asked.options_for("", "orders:1", CLOSED)

    assert counted == ["orders:1"] * 2


@database
async def test_answers_are_of_one_user_and_one_channel(asked, ada, counted):
    for user in ("", str(ada.pk)):
        for channel in ("orders:1", "orders:2"):
            await asked.options_for(user, channel, CLOSED)

    assert counted == ["orders:1", "orders:2"] * 2
    assert asked.users == {"", str(ada.pk)}


@database
async def test_who_asks_for_what_is_known_is_remembered_too(asked, counted):
    await asked.options_for("", "orders:1", CLOSED)
    asked.users.clear()

    await asked.options_for("", "orders:1", CLOSED)

    assert asked.users == {""}
    assert counted == ["orders:1"]


@database
async def test_the_answer_that_was_longest_of_no_use_goes_first(asked, counted, monkeypatch):
    monkeypatch.setattr(decisions, "DECISIONS_MAX", 2)
    for channel in ("orders:1", "orders:2", "orders:1", "orders:3"):
        await asked.options_for("", channel, CLOSED)

    assert asked.is_known("", "orders:1")
    assert not asked.is_known("", "orders:2")


@pytest.fixture
def gate():
    """Return a rule that waits, and what it was asked."""

    class Gate:
        opened = asyncio.Event()
        count = 0
        verdict = True

    @channel_rule("gate:{pk}")
    async def rule():
        Gate.count += 1
        verdict = Gate.verdict
        await Gate.opened.wait()
        return verdict

    return Gate


@database
async def test_who_asks_the_same_at_once_shares_an_answer(asked, gate):
    asking = [asyncio.create_task(asked.ask("", "gate:1")) for _ in range(5)]
    await until(lambda: gate.count)
    asking[0].cancel()  # who began it leaves; the others get their answer

    gate.opened.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)

    assert [type(each) for each in answers] == [asyncio.CancelledError] + [Allow] * 4
    assert gate.count == 1


@database
async def test_what_was_asked_before_a_change_is_not_kept(asked, gate):
    early = asyncio.create_task(asked.ask("", "gate:1"))
    await until(lambda: gate.count)
    gate.verdict = False
    asked.forget([""])

    late = asyncio.create_task(asked.ask("", "gate:1"))
    await until(lambda: gate.count == 2)
    gate.opened.set()

    assert (await early).subscribe
    assert not (await late).subscribe
    assert not (await asked.ask("", "gate:1")).subscribe
    assert gate.count == 2


@database
async def test_what_is_forgotten_is_what_was_meant(asked, ada):
    users = get_user_model()
    channel_rule("watching:{pk}", watches=[users])(lambda: True)
    channel_rule("plain:{pk}")(lambda: True)
    everything = {
        (user, channel) for user in ("", str(ada.pk)) for channel in ("watching:1", "plain:1")
    }

    async def left(*args):
        for user, channel in everything:
            await asked.ask(user, channel)
        asked.forget(*args)
        return {each for each in everything if asked.is_known(*each)}

    label = users._meta.label
    assert await left() == set()
    assert await left([""]) == {each for each in everything if each[0]}
    assert await left(None, [label]) == {each for each in everything if each[1] == "plain:1"}
    assert await left([""], [label]) == everything - {("", "watching:1")}
    assert await left(["nobody"]) == everything


# To a client ------------------------------------------------------------------------------------


@database
async def test_a_client_may_do_what_the_rule_says(connect, ada):
    @channel_rule("closed:{name}")
    def rule(user, name):
        return {"read": True, "write": Allow(publish=True)}.get(name, False)

    client = await connect(str(ada.pk))

    await client.call("subscribe", channel="closed:read")
    await client.call("history", channel="closed:read", limit=1)
    await client.call("presence", channel="closed:read")
    await client.call("publish", channel="closed:write", data={})
    for method, channel in [
        ("publish", "closed:read"),
        ("subscribe", "closed:write"),
        ("history", "closed:write"),
        ("presence", "closed:write"),
        ("subscribe", "closed:no"),
    ]:
        data = {"data": {}} if method == "publish" else {}
        with pytest.raises(CommandError) as raised:
            await client.call(method, channel=channel, **data)
        assert raised.value.code == 103


@database
async def test_a_rule_does_not_open_what_is_private_or_of_others(connect, ada):
    channel_rule("${name}")(lambda: True)
    channel_rule("limited:{name}")(lambda: True)
    client = await connect(str(ada.pk))

    for channel in ("$news", "limited:talk#0"):
        with pytest.raises(CommandError) as raised:
            await client.call("subscribe", channel=channel)
        assert raised.value.code == 103
    await client.call("subscribe", channel=f"limited:talk#{ada.pk}")


@database
async def test_a_client_is_told_that_a_rule_gave_no_answer(connect, ada):
    channel_rule("closed:{name}")(raising(OperationalError("gone")))
    client = await connect(str(ada.pk))

    with pytest.raises(CommandError) as raised:
        await client.call("subscribe", channel="closed:x")

    assert (raised.value.code, raised.value.error.get("temporary")) == (100, True)
