"""Who may call the server API, and what for."""

import hashlib
import re
import secrets
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import models

# What a scope can name. batch is missing, because each command of a batch is judged by itself.
CHANNEL_METHODS: Final = (
    "publish",
    "broadcast",
    "history",
    "history_remove",
    "presence",
    "presence_stats",
    "subscribe",
    "unsubscribe",
)
SERVER_METHODS: Final = (
    "channels",
    "info",
    "disconnect",
    "refresh",
    "rpc",
    "connections",
    "namespaces",
    "metrics",
)
EVERYTHING: Final = "*"

KEY_MIN_LENGTH: Final = 16
_PREFIX_LENGTH: Final = 6


def make_key() -> str:
    """Return a new random API key of 256 bits."""
    # Hexadecimal, because a key that begins with a hyphen would look like an option in a shell.
    return secrets.token_hex(32)


def hash_of_key(key: str) -> str:
    """Return the SHA-256 of an API key in hexadecimal, the only form that is stored.

    A plain hash is enough: a key is random, so there is nothing for a slow hash to slow down.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def validate_printable(text: str) -> None:
    """Refuse control characters and lone surrogates, which databases refuse too."""
    if not text.isprintable():
        raise ValidationError("Use printable characters only.", code="printable")


def validate_scope(scope: object) -> None:
    """Refuse what is not ``*``, ``method`` or ``method:channel pattern``."""
    if not isinstance(scope, str):
        raise ValidationError(f"{scope!r} is not a text.", code="scope")
    method, colon, pattern = scope.partition(":")
    if scope == EVERYTHING or (not colon and method in SERVER_METHODS):
        return
    if method in CHANNEL_METHODS and (pattern or not colon):
        validate_printable(pattern)
        return
    if method in SERVER_METHODS:
        reason = f"{method} concerns no channel: write {method} alone"
    elif method in CHANNEL_METHODS:
        reason = f"nothing follows the colon: write {method} alone for every channel"
    else:
        known = ", ".join((*CHANNEL_METHODS, *SERVER_METHODS))
        reason = f"the methods are {known}; * alone is everything"
    raise ValidationError(f"{scope!r} is not a scope: {reason}.", code="scope")


def validate_scopes(scopes: object) -> None:
    """Refuse what is not a list of scopes with something in it."""
    if not isinstance(scopes, list) or not scopes:
        raise ValidationError("Give a list of at least one scope; * is everything.", code="scope")
    for scope in scopes:
        validate_scope(scope)


def every_scope() -> list[str]:
    """Return the scopes of a key that may do everything."""
    return [EVERYTHING]


class ApiKey(models.Model):
    """Who may call the server API, and what for. The key itself is not kept."""

    name = models.CharField(
        max_length=100, unique=True, validators=[validate_printable], help_text="Who holds the key."
    )
    key_hash = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(max_length=_PREFIX_LENGTH, editable=False)
    scopes = models.JSONField(
        default=every_scope,
        validators=[validate_scopes],
        help_text="method, or method:channel pattern, where * stands for any characters; "
        "* alone is everything.",
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    last_used_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def __str__(self) -> str:
        return self.name

    def set_key(self, key: str) -> None:
        """Make ``key`` the key of this row: keep its hash, and its beginning for people.

        Raises:
            ValidationError: The key is easy to guess, or could not be sent in a header.
        """
        if len(key) < KEY_MIN_LENGTH:
            raise ValidationError(
                f"A key of {len(key)} characters is easy to guess: give at least {KEY_MIN_LENGTH}, "
                "or leave it out to get a random one.",
                code="key",
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise ValidationError("A key is made of visible ASCII characters.", code="key")
        self.key_hash = hash_of_key(key)
        self.prefix = key[:_PREFIX_LENGTH]

    @classmethod
    def create(
        cls,
        name: str,
        *,
        key: str | None = None,
        scopes: list[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple["ApiKey", str]:
        """Store a new key and return it with the key itself, which cannot be read again.

        Args:
            name: Who holds it.
            key: None makes a random one.
            scopes: None allows everything.
            expires_at: None is never.
        Raises:
            ValidationError: What is wrong with any of them.
        """
        given: dict[str, Any] = {} if scopes is None else {"scopes": scopes}
        row = cls(name=name, expires_at=expires_at, **given)
        key = make_key() if key is None else key
        row.set_key(key)
        row.full_clean()
        row.save(force_insert=True)
        return row, key
