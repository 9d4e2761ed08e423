"""System checks of the engine: what a deployment must have, each with its cure."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from realtime import conf
from realtime.layers import HeliographChannelLayer
from realtime.redis_client import LAYER_ALIAS, hosts, layer_config


@register("realtime")
def check_layer(**_: Any) -> list[CheckMessage]:
    """Check that the default channel layer is ours, and set so that it works."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    backend = layers.get(LAYER_ALIAS, {}).get("BACKEND", "")
    wanted = f"{HeliographChannelLayer.__module__}.{HeliographChannelLayer.__qualname__}"
    try:
        is_ours = issubclass(import_string(backend), HeliographChannelLayer)
    except (ImportError, TypeError):
        is_ours = False
    if not is_ours:
        hint = f'CHANNEL_LAYERS = {{"default": {{"BACKEND": "{wanted}", ...}}}}'
        message = "CHANNEL_LAYERS['default'] is not Heliograph's layer"
        return [Error(message, hint=hint, id="realtime.E001")]
    return [*_check_encryption(), *_check_hosts()]


def _check_encryption() -> list[CheckMessage]:
    if not layer_config().get("symmetric_encryption_keys"):
        return []
    return [
        Error(
            "the channel layer cannot encrypt: publications are sent by a script in Redis",
            hint="Remove symmetric_encryption_keys; use TLS (rediss://) on the way to Redis.",
            id="realtime.E002",
        )
    ]


def _check_hosts() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for host in hosts():
        if "address" not in host:
            hint = 'Give each host as {"address": "redis://..."}.'
            found.append(Error(f"host without an address: {host}", hint=hint, id="realtime.E003"))
        if str(host.get("protocol", "2")) != "2":
            hint = "Remove protocol: raw replies are read as RESP2."
            found.append(Error("the layer speaks RESP2", hint=hint, id="realtime.E004"))
        if host.get("socket_timeout") is not None:
            # redis-py 8 has five seconds by default, which ends idle subscriptions.
            hint = "Remove socket_timeout: REALTIME['BROKER_TIMEOUT_SECONDS'] is the deadline."
            message = "socket_timeout of a layer host is not used"
            found.append(Warning(message, hint=hint, id="realtime.W001"))
    return found


@register("realtime")
def check_settings(**_: Any) -> list[CheckMessage]:
    """Check values that fit together or do not."""
    values = conf.current()
    found: list[CheckMessage] = []
    if not values.token_hmac_secret:
        hint = "Set REALTIME['TOKEN_HMAC_SECRET'] to at least 32 random characters."
        found.append(Warning("no token verifies without a secret", hint=hint, id="realtime.W002"))
    if values.pong_timeout_seconds >= values.ping_interval_seconds:
        hint = "REALTIME['PONG_TIMEOUT_SECONDS'] must be below PING_INTERVAL_SECONDS."
        found.append(Error("a pong may come later than a ping", hint=hint, id="realtime.E005"))
    if values.presence_renewal_seconds * 2 > values.presence_ttl_seconds:
        hint = "PRESENCE_RENEWAL_SECONDS must be at most half of PRESENCE_TTL_SECONDS."
        found.append(Error("presence lapses between renewals", hint=hint, id="realtime.E006"))
    if values.insecure:
        hint = "REALTIME['INSECURE'] is for tests and demos."
        found.append(Warning("anybody may do anything", hint=hint, id="realtime.W003"))
    return found
