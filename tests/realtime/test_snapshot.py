import time
from dataclasses import fields
from datetime import UTC, datetime

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import JSONField, Value

from realtime import snapshot
from realtime.apps import make_triggers
from realtime.models import ApiKey, Namespace, SnapshotVersion
from realtime.protocol.errors import UnknownChannel
from realtime.snapshot import ChannelOptions, Snapshot, namespace_of

# Triggers and version work the same inside the test's transaction.
pytestmark = pytest.mark.django_db


@pytest.fixture
def demo():
    return Namespace.objects.create(name="demo", history_size=10, history_ttl=60)


@pytest.fixture
def api_key():
    return ApiKey.create("reports")[0]


def version():
    return SnapshotVersion.objects.get().number


@pytest.mark.rule("name-namespace-first-colon", "name-namespace-without-dollar")
@pytest.mark.parametrize(
    ("channel", "namespace"),
    [
        ("news", None),
        ("chat:room:1", "chat"),
        ("$chat:x", "chat"),
        ("$news", None),
        ("$$chat:x", "$chat"),
        (":x", ""),
        ("$:x", ""),
        ("#4:5", "#4"),
        ("", None),
    ],
)
def test_the_namespace_is_what_stands_before_the_first_colon(channel, namespace):
    assert namespace_of(channel) == namespace


def test_every_option_of_the_model_is_an_option_of_the_snapshot():
    columns = {field.name for field in Namespace._meta.local_concrete_fields}

    assert {field.name for field in fields(ChannelOptions)} == columns - {"id", "name"}


@pytest.mark.rule("option-defaults-off")
def test_the_defaults_of_the_model_are_those_of_the_snapshot(demo):
    Namespace.objects.create(name="plain")

    assert snapshot.load().namespaces["plain"] == ChannelOptions()
    assert snapshot.load().namespaces["demo"] == ChannelOptions(history_size=10, history_ttl=60)


@pytest.mark.rule("name-namespace-without-dollar")
def test_options_follow_the_namespace_of_a_channel(demo):
    loaded = snapshot.load()

    assert loaded.options_of("demo:clock").has_history
    assert loaded.options_of("$demo:clock").has_history
    assert loaded.options_of("clock") == ChannelOptions()


@pytest.mark.rule("name-without-namespace")
def test_channels_without_a_namespace_have_the_options_of_the_empty_name():
    Namespace.objects.create(name="", presence=True)

    assert snapshot.load().options_of("news").presence


@pytest.mark.rule("name-namespace-unknown")
@pytest.mark.parametrize("channel", ["other:x", "Demo:x", ":x", "$:x", "demo :x", "demo\0:x"])
def test_a_namespace_that_is_not_configured_is_unknown(demo, channel):
    Namespace.objects.create(name="", presence=True)

    with pytest.raises(UnknownChannel):
        snapshot.load().options_of(channel)


@pytest.mark.rule("option-history-both")
@pytest.mark.parametrize(
    ("size", "ttl", "has_history"), [(0, 0, False), (1, 0, False), (0, 1, False), (1, 1, True)]
)
def test_history_needs_both(size, ttl, has_history):
    assert ChannelOptions(history_size=size, history_ttl=ttl).has_history is has_history


def test_api_keys_are_loaded_without_what_is_not_needed(api_key):
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    ApiKey.objects.update(expires_at=moment, scopes=["publish", 5, "history:*"])

    (entry,) = snapshot.load().api_keys

    assert entry.name == "reports"
    assert entry.key_hash == api_key.key_hash
    assert entry.scopes == ("publish", "history:*")
    assert entry.expires_at == moment


@pytest.mark.parametrize("scopes", ["publish", {"publish": 1}, 5, Value(None, JSONField())])
def test_scopes_that_are_no_list_allow_nothing(api_key, scopes):
    ApiKey.objects.update(scopes=scopes)

    assert snapshot.load().api_keys[0].scopes == ()


def test_an_unchanged_snapshot_is_handed_back_after_one_query(demo, django_assert_num_queries):
    known = snapshot.load()

    with django_assert_num_queries(1):
        again = snapshot.load_if_changed(known)

    assert again is known


def test_nothing_known_is_loaded():
    assert snapshot.load_if_changed(None).version == version()


CHANGES = {
    "save": lambda: Namespace.objects.get().save(),
    "create": lambda: Namespace.objects.create(name="more"),
    "bulk create": lambda: Namespace.objects.bulk_create([Namespace(name="more")]),
    "queryset update": lambda: Namespace.objects.update(presence=True),
    "queryset delete": lambda: Namespace.objects.all().delete(),
    "raw delete": lambda: run("DELETE FROM realtime_namespace"),
    "raw update": lambda: run("UPDATE realtime_namespace SET history_size = 5"),
    "key created": lambda: ApiKey.create("another"),
    "key scopes": lambda: ApiKey.objects.update(scopes=["info"]),
    "key expiry": lambda: run("UPDATE realtime_apikey SET expires_at = NULL"),
    "key deleted": lambda: ApiKey.objects.all().delete(),
    "use and more": lambda: ApiKey.objects.update(last_used_at=None, name="renamed"),
}


