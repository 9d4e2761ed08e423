"""Connection and subscription JWTs: to claims, and from claims.

Called by the session for tokens of clients; by ``services``, the views of ``api`` and the
``token`` command to make them. What an invalid token leads to, a close or an error, is the
session's to decide.
"""

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec
from django.core.exceptions import ImproperlyConfigured
from jwt import InvalidSignatureError, PyJWTError, api_jws
from msgspec import Raw, Struct

from realtime import conf
from realtime.protocol import codec
from realtime.protocol.errors import BadRequest, TokenExpired
from realtime.protocol.messages import ABSENT
from realtime.snapshot import ChannelOptions

ALGORITHM: Final = "HS256"
# Later times mean "never", and would not survive as integers in JavaScript.
_LATEST_AT: Final = 2**53


class InvalidToken(Exception):
    """The token was not made by a holder of the secret, or not for this purpose."""


@dataclass(frozen=True, slots=True)
class Override:
    """Channel options that a token sets for one subscription; None leaves an option as it is."""

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None
    force_positioning: bool | None = None

    def apply(self, options: ChannelOptions) -> ChannelOptions:
        """Return the options with those set here changed."""
        named = {name: getattr(self, name) for name in self.__slots__}
        return replace(options, **{name: on for name, on in named.items() if on is not None})


@dataclass(frozen=True, slots=True)
class ConnectionClaims:
    """What a connection token says.

    Attributes:
        user: Who the connection is; empty is anonymous.
        expire_at: When the connection ends unless refreshed, in Unix seconds; 0 is never.
        info: What others see of the connection, checked as a payload.
    """

    user: str
    expire_at: int
    info: Raw | None


@dataclass(frozen=True, slots=True)
class SubscriptionClaims:
    """What a subscription token says.

    Attributes:
        user: Whom it was made for; empty is anonymous.
        channel: The one channel it opens.
        client: If not empty, the one connection it was made for.
        expire_at: When the subscription ends unless refreshed, in Unix seconds; 0 is never.
        info: What others see of the subscription, checked as a payload.
        data: What the subscriber is sent with the reply, checked as a payload.
        override: Channel options that differ for this subscription.
    """

    user: str
    channel: str
    client: str
    expire_at: int
    info: Raw | None
    data: Raw | None
    override: Override


# The form of the claims in a token ------------------------------------------------------------


class _Claims(Struct):
    sub: str | None = None
    exp: int | float | None = None
    nbf: int | float | None = None
    expire_at: int | float | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    channel: str | None = None


class _Flag(Struct):
    value: bool | None = None


class _Flags(Struct):
    presence: _Flag | None = None
    join_leave: _Flag | None = None
    force_push_join_leave: _Flag | None = None
    force_recovery: _Flag | None = None
    force_positioning: _Flag | None = None


class _SubscriptionOnly(_Claims):
    client: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    override: _Flags | None = None


class _SignedClaims(Struct, omit_defaults=True):
    sub: str
    iat: int
    exp: int
    channel: str = ""
    info: Raw = ABSENT


_AnyClaims = TypeVar("_AnyClaims", bound=_Claims)


# Verifying ------------------------------------------------------------------------------------


def verify_connection_token(token: str) -> ConnectionClaims:
    """Return what a connection token says.

    Raises:
        InvalidToken: Wrong form, algorithm, signature, audience or issuer; or it is a
            subscription token.
        TokenExpired: Past its ``exp``, or before its ``nbf``.
    Source: Centrifugo connection token claims. A token without ``exp`` never expires.
    """
    claims = _verified(token, _Claims)
    if claims.channel:
        raise InvalidToken("a subscription token does not connect")
    _refuse_untimely(claims)
    return ConnectionClaims(
        user=claims.sub or "",
        expire_at=_expire_at(claims),
        info=_payload(claims.info, claims.b64info),
    )


def verify_subscription_token(token: str) -> SubscriptionClaims:
    """Return what a subscription token says; whether it fits the command is the caller's to check.

    Raises:
        InvalidToken: As for connection tokens; or it names no channel.
        TokenExpired: Past its ``exp``, or before its ``nbf``.
    Source: Centrifugo subscription token claims.
    """
    claims = _verified(token, _SubscriptionOnly)
    if not claims.channel:
        raise InvalidToken("a connection token does not subscribe")
    _refuse_untimely(claims)
    return SubscriptionClaims(
        user=claims.sub or "",
        channel=claims.channel,
        client=claims.client or "",
        expire_at=_expire_at(claims),
        info=_payload(claims.info, claims.b64info),
        data=_payload(claims.data, claims.b64data),
        override=_override(claims.override),
    )


