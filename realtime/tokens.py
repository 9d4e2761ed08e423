"""What tokens say, and how they are made.

The claims are what the session reads of a token. ``services``, the views of ``api`` and the
``token`` command sign here. Verifying is the business of ``token_verifier``.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
from django.core.exceptions import ImproperlyConfigured
from jwt import api_jws
from msgspec import Raw

from realtime import conf, token_settings
from realtime.protocol import codec
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import OverrideFlags
from realtime.snapshot import ChannelOptions
from realtime.token_settings import TokenSettings

ALGORITHM: Final = "HS256"


class InvalidToken(Exception):
    """The token was not made by a holder of the secret, or not for this purpose."""


@dataclass(frozen=True, slots=True)
class Override:
    """Channel options that are set for one subscription; None leaves an option as it is."""

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None
    force_positioning: bool | None = None

    @classmethod
    def of(cls, flags: OverrideFlags | None) -> "Override":
        """Return what flags say; one without a value is off, as Go reads an empty one."""
        if flags is None:
            return cls()
        named = {name: getattr(flags, name) for name in cls.__slots__}
        return cls(**{name: bool(flag.value) for name, flag in named.items() if flag is not None})

    def apply(self, options: ChannelOptions) -> ChannelOptions:
        """Return the options with those set here changed."""
        named = {name: getattr(self, name) for name in self.__slots__}
        return replace(options, **{name: on for name, on in named.items() if on is not None})


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """What a server-side subscription is made with.

    Attributes:
        info: What others see of the subscription, checked as a payload.
        data: What the subscriber is sent with the reply, checked as a payload.
        override: Channel options that differ for this subscription.
        expire_at: When the subscription ends unless refreshed, in Unix seconds; 0 is never.
    """

    info: Raw | None = None
    data: Raw | None = None
    override: Override = Override()
    expire_at: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionClaims:
    """What a connection token says.

    Attributes:
        user: Who the connection is; empty is anonymous.
        expire_at: When the connection ends unless refreshed, in Unix seconds; 0 is never.
        info: What others see of the connection, checked as a payload.
        subs: The channels that the server subscribes it to, in the order of the token.
        meta: What those who are asked about it are told of it, and nobody else.
    """

    user: str
    expire_at: int
    info: Raw | None
    subs: Mapping[str, SubscribeOptions] = field(default_factory=dict)
    meta: Raw | None = None


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


# Signing --------------------------------------------------------------------------------------


def sign_connection_token(user: str, *, ttl_seconds: int | None = None, info: object = None) -> str:
    """Return a connection token for a user.

    Args:
        user: Who the connection will be; empty is anonymous.
        ttl_seconds: How long it is good; None is ``token_ttl_seconds``.
        info: What others shall see of the connection, any JSON.
    Raises:
        ImproperlyConfigured: No token that is signed here would be accepted here.
        BadRequest: ``info`` or the user is not valid JSON.
    """
    return _sign(token_settings.of_connections(), {}, user, ttl_seconds, info)


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
        ImproperlyConfigured: No token that is signed here would be accepted here.
        BadRequest: No channel, or ``info``, user or channel is not valid JSON.
    """
    if not channel:
        raise BadRequest("a subscription token names a channel")
    settings = token_settings.of_subscriptions()
    return _sign(settings, {"channel": channel}, user, ttl_seconds, info)


def _sign(
    settings: TokenSettings,
    purpose: dict[str, object],
    user: str,
    ttl_seconds: int | None,
    info: object,
) -> str:
    _refuse_to_sign_in_vain(settings)
    now = int(time.time())
    ttl_seconds = conf.current().token_ttl_seconds if ttl_seconds is None else ttl_seconds
    claims = {settings.user_id_claim: user, "iat": now, "exp": now + ttl_seconds, **purpose}
    if settings.audience:
        claims["aud"] = settings.audience
    if settings.issuer:
        claims["iss"] = settings.issuer
    try:
        if info is not None:
            claims["info"] = Raw(codec.payload(msgspec.json.encode(info)))
        content = msgspec.json.encode(claims)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"not valid JSON: {error}") from error
    return api_jws.encode(content, settings.hmac_secret, algorithm=ALGORITHM)


def _refuse_to_sign_in_vain(settings: TokenSettings) -> None:
    if not settings.hmac_secret:
        name = settings.name("hmac_secret")
        raise ImproperlyConfigured(
            f'no token can be signed: set REALTIME_{name} (settings.REALTIME["{name}"])'
        )
    for name in ("audience_regex", "issuer_regex"):
        if getattr(settings, name):
            raise ImproperlyConfigured(
                f"no token can be signed: REALTIME_{settings.name(name)} does not say which "
                "value to write into it"
            )
