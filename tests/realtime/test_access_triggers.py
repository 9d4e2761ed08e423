"""What notices a change of access: triggers through failed migrations, and what rules watch."""

# ruff: noqa: DJ008  # nobody reads the names of these models' objects

import contextlib
import time
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.core.management.sql import emit_pre_migrate_signal
from django.db import OperationalError, connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.test.utils import isolate_apps
from django.utils import timezone

from realtime import access_triggers
from realtime.access_triggers import (
    make_access_triggers,
    make_missing_triggers,
    missing_triggers,
)
from realtime.handlers import channel_rule
from realtime.models import AccessChange

# Triggers are made and dropped in transactions of their own.
pytestmark = pytest.mark.django_db(transaction=True)

EVERYBODY = ""


def run(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)


def noted():
    """Return whom the rows name, and delete them."""
    users = set(AccessChange.objects.values_list("user", flat=True))
    AccessChange.objects.all().delete()
    return users


def make_triggers():
    make_access_triggers(apps.get_app_config("realtime"), using="default")


def update(user, **values):
    type(user).objects.filter(pk=user.pk).update(**values)


@pytest.fixture
def ada(no_rules):
    ada = get_user_model().objects.create_user("ada")
    ada.groups.add(Group.objects.create(name="editors"))
    noted()
    return ada


# Migrations -------------------------------------------------------------------------------------


@pytest.fixture
def triggers():
    """Have the triggers all there afterwards, whatever the test does to them."""
    yield
    make_triggers()
    AccessChange.objects.all().delete()


