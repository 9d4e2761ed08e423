"""The one place where what containers say is put into terms of this machine.

Each service has a loopback address of its own, on which it keeps its ports, so that a host name
becomes an address and nothing else changes. A volume, a mount and a file system in memory become
folders. What else a text says stays as it is.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support.servers import REPOSITORY


class Place:
    """One container's view of this machine.

    Args:
        own_address: What it calls 127.0.0.1, and listens on where it says 0.0.0.0.
        addresses: Those of all services, by name.
        folder: Takes what it has to itself.
    """

    def __init__(self, own_address: str, addresses: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        self._own_address = own_address
        self._addresses = dict(addresses)
        self._paths: dict[str, Path] = {}

    def has(self, path: str, at: Path) -> None:
        """Let a path in the container be one of this machine."""
        self._paths[path] = at

    def mount(self, source: str, path: str) -> None:
        """Let a path be a copy, in terms of this machine, of what the repository has."""
        original = REPOSITORY / source
        copy = self.folder / "mounts" / original.name
        if original.is_dir():
            shutil.copytree(original, copy)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, copy)
        self.has(path, copy)

    def translate_mounts(self) -> None:
        """Put the mounted files into terms of this machine, once all paths are known."""
        for file in (self.folder / "mounts").rglob("*"):
            if file.is_file():
                file.write_text(self.here(file.read_text(encoding="utf-8")), encoding="utf-8")

    def path(self, path: str) -> Path:
        """Return where a path of the container is."""
        return Path(self.here(path))

    def here(self, text: str) -> str:
        """Return a text of the container as this machine understands it, in one pass."""
        paths = "|".join(map(re.escape, sorted(self._paths, key=len, reverse=True)))
        names = "|".join(map(re.escape, sorted(self._addresses, key=len, reverse=True)))
        pattern = re.compile(
            rf"(?<![\w.])(?P<path>{paths or '(?!)'})(?![\w.])"
            rf"|(?<![\w-])(?P<name>{names})(?=:\d)"
            r"|(?<![\d.])(?P<own>127\.0\.0\.1|0\.0\.0\.0)(?![\d.])"
            r"|(?P<listen>\blisten )(?=\d)"
        )
        return pattern.sub(self._of, text)

    def _of(self, found: re.Match[str]) -> str:
        if path := found["path"]:
            return str(self._paths[path])
        if name := found["name"]:
            return self._addresses[name]
        if found["own"]:
            return self._own_address
        return f"listen {self._own_address}:"