def _verified(token: str, claims_type: type[_AnyClaims]) -> _AnyClaims:
    try:
        content = _signed_content(token)
        content.decode("utf-8")
        claims = msgspec.json.decode(content, type=claims_type)
    except (PyJWTError, msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidToken(str(error)) from error
    settings = conf.current()
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    if settings.token_audience and settings.token_audience not in audiences:
        raise InvalidToken("not for this audience")
    if settings.token_issuer and settings.token_issuer != claims.iss:
        raise InvalidToken("not of the expected issuer")
    return claims


def _signed_content(token: str) -> bytes:
    """Return the claims' bytes: PyJWT's own reading would lose how ``info`` was written."""
    refused: PyJWTError = InvalidSignatureError("no secret to verify with")
    for secret in _secrets():
        try:
            content: bytes = api_jws.decode(token, secret, algorithms=[ALGORITHM])
        except InvalidSignatureError as error:
            refused = error
        else:
            return content
    raise refused


def _secrets() -> Iterator[str]:
    settings = conf.current()
    if settings.token_hmac_secret:
        yield settings.token_hmac_secret
    until = settings.token_hmac_previous_secret_until
    if settings.token_hmac_previous_secret and (until is None or time.time() < until.timestamp()):
        yield settings.token_hmac_previous_secret


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
        if encoded:
            return codec.optional_payload(Raw(base64.b64decode(encoded, validate=True)))
        return codec.optional_payload(raw)
    except (BadRequest, ValueError) as error:
        raise InvalidToken(f"a payload is not acceptable: {error}") from error


def _override(flags: _Flags | None) -> Override:
    if flags is None:
        return Override()
    named = {name: getattr(flags, name) for name in flags.__struct_fields__}
    return Override(**{name: bool(flag.value) for name, flag in named.items() if flag is not None})


# Signing --------------------------------------------------------------------------------------


def sign_connection_token(user: str, *, ttl_seconds: int | None = None, info: object = None) -> str:
    """Return a connection token for a user.

    Args:
        user: Who the connection will be; empty is anonymous.
        ttl_seconds: How long it is good; None is ``token_ttl_seconds``.
        info: What others shall see of the connection, any JSON.
    Raises:
        ImproperlyConfigured: There is no secret to sign with.
        BadRequest: ``info`` or the user is not valid JSON.
    """
    return _sign(user, "", ttl_seconds, info)


def sign_subscription_token(
    user: str, channel: str, *, ttl_seconds: int | None = None, info: object = None
) -> str:
    """Return a token that opens one channel to one user, whatever the channel's options say.

    Args:
        user: Who may use it; empty is anonymous.
        channel: What it opens.
        ttl_seconds: How long the token and its subscription are good; None is
            ``token_ttl_seconds``.
        info: What others shall see of the subscription, any JSON.
    Raises:
        ImproperlyConfigured: There is no secret to sign with.
        BadRequest: No channel, or ``info``, user or channel is not valid JSON.
    """
    if not channel:
        raise BadRequest("a subscription token names a channel")
    return _sign(user, channel, ttl_seconds, info)


def _sign(user: str, channel: str, ttl_seconds: int | None, info: object) -> str:
    settings = conf.current()
    if not settings.token_hmac_secret:
        raise ImproperlyConfigured(
            "no token can be signed: set REALTIME_TOKEN_HMAC_SECRET "
            '(settings.REALTIME["TOKEN_HMAC_SECRET"])'
        )
    now = int(time.time())
    ttl_seconds = settings.token_ttl_seconds if ttl_seconds is None else ttl_seconds
    claims = _SignedClaims(sub=user, iat=now, exp=now + ttl_seconds, channel=channel)
    try:
        if info is not None:
            claims.info = Raw(codec.payload(msgspec.json.encode(info)))
        content = msgspec.json.encode(claims)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"not valid JSON: {error}") from error
    return api_jws.encode(content, settings.token_hmac_secret, algorithm=ALGORITHM)
