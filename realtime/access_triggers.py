"""Database triggers that note each change of what a user may do, as rows of ``AccessChange``.

On the tables of users, groups and permissions, whatever models a project has for them; made when
``triggers.py`` makes its own, and for the same reasons. Called by ``apps.py``. What a failed
migration took away, ``make_missing_triggers`` brings back.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.apps import AppConfig
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import close_old_connections, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import truncate_name
from django.db.models import ManyToManyField, Model

from realtime.models import AccessChange
from realtime.triggers import are_there

# Of a user everything may count, but for what every login writes.
_IGNORED_FIELD: Final = "last_login"
_PREFIX: Final = "realtime_access_"
_FUNCTION: Final = "realtime_note_access_change"
_NAME_MAX_LENGTH: Final = 63  # of PostgreSQL
_EVERYBODY: Final = ""
_ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "INSERT": ("NEW",),
    "UPDATE": ("OLD", "NEW"),
    "DELETE": ("OLD",),
}


class _Mark(NamedTuple):
    """A table and an event after which a change is noted.

    Attributes:
        user_column: Whose user it concerns; ``_EVERYBODY`` if that cannot be told.
        ignored_column: Of an UPDATE that counts only if another column than this has another value;
            None where all count.
    """

    table: str
    event: str
    user_column: str
    ignored_column: str | None = None


# Making them -------------------------------------------------------------------------------------


def make_access_triggers(sender: AppConfig, *, using: str, **_: Any) -> None:
    """Make the triggers on users, groups and permissions anew, and note what they missed.

    Raises:
        NotSupportedError: The database is neither SQLite nor PostgreSQL.
    """
    connection = connections[using]
    marks = _marks(connection)
    if not marks:
        return
    with transaction.atomic(using=using), connection.cursor() as cursor:
        _wait_for_turn(connection, cursor)
        _drop(connection, cursor)
        _make(connection, cursor, marks)


def missing_triggers(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the names of the triggers that should be in a database and are not, or are disabled.

    Empty where there can be none, because the tables are not there.

    Raises:
        django.db.Error: The database did not answer.
    """
    return [_name(mark) for mark in _missing(connection)]


def make_missing_triggers() -> list[str]:
    """Make those triggers that are missing, note what they missed, and return their names.

    For threads; with nothing missing it only reads. It never waits long for a lock, so that nobody
    waits long behind it.

    Raises:
        django.db.Error: The database did not answer, was busy, or does not let this user do it.
    """
    close_old_connections()
    try:
        connection = connections[router.db_for_write(AccessChange)]
        if not _missing(connection):
            return []
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET LOCAL lock_timeout = '1s'")
            _wait_for_turn(connection, cursor)
            marks = _missing(connection)  # another process may have had the same idea
            _make(connection, cursor, marks)
        return [_name(mark) for mark in marks]
    finally:
        close_old_connections()


def drop_access_triggers(
    sender: AppConfig, *, using: str, plan: Sequence[Any] | None = None, **_: Any
) -> None:
    """Drop the triggers if they would stand in the way of the migrations to come, and only then.

    Should those fail, nothing makes them again but ``make_missing_triggers``.
    """
    connection = connections[using]
    if any(_is_hindered(connection, migration) for migration, _ in plan or ()):
        with transaction.atomic(using=using), connection.cursor() as cursor:
            _drop(connection, cursor)


def _is_hindered(connection: BaseDatabaseWrapper, migration: Any) -> bool:
    if connection.vendor not in ("sqlite", "postgresql"):
        return False
    changes = AccessChange._meta
    if migration.app_label == changes.app_label:
        # A trigger that cannot write its row refuses the change; SQLite renames no table then.
        return any(
            operation.references_model(changes.object_name, changes.app_label)
            for operation in migration.operations
        )
    # SQLite drops no column that a trigger names. On PostgreSQL none is named.
    users = [model._meta.app_label for model, _ in _user_models()]
    return connection.vendor == "sqlite" and migration.app_label in users


