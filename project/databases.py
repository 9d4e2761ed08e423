"""The database of a URL, or SQLite in a file, with the options each of them needs.

Called by ``settings.py``.
"""

from pathlib import Path
from typing import Any

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
    "pool": {"min_size": 0, "max_size": 8, "timeout": 3},
}


def from_url(url: str, *, default_file: Path) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` for a URL; an empty one means SQLite in a file.

    Options in the URL's query come before ours.

    Raises:
        ImproperlyConfigured: The URL cannot be understood; it is not repeated, for its password.
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
            raise ImproperlyConfigured(
                "DATABASE_URL must be like sqlite:////path or postgresql://user:password@host/name"
            ) from error
    options = _options(database["ENGINE"])
    database["OPTIONS"] = options | database.get("OPTIONS", {})
    return database


def _options(engine: str) -> dict[str, Any]:
    if engine.endswith("sqlite3"):
        return _SQLITE
    if engine.endswith("postgresql"):
        return _POSTGRESQL
    return {}
