"""The options of channels, by namespace."""

from typing import Final

from django.core.exceptions import ValidationError
from django.core.validators import (
    MaxValueValidator,
    ProhibitNullCharactersValidator,
    RegexValidator,
)
from django.db import models

from realtime import conf
from realtime.patterns import Pattern, UnusablePattern

# What PostgreSQL's integer holds: SQLite would take more, and Redis expires nothing that far away.
LARGEST: Final = 2**31 - 1
CACHE: Final = "cache"


def validate_regex(pattern: str) -> None:
    """Refuse what RE2 does not compile."""
    try:
        Pattern(pattern)
    except UnusablePattern as error:
        raise ValidationError(
            f"Not a regular expression of RE2: {error}. It has no look-around and no back "
            r"references, and the end of a text is $ or \z.",
            code="regex",
        ) from error


class Namespace(models.Model):
    """The options of all channels whose name begins with ``name:``.

    Source: Centrifugo channel options; the names are the same.
    """

    class RecoveryMode(models.TextChoices):
        """What a client that comes back gets."""

        DEFAULT = "", "default: stream"
        STREAM = "stream", "stream: all that it missed"
        CACHE = CACHE, "cache: the newest publication alone"

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
        default=0,
        validators=[MaxValueValidator(LARGEST)],
        help_text="How many publications are kept. 0: no history.",
    )
    history_ttl = models.PositiveIntegerField(
        "history TTL",
        default=0,
        validators=[MaxValueValidator(LARGEST)],
        help_text="Seconds after the last publication when history is dropped. 0: no history.",
    )
    history_meta_ttl = models.PositiveIntegerField(
        "history meta TTL",
        default=0,
        validators=[MaxValueValidator(LARGEST)],
        help_text="Seconds after the last publication when its offset and epoch are forgotten; at "
        "least the history TTL. 0: REALTIME_HISTORY_META_TTL_SECONDS.",
    )
    force_recovery = models.BooleanField(
        default=False,
        help_text="Clients that come back get what they missed, without asking. Needs history.",
    )
    allow_recovery = models.BooleanField(
        default=False, help_text="Clients may ask for recovery. Needs history."
    )
    force_recovery_mode = models.CharField(
        max_length=10,
        blank=True,
        choices=RecoveryMode,
        default=RecoveryMode.DEFAULT,
        help_text="What recovery gives. Cache is for channels whose newest publication says "
        "everything, and needs history.",
    )
    auto_cache_recover = models.BooleanField(
        default=False,
        help_text="Every subscriber gets the newest publication at once, without asking. Needs "
        "force recovery and the mode cache.",
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
        help_text="Regular expression of RE2, found anywhere in what follows the namespace; anchor "
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
        errors = self._history_errors() | self._recovery_errors()
        if errors:
            raise ValidationError(errors)

    def _history_errors(self) -> dict[str, str]:
        size, ttl, meta_ttl = self.history_size, self.history_ttl, self.history_meta_ttl
        if None in (size, ttl, meta_ttl):
            return {}  # told as missing beside the field already
        if bool(size) != bool(ttl):
            missing = "history_ttl" if size else "history_size"
            return {missing: "History needs both a size and a TTL; without it both are 0."}
        if 0 < meta_ttl < ttl:
            return {"history_meta_ttl": "Offsets are kept at least as long as the history TTL."}
        if not meta_ttl and ttl > conf.current().history_meta_ttl_seconds:
            reason = "Set a history meta TTL of at least as much: REALTIME_HISTORY_META_TTL_SECONDS"
            return {"history_meta_ttl": f"{reason} is less than the history TTL."}
        return {}

    def _recovery_errors(self) -> dict[str, str]:
        errors = {}
        if not (self.history_size and self.history_ttl):
            for option in ("force_recovery", "allow_recovery"):
                if getattr(self, option):
                    errors[option] = "Recovery reads history: set history size and history TTL."
            if self.force_recovery_mode == CACHE:
                errors["force_recovery_mode"] = "The cache is history: set its size and TTL."
        is_cached = self.force_recovery and self.force_recovery_mode == CACHE
        if self.auto_cache_recover and not is_cached:
            errors["auto_cache_recover"] = "Needs force recovery and the recovery mode cache."
        return errors