def run(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_a_new_version(demo, api_key, change):
    known = snapshot.load()

    CHANGES[change]()

    assert version() > known.version
    assert snapshot.load_if_changed(known) is not known


def test_the_use_of_a_key_is_no_change(api_key):
    known = snapshot.load()

    ApiKey.objects.update(last_used_at=datetime(2030, 1, 1, tzinfo=UTC))

    assert snapshot.load_if_changed(known) is known


def test_a_change_that_is_rolled_back_is_none(demo):
    known = snapshot.load()

    with transaction.atomic():
        Namespace.objects.update(presence=True)
        transaction.set_rollback(True)

    assert snapshot.load_if_changed(known) is known


def test_a_lost_version_does_not_come_back_with_other_contents(demo):
    known = snapshot.load()
    SnapshotVersion.objects.all().delete()
    while time.time() * 1000 <= known.version + 1:
        pass  # several changes in one millisecond run ahead of the clock by as many

    Namespace.objects.update(presence=True)

    assert version() > known.version


def test_a_version_ahead_of_the_clock_goes_on_from_there(demo):
    SnapshotVersion.objects.update(number=2**52)

    Namespace.objects.update(presence=True)

    assert version() == 2**52 + 1


def test_an_empty_version_table_is_version_0():
    SnapshotVersion.objects.all().delete()

    assert snapshot.load().version == 0


def test_making_the_triggers_again_does_no_harm(demo):
    make_triggers(apps.get_app_config("realtime"), using="default")
    known = snapshot.load()

    Namespace.objects.update(presence=True)

    assert version() > known.version


def test_a_remade_table_gets_its_triggers_with_the_next_migrate(demo):
    for event in ("insert", "update", "delete"):
        run(
            f"DROP TRIGGER realtime_namespace_{event}_is_a_new_version"
            + (" ON realtime_namespace" if connection.vendor == "postgresql" else "")
        )
    known = snapshot.load()
    Namespace.objects.update(presence=True)
    assert snapshot.load_if_changed(known) is known

    call_command("migrate", verbosity=0)

    assert snapshot.load_if_changed(known).options_of("demo:x").presence
    known = snapshot.load()
    Namespace.objects.update(presence=False)
    assert snapshot.load_if_changed(known) is not known


@pytest.mark.django_db(transaction=True)
def test_the_way_back_through_the_migrations_keeps_the_triggers(demo):
    try:
        call_command("migrate", "realtime", "0001", verbosity=0)
        known = version()
        Namespace.objects.filter(name="demo").update(presence=True)
        assert version() > known
    finally:
        call_command("migrate", "realtime", verbosity=0)

    known = version()
    Namespace.objects.update(history_meta_ttl=3600)
    assert version() > known


def test_a_snapshot_cannot_be_changed(demo):
    loaded = snapshot.load()

    with pytest.raises(TypeError):
        loaded.namespaces["demo"] = ChannelOptions()


def test_a_server_without_configuration_knows_no_namespace():
    assert Snapshot().options_of("news") == ChannelOptions()
    with pytest.raises(UnknownChannel):
        Snapshot().options_of("demo:x")


# Parts of other apps ---------------------------------------------------------------------------


@pytest.fixture
def part(monkeypatch):
    """Have snapshots hold the users' names, as an app would that configures by them."""
    monkeypatch.setattr("realtime.snapshot._parts", {})
    users = get_user_model()
    snapshot.register_part(
        "names",
        lambda: tuple(users.objects.order_by("pk").values_list("username", flat=True)),
        watched=(users,),
    )
    make_triggers(apps.get_app_config("auth"), using="default")
    return users


def test_a_snapshot_holds_what_an_app_registers(part):
    part.objects.create(username="ada")

    assert snapshot.load().parts == {"names": ("ada",)}


def test_a_change_of_what_an_app_watches_makes_a_new_snapshot(part):
    part.objects.create(username="ada")
    known = snapshot.load()
    assert snapshot.load_if_changed(known) is known

    part.objects.update(username="grace")

    assert snapshot.load_if_changed(known).parts == {"names": ("grace",)}


def test_an_app_that_registers_nothing_gets_no_triggers(monkeypatch):
    monkeypatch.setattr("realtime.snapshot._parts", {})
    make_triggers(apps.get_app_config("auth"), using="default")
    known = snapshot.load()

    get_user_model().objects.create(username="ada")

    assert snapshot.load_if_changed(known) is known
