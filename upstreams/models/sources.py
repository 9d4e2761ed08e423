"""APIs that are polled once for all viewers, and how that went.

Read through ``sources/configuration.py``, changed in the admin. What is written is checked by
``full_clean``.
"""

from typing import Any, Final

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from realtime.models import Namespace
from realtime.permissions import check_size
from realtime.protocol.errors import BadRequest
from realtime.snapshot import WITHOUT_NAMESPACE, namespace_of
from upstreams.models.upstreams import Upstream, validate_headers, validate_path
from upstreams.sources import mapping

INTERVAL_MIN_SECONDS: Final = 0.5
INTERVAL_MAX_SECONDS: Final = 86400.0
# How many intervals without an answer make a value stale, where nothing else is said.
STALE_INTERVALS: Final = 3


def validate_pointer(pointer: str) -> None:
    """Refuse what is not a JSON pointer."""
    try:
        mapping.tokens(pointer)
    except mapping.UnusablePointer as error:
        raise ValidationError(f"Not a JSON pointer: {error}.", code="pointer") from error


def validate_channel(channel: str) -> None:
    """Refuse a channel that keeps nothing for who comes later, and say what would help."""
    try:
        check_size(channel)
    except BadRequest as error:
        raise ValidationError(f"Not a channel: {error}.", code="channel") from error
    namespace = _namespace_of(channel)
    if namespace is None:
        raise ValidationError(
            "It has no namespace that exists: add one, with history size and history TTL.",
            code="namespace",
        )
    if not (namespace.history_size and namespace.history_ttl):
        raise ValidationError(
            f"The namespace {namespace} keeps no history, so that who comes later would see "
            "nothing: set its history size to 1 and its history TTL to 86400, say.",
            code="history",
        )


def _namespace_of(channel: str) -> Namespace | None:
    name = namespace_of(channel)
    if name == "":  # ":x", which no namespace is for
        return None
    return Namespace.objects.filter(name=WITHOUT_NAMESPACE if name is None else name).first()


class DataSource(models.Model):
    """An address that is polled, once for all instances."""

    name = models.CharField(max_length=100, unique=True, help_text="In logs and in the admin.")
    upstream = models.ForeignKey(
        Upstream,
        on_delete=models.CASCADE,
        related_name="sources",
        help_text="Where it is; its limits, headers and secret hold for polling too.",
    )
    path = models.CharField(
        max_length=500,
        default="/",
        validators=[validate_path],
        help_text="What is asked with GET, with its query: /rates?base=EUR",
    )
    interval_seconds = models.FloatField(
        default=10.0,
        validators=[
            MinValueValidator(INTERVAL_MIN_SECONDS),
            MaxValueValidator(INTERVAL_MAX_SECONDS),
        ],
        help_text="From the begin of one poll to the begin of the next, however many watch.",
    )
    jitter_seconds = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0.0)],
        help_text="Up to so much is added to each interval at random, so that many sources do not "
        "ask at the same moment.",
    )
    only_while_watched = models.BooleanField(
        default=True,
        help_text="Poll only while somebody is subscribed to one of the channels.",
    )
    stale_after_seconds = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(INTERVAL_MIN_SECONDS)],
        help_text="How long without a good answer until the value is called stale. Empty: "
        f"{STALE_INTERVALS} intervals.",
    )
    headers = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_headers],
        help_text='Besides those of the upstream, which they replace: {"X-Team": "blue"}. '
        "Everybody who may look at this page sees them; a key belongs to the upstream.",
    )
    is_enabled = models.BooleanField("enabled", default=True)
    poll_asked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def effective_stale_after_seconds(self) -> float:
        """How long without a good answer until the value is called stale."""
        return float(self.stale_after_seconds or STALE_INTERVALS * self.interval_seconds)

    @property
    def longest_interval_seconds(self) -> float | None:
        """How long it may take from poll to poll; None in a form that does not say."""
        interval_seconds: float | None = self.interval_seconds
        return interval_seconds and interval_seconds + (self.jitter_seconds or 0.0)

    def clean(self) -> None:
        """Refuse times that do not go together.

        Raises:
            ValidationError: With a message beside each field.
        """
        super().clean()
        interval, errors = self.interval_seconds, dict[str, Any]()
        if interval is None:
            return  # refused already
        longest = self.longest_interval_seconds or interval
        if self.stale_after_seconds is not None and self.stale_after_seconds <= longest:
            errors["stale_after_seconds"] = (
                "Not more than from poll to poll: the value would be stale between any two. "
                f"Give more than {longest:g}, or leave it empty."
            )
        if self.jitter_seconds is not None and self.jitter_seconds > interval:
            errors["jitter_seconds"] = f"More than the interval: give {interval:g} or less."
        if errors:
            raise ValidationError(errors)


class SourceMapping(models.Model):
    """Which part of an answer goes into which channel."""

    source = models.ForeignKey(DataSource, on_delete=models.CASCADE, related_name="mappings")
    channel = models.CharField(
        max_length=255,
        unique=True,
        validators=[validate_channel],
        help_text="Its namespace keeps history, if only one publication.",
    )
    pointer = models.CharField(
        max_length=500,
        blank=True,
        validators=[validate_pointer],
        help_text="A JSON pointer: /rates/USD, /items/0/price. Empty is the whole answer.",
    )

    class Meta:
        ordering = ["channel"]

    def __str__(self) -> str:
        return self.channel

    def clean(self) -> None:
        """Refuse a channel that would have forgotten its value before it is read again.

        Raises:
            ValidationError: With a message beside the field.
        """
        super().clean()
        namespace = _namespace_of(self.channel)
        try:
            longest_seconds = self.source.longest_interval_seconds
        except DataSource.DoesNotExist:
            return  # refused already, as are the others
        if namespace is None or longest_seconds is None or not namespace.history_ttl:
            return
        if namespace.history_ttl <= longest_seconds:
            raise ValidationError(
                {
                    "channel": f"The namespace {namespace} forgets a value after "
                    f"{namespace.history_ttl} seconds, before it is read again: set its history "
                    f"TTL above {longest_seconds:g}."
                }
            )


class DataSourceState(models.Model):
    """How a source was doing when it was polled last; written by whoever polls."""

    class State(models.TextChoices):
        """What viewers are told."""

        OK = "ok"
        FAILING = "failing"
        STALE = "stale"

    source = models.OneToOneField(
        DataSource, on_delete=models.CASCADE, primary_key=True, related_name="last"
    )
    state = models.CharField(max_length=10, choices=State.choices)
    error = models.CharField(max_length=200, blank=True)
    polled_at = models.DateTimeField()
    answered_at = models.DateTimeField("last good answer", null=True)
    latency_seconds = models.FloatField()
    instance = models.CharField("polled by", max_length=64)

    def __str__(self) -> str:
        return f"{self.source}: {self.state}"
