"""``settings.REALTIME`` as one frozen value, units in the names.

Read by every layer through ``current()`` at the time of use. Where Redis is, is not here: that is
``CHANNEL_LAYERS``, where Django people look for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

VERSION = "0.1.0"
SERVER_VERSION = f"{VERSION} Heliograph"


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of the engine; the defaults run on a laptop.

    A key of ``settings.REALTIME`` is a field's name in upper case. Permission to do without a
    value is part of its type: an empty secret never verifies anything.
    """

    token_hmac_secret: str = ""
    token_hmac_previous_secret: str = ""
    token_hmac_previous_secret_until: datetime | None = None
    token_public_key: str = ""
    token_jwks_url: str = ""
    token_audience: str = ""
    token_audience_regex: str = ""
    token_issuer: str = ""
    token_issuer_regex: str = ""
    token_user_id_claim: str = "sub"
    token_ttl_seconds: int = 1800
    subscription_token_hmac_secret: str = ""
    subscription_token_hmac_previous_secret: str = ""
    subscription_token_hmac_previous_secret_until: datetime | None = None
    subscription_token_public_key: str = ""
    subscription_token_jwks_url: str = ""
    subscription_token_audience: str = ""
    subscription_token_audience_regex: str = ""
    subscription_token_issuer: str = ""
    subscription_token_issuer_regex: str = ""
    subscription_token_user_id_claim: str = "sub"
    api_key: str = ""
    api_errors_as_statuses: bool = False
    allowed_origins: tuple[str, ...] = ()
    channel_rule: str = ""
    insecure: bool = False
    allow_anonymous: bool = False
    demo: bool = False
    websockets: bool = True
    personal_channels: bool = False
    personal_channel_namespace: str = ""
    allow_anonymous_tokens: bool = True
    connect_includes_time: bool = False
    connection_limit: int = 0
    connection_rate: int = 0
    user_connection_limit: int = 0
    command_rate: int = 0
    command_concurrency_limit: int = 1
    call_concurrency_limit: int = 16
    calls_max: int = 10_000
    sync_handler_threads: int = 8
    metrics_networks: tuple[str, ...] = ()
    ping_interval_seconds: int = 25
    pong_timeout_seconds: int = 8
    stale_close_seconds: int = 10
    channel_limit: int = 128
    channel_name_max_bytes: int = 255
    queue_max_bytes: int = 1024 * 1024
    message_max_bytes: int = 64 * 1024
    publication_max_bytes: int = 64 * 1024
    history_max_publications: int = 300
    history_meta_ttl_seconds: int = 720 * 3600
    recovery_max_publications: int = 300
    idempotency_ttl_seconds: int = 300
    position_check_seconds: float = 40.0
    presence_ttl_seconds: int = 60
    presence_renewal_seconds: float = 27.0
    broker_timeout_seconds: float = 1.5
    snapshot_poll_seconds: float = 1.0
    control_ttl_seconds: int = 600
    drain_seconds: float = 5.0
    var_dir: str = "var"


# The least value of every number above, told by a system check. 0 is one only where it has a
# meaning of its own: no limit of connections or of a rate, no time for the closes of a drain.
# Below 1024 bytes no `connect` with a token gets through, nor its reply.
LEAST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "token_ttl_seconds": 1,
        "connection_limit": 0,
        "connection_rate": 0,
        "user_connection_limit": 0,
        "command_rate": 0,
        "command_concurrency_limit": 1,
        "call_concurrency_limit": 1,
        "calls_max": 1,
        "sync_handler_threads": 1,
        "ping_interval_seconds": 1,
        "pong_timeout_seconds": 1,
        "stale_close_seconds": 1,
        "channel_limit": 1,
        "channel_name_max_bytes": 1,
        "queue_max_bytes": 1024,
        "message_max_bytes": 1024,
        "publication_max_bytes": 1,
        "history_max_publications": 1,
        "history_meta_ttl_seconds": 1,
        "recovery_max_publications": 1,
        "idempotency_ttl_seconds": 1,
        "position_check_seconds": 1.0,
        "presence_ttl_seconds": 2,
        "presence_renewal_seconds": 1.0,
        "broker_timeout_seconds": 0.1,
        "snapshot_poll_seconds": 0.1,
        "control_ttl_seconds": 10,
        "drain_seconds": 0,
    }
)


def _from_django() -> Settings:
    given: dict[str, Any] = getattr(settings, "REALTIME", {})
    known = {field.name.upper(): field.name for field in fields(Settings)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ImproperlyConfigured(f"REALTIME has unknown keys: {', '.join(unknown)}")
    return Settings(**{known[key]: value for key, value in given.items()})


_cached = lru_cache(maxsize=1)(_from_django)


def current() -> Settings:
    """Return the settings of this process.

    Raises:
        ImproperlyConfigured: ``settings.REALTIME`` has a key that no setting answers to.
    """
    return _cached()


def _forget(*, setting: str, **_: object) -> None:
    if setting == "REALTIME":
        _cached.cache_clear()


# Tests override settings; production never sends this signal.
setting_changed.connect(_forget)