@pytest.fixture
def failing_migration(tmp_path, monkeypatch, settings):
    """Have an app whose only migration raises."""
    package = tmp_path / "failing_migrations"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "0001_fails.py").write_text(
        "from django.db import migrations\n\n\n"
        "def fail(apps, editor):\n"
        "    raise ValueError('as it must')\n\n\n"
        "class Migration(migrations.Migration):\n"
        "    operations = [migrations.RunPython(fail)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"messages": "failing_migrations"}


def migration(app, *operations):
    migration = migrations.Migration("9001_of_a_test", app)
    migration.operations = operations
    return migration


def apply(migration, state):
    """Apply a migration as ``migrate`` does, but say nothing of its end, as if the next failed."""
    emit_pre_migrate_signal(0, False, "default", plan=[(migration, False)])
    with connection.schema_editor() as editor:
        return migration.apply(state, editor)


def test_a_migration_that_raises_leaves_all_triggers(ada, triggers, failing_migration):
    with pytest.raises(ValueError, match="as it must"):
        call_command("migrate", "messages", verbosity=0)

    assert missing_triggers(connection) == []
    update(ada, is_active=False)
    assert noted() == {str(ada.pk)}


def test_a_migration_of_the_engine_leaves_them_too_if_it_is_not_of_the_changes(ada, triggers):
    of_another_table = migration("realtime", migrations.AlterModelOptions("namespace", {}))

    emit_pre_migrate_signal(0, False, "default", plan=[(of_another_table, False)])

    assert missing_triggers(connection) == []


@pytest.mark.parametrize("is_nullable", [True, False])  # SQLite remakes the table for the one
def test_a_column_of_users_comes_and_goes_with_triggers_on_them(ada, triggers, is_nullable):
    role = models.CharField(max_length=9, null=is_nullable, default=None if is_nullable else "")
    without = MigrationLoader(connection).project_state()
    added = migration("auth", migrations.AddField("user", "role", role))
    wider = migration("auth", migrations.AlterField("user", "role", models.TextField(null=True)))
    removed = migration("auth", migrations.RemoveField("user", "role"))
    has_role = apply(added, without.clone())
    try:
        make_triggers()
        noted()

        run("UPDATE auth_user SET role = 'chief'")
        assert noted() == {str(ada.pk)}

        has_role = apply(wider, has_role)
        make_missing_triggers()
    finally:
        apply(removed, has_role)
    noted()
    run("UPDATE auth_user SET is_active = NOT is_active")  # nothing is in its way
    make_missing_triggers()
    assert missing_triggers(connection) == []
    noted()
    update(ada, is_staff=True)
    assert noted() == {str(ada.pk)}


def test_missing_triggers_are_told_and_made_again_with_a_note_for_everybody(ada, triggers):
    access_triggers._drop(connection, connection.cursor())
    update(ada, is_active=False)
    assert noted() == set()

    missing = missing_triggers(connection)
    assert "realtime_access_auth_user_update" in missing
    assert "realtime_access_auth_group_permissions_delete" in missing

    assert make_missing_triggers() == missing
    assert missing_triggers(connection) == []
    assert noted() == {EVERYBODY}
    update(ada, is_active=True)
    assert noted() == {str(ada.pk)}


def test_a_single_missing_trigger_is_made_and_no_other(ada, triggers, monkeypatch):
    name = "realtime_access_auth_user_update"
    on = "" if connection.vendor == "sqlite" else " ON auth_user"
    run(f"DROP TRIGGER {name}{on}")

    with monkeypatch.context() as patched:
        patched.setattr(access_triggers, "_drop", None)  # which would drop the others
        assert make_missing_triggers() == [name]

    assert missing_triggers(connection) == []


def test_where_nothing_is_missing_nothing_is_written(ada):
    assert make_missing_triggers() == []
    assert noted() == set()


def test_a_trigger_on_a_table_that_has_another_name_now_is_missing(ada, triggers):
    run("ALTER TABLE auth_user_groups RENAME TO more_groups")
    run("CREATE TABLE auth_user_groups AS SELECT * FROM more_groups")
    try:
        assert len(make_missing_triggers()) == (3 if connection.vendor == "sqlite" else 4)
        noted()

        run("DELETE FROM auth_user_groups")

        assert noted() == {str(ada.pk)}
    finally:
        run("DROP TABLE auth_user_groups")
        run("ALTER TABLE more_groups RENAME TO auth_user_groups")


def test_without_the_table_of_changes_no_trigger_is_missing(ada, triggers):
    try:
        call_command("migrate", "realtime", "0003", verbosity=0)

        assert missing_triggers(connection) == []
        update(ada, is_active=False)
    finally:
        call_command("migrate", "realtime", verbosity=0)


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="SQLite can disable no trigger")
def test_a_disabled_trigger_is_missing(ada, triggers):
    run("ALTER TABLE auth_user DISABLE TRIGGER realtime_access_auth_user_update")

    assert make_missing_triggers() == ["realtime_access_auth_user_update"]

    update(ada, is_active=False)
    assert noted() == {EVERYBODY, str(ada.pk)}


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="SQLite locks no single table")
def test_making_what_is_missing_does_not_wait_long_for_who_writes(ada, triggers):
    run("DROP TRIGGER realtime_access_auth_user_update ON auth_user")
    other = connection.copy()
    with contextlib.closing(other):
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("UPDATE auth_user SET is_staff = true")

        started_at = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            make_missing_triggers()
        assert time.monotonic() - started_at < 3

    assert make_missing_triggers() == ["realtime_access_auth_user_update"]


# Columns of users -------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["username", "email", "first_name", "last_name"])
def test_every_column_of_a_user_counts(ada, column):
    update(ada, **{column: "another"})

    assert noted() == {str(ada.pk)}


def test_the_last_login_does_not_count_nor_what_stays_as_it_is(ada):
    update(ada, last_login=timezone.now())
    update(ada, email=ada.email, last_login=timezone.now())

    assert noted() == set()


@pytest.fixture
def make_tables():
    """Return a way to make the tables of models, which are there until the test is over."""
    made = []

    def make_tables(*models):
        with connection.schema_editor() as editor:
            for model in models:
                editor.create_model(model)
                made.append(model)

    yield make_tables
    with connection.schema_editor() as editor:
        for model in reversed(made):
            editor.delete_model(model)


@pytest.fixture
def inherited_user(triggers, make_tables, monkeypatch):
    """Have users who inherit a tenant's row, and a badge's, which has another key."""
    with isolate_apps("django.contrib.humanize"):

        class Tenant(models.Model):
            tenant = models.TextField()

            class Meta:
                app_label = "humanize"

        class Badge(models.Model):
            number = models.AutoField(primary_key=True)
            color = models.TextField()

            class Meta:
                app_label = "humanize"

        class Member(Tenant, Badge, AbstractBaseUser):
            name = models.TextField()

            class Meta:
                app_label = "humanize"

        make_tables(Tenant, Badge, Member)
        monkeypatch.setattr(access_triggers, "get_user_model", lambda: Member)
        make_triggers()
        Badge.objects.create(color="nobody's")  # so that the numbers are not the keys
        yield Member.objects.create(tenant="a", color="red")
        monkeypatch.undo()


