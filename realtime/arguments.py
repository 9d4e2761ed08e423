"""From a function's annotations to what a client may call it with.

Used by ``handlers.py``: the parameters of a handler are the keys of the JSON object that it is
called with, checked and converted by msgspec.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final, get_type_hints

import msgspec
from django.core.exceptions import ImproperlyConfigured
from msgspec import Raw

from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import is_absent

MESSAGE_MAX_LENGTH: Final = 200
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class InvalidArguments(BadRequest):
    """The data does not fit the parameters; the message names the one that does not."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.message = f"{self.message}: {reason}"[:MESSAGE_MAX_LENGTH]


class Parameters:
    """The parameters of a handler.

    Attributes:
        names: All of them, in order.
        own: Those that are given something of the engine's own, by their annotation.
    """

    def __init__(self, function: Callable[..., Any], *, own: type) -> None:
        """Look at a function; ``own`` is the annotation of what the engine gives.

        Raises:
            ImproperlyConfigured: A parameter cannot be given by its name, or an annotation means
                nothing to msgspec.
        """
        self._place = f"{function.__module__}.{function.__qualname__}"
        self._given = inspect.signature(function).parameters
        for parameter in self._given.values():
            if parameter.kind not in _NAMED:
                raise ImproperlyConfigured(f"{self._place}: {parameter} cannot be given by name")
        try:
            self._hints = get_type_hints(function, include_extras=True)
        except (NameError, TypeError) as error:
            raise ImproperlyConfigured(f"{self._place}: {error}") from error
        self.names = tuple(self._given)
        self.own = tuple(name for name in self.names if self._hints.get(name) is own)

    def reader(self) -> Callable[[Raw], dict[str, Any]]:
        """Return what makes arguments of a JSON object; it raises InvalidArguments.

        Raises:
            ImproperlyConfigured: An annotation means nothing to msgspec.
        """
        fields = [self._field(name) for name in self.names if name not in self.own]
        try:
            form = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
            decode = msgspec.json.Decoder(form).decode
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{self._place}: {error}") from error

        def read(data: Raw) -> dict[str, Any]:
            try:
                arguments = decode(b"{}" if is_absent(data) else data)
            except msgspec.ValidationError as error:
                raise InvalidArguments(str(error)) from error
            return {name: getattr(arguments, name) for name in form.__struct_fields__}

        return read

    def _field(self, name: str) -> Any:
        default = self._given[name].default
        hint = self._hints.get(name, Any)
        if default is inspect.Parameter.empty:
            return name, hint
        return name, hint, msgspec.field(default_factory=lambda: default)
