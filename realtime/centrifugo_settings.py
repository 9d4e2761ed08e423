"""What stands here for the sections of a Centrifugo v6 configuration that are not imported.

Called by ``centrifugo_config``. Names settings and never shows a value, which may be a secret.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from realtime.centrifugo_options import plain, wishes

# Paths of Centrifugo, and the variables or commands that do the same.
STANDS_FOR: Final[Mapping[str, Mapping[str, str]]] = {
    "client": {
        "token.hmac_secret_key": "REALTIME_TOKEN_HMAC_SECRET",
        "token.rsa_public_key": "REALTIME_TOKEN_PUBLIC_KEY",
        "token.ecdsa_public_key": "REALTIME_TOKEN_PUBLIC_KEY",
        "token.jwks_public_endpoint": "REALTIME_TOKEN_JWKS_URL",
        "token.audience": "REALTIME_TOKEN_AUDIENCE",
        "token.audience_regex": "REALTIME_TOKEN_AUDIENCE_REGEX",
        "token.issuer": "REALTIME_TOKEN_ISSUER",
        "token.issuer_regex": "REALTIME_TOKEN_ISSUER_REGEX",
        "token.user_id_claim": "REALTIME_TOKEN_USER_ID_CLAIM",
        "subscription_token.hmac_secret_key": "REALTIME_SUBSCRIPTION_TOKEN_HMAC_SECRET",
        "subscription_token.rsa_public_key": "REALTIME_SUBSCRIPTION_TOKEN_PUBLIC_KEY",
        "subscription_token.ecdsa_public_key": "REALTIME_SUBSCRIPTION_TOKEN_PUBLIC_KEY",
        "subscription_token.jwks_public_endpoint": "REALTIME_SUBSCRIPTION_TOKEN_JWKS_URL",
        "subscription_token.audience": "REALTIME_SUBSCRIPTION_TOKEN_AUDIENCE",
        "subscription_token.audience_regex": "REALTIME_SUBSCRIPTION_TOKEN_AUDIENCE_REGEX",
        "subscription_token.issuer": "REALTIME_SUBSCRIPTION_TOKEN_ISSUER",
        "subscription_token.issuer_regex": "REALTIME_SUBSCRIPTION_TOKEN_ISSUER_REGEX",
        "subscription_token.user_id_claim": "REALTIME_SUBSCRIPTION_TOKEN_USER_ID_CLAIM",
        "allowed_origins": "REALTIME_ALLOWED_ORIGINS",
        "insecure": "REALTIME_INSECURE",
        "allow_anonymous_connect_without_token": "REALTIME_ALLOW_ANONYMOUS",
        "disallow_anonymous_connection_tokens": "REALTIME_ALLOW_ANONYMOUS_TOKENS",
        "connect_include_server_time": "REALTIME_CONNECT_INCLUDES_TIME",
        "subscribe_to_user_personal_channel.enabled": "REALTIME_PERSONAL_CHANNELS",
        "subscribe_to_user_personal_channel.personal_channel_namespace": (
            "REALTIME_PERSONAL_CHANNEL_NAMESPACE"
        ),
        "ping_interval": "REALTIME_PING_INTERVAL_SECONDS",
        "pong_timeout": "REALTIME_PONG_TIMEOUT_SECONDS",
        "stale_close_delay": "REALTIME_STALE_CLOSE_SECONDS",
        "channel_limit": "REALTIME_CHANNEL_LIMIT",
        "connection_limit": "REALTIME_CONNECTION_LIMIT",
        "connection_rate_limit": "REALTIME_CONNECTION_RATE",
        "user_connection_limit": "REALTIME_USER_CONNECTION_LIMIT",
        "queue_max_size": "REALTIME_QUEUE_MAX_BYTES",
        "concurrency": "REALTIME_COMMAND_CONCURRENCY_LIMIT",
        "history_max_publication_limit": "REALTIME_HISTORY_MAX_PUBLICATIONS",
        "recovery_max_publication_limit": "REALTIME_RECOVERY_MAX_PUBLICATIONS",
        "channel_position_check_delay": "REALTIME_POSITION_CHECK_SECONDS",
        "presence_update_interval": "REALTIME_PRESENCE_RENEWAL_SECONDS",
    },
    "http_api": {
        "key": "manage.py apikey create, or REALTIME_API_KEY",
        "error_mode": "REALTIME_API_ERRORS_AS_STATUSES",
        "insecure": "manage.py apikey create, because every caller needs a key",
    },
    "http_server": {"address": "HOST", "port": "PORT"},
    "websocket": {"message_size_limit": "REALTIME_MESSAGE_MAX_BYTES"},
    "engine": {
        "redis.address": "REDIS_URL",
        "redis.presence_ttl": "REALTIME_PRESENCE_TTL_SECONDS",
    },
    "broker": {"redis.address": "REDIS_URL"},
    "presence_manager": {"redis.presence_ttl": "REALTIME_PRESENCE_TTL_SECONDS"},
    "admin": {"password": "manage.py createsuperuser"},
}

# What is so here anyway, by path and value.
_AS_IT_IS: Final[Mapping[str, Mapping[str, tuple[object, ...]]]] = {
    "client": {"subscription_token.enabled": (True,)},  # any key of subscription tokens means it
    "http_api": {"handler_prefix": ("/api",)},
    "websocket": {"handler_prefix": ("/connection/websocket",)},
    "engine": {"type": ("memory", "redis")},
    "broker": {"enabled": (True,), "type": ("redis",)},
    "presence_manager": {"enabled": (True,), "type": ("redis",)},
    "admin": {"enabled": (True,)},
}
_CONNECT_PROXY: Final = "proxy.connect"


def notes(config: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each section that is not read, with what stands for its parts.

    One more where a backend lets clients in, because without it nobody can connect.
    """
    told = [_note(name, config[name]) for name in config if name != "channel"]
    if _value(config.get("client"), f"{_CONNECT_PROXY}.enabled"):
        told.append(
            f"client.{_CONNECT_PROXY} is not supported: no backend is asked who connects. Give "
            "each client a connection token, or it is refused"
        )
    return told


def _note(name: str, section: Any) -> str:
    known = STANDS_FOR.get(name, {})
    found = [f"{path} is {ours}" for path, ours in known.items() if _holds(section, path)]
    nothing = [path for path in _paths(name, section) if not _is_known(name, section, path)]
    parts = [", ".join(found), f"nothing stands for {', '.join(nothing)}" if nothing else ""]
    told = f": {'; '.join(filter(None, parts))}" if any(parts) else ""
    return f"{plain(name)} is not imported{told}"


def _paths(name: str, section: Any) -> Iterator[str]:
    """Yield the paths inside a section of all that is set; of one that has no inside, its name."""
    if not isinstance(section, dict):
        yield from wishes(plain(name), name, section)
        return
    for key, value in section.items():
        yield from wishes(plain(key), key, value)


def _is_known(name: str, section: Any, path: str) -> bool:
    if name == "client" and path.startswith(f"{_CONNECT_PROXY}."):
        return True  # has a sentence of its own
    if path in STANDS_FOR.get(name, {}):
        return True
    return _value(section, path) in _AS_IT_IS.get(name, {}).get(path, ())


def _holds(section: Any, path: str) -> bool:
    """Tell whether something is said at a path."""
    return _value(section, path) not in (None, False, 0, "", [])


def _value(section: Any, path: str) -> Any:
    for key in path.split("."):
        section = section.get(key) if isinstance(section, dict) else None
    return section