def test_a_column_that_a_user_inherits_counts_by_the_users_key(inherited_user):
    user = inherited_user
    assert user.pk != user.number
    noted()

    update(user, tenant="b")
    assert noted() == {str(user.pk)}

    update(user, name="Ada")
    assert noted() == {str(user.pk)}

    update(user, color="green")  # of a row that does not say whose it is
    assert noted() == {EVERYBODY}

    update(user, color="green", tenant="b", last_login=timezone.now())
    assert noted() == set()


# What rules watch -------------------------------------------------------------------------------


@pytest.fixture
def shop(no_rules, make_tables):
    """Return models of which a rule watches the stores, with kin of theirs."""
    with isolate_apps("django.contrib.humanize"):

        class Place(models.Model):
            name = models.TextField()

            class Meta:
                app_label = "humanize"

        class Member(models.Model):
            name = models.TextField()

            class Meta:
                app_label = "humanize"

        class Store(Place):
            members = models.ManyToManyField(Member, through="Membership")
            fans = models.ManyToManyField(Member, related_name="+")

            class Meta:
                app_label = "humanize"

        class Membership(models.Model):
            store = models.ForeignKey(Store, models.CASCADE)
            member = models.ForeignKey(Member, models.CASCADE)

            class Meta:
                app_label = "humanize"

        class Outlet(Store):
            class Meta:
                app_label = "humanize"

        class AnyStore(Store):
            class Meta:
                app_label = "humanize"
                proxy = True

        channel_rule("stores:{pk:int}", watches=[Store])(lambda: True)

        class LateStore(Outlet):
            class Meta:
                app_label = "humanize"
                proxy = True

        made = (Place, Member, Store, Membership, Outlet)
        make_tables(*made)
        noted()
        yield SimpleNamespace(**{each.__name__: each for each in (*made, AnyStore, LateStore)})


def rows():
    """Return the rows, and delete them."""
    found = set(AccessChange.objects.values_list("user", "model"))
    AccessChange.objects.all().delete()
    return found


STORE = {(EVERYBODY, "humanize.Store")}


@pytest.mark.parametrize("name", ["Store", "AnyStore", "Outlet", "LateStore", "Place"])
def test_a_watched_object_is_noticed_whichever_model_it_is_changed_with(shop, name):
    outlet = shop.Outlet.objects.create(name="a")
    rows()
    seen_as = getattr(shop, name)

    seen_as.objects.get(pk=outlet.pk).save()
    assert rows() == STORE

    seen_as.objects.get(pk=outlet.pk).delete()
    assert rows() == STORE


def test_a_queryset_of_a_proxy_that_deletes_is_noticed(shop):
    shop.Store.objects.create(name="a")
    rows()

    shop.AnyStore.objects.all().delete()

    assert rows() == STORE


def test_rows_of_a_relation_with_a_model_of_its_own_are_noticed(shop):
    store, member = shop.Store.objects.create(name="a"), shop.Member.objects.create(name="b")
    rows()

    membership = shop.Membership.objects.create(store=store, member=member)
    assert rows() == STORE

    membership.delete()
    assert rows() == STORE

    store.members.add(member)
    assert rows() == STORE

    store.fans.add(member)
    assert rows() == STORE


def test_what_is_no_kin_of_a_watched_object_is_not_noticed(shop):
    shop.Member.objects.create(name="a").delete()

    assert rows() == set()


def test_a_relation_that_is_watched_itself_is_noticed_for_both(shop):
    channel_rule("memberships:{pk:int}", watches=[shop.Membership])(lambda: True)
    store, member = shop.Store.objects.create(name="a"), shop.Member.objects.create(name="b")
    rows()

    shop.Membership.objects.create(store=store, member=member)

    assert rows() == {*STORE, (EVERYBODY, "humanize.Membership")}


def test_a_watched_user_is_noticed_for_everybody_because_others_may_depend_on_it(ada):
    channel_rule("profiles:{pk:int}", watches=[get_user_model()])(lambda: True)

    ada.save()
    assert rows() == {(EVERYBODY, "auth.User")}

    ada.save(update_fields=["last_login"])
    assert rows() == set()
