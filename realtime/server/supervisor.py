"""Several server processes behind one port: started, restarted and ended together.

Called by ``serve --processes`` and ``runserver``. The parent binds one SO_REUSEPORT socket for each
child and keeps it, so that the kernel spreads connections evenly and none is refused while a child
is started again. A socket pair ties each child to the parent: the child writes a byte when it is
ready, and each side notices the other's end, ``kill -9`` included, as the end of the stream.
"""

import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

logger = logging.getLogger(__name__)

BACKLOG: Final = 4096
BACKOFF_MIN_SECONDS: Final = 0.25
BACKOFF_MAX_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 10.0  # a child that lived this long starts again without delay
# A signal to a process group arrives from the sender and again from a parent that passes it on.
ECHO_SECONDS: Final = 0.5
READY: Final = b"r"


def bind(host: str, port: int, *, count: int) -> list[socket.socket]:
    """Return ``count`` listening IPv4 sockets that share a port; port 0 picks a free one.

    Raises:
        OSError: The address is no IPv4 address of this machine, or taken.
    """
    sockets: list[socket.socket] = []
    for _ in range(count):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sockets.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if count > 1:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        port = port or listener.getsockname()[1]
    return sockets


class Child:
    """The place of one server process; whoever dies in it is followed by another."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.process: subprocess.Popen[bytes] | None = None
        self.tie: socket.socket | None = None
        self.was_ever_ready = False
        self.started_at = 0.0
        self.start_at: float | None = None
        self.backoff_seconds = BACKOFF_MIN_SECONDS

    @property
    def is_wanted(self) -> bool:
        """Whether a process is here, or will be."""
        return self.process is not None or self.start_at is not None

    def start(self, command: Sequence[str]) -> socket.socket:
        """Start a process; it gets the socket and its end of the tie by number."""
        ours, theirs = socket.socketpair()
        numbers = (self.listener.fileno(), theirs.fileno())
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--fd", str(numbers[0]), "--supervisor-fd", str(numbers[1])],
                stdin=subprocess.DEVNULL,
                pass_fds=numbers,
                # Ctrl-C on a terminal reaches the whole group: the parent alone shall get it, or
                # a child would take what the parent passes on for the second signal.
                process_group=0,
            )
        self.tie = ours
        self.started_at = time.monotonic()
        self.start_at = None
        return ours

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.process is not None:
            self.process.send_signal(number)

    def bury(self) -> int:
        """Take leave of a process whose tie has ended; return its exit code."""
        assert self.process is not None
        assert self.tie is not None
        self.tie.close()
        code = self.process.wait()
        self.process = self.tie = None
        return code

    def plan_restart(self) -> float:
        """Set when the next process starts; return in how many seconds that is."""
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self.backoff_seconds = BACKOFF_MIN_SECONDS
        delay_seconds = self.backoff_seconds
        self.backoff_seconds = min(BACKOFF_MAX_SECONDS, max(BACKOFF_MIN_SECONDS, delay_seconds * 2))
        self.start_at = time.monotonic() + delay_seconds
        return delay_seconds


class Supervisor:
    """Runs one child for each socket until a signal, then ends them.

    Args:
        command: What a child is started with; ``--fd`` and ``--supervisor-fd`` are added.
        listeners: One listening socket for each child; closed when the end begins.
        on_ready: Called once, when every child is ready.
        end_seconds: How long children may take to end after a signal.
        is_stale: Asked about once a second; true starts every child anew.
    """

    def __init__(
        self,
        command: Sequence[str],
        listeners: Sequence[socket.socket],
        *,
        on_ready: Callable[[], None],
        end_seconds: float,
        is_stale: Callable[[], bool] = lambda: False,
    ) -> None:
        self._command = command
        self._children = [Child(listener) for listener in listeners]
        self._on_ready = on_ready
        self._is_stale = is_stale
        self._end_seconds = end_seconds
        self._selector = selectors.DefaultSelector()
        self._told_ready = False
        self._ending_at: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until everything has ended; return the exit code.

        The first SIGTERM, SIGINT or SIGHUP ends the children in their own time, the second one
        at once. A child that ends before it was ever ready ends everything: what is wrong would
        be wrong again.
        """
        with self._selector, _signals(self._selector):
            for child in self._children:
                self._start(child)
            while any(child.is_wanted for child in self._children):
                self._turn()
        return self._exit_code

    def _turn(self) -> None:
        for key, _ in self._selector.select(timeout=self._patience_seconds()):
            if isinstance(key.data, Child):
                self._hear(key.data)
            elif isinstance(key.fileobj, socket.socket):
                for number in key.fileobj.recv(64):
                    self._obey(number)
        now = time.monotonic()
        for child in self._children:
            if child.start_at is not None and child.start_at <= now:
                self._start(child)
        if self._ending_at is not None and now > self._ending_at + self._end_seconds:
            self._kill_all("the server processes did not end in time; they are killed")
        elif self._ending_at is None and self._is_stale():
            self._restart_all()

    def _patience_seconds(self) -> float:
        starts = [child.start_at for child in self._children if child.start_at is not None]
        return max(0.0, min([time.monotonic() + 1.0, *starts]) - time.monotonic())

    def _start(self, child: Child) -> None:
        self._selector.register(child.start(self._command), selectors.EVENT_READ, child)

    def _hear(self, child: Child) -> None:
        assert child.tie is not None
        if child.tie.recv(16):
            child.was_ever_ready = True
            if not self._told_ready and all(child.was_ever_ready for child in self._children):
                self._told_ready = True
                self._on_ready()
            return
        self._selector.unregister(child.tie)
        assert child.process is not None
        pid = child.process.pid
        code = child.bury()
        if self._ending_at is not None:
            self._exit_code = self._exit_code or _exit_code_of(code)
        elif child.was_ever_ready:
            delay_seconds = child.plan_restart()
            logger.error(
                "server process %d ended with %d; the next one starts in %.1f s",
                pid,
                code,
                delay_seconds,
            )
        else:
            logger.error("server process %d ended with %d before it was ready", pid, code)
            self._exit_code = _exit_code_of(code) or 1
            self._end_all()

    def _obey(self, number: int) -> None:
        if self._ending_at is None:
            self._end_all()
        elif time.monotonic() - self._ending_at > ECHO_SECONDS:
            self._exit_code = 128 + number
            self._kill_all("ended at once by a second signal")

    def _end_all(self) -> None:
        self._ending_at = time.monotonic()
        for child in self._children:
            child.start_at = None
            # A connection must be refused now, not wait in a queue that nobody will ever read.
            child.listener.close()
            # Always this one: it is what a server understands as the wish to end in order.
            child.signal(signal.SIGTERM)

    def _kill_all(self, why: str) -> None:
        logger.warning("%s", why)
        self._exit_code = self._exit_code or 1
        self._end_seconds = float("inf")
        for child in self._children:
            child.signal(signal.SIGKILL)

    def _restart_all(self) -> None:
        for child in self._children:
            child.backoff_seconds = 0.0
            if child.start_at is not None:
                child.start_at = time.monotonic()
            child.signal(signal.SIGTERM)


@contextmanager
def tied_to_supervisor(number: int) -> Iterator[Callable[[], None]]:
    """Be a child: end with the parent, and tell it by the yielded call that this one is ready.

    Args:
        number: The file descriptor that came as ``--supervisor-fd``.
    """
    tie = socket.socket(fileno=number)
    tie.set_inheritable(False)
    is_over = threading.Event()

    def end_with_parent() -> None:
        tie.recv(1)
        if not is_over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end_with_parent, name="supervisor")
    thread.start()
    try:
        yield lambda: tie.sendall(READY)
    finally:
        is_over.set()
        # Only the reading half: the parent shall see the end of the stream when the process ends.
        tie.shutdown(socket.SHUT_RD)
        thread.join()
        tie.detach()


@contextmanager
def _signals(selector: selectors.BaseSelector) -> Iterator[None]:
    """Let the signals that end a server arrive as bytes at a socket of the selector."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants it ignored
        numbers.append(signal.SIGHUP)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    selector.register(reader, selectors.EVENT_READ)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _exit_code_of(code: int) -> int:
    if code == -signal.SIGTERM:  # ended in order, before it had set itself up to do so
        return 0
    return code if code >= 0 else 128 - code
