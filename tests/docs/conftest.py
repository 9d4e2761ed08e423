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
from tests.docs.documents import Block, write_files
from tests.support import processes
from tests.support.sdk import SDK_FOLDER, node_binary
from tests.support.servers import REPOSITORY, Server, bare_environment
from tests.support.valkey import Valkey

__all__ = ["new_page"]

# What a page has before its own lines, for Node.
_PAGE = """
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";
globalThis.WebSocket = WebSocket;
"""


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
        return self._spawn(["sh", "-ec", f"exec {self.here(text)}"], cwd=self.checkout)

    def _spawn(self, command: list[str], *, cwd: Path) -> Path:
        path = self.checkout.parent / f"typed-{len(self._others)}.log"
        process = processes.spawn(command, log_path=path, cwd=cwd, env=self.variables)
        self._others.append(process)
        return path

    def save(self, blocks: list[Block]) -> None:
        """Write the blocks that have a title into the checkout, with the port of its server."""
        for path in write_files(self.checkout, blocks):
            path.write_text(self.here(path.read_text(encoding="utf-8")), encoding="utf-8")

    def run_script(self, lines: str, *, user: str | None = None) -> list[str]:
        """Run lines of a page to their end; return what they log.

        Args:
            lines: What stands in the document.
            user: Whose ``client`` is connected before them; with None they make their own.
        """
        process = subprocess.run(
            self._page(f"{lines}\nclient.disconnect();", user),
            cwd=SDK_FOLDER,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout.splitlines()

    def start_script(self, lines: str, *, user: str | None = None) -> Path:
        """Run lines of a page until the reader ends; return where they log."""
        return self._spawn(self._page(lines, user), cwd=SDK_FOLDER)

    def _page(self, lines: str, user: str | None) -> list[str]:
        before = "" if user is None else self._connected(user)
        return [node_binary(), "--input-type=module", "-e", f"{_PAGE}{before}{self.here(lines)}"]

    def _connected(self, user: str) -> str:
        token = self.type(f".venv/bin/python manage.py token --user {user}").strip()
        return f"""
            const client = new Centrifuge("{self.websocket_url}", {{ token: "{token}" }});
            client.connect();
            await client.ready(10000);
        """

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
    for name in ("project", "api", "dashboard", "realtime", "upstreams"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copy(REPOSITORY / "manage.py", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def developer(checkout: Path, valkey: Valkey) -> Iterator[Reader]:
    """A reader at a checkout with what ``make run`` sets; has typed nothing yet."""
    variables = {
        **bare_environment(checkout / "var"),
        "DEBUG": "1",
        "REALTIME_DEMO": "1",
        "REDIS_URL": valkey.url,
    }
    reader = Reader(checkout, variables, "--dev")
    try:
        yield reader
    finally:
        reader.close()


def with_python_first(variables: dict[str, str]) -> dict[str, str]:
    """Return an environment in which ``python`` is the one that runs the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
    return {**variables, "PATH": path}
