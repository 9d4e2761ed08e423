"""The database of a URL, or SQLite in a file, with the options each of them needs.

Called by ``settings.py``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

# A transaction that reads first and writes later would fail at once with "database is locked"
# if it did not take the write lock at its start; WAL lets readers go on meanwhile.
_SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 5,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}
_POSTGRESQL = {
    "connect_timeout": 3,
    # Enough for every thread that asks at once, or slow handlers would keep rules waiting. A pool
    # grows by one connection at a time. What it tries in vain it tries again after pauses
    # that double, for so long, and the database may have been back for most of it.
    "pool": {"min_size": 0, "max_size": 40, "timeout": 3, "reconnect_timeout": 3},
    # A network that swallows packets sends no error: without these the poll of the namespaces
    # would wait for a quarter of an hour.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_OPTIONS: Final[Mapping[str, dict[str, Any]]] = {
    "django.db.backends.sqlite3": _SQLITE,
    "django.db.backends.postgresql": _POSTGRESQL,
}
_NOT_OURS: Final = (
    "DATABASE_URL must be like sqlite:////path or postgresql://user:password@host/name: no other "
    "database is supported"
)


def from_url(url: str, *, password: str | None = None, default_file: Path) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` for a URL; an empty one means SQLite in a file.

    Options in the URL's query come before ours, and so does a password in it.

    Raises:
        ImproperlyConfigured: The URL cannot be understood, or is of a database that is not
            supported; it is not repeated, for its password.
    """
    if not url:
        database: dict[str, Any] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(default_file),
        }
    else:
        try:
            database = dict(dj_database_url.parse(url))
        except ValueError as error:
            raise ImproperlyConfigured(_NOT_OURS) from error
        if database["ENGINE"] not in _OPTIONS:
            raise ImproperlyConfigured(_NOT_OURS)
        if password and not database.get("PASSWORD"):
            database["PASSWORD"] = password
    # Or each pooled connection that a restart of the database has cut would fail somebody once.
    database["CONN_HEALTH_CHECKS"] = True
    database["OPTIONS"] = _OPTIONS[database["ENGINE"]] | database.get("OPTIONS", {})
    return database
