"""One server process of several, from both sides: how a supervisor starts it and it says "ready".

The parent binds one SO_REUSEPORT socket for each place and keeps it, so that the kernel spreads
connections evenly and none is refused while a place is between two processes. A socket pair ties
each child to the parent: the child writes a byte when it is ready, and each side notices the
other's end, ``kill -9`` included, as the end of the stream.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from realtime.server.listening import QUEUE_MAX

READY: Final = b"r"
# Tells a child to end, and to leave those who wait at its listening socket to its successor.
LEAVE: Final = signal.SIGUSR1
# A child's own: its parent has died, so it is to end, unless it does so already.
ORPHANED: Final = signal.SIGUSR2


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
        listener.listen(QUEUE_MAX)
        port = port or listener.getsockname()[1]
    return sockets


class Child:
    """One server process, running from the start on.

    Attributes:
        tie: Readable when the child is ready, and when it ends.
        is_ready: Whether it has said so.
    """

    def __init__(self, command: Sequence[str], listener: socket.socket) -> None:
        self.tie, theirs = socket.socketpair()
        numbers = (listener.fileno(), theirs.fileno())
        with theirs:
            self._process = subprocess.Popen(
                [*command, "--fd", str(numbers[0]), "--supervisor-fd", str(numbers[1])],
                stdin=subprocess.DEVNULL,
                pass_fds=numbers,
                # Ctrl-C on a terminal reaches the whole group: the parent alone shall get it, or
                # a child would take what the parent passes on for the second signal.
                process_group=0,
            )
        self.started_at = time.monotonic()
        self.is_ready = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def hear(self) -> bool:
        """Read what the tie has; return False if that is its end."""
        said = self.tie.recv(16)
        self.is_ready = self.is_ready or bool(said)
        return bool(said)

    def bury(self) -> int:
        """Take leave of a process whose tie has ended; return its exit code."""
        self.tie.close()
        return self._process.wait()


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
            os.kill(os.getpid(), ORPHANED)

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
