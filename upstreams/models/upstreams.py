"""HTTP services that are asked on behalf of connections, and what each of them is asked.

Read through ``configuration.py``, changed in the admin. What is written is checked by
``full_clean``; the configuration leaves out what was written past it and cannot be used.
"""

from typing import Any, Final

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from realtime.hooks import Kind
from upstreams import addresses

TIMEOUT_MAX_SECONDS: Final = 60.0
_TOKEN: Final = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
# They belong to the connection between the two servers.
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-length", "content-type", "host", "transfer-encoding", "upgrade", "te"}
)


def validate_header_name(name: object) -> None:
    """Refuse what is no header's name, or the name of one that is not the operator's to set."""
    if not isinstance(name, str) or not name or not set(name) <= _TOKEN:
        raise ValidationError(f"{name!r} is not the name of a header.", code="header")
    if name.lower() in _OWN_HEADERS:
        raise ValidationError(f"{name} is set by the server itself.", code="header")


def validate_headers(headers: object) -> None:
    """Refuse what is not an object of header names and texts."""
    if not isinstance(headers, dict):
        raise ValidationError('Give an object, such as {"X-Team": "blue"}.', code="headers")
    for name, value in headers.items():
        validate_header_name(name)
        # A line break in a value would be another header.
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise ValidationError(f"{name}: use printable ASCII.", code="headers")


def validate_header_names(names: object) -> None:
    """Refuse what is not a list of header names."""
    if not isinstance(names, list):
        raise ValidationError('Give a list, such as ["x-team"].', code="headers")
    for name in names:
        validate_header_name(name)


def validate_base_url(url: str) -> None:
    """Refuse a URL that no request may go to."""
    try:
        addresses.parsed(url)
    except addresses.Refused as error:
        raise ValidationError(f"Not a usable URL: {error}.", code="url") from error


def validate_path(path: str) -> None:
    """Refuse a path that would lead to another host, or into a header."""
    if not path.startswith("/") or path.startswith("//"):
        raise ValidationError("A path begins with one slash.", code="path")
    if not path.isprintable() or not path.isascii() or " " in path or "#" in path:
        raise ValidationError("Use printable ASCII without spaces and #.", code="path")


def validate_transforms(transforms: object) -> None:
    """Refuse what is not a list of Centrifugo's ``status_to_code_transforms``."""
    from upstreams.configuration import UnusableTransforms, transforms_of

    try:
        transforms_of(transforms)
    except UnusableTransforms as error:
        raise ValidationError(f"Not usable: {error}.", code="transforms") from error


