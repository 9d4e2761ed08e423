"""The ``channel`` section of a Centrifugo v6 configuration, read and written.

Called by ``manage.py namespaces``. Text in, options by namespace out, and back; nothing is stored
here. Whether options go together is judged by ``Namespace.full_clean``, in ``namespace_import``.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from realtime import centrifugo_settings
from realtime.centrifugo_options import (
    BY_BACKEND,
    DEFAULTS,
    STAND_INS,
    Option,
    asks_for_nothing,
    brief,
    closed_with,
    left_out,
    plain,
    unknown,
    value_of,
    written,
)
from realtime.conf import Settings
from realtime.snapshot import WITHOUT_NAMESPACE, ChannelOptions

_BINARY: Final = "binary"
_NO_BINARY: Final = "binary data is not supported: clients speak JSON"
_MAX_LENGTH: Final = 255
_NAME_RULES: Final = {
    "private_prefix": "$",
    "namespace_boundary": ":",
    "user_boundary": "#",
    "user_separator": ",",
}
_WITHOUT_NAMESPACE: Final = "channel.without_namespace"
_OF_CHANNEL: Final = (
    "without_namespace",
    "namespaces",
    "history_meta_ttl",
    "publication_data_format",
    "max_length",
    "proxy",
    *_NAME_RULES,
)


class InvalidConfig(Exception):
    """The text is not a Centrifugo v6 configuration."""


@dataclass(frozen=True, slots=True)
class ReadNamespace:
    """The options of one namespace, every one of them, with where it stands in the file."""

    name: str
    path: str
    options: Mapping[str, Option]


@dataclass(slots=True)
class Reading:
    """What a configuration says; sentences for people.

    Attributes:
        namespaces: The one with an empty name is ``without_namespace``. Where there are problems,
            those whose name cannot be read are among them, and what cannot be read has a stand-in.
        problems: What cannot be meant, or must not be left out: each begins with its path.
        unsupported: What is not done here, and may be left out on request; with paths too.
        notes: What is good to know, such as what stands for sections that are not read.
    """

    namespaces: list[ReadNamespace] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(text: str, *, settings: Settings) -> Reading:
    """Read a configuration.

    Args:
        text: JSON.
        settings: Of this server, to tell where global values of the file differ from them.
    Raises:
        InvalidConfig: It is no JSON, or has no section ``channel``.
    Source: Centrifugo v6, internal/configtypes and internal/config/validate.go.
    """
    config = _load(text)
    channel = config.get("channel")
    if not isinstance(channel, dict):
        raise InvalidConfig(
            "there is no section channel: files of Centrifugo before v6 have another form"
        )
    reader = _ChannelReader(channel, settings)
    reader.read()
    reader.reading.notes += centrifugo_settings.notes(config)
    return reader.reading


def write(namespaces: Mapping[str, ChannelOptions]) -> str:
    """Return a configuration of these namespaces, sorted by name, without what is default."""
    channel: dict[str, Any] = {}
    if WITHOUT_NAMESPACE in namespaces:
        channel["without_namespace"] = written(namespaces[WITHOUT_NAMESPACE])
    channel["namespaces"] = [
        {"name": name, **written(options)}
        for name, options in sorted(namespaces.items())
        if name != WITHOUT_NAMESPACE
    ]
    return json.dumps({"channel": channel}, indent=2) + "\n"


def place(path: str, name: str, key: str) -> str:
    """Return where an option stands: its path in the file, with the namespace's name."""
    named = f" (namespace {brief(name)})" if name else ""
    return f"{path}.{key}{named}"


