"""What an operator configures: namespaces and API keys; and that something changed.

Read through ``snapshot.py``, changed in the admin, by commands and by Django code. Nothing here is
queried while a command or a publication is served. What is written is checked by ``full_clean``,
which the admin and the commands call; ``snapshot.py`` trusts nothing beyond the column types.
"""

from realtime.models.access_changes import AccessChange
from realtime.models.api_keys import (
    CHANNEL_METHODS,
    EVERYTHING,
    KEY_MIN_LENGTH,
    SERVER_METHODS,
    ApiKey,
    every_scope,
    hash_of_key,
    make_key,
    validate_printable,
    validate_scope,
    validate_scopes,
)
from realtime.models.namespaces import Namespace, validate_regex
from realtime.models.snapshot_versions import SnapshotVersion

__all__ = [
    "CHANNEL_METHODS",
    "EVERYTHING",
    "KEY_MIN_LENGTH",
    "SERVER_METHODS",
    "AccessChange",
    "ApiKey",
    "Namespace",
    "SnapshotVersion",
    "every_scope",
    "hash_of_key",
    "make_key",
    "validate_printable",
    "validate_regex",
    "validate_scope",
    "validate_scopes",
]
