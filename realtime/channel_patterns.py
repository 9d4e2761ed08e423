"""Patterns of channels that code answers for, such as ``orders:{pk}``; pure.

Used by the channel rules and by handlers that are asked about some channels alone. Fields never
reach over a colon, so that each part of a name is matched by itself, and no name takes long.
"""

import itertools
import re
from typing import Final

from django.core.exceptions import ImproperlyConfigured

BOUNDARY: Final = ":"
# Of more fields in one part a name could be made that takes milliseconds not to match.
FIELDS_PER_PART_MAX: Final = 2
_FIELD: Final = re.compile(r"\{(?P<name>[^{}:]*)(?P<kind>:[^{}]*)?\}")
_TEXT: Final = f"[^{BOUNDARY}]+?"  # the shortest, so that the first of two fields ends early
_DIGITS: Final = "[0-9]+"

Field = str | int


class ChannelPattern:
    """Literal text and fields: ``{name}`` is one or more characters but a colon.

    ``{name:int}`` is ASCII digits, given as a number.

    Attributes:
        text: As it was written.
        shape: The same for patterns that differ in nothing but the names of their fields.
        fields: Those names, in order.
    """

    __slots__ = ("_integers", "_parts", "fields", "shape", "text")

    def __init__(self, text: str) -> None:
        """Compile a pattern.

        Raises:
            ImproperlyConfigured: A field is not one, or cannot be told from another.
        """
        found = list(_FIELD.finditer(text))
        self.text = text
        self.fields = tuple(field["name"] for field in found)
        self._integers = [field["name"] for field in found if field["kind"]]
        self.shape = _FIELD.sub(lambda field: f"{{{field['kind'] or ''}}}", text)
        _check(text, found)
        self._parts = [re.compile(part) for part in _expressions(text)]

    def match(self, channel: str) -> dict[str, Field] | None:
        """Return the fields of a channel of this pattern, None for any other channel."""
        parts = channel.split(BOUNDARY)
        if len(parts) != len(self._parts):
            return None
        fields: dict[str, Field] = {}
        for expression, part in zip(self._parts, parts, strict=True):
            matched = expression.fullmatch(part)
            if matched is None:
                return None
            fields.update(matched.groupdict())
        for name in self._integers:
            fields[name] = int(fields[name])
        return fields


def _check(text: str, found: list[re.Match[str]]) -> None:
    names = [field["name"] for field in found]
    problem = ""
    if not text:
        problem = "it is empty"
    elif set("{}") & set(_FIELD.sub("", text)):
        problem = "a brace without its other"
    elif not all(f["name"].isidentifier() and f["kind"] in (None, ":int") for f in found):
        problem = "a field is {name} or {name:int}"
    elif len(set(names)) < len(names):
        problem = "two fields have one name"
    elif any(one.end() == other.start() for one, other in itertools.pairwise(found)):
        problem = "between two fields there must be some text"
    elif any(part.count("(?P<") > FIELDS_PER_PART_MAX for part in _expressions(text)):
        problem = f"more than {FIELDS_PER_PART_MAX} fields between two colons"
    if problem:
        raise ImproperlyConfigured(f"channel pattern {text!r}: {problem}")


def _expressions(text: str) -> list[str]:
    """Return a regular expression for each part of the pattern between colons."""
    parts, end = [""], 0
    for field in [*_FIELD.finditer(text), None]:
        literal = text[end : field.start() if field else None]
        first, *others = literal.split(BOUNDARY)
        parts[-1] += re.escape(first)
        parts += map(re.escape, others)
        if field:
            parts[-1] += f"(?P<{field['name']}>{_DIGITS if field['kind'] else _TEXT})"
            end = field.end()
    return parts