class _ChannelReader:
    """Reads the section and keeps all that is wrong with it, not the first thing alone."""

    def __init__(self, channel: Mapping[str, Any], settings: Settings) -> None:
        self._channel = channel
        self._settings = settings
        self.reading = Reading()

    def read(self) -> None:
        inherited = {**self._meta_ttl(), **self._data_format()}
        for name, path, given in self._named():
            self._namespace(name, path, given, inherited)
        self._name_rules()
        self._max_length()
        self._proxies()
        for key, value in self._channel.items():
            if key not in _OF_CHANNEL and not asks_for_nothing(key, value):
                sentence = f"channel.{plain(key)}: {unknown(key, _OF_CHANNEL)}"
                self.reading.unsupported.append(sentence)

    def _meta_ttl(self) -> dict[str, Option]:
        """Return what namespaces without a TTL of their own inherit."""
        key = "history_meta_ttl"
        seconds = self._option(f"channel.{key}", key, self._channel.get(key))
        if not seconds or seconds == self._settings.history_meta_ttl_seconds:
            return {}
        if seconds != STAND_INS[key]:
            self.reading.notes.append(
                f"channel.{key} goes to each namespace that has none of its own; "
                f"REALTIME_HISTORY_META_TTL_SECONDS={seconds} would hold for all"
            )
        return {key: seconds}

    def _data_format(self) -> dict[str, Option]:
        key = "publication_data_format"
        return {key: self._option(f"channel.{key}", key, self._channel.get(key))}

    def _named(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yield name, path and options of what can be read, and note what cannot."""
        given = self._object(_WITHOUT_NAMESPACE, self._channel.get("without_namespace"))
        if given is not None:
            yield WITHOUT_NAMESPACE, _WITHOUT_NAMESPACE, given
        listed = self._channel.get("namespaces")
        if not isinstance(listed, list | None):
            self.reading.problems.append(
                f"channel.namespaces: a list is expected, not {brief(listed)}"
            )
            listed = None
        seen: set[str] = set()
        for index, each in enumerate(listed or ()):
            path = f"channel.namespaces[{index}]"
            given = self._object(path, each, is_needed=True)
            if given is not None:
                yield self._name(path, given, seen), path, given

    def _object(
        self, path: str, value: Any, *, is_needed: bool = False
    ) -> Mapping[str, Any] | None:
        if isinstance(value, dict):
            return value
        if value is not None or is_needed:
            self.reading.problems.append(f"{path}: an object is expected, not {brief(value)}")
        return None

    def _name(self, path: str, given: Mapping[str, Any], seen: set[str]) -> str:
        """Return a name, empty if it cannot be read, and note what is wrong with it."""
        name = given.get("name")
        if not isinstance(name, str) or not name:
            self.reading.problems.append(f"{path}.name: a text that is not empty is expected")
            return ""
        if name in seen:
            self.reading.problems.append(f"{path}.name: {brief(name)} stands here a second time")
        seen.add(name)
        return name

    def _namespace(
        self, name: str, path: str, given: Mapping[str, Any], inherited: Mapping[str, Option]
    ) -> None:
        options = dict(DEFAULTS)
        closed = closed_with(given)
        for key, value in given.items():
            if key in DEFAULTS:
                options[key] = self._option(place(path, name, key), key, value)
            elif key != "name" or path == _WITHOUT_NAMESPACE:
                self._left_out(path, name, key, value, closed.get(key, []))
        for key, value in inherited.items():
            options[key] = options[key] or value
        for names in closed.values():
            options.update(dict.fromkeys(names, False))
        self.reading.namespaces.append(ReadNamespace(name, path, options))

    def _left_out(self, path: str, name: str, key: str, value: Any, closed: list[str]) -> None:
        off = f"; left out, this is off: {', '.join(closed)}" if closed else ""
        for below, why in left_out(key, value):
            self.reading.unsupported.append(f"{place(path, name, below)}: {why}{off}")

    def _option(self, where: str, name: str, value: Any) -> Option:
        """Return the value of an option, its default, or what stands in for it."""
        if value is None:
            return DEFAULTS[name]
        if name == "publication_data_format" and value == _BINARY:
            self.reading.unsupported.append(f"{where}: {_NO_BINARY}")
            return DEFAULTS[name]
        try:
            return value_of(name, value)
        except ValueError as error:
            self.reading.problems.append(f"{where}: {error}")
            return STAND_INS[name]

    def _name_rules(self) -> None:
        # Not to be left out on request: the same channel would belong to another namespace, or be
        # private no more.
        for key, ours in _NAME_RULES.items():
            value = self._channel.get(key)
            if value is not None and value != ours:
                self.reading.problems.append(
                    f"channel.{key}: {brief(ours)} is the only one that is supported, not "
                    f"{brief(value)}; it cannot be skipped, because names would mean other rights"
                )

    def _max_length(self) -> None:
        value = self._channel.get("max_length")
        if value in (None, _MAX_LENGTH, self._settings.channel_name_max_bytes):
            return
        self.reading.unsupported.append(
            f"channel.max_length: set REALTIME_CHANNEL_NAME_MAX_BYTES instead of {brief(value)}"
        )

    def _proxies(self) -> None:
        proxies = self._object("channel.proxy", self._channel.get("proxy")) or {}
        for key, proxy in proxies.items():
            # Those without an endpoint are the rest of a file that lists every default.
            if not isinstance(proxy, dict) or proxy.get("endpoint"):
                self.reading.unsupported.append(f"channel.proxy.{plain(key)}: {BY_BACKEND}")


def _load(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"not JSON that can be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidConfig("a JSON object is expected")
    return config


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{brief(key)} stands twice in one object")
        found[key] = value
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