def _wait_for_turn(connection: BaseDatabaseWrapper, cursor: Any) -> None:
    """Have one process at a time make triggers, until its transaction ends.

    The row is what everybody is to know after it: that changes may have been missed. To write is
    also the turn on SQLite.
    """
    if connection.vendor == "postgresql":
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [_FUNCTION])
    cursor.execute(_note(connection, repr(_EVERYBODY)))


def _missing(connection: BaseDatabaseWrapper) -> list[_Mark]:
    marks = _marks(connection)
    there = _there(connection) if marks else set()
    return [mark for mark in marks if (_name(mark), mark.table) not in there]


def _there(connection: BaseDatabaseWrapper) -> set[tuple[str, str]]:
    """Return the names of the triggers that work, each with its table."""
    query = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
    if connection.vendor == "postgresql":
        query = (
            "SELECT tgname, relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
            "WHERE tgenabled IN ('O', 'A') AND pg_table_is_visible(tgrelid)"
        )
    with connection.cursor() as cursor:
        cursor.execute(query)
        return set(cursor.fetchall())


def _drop(connection: BaseDatabaseWrapper, cursor: Any) -> None:
    if connection.vendor == "postgresql":
        cursor.execute(f"DROP FUNCTION IF EXISTS {_FUNCTION}() CASCADE")  # and all that call it
        return
    cursor.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND substr(name, 1, %s) = %s",
        [len(_PREFIX), _PREFIX],
    )
    for (name,) in cursor.fetchall():
        cursor.execute(f"DROP TRIGGER {connection.ops.quote_name(name)}")


def _make(connection: BaseDatabaseWrapper, cursor: Any, marks: Sequence[_Mark]) -> None:
    make = _note_on_sqlite if connection.vendor == "sqlite" else _note_on_postgresql
    for statement in make(connection, cursor, marks):
        cursor.execute(statement)


# What is marked ----------------------------------------------------------------------------------


def _marks(connection: BaseDatabaseWrapper) -> list[_Mark]:
    """Return what is to be marked in a database; nothing if it lacks some of the tables."""
    marks = list(_all_marks())
    tables = {mark.table: None for mark in marks}  # each once, in this order
    if not marks or not are_there(connection, [AccessChange._meta.db_table, *tables]):
        return []
    if connection.vendor == "postgresql":
        marks += [_Mark(table, "TRUNCATE", _EVERYBODY) for table in tables]
    return marks


def _all_marks() -> Iterator[_Mark]:
    models = _user_models()
    if not models:
        return
    for model, key in models:
        table, ignored = model._meta.db_table, _ignored_column(model)
        yield _Mark(table, "UPDATE", key, ignored)
        yield _Mark(table, "DELETE", key)
    users = models[0][0]
    for name in ("groups", "user_permissions"):
        field = _many_to_many(users, name)
        if field is not None:
            yield from _marks_of_links(field, field.m2m_column_name())
    groups = _many_to_many(users, "groups")
    if groups is not None:
        yield from _marks_of_groups(groups.related_model)


def _user_models() -> list[tuple[type[Model], str]]:
    """Return the models whose tables hold a user, its own first, with the columns of its key.

    A second parent may have a key of its own, which is nobody's name.
    """
    try:
        users: type[Model] = get_user_model()._meta.concrete_model or get_user_model()
    except ImproperlyConfigured:
        return []  # a project without users
    keys = {users: users._meta.pk.column or ""}
    key: Any = users._meta.pk
    while key.remote_field is not None and key.remote_field.parent_link:
        key = key.remote_field.model._meta.pk
        keys[key.model] = key.column or ""
    others = [model for model in users._meta.get_parent_list() if model not in keys]
    return [*keys.items(), *((model, _EVERYBODY) for model in others)]


def _ignored_column(model: type[Model]) -> str:
    for field in model._meta.local_concrete_fields:
        if field.name == _IGNORED_FIELD:
            return field.column or ""
    return ""


def _many_to_many(model: type[Model], name: str) -> "ManyToManyField[Any, Any] | None":
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, ManyToManyField) else None


def _marks_of_links(field: "ManyToManyField[Any, Any]", user_column: str) -> Iterator[_Mark]:
    for event in _ROWS:
        yield _Mark(field.m2m_db_table(), event, user_column)


