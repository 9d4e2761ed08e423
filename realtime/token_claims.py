"""The claims of a token whose signature is right: from JSON to what the session reads.

Called by the token verifier. Payloads such as ``info`` keep the bytes they were written with.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from realtime.protocol import codec
from realtime.protocol.errors import BadRequest, TokenExpired
from realtime.protocol.messages import ABSENT, OverrideFlags
from realtime.token_settings import TokenSettings
from realtime.tokens import (
    ConnectionClaims,
    InvalidToken,
    Override,
    SubscribeOptions,
    SubscriptionClaims,
)

# Later times mean "never", and would not survive as integers in JavaScript.
_LATEST_AT: Final = 2**53


# The form of the claims in a token ------------------------------------------------------------


class _Options(Struct):
    info: Raw = ABSENT
    b64info: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    override: OverrideFlags | None = None


class _Claims(Struct):
    exp: int | float | None = None
    nbf: int | float | None = None
    expire_at: int | float | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    channel: str | None = None


class _Connection(_Claims):
    channels: list[str] | None = None
    subs: dict[str, _Options | None] | None = None
    meta: dict[str, Raw] | None = None


class _Subscription(_Claims):
    client: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    override: OverrideFlags | None = None


_AnyClaims = TypeVar("_AnyClaims", bound=_Claims)


# Reading --------------------------------------------------------------------------------------


class ClaimsReader:
    """Reads claims as one set of settings wants them."""

    def __init__(self, settings: TokenSettings) -> None:
        """Prepare for many tokens.

        Raises:
            ImproperlyConfigured: A pattern or the claim of the user is of no use.
        """
        self._is_audience = settings.expectation("audience")
        self._is_issuer = settings.expectation("issuer")
        settings.check_user_id_claim()
        user = msgspec.defstruct(
            "_User", [("user", str | None, None)], rename={"user": settings.user_id_claim}
        )
        self._decode_user: Callable[[bytes], Any] = msgspec.json.Decoder(user).decode

    def connection(self, content: bytes) -> ConnectionClaims:
        """Return what a connection token says.

        Raises:
            InvalidToken: Wrong form, audience or issuer; or it is a subscription token.
            TokenExpired: Past its ``exp``, or before its ``nbf``.
        Source: Centrifugo connection token claims. A token without ``exp`` never expires.
        """
        user, claims = self._read(content, _Connection)
        if claims.channel:
            raise InvalidToken("a subscription token does not connect")
        _refuse_untimely(claims)
        return ConnectionClaims(
            user=user,
            expire_at=_expire_at(claims),
            info=_payload(claims.info, claims.b64info),
            subs=_subs(claims),
            meta=_payload(Raw(msgspec.json.encode(claims.meta)), None) if claims.meta else None,
        )

    def subscription(self, content: bytes) -> SubscriptionClaims:
        """Return what a subscription token says.

        Whether it fits the command is the caller's to check.

        Raises:
            InvalidToken: As for connection tokens; or it names no channel.
            TokenExpired: Past its ``exp``, or before its ``nbf``.
        Source: Centrifugo subscription token claims.
        """
        user, claims = self._read(content, _Subscription)
        if not claims.channel:
            raise InvalidToken("a connection token does not subscribe")
        _refuse_untimely(claims)
        return SubscriptionClaims(
            user=user,
            channel=claims.channel,
            client=claims.client or "",
            expire_at=_expire_at(claims),
            info=_payload(claims.info, claims.b64info),
            data=_payload(claims.data, claims.b64data),
            override=Override.of(claims.override),
        )

    def _read(self, content: bytes, form: type[_AnyClaims]) -> tuple[str, _AnyClaims]:
        try:
            content.decode("utf-8")
            claims = msgspec.json.decode(content, type=form)
            user = self._decode_user(content).user
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise InvalidToken(str(error)) from error
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if not any(map(self._is_audience, audiences or [""])):
            raise InvalidToken("not for this audience")
        if not self._is_issuer(claims.iss or ""):
            raise InvalidToken("not of the expected issuer")
        return user or "", claims


def _refuse_untimely(claims: _Claims) -> None:
    now = time.time()
    if claims.exp is not None and claims.exp <= now:
        raise TokenExpired("past exp")
    if claims.nbf is not None and claims.nbf > now:
        raise TokenExpired("before nbf")


def _expire_at(claims: _Claims) -> int:
    expire_at = claims.exp if claims.expire_at is None else claims.expire_at
    return min(int(expire_at or 0), _LATEST_AT)


def _payload(raw: Raw, encoded: str | None) -> Raw | None:
    try:
        return codec.either_payload(raw, encoded)
    except BadRequest as error:
        raise InvalidToken(f"a payload is not acceptable: {error}") from error


def _subs(claims: _Connection) -> Mapping[str, SubscribeOptions]:
    """Source: Centrifugo connection token claims; ``subs`` stands above ``channels``."""
    if claims.subs:
        subs = {channel: _options(given) for channel, given in claims.subs.items()}
    else:
        subs = dict.fromkeys(claims.channels or [], SubscribeOptions())
    if "" in subs:
        raise InvalidToken("a channel without a name")
    return subs


def _options(given: _Options | None) -> SubscribeOptions:
    if given is None:
        return SubscribeOptions()
    return SubscribeOptions(
        info=_payload(given.info, given.b64info),
        data=_payload(given.data, given.b64data),
        override=Override.of(given.override),
    )
