"""What changes what a user may do is noted, read once, and ends live subscriptions."""

import asyncio
import threading
import uuid
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.auth.signals import user_logged_in
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models import UUIDField
from django.utils import timezone

from realtime import access, access_triggers, change_log, services
from realtime.access_triggers import make_access_triggers
from realtime.change_log import Change, ChangeLog
from realtime.handlers import channel_rule, rpc
from realtime.models import AccessChange
from tests.realtime.client import CommandError
from tests.realtime.conftest import until

# Instances read in threads of their own.
pytestmark = pytest.mark.django_db(transaction=True)

EVERYBODY = ""


def run(statement, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def noted():
    """Return whom the rows name, and delete them."""
    users = list(AccessChange.objects.order_by("id").values_list("user", flat=True))
    AccessChange.objects.all().delete()
    return users


@pytest.fixture
def users(no_rules):
    """Return a user who is in a group and has a permission, and another one."""
    ada, eve = (get_user_model().objects.create_user(name) for name in ("ada", "eve"))
    group = Group.objects.create(name="editors")
    first = Permission.objects.order_by("pk").first()
    ada.groups.add(group)
    ada.user_permissions.add(first)
    group.permissions.add(first)
    noted()
    return ada, eve


@pytest.fixture
def ada(users):
    return users[0]


# Notes ------------------------------------------------------------------------------------------


def other():
    return Permission.objects.order_by("-pk").first()


def update(**values):
    get_user_model().objects.filter(username="ada").update(**values)


def of_ada(manager):
    return getattr(get_user_model().objects.get(username="ada"), manager)


OF_ADA = {
    "inactive": lambda: update(is_active=False),
    "staff": lambda: update(is_staff=True),
    "superuser": lambda: update(is_superuser=True),
    "password": lambda: update(password="x"),
    "raw update": lambda: run("UPDATE auth_user SET is_active = NOT is_active WHERE id < 999999 "
                              "AND username = 'ada'"),
    "group added": lambda: of_ada("groups").add(Group.objects.create(name="more")),
    "group removed": lambda: of_ada("groups").clear(),
    "permission added": lambda: of_ada("user_permissions").add(other()),
    "permission removed": lambda: of_ada("user_permissions").clear(),
    "raw delete of a link": lambda: run("DELETE FROM auth_user_groups"),
    "forgotten by code": lambda: services.forget_decisions(str(of_ada("pk"))),
}  # fmt: skip


@pytest.mark.parametrize("change", OF_ADA)
def test_a_change_of_one_user_is_noted_for_that_one(ada, change):
    OF_ADA[change]()

    assert set(noted()) == {str(ada.pk)}


def test_a_user_who_is_deleted_is_noted(ada):
    pk = str(ada.pk)

    ada.delete()

    assert set(noted()) == {pk}


OF_EVERYBODY = {
    "permission added to a group": lambda: Group.objects.get().permissions.add(other()),
    "permission removed from a group": lambda: Group.objects.get().permissions.clear(),
    "group renamed": lambda: Group.objects.update(name="writers"),
    "raw delete of a link": lambda: run("DELETE FROM auth_group_permissions"),
    "group deleted": lambda: Group.objects.all().delete(),
    "forgotten by code": services.forget_decisions,
}


@pytest.mark.parametrize("change", OF_EVERYBODY)
def test_a_change_of_a_group_is_noted_for_everybody(ada, change):
    OF_EVERYBODY[change]()

    assert EVERYBODY in noted()


NOTHING = {
    "saved as it was": lambda: get_user_model().objects.get(username="ada").save(),
    "last login": lambda: update(last_login=timezone.now()),
    "signed in": lambda: user_logged_in.send(
        get_user_model(), request=None, user=get_user_model().objects.get(username="ada")
    ),
    "another user": lambda: get_user_model().objects.create_user("new"),
    "another group": lambda: Group.objects.create(name="new"),
}


@pytest.mark.parametrize("change", NOTHING)
def test_what_takes_nothing_away_is_not_noted(ada, change):
    NOTHING[change]()

    assert noted() == []


def test_a_change_that_is_rolled_back_is_none(ada):
    with transaction.atomic():
        update(is_active=False)
        transaction.set_rollback(True)

    assert noted() == []


def test_a_sign_out_is_noted(ada, client):
    client.force_login(ada)
    noted()

    client.logout()

    assert noted() == [str(ada.pk)]


def test_the_sign_out_of_nobody_is_not(ada, client):
    client.logout()

    assert noted() == []


async def test_code_in_a_coroutine_can_forget_too(ada):
    await services.aforget_decisions(str(ada.pk), model=Group)

    change = await AccessChange.objects.aget()
    assert (change.user, change.model) == (str(ada.pk), "auth.Group")


# Triggers ---------------------------------------------------------------------------------------


def test_making_the_triggers_again_notes_what_was_missed(ada):
    make_access_triggers(apps.get_app_config("realtime"), using="default")
    assert noted() == [EVERYBODY]

    update(is_active=False)

    assert set(noted()) == {str(ada.pk)}


def test_a_migration_finds_no_trigger_in_its_way_and_leaves_none_without_a_table(ada):
    try:
        call_command("migrate", "realtime", "0003", verbosity=0)
        update(is_active=False)  # there is no table where this could be noted
    finally:
        call_command("migrate", "realtime", verbosity=0)

    assert noted() == [EVERYBODY]
    update(is_active=True)
    assert set(noted()) == {str(ada.pk)}


# What rules watch -------------------------------------------------------------------------------


@pytest.fixture
def watching(users):
    """Have a rule watch the groups."""
    channel_rule("groups:{pk:int}", watches=[Group])(lambda: True)
    noted()


WATCHED = {
    "created": lambda: Group.objects.create(name="more"),
    "saved": lambda: Group.objects.get().save(),
    "deleted": lambda: Group.objects.get().delete(),
    "related": lambda: Group.objects.get().permissions.add(other()),
    "forgotten by code": lambda: services.forget_decisions(model=Group),
}


@pytest.mark.parametrize("change", WATCHED)
def test_a_change_of_a_watched_object_is_noted_for_the_rules_that_watch_it(watching, change):
    WATCHED[change]()

    assert ("", "auth.Group") in AccessChange.objects.values_list("user", "model")


def test_a_watched_object_whose_change_is_rolled_back_is_not_noted(watching):
    with transaction.atomic():
        Group.objects.create(name="more")
        transaction.set_rollback(True)

    assert noted() == []


# The log ----------------------------------------------------------------------------------------


@pytest.fixture
def log(users):
    log = ChangeLog()
    log.read()
    return log


def note(user="", model="", **values):
    return AccessChange.objects.create(user=user, model=model, **values)


def test_the_first_look_is_everything(users):
    assert ChangeLog().read() == [Change(None)]


def test_each_row_is_given_once(log):
    note("1")
    note("2")
    note("2")

    assert log.read() == [Change(frozenset({"1", "2"}))]
    assert log.read() == []


def test_everybody_covers_all(log):
    note("1")
    note()
    note(model="auth.Group")

    assert log.read() == [Change(None)]


def test_rows_of_models_are_kept_apart(log):
    note("1")
    note("2", "auth.User")
    note(model="auth.Group")

    assert set(log.read()) == {
        Change(None, frozenset({"auth.Group"})),
        Change(frozenset({"1"})),
        Change(frozenset({"2"}), frozenset({"auth.User"})),
    }


def test_a_user_that_cannot_be_one_is_everybody(log):
    note("no number")

    assert log.read() == [Change(None)]


def test_a_key_is_read_as_connections_have_it():
    key = uuid.uuid4()

    assert change_log._normal(key.hex, UUIDField()) == str(key)
    assert change_log._normal("7", None) == EVERYBODY


def test_a_row_that_is_committed_after_a_higher_one_is_given(log):
    number = note("1").pk
    log.read()
    note("3", id=number + 2)
    assert log.read() == [Change(frozenset({"3"}))]

    note("2", id=number + 1)

    assert log.read() == [Change(frozenset({"2"}))]


def test_a_row_that_is_committed_very_late_is_given_when_all_are_read(log, monkeypatch):
    number = note("1").pk
    note("3", id=number + change_log.OVERLAP + 5)
    log.read()
    note("2", id=number + 1)
    assert log.read() == []

    monkeypatch.setattr(change_log, "READ_ALL_SECONDS", 0)

    assert log.read() == [Change(frozenset({"2"}))]
    assert log.read() == []


def test_after_a_long_failure_it_is_everything(log, monkeypatch):
    monkeypatch.setattr(change_log, "KEPT", timedelta(0))

    assert log.read() == [Change(None)]


def test_only_old_rows_are_pruned(users):
    note("1", at=timezone.now() - change_log.KEPT - timedelta(seconds=5))
    note("2", at=timezone.now() - change_log.KEPT + timedelta(seconds=30))
    update(is_staff=True)
    new = str(users[0].pk)

    change_log.prune()

    assert set(noted()) == {"2", new}


def test_pruned_rows_are_forgotten(log, monkeypatch):
    monkeypatch.setattr(change_log, "READ_ALL_SECONDS", 0)
    note("1")
    log.read()
    assert len(log._seen) == 1

    AccessChange.objects.all().delete()
    log.read()

    assert log._seen == set()


# Live subscriptions -----------------------------------------------------------------------------


@pytest.fixture
def staff_only(users):
    """Have a rule for the closed channels."""
    get_user_model().objects.update(is_staff=True)
    channel_rule("closed:{name}")(lambda user: user.is_staff)


@pytest.fixture
async def watch(engine, staff_only):
    """Return what the instance watches with, which looks when the test says so."""
    await engine.access.look()  # the first time it looks at everything
    await until(lambda: engine.access._walk.done())
    return engine.access


@pytest.fixture
def subscribe(watch, connect):
    async def subscribe(user, *channels):
        client = await connect(str(user.pk))
        for channel in channels:
            await client.call("subscribe", channel=channel)
        return client

    return subscribe


async def change(**values):
    await get_user_model().objects.filter(username="ada").aupdate(**values)


async def test_who_may_no_more_is_unsubscribed_and_nobody_else(watch, subscribe, users):
    ada, eve = users
    clients = [await subscribe(ada, "closed:a", "closed:b") for _ in range(2)]
    other = await subscribe(eve, "closed:a")

    await change(is_staff=False)
    await watch.look()

    for client in clients:
        for channel in ("closed:a", "closed:b"):
            pushed = await client.push("unsubscribe", channel)
            assert pushed == {"code": 2000, "reason": "server unsubscribe"}
        with pytest.raises(CommandError) as raised:
            await client.call("subscribe", channel="closed:a")
        assert raised.value.code == 103
    assert await other.has_nothing()


async def test_a_change_that_takes_nothing_ends_nothing(watch, subscribe, ada, engine):
    client = await subscribe(ada, "closed:a")

    await change(is_superuser=True)
    await watch.look()
    await until(lambda: not engine.tasks._tasks)

    assert await client.has_nothing()
    assert engine.rules.is_known(str(ada.pk), "closed:a")


async def test_a_change_for_everybody_ends_what_it_took(watch, subscribe, users):
    clients = [await subscribe(user, "closed:a") for user in users]
    await get_user_model().objects.aupdate(is_staff=False)
    await AccessChange.objects.all().adelete()
    await services.aforget_decisions()

    await watch.look()

    for client in clients:
        assert (await client.push("unsubscribe", "closed:a"))["code"] == 2000


async def test_what_no_rule_allowed_is_not_judged(watch, subscribe, ada, engine):
    client = await subscribe(ada, "closed:a", "open:a")
    await services.asubscribe(str(ada.pk), "closed:server")
    await client.push("subscribe", "closed:server")

    await change(is_staff=False)
    await watch.look()
    await client.push("unsubscribe", "closed:a")
    await until(lambda: not engine.tasks._tasks)

    assert await client.has_nothing()
    (session,) = engine.connections.find(str(ada.pk))
    assert set(session.channels()) == {"open:a", "closed:server"}


async def test_only_rules_that_watch_a_model_are_asked_again(watch, subscribe, ada, engine):
    asked = []

    @channel_rule("closed:more:{name}")
    def rule(channel):
        asked.append(channel)
        return True

    await subscribe(ada, "closed:more:x", "closed:a")
    assert asked == ["closed:more:x"]

    await services.aforget_decisions(model=Group)
    await watch.look()
    await until(lambda: watch._walk.done())
    assert asked == ["closed:more:x"]

    await services.aforget_decisions()
    await watch.look()
    await until(lambda: len(asked) == 2)


async def test_what_has_expired_is_asked_again(watch, subscribe, users, engine, monkeypatch):
    client = await subscribe(users[0], "closed:a")
    other = await subscribe(users[1], "closed:a")
    await get_user_model().objects.filter(username="ada").aupdate(is_staff=False)
    await AccessChange.objects.all().adelete()  # nobody was told
    await watch.look()
    assert await client.has_nothing()

    engine.rules._clock = lambda: float("inf")
    watch._next_walk_at = 0.0
    await watch.look()

    assert (await client.push("unsubscribe", "closed:a"))["code"] == 2000
    assert await other.has_nothing()


async def test_an_expired_answer_ends_what_it_allowed_though_others_have_asked_since(
    watch, subscribe, users, engine
):
    now = 0.0
    engine.rules._clock = lambda: now
    client = await subscribe(users[0], "closed:a")
    await get_user_model().objects.filter(username="ada").aupdate(is_staff=False)
    await AccessChange.objects.all().adelete()  # nobody was told
    now = 1000.0
    with pytest.raises(CommandError):
        await client.call("history", channel="closed:a")  # which brings the new answer
    assert engine.rules.is_known(str(users[0].pk), "closed:a")

    watch._next_walk_at = 0.0
    await watch.look()

    assert (await client.push("unsubscribe", "closed:a"))["code"] == 2000


def rule_that_ends():
    """Have a rule that allows twice, and gives no answer then; return what it has left."""
    outcomes = iter([True, True])

    @channel_rule("closed:more:{name}")
    def rule():
        if next(outcomes, None):
            return True
        raise OperationalError("gone")

    return outcomes


async def test_without_an_answer_for_long_after_a_change_it_ends_and_may_come_back(
    watch, subscribe, ada, monkeypatch
):
    outcomes = rule_that_ends()
    client = await subscribe(ada, "closed:more:x")
    monkeypatch.setattr(access, "UNANSWERED_SECONDS", 0.3)
    await services.aforget_decisions(str(ada.pk))
    await watch.look()
    await until(lambda: watch._again or next(outcomes, None))
    await asyncio.sleep(0.3)  # the time of the setting above

    for _ in range(3):
        await watch.look()

    pushed = await client.push("unsubscribe", "closed:more:x")
    assert pushed["code"] == 2501  # an SDK subscribes again
    with pytest.raises(CommandError) as refused:
        await client.call("subscribe", channel="closed:more:x")
    assert refused.value.error["temporary"]


async def test_what_changed_for_one_channel_ends_no_other_without_an_answer(
    watch, subscribe, ada, engine, monkeypatch
):
    answers = {"changed": iter([True, True, False]), "other": iter([True, True])}

    def answer(name):
        if next(answers[name], name == "changed"):
            return True
        raise OperationalError("gone")

    channel_rule("closed:changed:{name}", watches=[Group])(lambda: answer("changed"))
    channel_rule("closed:other:{name}")(lambda: answer("other"))
    client = await subscribe(ada, "closed:changed:x", "closed:other:x")
    monkeypatch.setattr(access, "UNANSWERED_SECONDS", 0.0)
    engine.rules._clock = lambda: float("inf")

    await services.aforget_decisions(model=Group)
    for _ in range(4):
        watch._next_walk_at = 0.0
        await watch.look()
        await until(lambda: not engine.tasks._tasks)

    assert await client.has_nothing()


async def test_without_an_answer_but_without_a_change_it_stays(
    watch, subscribe, ada, engine, monkeypatch
):
    rule_that_ends()
    client = await subscribe(ada, "closed:more:x")
    monkeypatch.setattr(access, "UNANSWERED_SECONDS", 0.0)
    engine.rules._clock = lambda: float("inf")
    for _ in range(3):
        watch._next_walk_at = 0.0
        await watch.look()
        await until(lambda: not engine.tasks._tasks)

    assert await client.has_nothing()


async def test_what_a_slow_reading_brings_is_not_lost(watch, subscribe, ada, monkeypatch):
    client = await subscribe(ada, "closed:a")
    may_go, read = threading.Event(), watch._log.read

    def slow():
        found = read()
        may_go.wait(10)
        return found

    monkeypatch.setattr(access, "READ_SECONDS", 0.1)
    monkeypatch.setattr(watch._log, "read", slow)
    await change(is_staff=False)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await watch.look()
    assert await client.has_nothing()
    may_go.set()
    monkeypatch.setattr(access, "READ_SECONDS", 5)

    await watch.look()

    assert (await client.push("unsubscribe", "closed:a"))["code"] == 2000


async def test_slow_handlers_of_anybody_keep_no_rule_waiting(watch, subscribe, ada, handlers):
    may_go = threading.Event()

    @rpc("slow", timeout_seconds=30)
    def slow() -> None:
        may_go.wait(10)

    client, greedy = await subscribe(ada, "closed:a"), await subscribe(ada)
    await greedy.send_commands(*({"id": 100 + n, "rpc": {"method": "slow"}} for n in range(12)))
    await greedy.call("presence", channel="open:a")
    try:
        await change(is_staff=False)
        await watch.look()

        assert (await client.push("unsubscribe", "closed:a"))["code"] == 2000
    finally:
        may_go.set()


async def test_a_reading_that_asks_a_rule_holds_up_nothing_else(watch, subscribe, ada):
    may_go = threading.Event()
    channel_rule("closed:more:{name}")(lambda: may_go.wait(1.5))
    client = await subscribe(ada)

    await client.send_commands({"id": 100, "presence": {"channel": "closed:more:x"}})
    await client.call("presence", channel="open:a")
    may_go.set()

    assert await client.reply(100) == {"presence": {}}


async def test_triggers_that_are_missing_are_made_again_and_told_of(watch, ada, caplog):
    await sync_to_async(drop_all)()
    watch._next_prune_at = 0.0

    await watch._prune()

    assert "triggers that note changes of access were missing" in caplog.text
    await AccessChange.objects.all().adelete()
    await change(is_staff=False)
    users = [row.user async for row in AccessChange.objects.all()]
    assert str(ada.pk) in users


def drop_all():
    with connection.cursor() as cursor:
        access_triggers._drop(connection, cursor)


async def test_a_rule_without_an_answer_is_asked_again_at_the_next_look(watch, subscribe, ada):
    outcomes = iter([True, True, OperationalError("gone"), False])

    @channel_rule("closed:more:{name}")
    def rule():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    client = await subscribe(ada, "closed:more:x")
    await services.aforget_decisions(str(ada.pk))
    await watch.look()
    await until(lambda: watch._engine.rules.is_known(str(ada.pk), "closed:more:x"))
    await services.aforget_decisions(str(ada.pk))
    await watch.look()
    await until(lambda: set(watch._again) == {(str(ada.pk), "closed:more:x")})
    assert await client.has_nothing()

    await watch.look()

    assert (await client.push("unsubscribe", "closed:more:x"))["code"] == 2000


async def test_users_without_rules_left_are_forgotten(watch, subscribe, users, engine):
    client = await subscribe(users[0], "closed:a")
    await subscribe(users[1], "closed:a")
    await client.leave()

    await services.aforget_decisions()
    await watch.look()
    await until(lambda: watch._walk.done())

    assert engine.rules.users == {str(users[1].pk)}


async def test_a_database_that_fails_is_logged_once_and_asked_again(
    engine, users, monkeypatch, caplog
):
    monkeypatch.setattr(access, "POLL_SECONDS", 0.01)
    channel_rule("closed:{name}")(lambda: True)
    outcomes = iter([OperationalError("gone"), OperationalError("gone"), None])
    has_looked = asyncio.Event()

    def read():
        outcome = next(outcomes, None)
        if outcome is not None:
            raise outcome
        has_looked.set()
        return []

    watch = access.AccessWatch(engine)
    monkeypatch.setattr(watch._log, "read", read)
    running = asyncio.create_task(watch.run())
    try:
        await until(has_looked.is_set)
    finally:
        running.cancel()

    assert caplog.text.count("changes of access cannot be read: gone") == 1
