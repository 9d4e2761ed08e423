"""What docker-compose.yml and the Dockerfile say, read as Docker reads them.

Only what these two files use is understood, and anything else is an error: a test of a file that is
half understood would prove nothing.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from tests.support.servers import REPOSITORY

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
TLS_FILE = REPOSITORY / "docker-compose.tls.yml"

# ${NAME}, ${NAME:-default} or ${NAME:?message}; a default may hold one more of them.
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)((?:[^{}]|\$\{[^{}]*\})*))?\}")
_REPLACED_WHOLE = {"command", "entrypoint"}
_INSTRUCTIONS = {
    *("FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "CMD"),
}


def services(*files: Path, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services of compose files, the later over the earlier, variables put in."""
    whole = reduce(_merged, (_read(file, variables) for file in files))
    return dict(whole["services"])


def compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return docker-compose.yml as a whole."""
    return _read(COMPOSE_FILE, variables or {})


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into a text.

    Raises:
        KeyError: One is required and not there.
    """

    def value_of(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise KeyError(f"{name}: {rest}")
        return interpolated(rest or "", variables)

    return _VARIABLE.sub(value_of, text)


def _read(file: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    return dict(_walk(yaml.safe_load(file.read_text(encoding="utf-8")), variables))


def _walk(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _walk(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_walk(each, variables) for each in value]
    return interpolated(value, variables) if isinstance(value, str) else value


def _merged(below: Any, above: Any, key: str = "") -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        keys = {**below, **above}
        return {
            each: _merged(below[each], above[each], each)
            if each in below and each in above
            else keys[each]
            for each in keys
        }
    if isinstance(below, list) and isinstance(above, list) and key not in _REPLACED_WHOLE:
        return below + above
    return above


@dataclass(frozen=True)
class Image:
    """What the Dockerfile makes.

    Attributes:
        base: The image it starts from.
        environment: Its variables.
        user: Who its processes are.
        folder: Where they start.
        command: What runs where compose says nothing.
        health: The command of its health check.
        copies: What comes from the repository, to where.
        steps: The shell commands of its making.
    """

    base: str
    environment: dict[str, str]
    user: str
    folder: str
    command: list[str]
    health: list[str]
    copies: list[tuple[str, str]]
    steps: list[str]


def image() -> Image:
    """Return what the Dockerfile says."""
    said: dict[str, list[str]] = {}
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            said.setdefault(instruction, []).append(rest.strip())
    assert set(said) <= _INSTRUCTIONS, set(said) - _INSTRUCTIONS
    assignments = [word.partition("=") for line in said["ENV"] for word in shlex.split(line)]
    (base,), (folder,), (user,) = said["FROM"], said["WORKDIR"], said["USER"]
    (health,), (command,) = said["HEALTHCHECK"], said["CMD"]
    copies = [line.split() for line in said["COPY"]]
    return Image(
        base=base,
        environment={name: value for name, _, value in assignments},
        user=user,
        folder=folder,
        command=json.loads(command),
        health=["CMD", *json.loads(health.partition(" CMD ")[2])],
        copies=[(source, target) for source, target in copies],
        steps=said["RUN"],
    )
