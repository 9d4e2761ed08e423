"""The rows that say that somebody may do more or less than before, each given once to an instance.

Read by ``access.py``, in threads. Rows are numbered in another order than they are committed in, so
that what has a lower number may come later.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import close_old_connections
from django.db.models import Field
from django.db.models.functions import Now

from realtime.models import AccessChange

KEPT: Final = timedelta(minutes=10)
# What is committed so late that as many came after it is found when all rows are read again.
OVERLAP: Final = 1000
READ_ALL_SECONDS: Final = 10.0

EVERYBODY: Final = ""
ALL_RULES: Final = ""


class Change(NamedTuple):
    """What is to be judged anew: of users, None for everybody; of rules, None for all."""

    users: frozenset[str] | None
    models: frozenset[str] | None = None


class ChangeLog:
    """What has been read of it; used in threads, one after another."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._read_at: float | None = None
        self._read_all_at = 0.0

    def read(self) -> list[Change]:
        """Return what was not returned before.

        The first time, and after so long a failure that rows may be gone, it is everything.

        Raises:
            django.db.Error: The database did not answer.
        """
        close_old_connections()
        try:
            now = time.monotonic()
            rows = self._rows(reads_all=now - self._read_all_at >= READ_ALL_SECONDS, now=now)
            new = [(user, model) for number, user, model in rows if number not in self._seen]
            self._seen |= {row[0] for row in rows}
            is_complete = (
                self._read_at is not None and now - self._read_at < KEPT.total_seconds() / 2
            )
            self._read_at = now
            return _changes(new) if is_complete else [Change(None)]
        finally:
            close_old_connections()

    def _rows(self, *, reads_all: bool, now: float) -> list[tuple[int, str, str]]:
        found = AccessChange.objects.order_by("id").values_list("id", "user", "model")
        if not reads_all:
            return list(found.filter(id__gt=max(self._seen, default=0) - OVERLAP))
        rows = list(found)
        self._seen &= {row[0] for row in rows}  # what has been pruned does not come back
        self._read_all_at = now
        return rows


def prune() -> None:
    """Delete the rows that every instance has read long since.

    Raises:
        django.db.Error: The database did not answer.
    """
    close_old_connections()
    try:
        old = AccessChange.objects.filter(at__lt=Now() - KEPT)
        if old.exists():  # a delete of nothing would take SQLite's lock as well
            old.delete()
    finally:
        close_old_connections()


def _changes(rows: Sequence[tuple[str, str]]) -> list[Change]:
    """Return rows as few changes."""
    users: dict[str, set[str]] = {}
    models: set[str] = set()
    key = _user_key()
    for user, model in rows:
        name = _normal(user, key)
        if name == EVERYBODY:
            models.add(model)
        else:
            users.setdefault(model, set()).add(name)
    if ALL_RULES in models:
        return [Change(None)]
    changes = [Change(None, frozenset(models))] if models else []
    for model, names in users.items():
        watched = None if model == ALL_RULES else frozenset((model,))
        changes.append(Change(frozenset(names), watched))
    return changes


def _user_key() -> "Field[Any, Any] | None":
    try:
        return get_user_model()._meta.pk
    except ImproperlyConfigured:
        return None  # a project without users


def _normal(user: str, key: "Field[Any, Any] | None") -> str:
    """Return a key as connections have it: SQLite keeps a UUID without its hyphens."""
    try:
        return str(key.to_python(user)) if user and key is not None else EVERYBODY
    except ValidationError:
        return EVERYBODY
