"""The one way from a token to its claims.

Held by the instance, asked by the session. What an invalid token leads to, a close or an error, is
the session's to decide.
"""

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from jwt import PyJWTError, api_jws

from realtime import token_settings
from realtime.token_claims import ClaimsReader
from realtime.token_keys import PUBLIC_ALGORITHMS, Key, UnusableKey, keys_of_settings
from realtime.token_settings import TokenSettings
from realtime.tokens import ConnectionClaims, InvalidToken, SubscriptionClaims

if TYPE_CHECKING:
    from realtime.jwks import Jwks

HEADERS_KEPT: Final = 64
HEADER_KEPT_MAX_BYTES: Final = 256


class _Header(NamedTuple):
    """What a token says of how it was signed."""

    algorithm: str
    kid: str


class _Signed(NamedTuple):
    """A token taken apart; nothing of it is to be believed yet."""

    header: _Header
    signing_input: bytes
    signature: bytes
    content: bytes

    def is_of(self, keys: Iterable[Key]) -> bool:
        now = time.time()
        algorithm = self.header.algorithm
        return any(key.verifies(algorithm, self.signing_input, self.signature, now) for key in keys)


def _taken_apart(token: str) -> _Signed:
    try:
        signing_input, _, signature = token.encode().rpartition(b".")
        header, _, content = signing_input.partition(b".")
        read = _known_header if len(header) <= HEADER_KEPT_MAX_BYTES else _read_header
        return _Signed(read(header), signing_input, _decoded(signature), _decoded(content))
    except (PyJWTError, ValueError, RecursionError) as error:
        raise InvalidToken(str(error)) from error


def _read_header(segment: bytes) -> _Header:
    """Return what a header says, checked by the library: in a token that holds nothing else."""
    parts = api_jws.decode_complete(segment + b"..", options={"verify_signature": False})
    algorithm = parts["header"].get("alg")
    if not isinstance(algorithm, str):
        raise InvalidToken("no algorithm")
    return _Header(algorithm, parts["header"].get("kid", ""))


# An issuer writes the same header into every token. What a header means depends on nothing else.
_known_header = lru_cache(maxsize=HEADERS_KEPT)(_read_header)


def _decoded(segment: bytes) -> bytes:
    if segment.endswith(b"="):
        raise ValueError("padded, which RFC 7515 rules out")
    padded = segment + b"=" * (-len(segment) % 4)
    content = urlsafe_b64decode(padded)
    # Python's decoder passes over what is not of the alphabet, and over bits that nothing holds.
    if urlsafe_b64encode(content) != padded:
        raise ValueError("not base64url")
    return content


class _Signatures:
    """Whose signatures count for one kind of token."""

    def __init__(self, settings: TokenSettings, clock: Callable[[], float]) -> None:
        try:
            self._keys = keys_of_settings(settings)
        except UnusableKey as error:
            raise ImproperlyConfigured(str(error)) from error
        self._jwks: Jwks | None = None
        if settings.jwks_url:
            settings.check_jwks_url()
            from realtime import jwks  # here, because its HTTP client costs megabytes

            self._jwks = jwks.Jwks(settings.jwks_url, clock=clock)

    async def content(self, token: str) -> bytes:
        """Return the claims' bytes: a library's own reading would lose how ``info`` was written."""
        signed = _taken_apart(token)
        if signed.is_of(self._keys) or signed.is_of(await self._fetched(signed.header)):
            return signed.content
        raise InvalidToken("no known key has signed it")

    async def _fetched(self, header: _Header) -> tuple[Key, ...]:
        if self._jwks is None or not header.kid or header.algorithm not in PUBLIC_ALGORITHMS:
            return ()
        return await self._jwks.find(header.kid)

    async def close(self) -> None:
        if self._jwks is not None:
            await self._jwks.close()


class TokenVerifier:
    """Verifies tokens by the settings of the moment it was made.

    With keys that stand in the settings its methods never wait; with keys behind a URL they wait
    for a fetch, three seconds at most.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys; nothing is fetched yet.

        Args:
            clock: Seconds that only grow, for what is fetched; tests move it by hand.
        Raises:
            ImproperlyConfigured: A setting of tokens is of no use; system checks say the same.
        """
        connections = token_settings.of_connections()
        subscriptions = token_settings.of_subscriptions()
        self._connection_signatures = _Signatures(connections, clock)
        self._connection_claims = ClaimsReader(connections)
        if subscriptions == connections:
            self._subscription_signatures = self._connection_signatures
            self._subscription_claims = self._connection_claims
        else:
            self._subscription_signatures = _Signatures(subscriptions, clock)
            self._subscription_claims = ClaimsReader(subscriptions)

    async def connection(self, token: str) -> ConnectionClaims:
        """Return what a connection token says.

        Raises:
            InvalidToken: Wrong form, algorithm, signature, audience or issuer; or it is a
                subscription token.
            TokenExpired: Past its ``exp``, or before its ``nbf``.
            InternalError: Its key cannot be had now.
        Source: Centrifugo connection token claims. A token without ``exp`` never expires.
        """
        return self._connection_claims.connection(await self._connection_signatures.content(token))

    async def subscription(self, token: str) -> SubscriptionClaims:
        """Return what a subscription token says; whether it fits the command is the caller's.

        Raises:
            InvalidToken: As for connection tokens; or it names no channel.
            TokenExpired: Past its ``exp``, or before its ``nbf``.
            InternalError: Its key cannot be had now.
        Source: Centrifugo subscription token claims.
        """
        content = await self._subscription_signatures.content(token)
        return self._subscription_claims.subscription(content)

    async def close(self) -> None:
        """End what runs."""
        await self._connection_signatures.close()
        await self._subscription_signatures.close()
