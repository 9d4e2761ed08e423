"""Database triggers that give each change of what is configured a new snapshot version.

Triggers, because a version written by ``save()`` would miss ``QuerySet.update()``, raw SQL and
fixtures. Made after every ``migrate`` and not by a migration, because SQLite drops a table's
triggers whenever Django remakes the table. Called by ``apps.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.db import NotSupportedError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from realtime.models import SnapshotVersion
from realtime.snapshot import watched_models

# Written with every use of a key; not a change of what the key may do.
_UNWATCHED_FIELDS: Final = frozenset({"last_used_at"})
_NAME: Final = "{table}_{event}_is_a_new_version"

# The clock keeps a number from coming back with other contents after the row was lost to a flush
# or reset by a restored backup.
_BUMP: Final = (
    "INSERT INTO {version} (id, number) VALUES (1, {now}) ON CONFLICT (id) DO UPDATE "
    "SET number = CASE WHEN {version}.number < {now} THEN {now} ELSE {version}.number + 1 END"
)
_NOW: Final = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}


def make_triggers(sender: AppConfig, *, using: str, **_: Any) -> None:
    """Make an app's triggers anew, and a new version, for changes while they were missing.

    Raises:
        NotSupportedError: The database is neither SQLite nor PostgreSQL.
    """
    models = [each for each in watched_models() if each._meta.app_label == sender.label]
    if not models:
        return
    connection = connections[using]
    tables = [model._meta.db_table for model in models]
    with connection.cursor() as cursor:
        if not are_there(connection, [SnapshotVersion._meta.db_table, *tables]):
            return  # migrated back to nothing, or to another database
        quoted_version = connection.ops.quote_name(SnapshotVersion._meta.db_table)
        bump = _BUMP.format(version=quoted_version, now=_NOW[connection.vendor])
        cursor.execute(bump)
        for table in tables:
            make = _on_sqlite if connection.vendor == "sqlite" else _on_postgresql
            events = _events(connection, cursor, table)
            for statement in make(connection, table, bump, events):
                cursor.execute(statement)


def are_there(connection: BaseDatabaseWrapper, tables: Sequence[str]) -> bool:
    """Tell whether a database has all these tables.

    Raises:
        NotSupportedError: It does, and it is neither SQLite nor PostgreSQL.
    """
    if not set(connection.introspection.table_names()).issuperset(tables):
        return False
    if connection.vendor not in _NOW:
        raise NotSupportedError(
            f"realtime needs SQLite or PostgreSQL, not {connection.display_name}: "
            "set DATABASES accordingly"
        )
    return True


def _on_sqlite(
    connection: BaseDatabaseWrapper, table: str, bump: str, events: Mapping[str, str]
) -> list[str]:
    statements = []
    for event, action in events.items():
        trigger = connection.ops.quote_name(_NAME.format(table=table, event=event))
        statements += [
            f"DROP TRIGGER IF EXISTS {trigger}",
            f"CREATE TRIGGER {trigger} AFTER {action} ON {connection.ops.quote_name(table)} "
            f"BEGIN {bump}; END",
        ]
    return statements


def _on_postgresql(
    connection: BaseDatabaseWrapper, table: str, bump: str, events: Mapping[str, str]
) -> list[str]:
    function = connection.ops.quote_name("realtime_bump_snapshot_version")
    statements = [
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql "
        f"AS $bump$ BEGIN {bump}; RETURN NULL; END $bump$"
    ]
    for event, action in {**events, "truncate": "TRUNCATE"}.items():
        trigger = connection.ops.quote_name(_NAME.format(table=table, event=event))
        statements += [
            f"DROP TRIGGER IF EXISTS {trigger} ON {connection.ops.quote_name(table)}",
            f"CREATE TRIGGER {trigger} AFTER {action} ON {connection.ops.quote_name(table)} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()",
        ]
    return statements


def _events(connection: BaseDatabaseWrapper, cursor: Any, table: str) -> dict[str, str]:
    # The columns that are there: after a migration back, the model has more of them.
    watched = [
        connection.ops.quote_name(column.name)
        for column in connection.introspection.get_table_description(cursor, table)
        if column.name not in _UNWATCHED_FIELDS
    ]
    return {
        "insert": "INSERT",
        "update": f"UPDATE OF {', '.join(watched)}",
        "delete": "DELETE",
    }
