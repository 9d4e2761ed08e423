"""The public keys that another service shows at a URL: fetched, kept for a while, found by id.

Held by the token verifier, one for each URL, and imported only where there is one: the HTTP client
costs megabytes. The rules are in ``docs/decisions/0010``: how long a key counts after it was last
seen, how often the source is asked, and what a token gets that cannot be judged.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from realtime.protocol.errors import InternalError
from realtime.tasks import TaskOwner
from realtime.token_keys import Key, UnusableKey, jwk_key

logger = logging.getLogger(__name__)

CACHE_SECONDS: Final = 300.0
STALE_MAX_SECONDS: Final = 3600.0
FETCH_INTERVAL_SECONDS: Final = 10.0
# An SDK waits five seconds for the reply to its connect.
FETCH_TIMEOUT_SECONDS: Final = 3.0
BODY_MAX_BYTES: Final = 1024 * 1024

KeysById = dict[str, tuple[Key, ...]]


class NoKeys(Exception):
    """The source answered, but not with a set of keys."""


class _KeySet(Struct):
    keys: list[dict[str, Any]]


_decode = msgspec.json.Decoder(_KeySet).decode


class Jwks:
    """The keys at one URL, on one event loop.

    However many tokens come, one fetch runs at a time, and one starts every
    ``FETCH_INTERVAL_SECONDS`` at most.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a URL that was found usable; nothing is fetched before a key is asked for.

        Args:
            url: Where the keys are.
            clock: Seconds that only grow; tests move it by hand.
        """
        self._url = url
        self._host = urlsplit(url).hostname
        self._clock = clock
        self._tasks = TaskOwner()
        self._fetching: asyncio.Task[None] | None = None
        self._tried_at = -math.inf
        self._keys: KeysById = {}
        # When the request was sent that brought them: they are no newer than that.
        self._known_at = -math.inf

    async def find(self, kid: str) -> tuple[Key, ...]:
        """Return the keys with an id, none if the source has none; waits only for a fetch.

        Raises:
            InternalError: It cannot be known now. The source was not asked since this token came,
                because it was asked a moment ago, or it does not answer.
        """
        asked_at = self._clock()
        if asked_at - self._known_at < CACHE_SECONDS and kid in self._keys:
            return self._keys[kid]
        await self._refresh()
        if self._clock() - self._known_at >= STALE_MAX_SECONDS:
            self._keys = {}
            raise InternalError("the keys of tokens cannot be had")
        if kid in self._keys:
            return self._keys[kid]
        if self._known_at < asked_at:
            raise InternalError("a key is not known yet, and its source not to be asked now")
        return ()

    async def _refresh(self) -> None:
        now = self._clock()
        if self._fetching is None and now - self._tried_at >= FETCH_INTERVAL_SECONDS:
            self._tried_at = now
            self._fetching = self._tasks.spawn(self._fetch(now), "fetch keys of tokens")
        if self._fetching is not None:
            # Not awaited itself: a client that goes away must not end it for the others.
            await asyncio.wait([self._fetching])

    async def _fetch(self, now: float) -> None:
        try:
            keys = _keys_of(await self._body())
        except (NoKeys, aiohttp.ClientError, OSError, ValueError) as error:
            # A host that can have no address is a ValueError.
            # The URL may hold a secret, and so may what the library says of it.
            reason = error if isinstance(error, NoKeys) else type(error).__name__
            logger.warning("no keys of tokens from %s: %s", self._host, reason)
        else:
            self._keys, self._known_at = keys, now
        finally:
            self._fetching = None

    async def _body(self) -> bytes:
        session = aiohttp.ClientSession(
            auto_decompress=False,  # or a small body could unpack to a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS),
        )
        async with session, session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise NoKeys(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > BODY_MAX_BYTES:
                    raise NoKeys(f"more than {BODY_MAX_BYTES} bytes")
            return bytes(body)

    async def close(self) -> None:
        """End a fetch that runs; whoever waits for it gets ``InternalError``."""
        await self._tasks.close()


def _keys_of(body: bytes) -> KeysById:
    try:
        key_set = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NoKeys(f"not a set of keys: {error}") from error
    found: KeysById = {}
    for jwk in key_set.keys:
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not _is_for_signatures(jwk):
            continue
        try:
            found[kid] = (*found.get(kid, ()), jwk_key(jwk))
        except UnusableKey as error:
            logger.warning("key %.100r %s, and is left out", kid, error)
    return found


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops")
    can_verify = not isinstance(operations, list) or "verify" in operations
    return jwk.get("use") in (None, "sig") and can_verify
