"""What stands here for the sections of a Centrifugo v6 configuration that are not imported.

Called by ``centrifugo_config``. Names settings and never shows a value, which may be a secret.
"""

from collections.abc import Mapping
from typing import Any, Final

from realtime.centrifugo_options import plain

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
        "subscription_token.issuer": "REALTIME_SUBSCRIPTION_TOKEN_ISSUER",
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
        "user_connection_limit": "REALTIME_USER_CONNECTION_LIMIT",
        "queue_max_size": "REALTIME_QUEUE_MAX_BYTES",
        "concurrency": "REALTIME_COMMAND_CONCURRENCY_LIMIT",
        "history_max_publication_limit": "REALTIME_HISTORY_MAX_PUBLICATIONS",
        "recovery_max_publication_limit": "REALTIME_RECOVERY_MAX_PUBLICATIONS",
        "channel_position_check_delay": "REALTIME_POSITION_CHECK_SECONDS",
        "presence_update_interval": "REALTIME_PRESENCE_RENEWAL_SECONDS",
    },
    "http_api": {"key": "manage.py apikey create, or REALTIME_API_KEY"},
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


def notes(config: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each section that is not read, with what stands for its parts."""
    return [_note(name, config[name]) for name in config if name != "channel"]


def _note(name: str, section: Any) -> str:
    known = STANDS_FOR.get(name, {})
    found = [f"{path} is {ours}" for path, ours in known.items() if _holds(section, path)]
    told = ": " + ", ".join(found) if found else ""
    return f"{plain(name)} is not imported{told}"


def _holds(section: Any, path: str) -> bool:
    """Tell whether something is said at a path."""
    for key in path.split("."):
        section = section.get(key) if isinstance(section, dict) else None
    return section not in (None, False, 0, "", [])
