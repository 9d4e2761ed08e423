"""The namespaces, users and keys that the servers of the tests know."""

import secrets

USER = "ada"
USER_PASSWORD = secrets.token_urlsafe(12)
API_KEY = secrets.token_urlsafe(24)
TOKEN_SECRET = secrets.token_hex(32)

_OPEN = {
    "allow_subscribe_for_client": True,
    "allow_publish_for_client": True,
    "allow_presence_for_client": True,
}
_HISTORY = {"history_size": 20_000, "history_ttl": 600, "allow_history_for_client": True}

NAMESPACES = [
    # Everything on: what a dashboard uses.
    {"name": "stream", **_OPEN, **_HISTORY, "force_recovery": True, "presence": True},
    # What make run sets up.
    {
        "name": "demo",
        **_OPEN,
        "history_size": 100,
        "history_ttl": 300,
        "force_recovery": True,
        "presence": True,
    },
    # Publications without a stream.
    {"name": "live", **_OPEN},
    # Who comes and goes.
    {
        "name": "room",
        **_OPEN,
        "presence": True,
        "join_leave": True,
        "force_push_join_leave": True,
    },
    # So short a history that a gap cannot be filled.
    {"name": "short", **_OPEN, **_HISTORY, "history_size": 5, "force_recovery": True},
    # Position and recovery only for who asks.
    {"name": "wish", **_OPEN, **_HISTORY, "allow_recovery": True, "allow_positioning": True},
    {
        "name": "brief",
        **_OPEN,
        "history_size": 5,
        "history_ttl": 600,
        "allow_recovery": True,
        "allow_positioning": True,
    },
    # A history, but nobody is positioned.
    {"name": "loose", **_OPEN, "history_size": 5, "history_ttl": 600},
    {"name": "closed"},
    {"name": "limited", "allow_user_limited_channels": True},
    {"name": "object", **_OPEN, "publication_data_format": "json_object"},
    {
        "name": "member",
        "allow_subscribe_for_client": True,
        "allow_publish_for_subscriber": True,
        "allow_presence_for_subscriber": True,
        "allow_history_for_subscriber": True,
        "presence": True,
        "history_size": 10,
        "history_ttl": 600,
    },
]


def description() -> dict[str, object]:
    """Return all of it as ``provision`` reads it."""
    return {
        "namespaces": NAMESPACES,
        "api_keys": {"tests": API_KEY},
        "users": {USER: USER_PASSWORD},
    }
