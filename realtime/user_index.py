"""Connections by user.

Owned by the connection table. Most users have one connection, which needs no collection of its own.
"""

from collections.abc import Collection
from typing import Generic, Protocol, TypeVar


class Owned(Protocol):
    """What belongs to a user."""

    @property
    def user(self) -> str:
        """Whose it is; never changes."""


T = TypeVar("T", bound=Owned)


class UserIndex(Generic[T]):
    """Whose is what; a user is either in ``_only`` or in ``_several``."""

    def __init__(self) -> None:
        self._only: dict[str, T] = {}
        self._several: dict[str, dict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._only) + len(self._several)

    def add(self, item: T) -> None:
        """Take something in."""
        user = item.user
        several = self._several.get(user)
        if several is not None:
            several[item] = None
        elif user in self._only:
            self._several[user] = {self._only.pop(user): None, item: None}
        else:
            self._only[user] = item

    def discard(self, item: T) -> None:
        """Forget something, if it is in."""
        user = item.user
        several = self._several.get(user)
        if several is None:
            if self._only.get(user) is item:
                del self._only[user]
            return
        several.pop(item, None)
        if not several:
            del self._several[user]

    def of(self, user: str) -> Collection[T]:
        """Return what a user has, in the order it came."""
        only = self._only.get(user)
        return (only,) if only is not None else self._several.get(user, ())