class Upstream(models.Model):
    """An HTTP service. Source: Centrifugo proxy options, where the names are the same."""

    name = models.CharField(max_length=100, unique=True, help_text="In logs and metrics.")
    base_url = models.CharField(
        "base URL",
        max_length=500,
        validators=[validate_base_url],
        help_text="http:// or https://, without user and password. Paths are put behind it.",
    )
    is_enabled = models.BooleanField(
        "enabled", default=True, help_text="Off: its routes are as if they were not there."
    )
    timeout_seconds = models.FloatField(
        default=1.0,
        validators=[MinValueValidator(0.05), MaxValueValidator(TIMEOUT_MAX_SECONDS)],
        help_text="For a whole call: waiting for its turn, connecting, and the answer.",
    )
    concurrency = models.PositiveIntegerField(
        default=64,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="Most requests at once, of each server process.",
    )
    queue_max = models.PositiveIntegerField(
        default=1000,
        help_text="Most calls that wait for their turn; the users take turns. More fail at once.",
    )
    body_max_bytes = models.PositiveIntegerField(
        default=1024 * 1024,
        validators=[MinValueValidator(1)],
        help_text="An answer with more than that is a failure.",
    )
    allow_private_addresses = models.BooleanField(
        default=False,
        help_text="Whether it may be on this machine or in a private network. Otherwise a name "
        "that leads there is refused at every call.",
    )
    static_headers = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_headers],
        help_text='Sent with every request, such as {"X-Team": "blue"}. Whoever may change this '
        "page sees them, and nobody else.",
    )
    emulated_headers = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_header_names],
        help_text="Names of headers that a client's connect may give; anybody can claim anything "
        "there. They replace static ones.",
    )
    http_headers = models.JSONField(
        "HTTP headers",
        default=list,
        blank=True,
        validators=[validate_header_names],
        help_text="Names of headers of the WebSocket's handshake that are passed on, such as "
        '["cookie"]. They replace the others.',
    )
    include_connection_meta = models.BooleanField(
        default=False, help_text="Send the meta of the connection's token or connect answer."
    )
    signing_secret = models.CharField(
        max_length=200,
        blank=True,
        help_text="Signs the body of each request: X-Heliograph-Signature. Empty: not signed.",
    )
    retries = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(5)],
        help_text="How often a call that failed is tried again within its timeout: of those that "
        "change nothing, which are all but publish, and RPC only where a route is safe.",
    )
    breaker_failures = models.PositiveIntegerField(
        default=5,
        validators=[MinValueValidator(1)],
        help_text="After so many failures in a row it is not asked for a while.",
    )
    breaker_seconds = models.FloatField(
        default=10.0,
        validators=[MinValueValidator(0.1), MaxValueValidator(3600.0)],
        help_text="How long; one call tries it then.",
    )
    status_transforms = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_transforms],
        help_text='What an HTTP status means: [{"status_code": 404, "to_error": {"code": 1404, '
        '"message": "not there"}}], or "to_disconnect" with code and reason.',
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse an address that would be refused at every call.

        Raises:
            ValidationError: With a message beside the field.
        """
        super().clean()
        try:
            url = addresses.parsed(self.base_url)
            addresses.check_literal(url.host, allow_private=self.allow_private_addresses)
        except addresses.Refused as error:
            raise ValidationError({"base_url": f"Not a usable URL: {error}."}) from error


class Route(models.Model):
    """What an upstream is asked."""

    KINDS: Final = [(kind.value, kind.value) for kind in Kind]

    upstream = models.ForeignKey(Upstream, on_delete=models.CASCADE, related_name="routes")
    kind = models.CharField(max_length=20, choices=KINDS)
    match = models.CharField(
        max_length=200,
        blank=True,
        help_text="RPC: a method, or a beginning with * such as orders:*. subscribe, publish, "
        "sub_refresh: a namespace, empty for channels without one. connect, refresh: empty.",
    )
    path = models.CharField(max_length=500, default="/", validators=[validate_path])
    is_safe = models.BooleanField(
        "safe",
        default=False,
        help_text="RPC: it only reads. The same question of a user is then asked once for all who "
        "wait, and may be repeated.",
    )
    timeout_seconds = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.05), MaxValueValidator(TIMEOUT_MAX_SECONDS)],
        help_text="Empty: the upstream's.",
    )

    class Meta:
        ordering = ["kind", "match"]
        constraints = [
            models.UniqueConstraint(fields=["kind", "match"], name="upstreams_one_route_for_each")
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.match}".strip()

    def clean(self) -> None:
        """Refuse what could never match.

        Raises:
            ValidationError: With a message beside the field.
        """
        super().clean()
        errors: dict[str, Any] = {}
        if self.kind in (Kind.CONNECT, Kind.REFRESH) and self.match:
            errors["match"] = f"{self.kind} is asked for every connection: leave it empty."
        if self.kind == Kind.RPC and (not self.match or "*" in self.match[:-1]):
            errors["match"] = "Give a method, with * as its last character for all that begin so."
        if self.kind != Kind.RPC and self.is_safe:
            errors["is_safe"] = "For RPC only."
        if errors:
            raise ValidationError(errors)


class UpstreamState(models.Model):
    """How an upstream was doing when a server process last saw that change."""

    upstream = models.ForeignKey(Upstream, on_delete=models.CASCADE, related_name="states")
    instance = models.CharField(max_length=64)
    is_open = models.BooleanField("breaker is open")
    reason = models.CharField(max_length=100, blank=True)
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["-changed_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["upstream", "instance"], name="upstreams_one_state_for_each_instance"
            )
        ]

    def __str__(self) -> str:
        return f"{self.upstream}: {'not asked' if self.is_open else 'asked'}"
