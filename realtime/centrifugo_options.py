"""The channel options of Centrifugo v6, one by one: what is done here, and what is not.

Called by ``centrifugo_config``. The names and defaults of what is done are those of
``ChannelOptions``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, Final

from realtime import durations
from realtime.models.namespaces import LARGEST
from realtime.snapshot import ChannelOptions

Option = bool | int | str

DEFAULTS: Final[Mapping[str, Option]] = asdict(ChannelOptions())

_DURATIONS: Final = frozenset({"history_ttl", "history_meta_ttl"})
_WORDS: Final = {bool: "true or false", int: "a whole number", str: "a text"}
_CHOICES: Final = {
    "publication_data_format": ("", "json", "json_object"),
    "force_recovery_mode": ("", "stream", "cache"),
}
_SHOWN_MAX_LENGTH: Final = 60

# What stands in for a value that cannot be read. It goes with every other option, so that nothing
# wrong is told of those that could be read.
STAND_INS: Final[Mapping[str, Option]] = {
    **DEFAULTS,
    "history_size": 1,
    "history_ttl": 1,
    "history_meta_ttl": LARGEST,
    "force_recovery": True,
    "force_recovery_mode": "cache",
}

BY_BACKEND: Final = "asking a backend is not supported"
_DELTA: Final = "delta compression is not supported"
_MAP: Final = "map subscriptions are not supported"
_UNSUPPORTED: Final = {
    "allowed_delta_types": _DELTA,
    "delta_publish": _DELTA,
    "allow_tags_filter": "filtering by tags is not supported",
    "subscribe_proxy_enabled": BY_BACKEND,
    "subscribe_proxy_name": BY_BACKEND,
    "publish_proxy_enabled": BY_BACKEND,
    "publish_proxy_name": BY_BACKEND,
    "sub_refresh_proxy_enabled": BY_BACKEND,
    "sub_refresh_proxy_name": BY_BACKEND,
    "subscribe_stream_proxy_enabled": BY_BACKEND,
    "subscribe_stream_proxy_name": BY_BACKEND,
    "subscribe_stream_proxy_bidirectional": BY_BACKEND,
    "subscription_type": "no type but stream is supported",
    "map": _MAP,
    "map_clients_presence_channel_prefix": _MAP,
    "map_users_presence_channel_prefix": _MAP,
    "shared_poll": "shared polls are not supported",
}
# Source: the pages of Centrifugo PRO v6.
_OF_PRO: Final = frozenset(
    {
        "allow_channel_compaction",
        "batch_flush_latest",
        "batch_max_delay",
        "batch_max_size",
        "broker_name",
        "cache_empty_proxy_enabled",
        "cache_empty_proxy_name",
        "client_publication_data_schemas",
        "client_publication_exclude_client_info",
        "client_publication_tags",
        "history_cel",
        "keep_latest_publication",
        "pattern",
        "patterns",
        "presence_cel",
        "presence_manager_name",
        "publish_cel",
        "shared_position_sync",
        "state_events",
        "state_proxy_enabled",
        "state_proxy_name",
        "subscribe_cel",
    }
)
# What Centrifugo leaves to the backend, whatever the allow_ options say. Without its answer they
# would open what it kept closed. Source: order of checks in Centrifugo's OnSubscribe, OnPublish.
_DECIDED_BY_BACKEND: Final = {
    "subscribe_proxy_enabled": ("allow_subscribe_for_client",),
    "subscribe_stream_proxy_enabled": ("allow_subscribe_for_client",),
    "publish_proxy_enabled": ("allow_publish_for_client", "allow_publish_for_subscriber"),
}


def value_of(name: str, value: Any) -> Option:
    """Return the value of an option that is done here.

    Raises:
        ValueError: It has another type, or is none of the choices; says which it should be.
    """
    if name in _DURATIONS:
        return durations.parse(value)
    kind = type(DEFAULTS[name])
    if type(value) is not kind:  # True would pass for a number otherwise
        raise ValueError(f"{_WORDS[kind]} is expected, not {brief(value)}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{' or '.join(_CHOICES[name][1:])} is expected, not {brief(value)}")
    found: Option = value
    return found


def written(options: ChannelOptions) -> dict[str, Option]:
    """Return the options that are not default, durations as texts."""
    return {
        name: durations.write(value) if name in _DURATIONS else value
        for name, value in asdict(options).items()
        if value != DEFAULTS[name]
    }


def left_out(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield what of an option is not done here, as its key with those below it, and why.

    Nothing, where the value asks for nothing.
    """
    for path in wishes(plain(key), key, value):
        yield path, _UNSUPPORTED.get(key) or unknown(key, (*DEFAULTS, *_UNSUPPORTED))


def closed_with(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return which options have to be off because a backend decided, by what made it decide."""
    return {
        key: [name for name in names if given.get(name)]
        for key, names in _DECIDED_BY_BACKEND.items()
        if given.get(key)
    }


def unknown(key: str, known: tuple[str, ...]) -> str:
    """Return a sentence about an option that is not among those known here."""
    if key in _OF_PRO:
        return "an option of Centrifugo PRO, which is not supported"
    close = get_close_matches(key, known, n=1)
    return f"no such option; is it {close[0]}?" if close else "no such option"


def asks_for_nothing(key: str, value: Any) -> bool:
    """Tell whether an option has the value that it has where nobody gives it."""
    return not any(wishes(key, key, value))


def plain(key: str) -> str:
    """Return a key as part of a path."""
    return key if re.fullmatch(r"[-\w]+", key, re.ASCII) else brief(key)


def brief(value: object) -> str:
    """Return a value of the file for a sentence: one line, not too long, nothing to act on."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_MAX_LENGTH else f"{text[:_SHOWN_MAX_LENGTH]}..."


def wishes(path: str, key: str, value: Any) -> Iterator[str]:
    """Yield the paths of all values at or below a key that ask for something.

    A list is one value. The defaults of Centrifugo that are known here ask for nothing.
    """
    if isinstance(value, dict):
        for name, each in value.items():
            yield from wishes(f"{path}.{plain(name)}", name, each)
    elif value not in (None, False, 0, "", "0s", []) and value != _NAMED_DEFAULTS.get(key):
        yield path


_NAMED_DEFAULTS: Final = {
    "subscription_type": "stream",
    **{name: "default" for name in _UNSUPPORTED if name.endswith("_proxy_name")},
    "remove_proxy_name": "default",  # in map
}
