"""Database triggers that note each change of what a user may do, as rows of ``AccessChange``.

On the tables of users, groups and permissions, whatever models a project has for them; made when
``triggers.py`` makes its own, and for the same reasons. Called by ``apps.py``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.apps import AppConfig
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import truncate_name
from django.db.models import Field, ManyToManyField, Model

from realtime.models import AccessChange
from realtime.triggers import are_there

# What says that a user may do less than before. The time of the last login, which every login
# writes, does not.
_USER_FIELDS: Final = ("is_active", "is_staff", "is_superuser", "password")
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
        columns: Of an UPDATE that counts only if one of these has another value.
    """

    table: str
    event: str
    user_column: str
    columns: tuple[str, ...] = ()


def make_access_triggers(sender: AppConfig, *, using: str, **_: Any) -> None:
    """Make the triggers on users, groups and permissions anew, and note what they missed.

    Raises:
        NotSupportedError: The database is neither SQLite nor PostgreSQL.
    """
    connection = connections[using]
    marks = list(_marks())
    changes = AccessChange._meta.db_table
    if not marks or not are_there(connection, [changes, *(mark.table for mark in marks)]):
        return
    with transaction.atomic(using=using), connection.cursor() as cursor:
        _drop(connection, cursor)
        make = _note_on_sqlite if connection.vendor == "sqlite" else _note_on_postgresql
        for statement in make(connection, marks):
            cursor.execute(statement)
        cursor.execute(_note(connection, "''"))


def drop_access_triggers(
    sender: AppConfig, *, using: str, plan: Sequence[Any] | None = None, **_: Any
) -> None:
    """Let migrations change any table: a trigger would stand in the way of some on SQLite.

    On the way back to before there was a table of changes, it would stand in the way of users.
    """
    connection = connections[using]
    if plan and connection.vendor in ("sqlite", "postgresql"):
        with transaction.atomic(using=using), connection.cursor() as cursor:
            _drop(connection, cursor)


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


def _marks() -> Iterator[_Mark]:
    try:
        users: type[Model] = get_user_model()._meta.concrete_model or get_user_model()
    except ImproperlyConfigured:
        return  # a project without users
    for table, columns, key in _user_tables(users):
        if columns:
            yield _Mark(table, "UPDATE", key, columns)
        yield _Mark(table, "DELETE", key)
    for name in ("groups", "user_permissions"):
        field = _many_to_many(users, name)
        if field is not None:
            yield from _marks_of_links(field, field.m2m_column_name())
    groups = _many_to_many(users, "groups")
    if groups is not None:
        yield from _marks_of_groups(groups.related_model)


def _user_tables(users: type[Model]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Give the tables of a user, which may inherit some, with their watched columns and key."""
    owners = {users: list[str]()}
    for name in _USER_FIELDS:
        try:
            field = users._meta.get_field(name)
        except FieldDoesNotExist:
            continue
        if isinstance(field, Field) and field.column:
            owners.setdefault(field.model, []).append(field.column)
    for owner, columns in owners.items():
        yield owner._meta.db_table, tuple(columns), owner._meta.pk.column or ""


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


def _note(connection: BaseDatabaseWrapper, user: str) -> str:
    quote = connection.ops.quote_name
    table = quote(AccessChange._meta.db_table)
    return f"INSERT INTO {table} ({quote('user')}, {quote('model')}) VALUES ({user}, '')"


def _trigger_of(connection: BaseDatabaseWrapper, mark: _Mark) -> str:
    """Return how a trigger begins: its name, and after what it comes."""
    quote = connection.ops.quote_name
    name = truncate_name(f"{_PREFIX}{mark.table}_{mark.event.lower()}", _NAME_MAX_LENGTH)
    of = f" OF {', '.join(map(quote, mark.columns))}" if mark.columns else ""
    return f"CREATE TRIGGER {quote(name)} AFTER {mark.event}{of} ON {quote(mark.table)}"


def _condition(connection: BaseDatabaseWrapper, mark: _Mark, *, differs: str) -> str:
    columns = map(connection.ops.quote_name, mark.columns)
    changed = " OR ".join(f"OLD.{column} {differs} NEW.{column}" for column in columns)
    return f"WHEN ({changed})" if changed else ""


def _note_on_sqlite(connection: BaseDatabaseWrapper, marks: Sequence[_Mark]) -> Iterator[str]:
    for mark in marks:
        users = [_EVERYBODY]
        if mark.user_column:
            column = connection.ops.quote_name(mark.user_column)
            users = [f"CAST({row}.{column} AS TEXT)" for row in _ROWS[mark.event]]
        notes = " ".join(f"{_note(connection, user or repr(user))};" for user in users)
        condition = _condition(connection, mark, differs="IS NOT")
        yield f"{_trigger_of(connection, mark)} {condition} BEGIN {notes} END"


def _note_on_postgresql(connection: BaseDatabaseWrapper, marks: Sequence[_Mark]) -> Iterator[str]:
    old, new = (_note(connection, f"to_jsonb({row}) ->> TG_ARGV[0]") for row in ("OLD", "NEW"))
    everybody = _note(connection, repr(_EVERYBODY))
    yield (
        f"CREATE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $note$ BEGIN "
        f"IF TG_LEVEL = 'STATEMENT' THEN {everybody}; RETURN NULL; END IF; "
        f"IF TG_OP <> 'INSERT' THEN {old}; END IF; "
        f"IF TG_OP <> 'DELETE' THEN {new}; END IF; "
        "RETURN NULL; END $note$"
    )
    for mark in marks:
        condition = _condition(connection, mark, differs="IS DISTINCT FROM")
        level = "ROW" if mark.user_column else "STATEMENT"
        argument = repr(mark.user_column) if mark.user_column else ""
        yield (
            f"{_trigger_of(connection, mark)} FOR EACH {level} {condition} "
            f"EXECUTE FUNCTION {_FUNCTION}({argument})"
        )
    for table in {mark.table for mark in marks}:
        trigger = _trigger_of(connection, _Mark(table, "TRUNCATE", _EVERYBODY))
        yield f"{trigger} FOR EACH STATEMENT EXECUTE FUNCTION {_FUNCTION}()"
