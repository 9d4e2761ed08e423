"""What every started process needs: a free port, an end by pid, a bounded wait."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# Below those that systems give to outgoing connections: Linux from 32768 on, others from 49152. One
# of these could take a port before its server does, or while the server is down.
_PORTS = range(10_000, 32_768)
_chance = random.SystemRandom()  # pytest-randomly has every test begin with the same numbers


def free_port() -> int:
    """Return a loopback port that nobody uses, and no connection gets by chance."""
    while True:
        port = _chance.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(
    condition: Callable[[], object], *, timeout_seconds: float, what: str | Callable[[], str]
) -> None:
    """Poll a condition of another process; those of this one have events to await.

    Raises:
        TimeoutError: It did not come true in time; ``what`` says what was awaited.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what if isinstance(what, str) else what())
        time.sleep(0.02)


def spawn(command: list[str], *, log_path: Path, **options: object) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches the tests alone."""
    with log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )


def end(process: subprocess.Popen[bytes] | None, *, timeout_seconds: float = 5) -> None:
    """End a process and those it started, whatever state they are in."""
    if process is None:
        return
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_seconds)
    # The session that spawn() made holds only what this process started.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout_seconds)


def tail(path: Path, *, lines: int = 40) -> str:
    """Return the end of a log, for the message of a failed test."""
    if not path.exists():
        return f"{path} does not exist"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
