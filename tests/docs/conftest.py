"""A browser for the snippets of pages, and a reader who does as the documents say."""

import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import new_page
from tests.support import processes
from tests.support.servers import REPOSITORY, Server
from tests.support.valkey import Valkey

__all__ = ["new_page"]


class Reader(Server):
    """Somebody at a checkout of their own: types commands, and runs one server.

    Args:
        checkout: Where ``manage.py`` is.
        variables: The whole environment.
        options: More options of ``serve``.
    """

    def __init__(self, checkout: Path, variables: dict[str, str], *options: str) -> None:
        super().__init__("server", checkout.parent, variables)
        self.checkout = checkout
        self.options = options
        self._others: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the server of the checkout; it is ready later."""
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        self.process = processes.spawn(
            [sys.executable, "manage.py", "serve", *address, *self.options],
            log_path=self.log_path,
            cwd=self.checkout,
            env=self.variables,
        )

    def type(self, text: str) -> str:
        """Run what stands in a block for a shell; return what it prints."""
        process = subprocess.run(
            ["sh", "-ec", self.here(text)],
            cwd=self.checkout,
            env=self.variables,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def start_typing(self, text: str) -> Path:
        """Run a command that ends with the reader; return where it prints."""
        path = self.checkout.parent / f"typed-{len(self._others)}.log"
        process = processes.spawn(
            ["sh", "-ec", f"exec {self.here(text)}"],
            log_path=path,
            cwd=self.checkout,
            env=self.variables,
        )
        self._others.append(process)
        return path

    def here(self, text: str) -> str:
        """Return a snippet with the port of this reader's server."""
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")

    def post(self, path: str, body: str, headers: dict[str, str]) -> str:
        """Return the body of the answer to a POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        """End everything that was started."""
        for process in self._others:
            processes.end(process)
        super().close()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey on a TCP port."""
    valkey = Valkey(tmp_path / "redis", port=processes.free_port())
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the repository serves with, beside nothing else."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("project", "api", "dashboard", "realtime"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copy(REPOSITORY / "manage.py", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def with_python_first(variables: dict[str, str]) -> dict[str, str]:
    """Return an environment in which ``python`` is the one that runs the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
    return {**variables, "PATH": path}
