"""The Valkey of a machine without ``REDIS_URL``: started, shared, revived and ended.

``serve`` holds it for as long as it runs; commands and shells reach it at ``address``. It belongs
to no process, so that it outlives a killed one, and the next ``serve`` finds it. Two lock files in
``VAR_DIR/valkey`` keep order: ``start.lock`` is held while something starts or ends it, and
``users.lock`` is shared by all who need it; who leaves last ends it.
"""

import fcntl
import hashlib
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from realtime.server.valkey_process import EmbeddedValkeyError, ValkeyProcess

logger = logging.getLogger(__name__)

# sockaddr_un holds 108 bytes on Linux and 104 on macOS.
SOCKET_PATH_MAX_BYTES: Final = 100
LOCK_DEADLINE_SECONDS: Final = 90.0  # longer than a start may take
WATCH_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.02


def socket_path(var_dir: Path) -> Path:
    """Return where the Valkey of a ``VAR_DIR`` listens: the same for every process of a user.

    Under ``var_dir``, or where that is too long for a socket under ``$XDG_RUNTIME_DIR`` or a
    private folder in the system's temporary one.
    """
    folder = var_dir.resolve()
    path = folder / "valkey" / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    # Like TMPDIR a matter of the system and none of the project's settings.
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(runtime_dir) / f"heliograph-{os.getuid()}" / f"{digest}.sock"


def address(var_dir: Path) -> str:
    """Return the URL of the Valkey of a ``VAR_DIR``, as ``REDIS_URL`` would name it."""
    return f"unix://{quote(str(socket_path(var_dir)))}"


@contextmanager
def embedded_valkey(var_dir: Path) -> Iterator["EmbeddedValkey"]:
    """Have the Valkey of ``var_dir`` running for as long as the block runs.

    It is started or attached to, revived within seconds if it dies, and ended if nobody else
    uses it any more.

    Raises:
        EmbeddedValkeyError: It cannot be started or does not answer.
    """
    valkey = EmbeddedValkey(var_dir)
    valkey.join()
    is_over = threading.Event()
    watcher = threading.Thread(target=watch, args=(valkey, is_over), name="embedded-valkey")
    watcher.start()
    try:
        yield valkey
    finally:
        is_over.set()
        watcher.join()
        valkey.leave()


def watch(valkey: "EmbeddedValkey", is_over: threading.Event) -> None:
    """Start Valkey again whenever it is gone, until ``is_over``."""
    while not is_over.wait(WATCH_SECONDS):
        if valkey.process.is_listening():
            continue
        logger.error("the embedded Valkey is gone; starting it again")
        try:
            valkey.revive()
        except EmbeddedValkeyError as error:
            logger.error("%s", error)


class EmbeddedValkey:
    """The Valkey of one ``VAR_DIR``, as one of its users sees it. Not for several threads."""

    def __init__(self, var_dir: Path) -> None:
        self.folder = var_dir.resolve() / "valkey"
        self.process = ValkeyProcess(self.folder, socket=socket_path(var_dir))
        self._users_lock: int | None = None

    def join(self) -> None:
        """Become a user: start Valkey unless it runs.

        Raises:
            EmbeddedValkeyError: It cannot be started or does not answer.
        """
        try:
            with _os_errors_told(self.folder):
                self._join()
        except (KeyboardInterrupt, SystemExit):
            self.leave()  # or it would stay behind, started and unused
            raise
        except EmbeddedValkeyError:
            self._drop_users_lock()
            raise

    def revive(self) -> None:
        """Start Valkey again if it is gone; whichever user comes first does it.

        Raises:
            EmbeddedValkeyError: It cannot be started or does not answer.
        """
        with _os_errors_told(self.folder), _locked(self.folder / "start.lock"):
            self.process.start_unless_running()

    def leave(self) -> None:
        """Stop being a user; the last one ends Valkey.

        Raises:
            EmbeddedValkeyError: Its files are gone, or another process has hung with the lock.
        """
        if self._users_lock is None:
            return
        try:
            with (
                _os_errors_told(self.folder),
                _locked(self.folder / "start.lock"),
                suppress(BlockingIOError),
            ):
                fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.process.end()
        finally:
            self._drop_users_lock()

    def _join(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.process.socket.parent != self.folder:
            _make_private(self.process.socket.parent)
        with _locked(self.folder / "start.lock"):
            self._users_lock = _open(self.folder / "users.lock")
            fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            self.process.start_unless_running()

    def _drop_users_lock(self) -> None:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None


def _make_private(folder: Path) -> None:
    """Make a folder in a place that others write to, or make sure that it is ours alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_ours or found.st_mode & 0o077:
        raise EmbeddedValkeyError(
            f"{folder} is not a private folder of this user: remove it, or set a shorter VAR_DIR"
        )


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file alone; the kernel gives it back if this process dies."""
    descriptor = _open(path)
    deadline = time.monotonic() + LOCK_DEADLINE_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedValkeyError(
                        f"another process has held {path} for {LOCK_DEADLINE_SECONDS:.0f} s"
                    ) from error
            time.sleep(POLL_SECONDS)  # a lock with a deadline is looked at again and again
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _os_errors_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedValkeyError(
            f"the embedded Valkey cannot use {folder}: {error.strerror or error}"
        ) from error
