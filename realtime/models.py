"""What an operator configures: namespaces and API keys.

Read through ``snapshot.py``, changed in the admin, by commands and by Django code. Nothing here is
queried while a command or a publication is served. What is written is checked by ``full_clean``,
which the admin and the commands call; ``snapshot.py`` trusts nothing beyond the column types.
"""

import hashlib
import re
import secrets
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.core.validators import ProhibitNullCharactersValidator, RegexValidator
from django.db import models

# What a scope can name. batch is missing, because each command of a batch is judged by itself.
CHANNEL_METHODS: Final = (
    "publish",
    "broadcast",
    "history",
    "history_remove",
    "presence",
    "presence_stats",
    "unsubscribe",
)
SERVER_METHODS: Final = ("channels", "info", "disconnect")
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


def validate_regex(pattern: str) -> None:
    """Refuse what Python's ``re`` does not compile."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValidationError(f"Not a regular expression: {error}.", code="regex") from error


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


class Namespace(models.Model):
    """The options of all channels whose name begins with ``name:``.

    Source: Centrifugo channel options; the names are the same.
    """

    class DataFormat(models.TextChoices):
        """What a publication's data has to be."""

        ANY = "", "anything but nothing"
        JSON = "json", "JSON"
        JSON_OBJECT = "json_object", "a JSON object"

    name = models.CharField(
        max_length=100,
        unique=True,
        blank=True,
        validators=[
            RegexValidator(
                r"^[-a-zA-Z0-9_.]{2,}\Z",
                "Use two or more of: letters, digits, hyphen, underscore, dot.",
            )
        ],
        help_text="What stands before the first colon of a channel: demo for demo:clock. "
        "Empty: the options of channels without a namespace.",
    )
    history_size = models.PositiveIntegerField(
        default=0, help_text="How many publications are kept. 0: no history."
    )
    history_ttl = models.PositiveIntegerField(
        "history TTL",
        default=0,
        help_text="Seconds after the last publication when history is dropped. 0: no history.",
    )
    force_recovery = models.BooleanField(
        default=False,
        help_text="Clients that come back get what they missed, without asking. Needs history.",
    )
    allow_recovery = models.BooleanField(
        default=False, help_text="Clients may ask for recovery. Needs history."
    )
    force_positioning = models.BooleanField(
        default=False,
        help_text="The server notices that a client missed something, without being asked.",
    )
    allow_positioning = models.BooleanField(
        default=False, help_text="Clients may ask for positioning."
    )
    presence = models.BooleanField(
        default=False, help_text="Keep who is subscribed, for 60 seconds beyond a crash."
    )
    join_leave = models.BooleanField(
        default=False, help_text="Announce who subscribes and who leaves."
    )
    force_push_join_leave = models.BooleanField(
        default=False,
        help_text="Send the announcements to every subscriber, not only to those that ask and "
        "may read presence.",
    )
    allow_subscribe_for_client = models.BooleanField(
        default=False, help_text="Users may subscribe without a subscription token."
    )
    allow_subscribe_for_anonymous = models.BooleanField(
        default=False, help_text="Where users may subscribe, connections without a user may too."
    )
    allow_publish_for_client = models.BooleanField(
        default=False, help_text="Users may publish from the browser."
    )
    allow_publish_for_subscriber = models.BooleanField(
        default=False, help_text="Users may publish where they are subscribed."
    )
    allow_publish_for_anonymous = models.BooleanField(
        default=False, help_text="Where users may publish, connections without a user may too."
    )
    allow_history_for_client = models.BooleanField(
        default=False, help_text="Users may read history."
    )
    allow_history_for_subscriber = models.BooleanField(
        default=False, help_text="Users may read history where they are subscribed."
    )
    allow_history_for_anonymous = models.BooleanField(
        default=False, help_text="Where users may read history, connections without a user may too."
    )
    allow_presence_for_client = models.BooleanField(
        default=False, help_text="Users may read who is subscribed."
    )
    allow_presence_for_subscriber = models.BooleanField(
        default=False, help_text="Users may read who is subscribed where they are themselves."
    )
    allow_presence_for_anonymous = models.BooleanField(
        default=False,
        help_text="Where users may read presence, connections without a user may too.",
    )
    allow_user_limited_channels = models.BooleanField(
        default=False,
        help_text="demo:talk#4,7 is open to the users 4 and 7 and to nobody else.",
    )
    channel_regex = models.CharField(
        max_length=500,
        blank=True,
        validators=[ProhibitNullCharactersValidator(), validate_regex],
        help_text="Python regular expression found anywhere in what follows the namespace; anchor "
        "it with ^ and $. Empty: any ASCII name. With it, other characters are allowed too.",
    )
    publication_data_format = models.CharField(
        max_length=20,
        blank=True,
        choices=DataFormat,
        default=DataFormat.ANY,
        help_text="What publications must contain; others are refused.",
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name or "(without a namespace)"

    def clean(self) -> None:
        """Refuse options that could not work together.

        Raises:
            ValidationError: With a message beside each field that has to change.
        """
        super().clean()
        errors = {}
        if bool(self.history_size) != bool(self.history_ttl):
            missing = "history_ttl" if self.history_size else "history_size"
            errors[missing] = "History needs both a size and a TTL; without it both are 0."
        if not (self.history_size and self.history_ttl):
            for option in ("force_recovery", "allow_recovery"):
                if getattr(self, option):
                    errors[option] = "Recovery reads history: set history size and history TTL."
        if errors:
            raise ValidationError(errors)


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


class SnapshotVersion(models.Model):
    """One row, whose ``number`` differs after every change of what a snapshot holds.

    Written by database triggers (``apps.py``) and by nothing else.
    """

    number = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.number)
