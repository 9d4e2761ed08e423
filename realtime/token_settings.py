"""What is set for one kind of token: whose signature counts, and what its claims must say.

Read by whoever signs or verifies tokens. Connection tokens have the settings ``TOKEN_*``.
Subscription tokens have the same, until one key of ``SUBSCRIPTION_TOKEN_*`` is set: from then on
they have those settings and no other.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from realtime import conf
from realtime.patterns import Pattern, UnusablePattern

CONNECTION: Final = "TOKEN_"
SUBSCRIPTION: Final = "SUBSCRIPTION_TOKEN_"
DEFAULT_USER_ID_CLAIM: Final = "sub"
_NOT_A_USER: Final = {
    "aud", "b64data", "b64info", "channel", "channels", "client", "data", "exp", "expire_at", "iat",
    "info", "iss", "meta", "nbf", "override", "subs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """The settings of one kind of token; empty ones ask for nothing and verify nothing.

    Attributes:
        prefix: How the names of these settings begin, for messages.
        hmac_secret: Signs, and verifies HS256, HS384 and HS512.
        hmac_previous_secret: Also verifies, until ``hmac_previous_secret_until`` or for ever.
        public_key: One or several public keys as PEM, which verify RS, ES and EdDSA.
        jwks_url: Where more such keys are, by ``kid``.
        audience: What ``aud`` must contain; ``audience_regex`` instead must match one of it whole.
        issuer: What ``iss`` must be; ``issuer_regex`` instead must match it whole.
        user_id_claim: The claim that says who the user is.
    """

    prefix: str
    hmac_secret: str
    hmac_previous_secret: str
    hmac_previous_secret_until: datetime | None
    public_key: str
    jwks_url: str
    audience: str
    audience_regex: str
    issuer: str
    issuer_regex: str
    user_id_claim: str

    @property
    def has_keys(self) -> bool:
        """Whether any token could be verified."""
        return any((self.hmac_secret, self.hmac_previous_secret, self.public_key, self.jwks_url))

    @property
    def asks_for_something(self) -> bool:
        """Whether anything is set that is not a key."""
        asked = (self.audience, self.audience_regex, self.issuer, self.issuer_regex)
        return any(asked) or self.user_id_claim != DEFAULT_USER_ID_CLAIM

    def expectation(self, claim: str) -> Callable[[str], bool]:
        """Return the test of the ``audience`` or ``issuer``; absent, it is tested as empty.

        Raises:
            ImproperlyConfigured: Its pattern is no regular expression, or stands beside the value.
        """
        plain, pattern = getattr(self, claim), getattr(self, f"{claim}_regex")
        if not pattern:
            return lambda value: not plain or value == plain
        name = self.name(f"{claim}_regex")
        if plain:
            raise ImproperlyConfigured(f"{self.name(claim)} and {name} are both set")
        try:
            # All of the value: unanchored, "https://us" would let in "https://us.example.net".
            is_whole = Pattern(pattern).is_whole
        except UnusablePattern as error:
            raise ImproperlyConfigured(
                f"{name} is no regular expression of RE2: {error}"
            ) from error
        return lambda value: bool(value) and is_whole(value)

    def check_user_id_claim(self) -> None:
        """Refuse a claim of the user that means something else.

        Raises:
            ImproperlyConfigured: It does.
        """
        claim = self.user_id_claim
        if not claim or claim in _NOT_A_USER:
            name = self.name("user_id_claim")
            raise ImproperlyConfigured(f"{name} is {claim!r}, which does not say who a user is")

    def check_jwks_url(self) -> None:
        """Refuse an address over which somebody in between could hand in keys of their own.

        Raises:
            ImproperlyConfigured: Neither ``https``, nor ``http`` to this machine; with ``DEBUG``
                any ``http``.
        """
        if self.jwks_url and (why := _why_no_keys_from(self.jwks_url)):
            raise ImproperlyConfigured(f"{self.name('jwks_url')} {why}")

    def name(self, setting: str) -> str:
        """Return a setting as it is called in ``settings.REALTIME``."""
        return f"{self.prefix}{setting.upper()}"


def of_connections() -> TokenSettings:
    """Return the settings of connection tokens."""
    return _under(CONNECTION)


def of_subscriptions() -> TokenSettings:
    """Return the settings of subscription tokens: their own if these have a key."""
    own = under_subscriptions()
    return own if own.has_keys else of_connections()


def under_subscriptions() -> TokenSettings:
    """Return what is set for subscription tokens alone, whether it counts or not."""
    return _under(SUBSCRIPTION)


def _under(prefix: str) -> TokenSettings:
    values = conf.current()
    names = [field.name for field in fields(TokenSettings) if field.name != "prefix"]
    given = {name: getattr(values, f"{prefix.lower()}{name}") for name in names}
    return TokenSettings(prefix=prefix, **given)


def _why_no_keys_from(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no http(s) URL: {error}"
    if parts.username or parts.password:
        return "holds a user or a password, which would not be sent"
    if not parts.hostname or parts.scheme not in ("http", "https") or port == 0:
        return "is no http(s) URL"
    if parts.scheme == "http" and not settings.DEBUG and not _is_loopback(parts):
        return "is not https: whoever stands between could hand in keys of their own"
    return ""


def _is_loopback(parts: SplitResult) -> bool:
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"
