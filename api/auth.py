"""Who calls the server API or asks for a resource, and what their key is for.

A key's scopes are a list of ``method`` and ``method:channel pattern``. In a pattern only ``*`` is
special: it stands for any run of characters, so that ``publish:chat:*`` allows ``chat:`` and
``chat:1`` and not ``chatx:1``. A method without a pattern may be called for every channel; ``*``
alone is everything. ``publish`` does not include ``broadcast``. What ``models.SERVER_METHODS``
names concerns no one channel and takes no pattern. ``batch`` needs no scope of its own.

A single call outside the scopes is answered with HTTP 403, by the server API with an empty body;
inside ``batch``, and for a channel of ``broadcast``, that one item gets error 103.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.core.exceptions import TooManyFieldsSent
from django.db import Error as DatabaseError
from django.db import connections
from django.http import QueryDict
from django.utils import timezone

from realtime import conf, services
from realtime.models import EVERYTHING, ApiKey, hash_of_key
from realtime.protocol.errors import PermissionDenied

logger = logging.getLogger(__name__)

USE_NOTED_EVERY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of an accepted key."""

    name: str
    scopes: tuple[str, ...]

    def require(self, method: str, channel: str | None = None) -> None:
        """Refuse a method for a channel; without a channel, one that no pattern could allow.

        Raises:
            PermissionDenied: No scope of the key covers it.
        """
        if not any(_covers(scope, method, channel) for scope in self.scopes):
            raise PermissionDenied(f"the key {self.name} lacks the scope {method}")

    def require_some(self, method: str) -> None:
        """Refuse a method that the key may not call for any channel.

        Raises:
            PermissionDenied: No scope of the key names it.
        """
        if not any(scope.partition(":")[0] in (EVERYTHING, method) for scope in self.scopes):
            raise PermissionDenied(f"the key {self.name} lacks the scope {method}")


def _covers(scope: str, method: str, channel: str | None) -> bool:
    if scope in (EVERYTHING, method):
        return True
    scoped_method, colon, pattern = scope.partition(":")
    if scoped_method != method or not colon or channel is None:
        return False
    return matches(pattern, channel)


def matches(pattern: str, channel: str) -> bool:
    """Tell whether a channel's name is of a pattern in which ``*`` is any run of characters.

    Not by a regular expression: many stars would make one take exponential time.
    """
    first, *others = pattern.split("*")
    if not others:
        return channel == pattern
    *middle, last = others
    end = len(channel) - len(last)
    if not channel.startswith(first) or not channel.endswith(last) or len(first) > end:
        return False
    position = len(first)
    for part in middle:
        found = channel.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


async def caller_of(keys: Iterable[str]) -> Caller | None:
    """Return who holds the first of some keys that is accepted; None if none is."""
    for key in keys:
        caller = await _holder_of(key)
        if caller is not None:
            return caller
    return None


def keys_in(headers: Mapping[str, str], *, query: Callable[[], str] | None = None) -> Iterator[str]:
    """Yield what a request gives for a key, in the order that counts.

    Args:
        headers: By names in lower case, or in any.
        query: Gives the query string, where a key may stand in the address.
    Source: Centrifugo server API: ``X-API-Key``, else ``Authorization: apikey``; where that was
        not accepted, ``?api_key=``.
    """
    key = headers.get("x-api-key", "")
    if not key:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        key = credentials.strip() if scheme.lower() == "apikey" else ""
    if key:
        yield key
    if query is not None and (key := _key_in_address(query())):
        yield key


def _key_in_address(query: str) -> str:
    try:
        return QueryDict(query).get("api_key", "")
    except TooManyFieldsSent:
        return ""


async def _holder_of(key: str) -> Caller | None:
    key_hash = hash_of_key(key)
    bootstrap = conf.current().api_key
    if bootstrap and hmac.compare_digest(key_hash, hash_of_key(bootstrap)):
        return Caller("REALTIME_API_KEY", (EVERYTHING,))
    for entry in (await services.asnapshot()).api_keys:
        if hmac.compare_digest(key_hash, entry.key_hash):
            if entry.expires_at is not None and entry.expires_at <= timezone.now():
                return None
            _usage.note(entry.id)
            return Caller(entry.name, entry.scopes)
    return None


class KeyUsage:
    """When this process last wrote a key's ``last_used_at``: once a minute, beside the request."""

    def __init__(self) -> None:
        self._noted_at: dict[int, float] = {}

    def note(self, key_id: int) -> None:
        """Have the use of a key written, in a thread, unless it was a moment ago."""
        now = time.monotonic()
        if now - self._noted_at.get(key_id, -USE_NOTED_EVERY_SECONDS) < USE_NOTED_EVERY_SECONDS:
            return
        self._noted_at[key_id] = now
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, _write_use, key_id, timezone.now())


def _write_use(key_id: int, used_at: datetime) -> None:
    try:
        ApiKey.objects.filter(pk=key_id).update(last_used_at=used_at)
    except DatabaseError as error:
        logger.warning("last use of API key %d not written: %s", key_id, error)
    finally:
        # Django closes a thread's connections at the end of a request, and this is outside one.
        connections.close_all()


# Held by the module because a request's end is no end of it; losing it costs one more write.
_usage: Final = KeyUsage()
