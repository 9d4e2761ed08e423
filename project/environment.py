"""Turn environment variables into typed values, or say which one is wrong.

Used by ``settings.py``, which hands the variables in; reads nothing by itself but the files that
``*_FILE`` variables name.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}
# Values from examples and tutorials. Whoever knows them could sign in as anybody.
_WELL_KNOWN = {
    "admin", "change-me", "change_me", "changeit", "changeme", "default", "demo", "dev",
    "development", "example", "heliograph", "insecure", "key", "password", "secret",
    "secret-key", "secret_key", "secretkey", "test", "testing", "todo", "token", "xxx",
}  # fmt: skip


class Environment:
    """The environment variables of one process, read by name and type.

    A variable that is set but empty counts as not set, except for a secret that is required.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str = "") -> str:
        """Return a variable without surrounding blanks."""
        return self._variables.get(name, "").strip() or default

    def words(self, name: str, default: str = "") -> list[str]:
        """Return the words of a variable that are parted by blanks or commas."""
        return self.text(name, default).replace(",", " ").split()

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a truth value; 1/0, true/false, yes/no and on/off are understood."""
        value = self.text(name).lower()
        if not value:
            return default
        if value not in _TRUE | _FALSE:
            raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}")
        return value in _TRUE

    def number(self, name: str, default: int) -> int:
        """Return a whole number."""
        return self._parsed(name, default, int, "a whole number")

    def path(self, name: str, default: Path) -> Path:
        """Return an absolute path; a relative one starts at the working directory."""
        return Path(self.text(name) or default).expanduser().resolve()

    def secret(self, name: str, *, is_required: bool = False) -> str | None:
        """Return a secret from ``name``, or from the file that ``name_FILE`` names.

        Returns:
            None if neither is set, so that the caller can make one.
        Raises:
            ImproperlyConfigured: The secret is well known, set twice, or not readable; or it is
                ``is_required`` to be one and is set to nothing.
        """
        file_name = f"{name}_FILE"
        is_set, is_in_file = name in self._variables, bool(self.text(file_name))
        if is_set and is_in_file:
            raise ImproperlyConfigured(f"{name} and {file_name} are both set: keep one of them")
        if not is_set and not is_in_file:
            return None
        source = file_name if is_in_file else name
        value = self._file(file_name) if is_in_file else self.text(name)
        if not value and is_required:
            raise ImproperlyConfigured(
                f"{source} is empty: give it a long random value, or unset it to have one made"
            )
        refuse_well_known(source, value)
        return value or None

    def fields_of(
        self, shape: type, *, prefix: str, secrets: set[str], skip: set[str]
    ) -> dict[str, Any]:
        """Return what the environment says about the fields of a dataclass.

        The variable of a field is ``prefix`` and its name in upper case; ``secrets`` names the
        fields that may also come from a file.

        Returns:
            Upper-case field names to values, of the fields that are set.
        """
        given: dict[str, Any] = {}
        types = get_type_hints(shape)
        for field in fields(shape):
            name = f"{prefix}{field.name.upper()}"
            if field.name in skip:
                continue
            if field.name in secrets:
                value = self.secret(name)
            elif self.text(name):
                value = self._of_type(name, types[field.name])
            else:
                continue
            if value is not None:
                given[field.name.upper()] = value
        return given

    def unknown(self, prefix: str, known: set[str]) -> list[str]:
        """Return the variables with a prefix that nothing reads: mistyped, or not built yet."""
        return sorted(
            name for name in self._variables if name.startswith(prefix) and name not in known
        )

    def _of_type(self, name: str, kind: Any) -> Any:
        if kind is bool:
            return self.flag(name)
        if kind is int:
            return self.number(name, 0)
        if kind is float:
            return self._parsed(name, 0.0, float, "a number")
        if datetime in get_args(kind):
            return self._parsed(name, None, _moment, "a time like 2030-01-31T12:00:00Z")
        if tuple in (kind, getattr(kind, "__origin__", None)):
            return tuple(self.words(name))
        return self.text(name)

    def _parsed(self, name: str, default: T, parse: Callable[[str], T], what: str) -> T:
        value = self.text(name)
        if not value:
            return default
        try:
            return parse(value)
        except ValueError as error:
            raise ImproperlyConfigured(f"{name} must be {what}, not {value!r}") from error

    def _file(self, name: str) -> str:
        path = Path(self.text(name))
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise ImproperlyConfigured(f"{name}: cannot read {path}: {reason}") from error


def refuse_well_known(source: str, value: str) -> None:
    """Refuse a secret that stands in examples.

    Raises:
        ImproperlyConfigured: It names ``source``, never the value.
    """
    if value.lower() in _WELL_KNOWN or value.startswith("django-insecure-"):
        raise ImproperlyConfigured(
            f"{source} has a well-known value: give it a long random one, "
            "or unset it to have one made"
        )


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