def _marks_of_groups(groups: type[Model]) -> Iterator[_Mark]:
    # Of everybody: to tell who is in a group would write a row for each of them.
    for event in ("UPDATE", "DELETE"):
        yield _Mark(groups._meta.db_table, event, _EVERYBODY)
    permissions = _many_to_many(groups, "permissions")
    if permissions is not None:
        yield from _marks_of_links(permissions, _EVERYBODY)


# Their text --------------------------------------------------------------------------------------


def _note(connection: BaseDatabaseWrapper, user: str) -> str:
    quote = connection.ops.quote_name
    table = quote(AccessChange._meta.db_table)
    return f"INSERT INTO {table} ({quote('user')}, {quote('model')}) VALUES ({user}, '')"


def _name(mark: _Mark) -> str:
    return truncate_name(f"{_PREFIX}{mark.table}_{mark.event.lower()}", _NAME_MAX_LENGTH)


def _note_on_sqlite(
    connection: BaseDatabaseWrapper, cursor: Any, marks: Sequence[_Mark]
) -> Iterator[str]:
    quote = connection.ops.quote_name
    for mark in marks:
        users = [repr(_EVERYBODY)]
        if mark.user_column:
            column = quote(mark.user_column)
            users = [f"CAST({row}.{column} AS TEXT)" for row in _ROWS[mark.event]]
        notes = " ".join(f"{_note(connection, user)};" for user in users)
        name, condition = quote(_name(mark)), _differs_on_sqlite(connection, cursor, mark)
        yield f"DROP TRIGGER IF EXISTS {name}"  # of a table that has got another name
        yield (
            f"CREATE TRIGGER {name} AFTER {mark.event} ON {quote(mark.table)} {condition} "
            f"BEGIN {notes} END"
        )


def _differs_on_sqlite(connection: BaseDatabaseWrapper, cursor: Any, mark: _Mark) -> str:
    if mark.ignored_column is None:
        return ""
    # The columns that are there: after a migration back, the model has more of them.
    columns = [
        connection.ops.quote_name(column.name)
        for column in connection.introspection.get_table_description(cursor, mark.table)
        if column.name != mark.ignored_column
    ]
    return f"WHEN ({' OR '.join(f'OLD.{each} IS NOT NEW.{each}' for each in columns)})"


def _note_on_postgresql(
    connection: BaseDatabaseWrapper, cursor: Any, marks: Sequence[_Mark]
) -> Iterator[str]:
    # No trigger names a column, but as a text: PostgreSQL would change no type of one that is
    # named, and would drop the trigger with it. A key that has got another name is everybody.
    old, new = (
        _note(connection, f"COALESCE(to_jsonb({row}) ->> TG_ARGV[0], '')") for row in ("OLD", "NEW")
    )
    everybody = _note(connection, repr(_EVERYBODY))
    yield (
        f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql "
        "AS $note$ BEGIN "
        f"IF TG_LEVEL = 'STATEMENT' THEN {everybody}; RETURN NULL; END IF; "
        "IF TG_NARGS = 2 AND to_jsonb(OLD) - TG_ARGV[1] = to_jsonb(NEW) - TG_ARGV[1] "
        "THEN RETURN NULL; END IF; "
        f"IF TG_OP <> 'INSERT' THEN {old}; END IF; "
        f"IF TG_OP <> 'DELETE' THEN {new}; END IF; "
        "RETURN NULL; END $note$"
    )
    quote = connection.ops.quote_name
    for mark in marks:
        arguments = [mark.user_column]
        if mark.ignored_column is not None:
            arguments.append(mark.ignored_column)
        level = "ROW" if mark.user_column or len(arguments) > 1 else "STATEMENT"
        yield (
            f"CREATE OR REPLACE TRIGGER {quote(_name(mark))} AFTER {mark.event} "
            f"ON {quote(mark.table)} FOR EACH {level} "
            f"EXECUTE FUNCTION {_FUNCTION}({', '.join(map(repr, arguments))})"
        )
