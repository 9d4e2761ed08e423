"""Namespaces, API keys and what other apps configure, as one immutable value.

Read by the instance's poll and by ``services``; everything that decides something for a client
decides on a snapshot, so that the database is not on the way of a command. The functions here do
synchronous I/O: a coroutine calls them in a thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from django.db.models import Model

from realtime.models import ApiKey, Namespace, SnapshotVersion
from realtime.protocol.errors import UnknownChannel

PRIVATE_PREFIX = "$"
NAMESPACE_BOUNDARY = ":"
WITHOUT_NAMESPACE = ""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options of a namespace as ``models.Namespace`` describes them; everything is off."""

    history_size: int = 0
    history_ttl: int = 0
    history_meta_ttl: int = 0
    force_recovery: bool = False
    allow_recovery: bool = False
    force_recovery_mode: str = ""
    auto_cache_recover: bool = False
    force_positioning: bool = False
    allow_positioning: bool = False
    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_client: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_anonymous: bool = False
    allow_history_for_client: bool = False
    allow_history_for_subscriber: bool = False
    allow_history_for_anonymous: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_subscriber: bool = False
    allow_presence_for_anonymous: bool = False
    allow_user_limited_channels: bool = False
    channel_regex: str = ""
    publication_data_format: str = ""

    @property
    def has_history(self) -> bool:
        """Whether publications are kept."""
        return self.history_size > 0 and self.history_ttl > 0

    @property
    def recovers_newest(self) -> bool:
        """Whether a recovery gives the newest publication instead of all that were missed."""
        return self.force_recovery_mode == "cache"


_OPTION_NAMES = tuple(option.name for option in fields(ChannelOptions))
_NO_OPTIONS = ChannelOptions()


@dataclass(frozen=True, slots=True)
class ApiKeyEntry:
    """An API key as it is checked: its hash, what it is for and until when."""

    id: int
    name: str
    key_hash: str
    scopes: tuple[str, ...]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was configured at one moment; the default is a server without any configuration."""

    version: int = 0
    namespaces: Mapping[str, ChannelOptions] = field(default_factory=dict)
    api_keys: tuple[ApiKeyEntry, ...] = ()
    parts: Mapping[str, Any] = field(default_factory=dict)

    def options_of(self, channel: str) -> ChannelOptions:
        """Return the options that hold for a channel.

        Channels without a namespace have everything off until a namespace with an empty name
        says otherwise.

        Raises:
            UnknownChannel: The channel's name has a namespace that is not configured.
        """
        namespace = namespace_of(channel)
        if namespace is None:
            return self.namespaces.get(WITHOUT_NAMESPACE, _NO_OPTIONS)
        # ":x" has a namespace with an empty name, which is never configured.
        options = self.namespaces.get(namespace) if namespace else None
        if options is None:
            raise UnknownChannel(channel)
        return options


def namespace_of(channel: str) -> str | None:
    """Return what stands before the first colon, after one leading ``$``; None without a colon."""
    namespace, boundary, _ = channel.removeprefix(PRIVATE_PREFIX).partition(NAMESPACE_BOUNDARY)
    return namespace if boundary else None


class _Part(NamedTuple):
    """What an app adds to every snapshot."""

    load: Callable[[], Any]
    watched: tuple[type[Model], ...]


_parts: dict[str, _Part] = {}


def register_part(name: str, load: Callable[[], Any], *, watched: tuple[type[Model], ...]) -> None:
    """Have every snapshot hold what ``load`` returns; called by an app when it is ready.

    Args:
        name: Its key in ``Snapshot.parts``.
        load: Asks the database and returns an immutable value; called in a thread.
        watched: The models it reads. Any change of their tables makes a new snapshot, as far as
            the app has had their triggers made (``apps.make_triggers``).
    """
    _parts[name] = _Part(load, watched)


def watched_models() -> list[type[Model]]:
    """Return the models whose changes make a new snapshot: ours and those of the parts."""
    return [Namespace, ApiKey, *(model for part in _parts.values() for model in part.watched)]


def load() -> Snapshot:
    """Read everything.

    Raises:
        django.db.Error: The database did not answer, or has no such tables.
    """
    # The version comes first: a change in between then shows as a newer version at the next poll,
    # and is read again. The other way round it would be lost.
    version = _version()
    parts = MappingProxyType({name: part.load() for name, part in _parts.items()})
    return Snapshot(version, MappingProxyType(_namespaces()), _api_keys(), parts)


def load_if_changed(known: Snapshot | None) -> Snapshot:
    """Return ``known`` itself if nothing changed since, else read everything.

    One small SELECT where nothing changed.

    Raises:
        django.db.Error: The database did not answer.
    """
    if known is not None and known.version == _version():
        return known
    return load()


def _version() -> int:
    number = SnapshotVersion.objects.values_list("number", flat=True).first()
    return 0 if number is None else number


def _namespaces() -> dict[str, ChannelOptions]:
    rows = Namespace.objects.order_by().values_list("name", *_OPTION_NAMES)
    return {name: ChannelOptions(*options) for name, *options in rows}


def _api_keys() -> tuple[ApiKeyEntry, ...]:
    rows = ApiKey.objects.order_by("id").values_list(
        "id", "name", "key_hash", "scopes", "expires_at"
    )
    return tuple(
        ApiKeyEntry(key_id, name, key_hash, _texts(scopes), expires_at)
        for key_id, name, key_hash, scopes, expires_at in rows
    )


def _texts(scopes: object) -> tuple[str, ...]:
    """Return the scopes that are texts: a row written past the model must not stop the poll."""
    listed = scopes if isinstance(scopes, list) else []
    return tuple(scope for scope in listed if isinstance(scope, str))
