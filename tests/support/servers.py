"""Real server processes: ``manage.py serve``, several of them on one Redis and one database."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jwt

from tests.support import processes, world

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 30
# What a developer's shell may hold must not steer the tests.
_OWN_PREFIXES = ("REALTIME_", "DJANGO_", "REDIS_", "DATABASE_", "COV_CORE_", "PYTEST_")
_OWN_NAMES = {"SECRET_KEY", "DEBUG", "VAR_DIR", "HOST", "PORT", "PROCESSES", "ALLOWED_HOSTS"}


def token(user: str, **claims: Any) -> str:
    """Sign a token as an application would, without the project's own code."""
    return jwt.encode({"sub": user, **claims}, world.TOKEN_SECRET, algorithm="HS256")


def bare_environment(folder: Path) -> dict[str, str]:
    """Return what a fresh checkout starts with: the system's variables and a folder for data."""
    system = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OWN_PREFIXES) and name not in _OWN_NAMES
    }
    return {**system, "VAR_DIR": str(folder)}


def environment(folder: Path, redis_url: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a server: the system's, and what the test says."""
    return {
        **bare_environment(folder),
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "REDIS_URL": redis_url,
        "SECRET_KEY": world.TOKEN_SECRET[::-1],
        "REALTIME_TOKEN_HMAC_SECRET": world.TOKEN_SECRET,
        **extra,
    }


class Server:
    """One ``manage.py serve``; it can be killed and started again on its port.

    Args:
        name: What the test calls it.
        folder: Takes its log.
        variables: Its whole environment.
        arguments: More options of ``serve``.
    """

    def __init__(
        self, name: str, folder: Path, variables: Mapping[str, str], *arguments: str
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.port = processes.free_port()
        self.log_path = folder / f"{name}.log"
        self.variables = dict(variables)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return websocket_url(self.port)

    def start(self) -> None:
        """Start it; it is ready later."""
        command = [sys.executable, "manage.py", "serve", "--host", "127.0.0.1"]
        self.process = processes.spawn(
            [*command, "--port", str(self.port), *self.arguments],
            log_path=self.log_path,
            cwd=REPOSITORY,
            env=self.variables,
        )

    def wait_ready(self, *, timeout_seconds: float = READY_SECONDS) -> None:
        """Return once ``/ready`` is 200.

        Raises:
            TimeoutError: It was not in time.
            RuntimeError: The process ended.
        """
        processes.wait_until(
            self._is_ready,
            timeout_seconds=timeout_seconds,
            what=lambda: f"{self.name} is not ready: {self.get('/ready')}\n{self.log_tail()}",
        )

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET, or 0 and the reason there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status, response.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self, *, timeout_seconds: float = 15) -> float:
        """End it with SIGTERM; it must exit with 0. Return how many seconds it took."""
        assert self.process is not None
        started_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_seconds)
        assert code == 0, f"{self.name} ended with {code}\n{self.log_tail()}"
        return time.monotonic() - started_at

    def log(self) -> str:
        """Return all it has printed."""
        return self.log_path.read_text(errors="replace")

    def log_tail(self) -> str:
        return f"-- end of the log of {self.name} --\n{processes.tail(self.log_path)}"

    def close(self) -> None:
        """End it in whatever state it is."""
        processes.end(self.process, timeout_seconds=8)
        self.process = None

    def _is_ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself\n{self.log_tail()}")
        return self.get("/ready")[0] == 200


class Filled(Protocol):
    """A database with all of ``world`` in it, to be copied for each deployment."""

    def copy(self, folder: Path) -> str:
        """Make a copy for the deployment of a folder; return its ``DATABASE_URL``."""


class Deployment:
    """Servers that share one Redis and one database.

    Args:
        folder: Takes the secrets and the logs, and the database if it is a file.
        database: What to copy the database from.
        redis_url: Where Redis is, for servers that are not told otherwise; several words where
            several servers share the channels.
        variables: More environment, for all servers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database: Filled,
        redis_url: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.redis_url = redis_url
        self.database_url = database.copy(folder)
        self.variables = {"DATABASE_URL": self.database_url, **(variables or {})}
        self.servers: list[Server] = []

    def add(self, name: str, *, redis_url: str | None = None, **variables: str) -> Server:
        """Start one more server; it is ready later."""
        if redis_url is not None:
            variables["REDIS_URL"] = redis_url
        server = Server(name, self.folder, self.environment(variables))
        self.servers.append(server)
        server.start()
        return server

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Return the whole environment of a process of this deployment."""
        return environment(self.folder, self.redis_url, {**self.variables, **extra})

    def wait_ready(self) -> None:
        for server in self.servers:
            server.wait_ready()

    def manage(self, *arguments: str, stdin: str = "") -> str:
        """Run a management command against this deployment and return what it printed."""
        process = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            input=stdin.encode(),
            cwd=REPOSITORY,
            env=self.environment({}),
            capture_output=True,
            timeout=60,
        )
        if process.returncode:
            raise RuntimeError(f"{arguments}: {process.stderr.decode()}")
        return process.stdout.decode()

    def log_tails(self) -> str:
        return "\n".join(server.log_tail() for server in self.servers)

    def close(self) -> None:
        for server in self.servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.close()


def websocket_url(port: int) -> str:
    """Return the address of the protocol on a port, a server's or a proxy's."""
    return f"ws://127.0.0.1:{port}/connection/websocket"
