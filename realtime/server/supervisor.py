"""Several server processes behind one port: started, restarted, replaced and ended together.

Called by ``serve --processes`` and ``runserver``. For each listening socket there is a place, in
which one child follows the other.
"""

import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from realtime.server.child import LEAVE, Child
from realtime.server.listening import let_in_nobody_new
from realtime.server.roll import Place, Roll

logger = logging.getLogger(__name__)

# A signal to a process group arrives from the sender and again from a parent that passes it on.
ECHO_SECONDS: Final = 0.5


class Supervisor:
    """Runs one child for each socket until a signal, then ends them.

    Args:
        command: How a child is started, without its socket.
        listeners: A bound socket for each place.
        on_ready: Called once, when every place has a child that is ready.
        end_seconds: How long an orderly end may take before it is no longer waited for.
        is_stale: Asked once a second; when true all children are started again.
        hang_up_ends: Asked at each SIGHUP: whether it is a wish to end. Otherwise the children are
            replaced, one after the other.
    """

    def __init__(
        self,
        command: Sequence[str],
        listeners: Sequence[socket.socket],
        *,
        on_ready: Callable[[], None],
        end_seconds: float,
        is_stale: Callable[[], bool] = lambda: False,
        hang_up_ends: Callable[[], bool] = lambda: True,
    ) -> None:
        self._command = command
        self._places = [Place(listener) for listener in listeners]
        self._on_ready = on_ready
        self._is_stale = is_stale
        self._hang_up_ends = hang_up_ends
        self._end_seconds = end_seconds
        self._selector = selectors.DefaultSelector()
        self._roll = Roll(self._places, start=self._start, leave_seconds=end_seconds)
        self._told_ready = False
        self._ending_at: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until everything has ended; return the exit code.

        The first SIGTERM or SIGINT ends the children in their own time, the second one at once. A
        child that ends before anybody was ready in its place ends everything: what is wrong would
        be wrong again.
        """
        with self._selector, _signals(self._selector):
            for place in self._places:
                place.current = self._start(place)
            while any(place.is_wanted for place in self._places):
                self._turn()
        return self._exit_code

    def _turn(self) -> None:
        for key, _ in self._selector.select(timeout=self._patience_seconds()):
            if key.data is not None:
                self._hear(*key.data)
            elif isinstance(key.fileobj, socket.socket):
                for number in key.fileobj.recv(64):
                    self._obey(number)
        now = time.monotonic()
        for place in self._places:
            if place.start_at is not None and place.start_at <= now:
                place.current = self._start(place)
        if self._ending_at is None:
            self._roll.mind_time(now)
            if self._is_stale():
                self._restart_all()
        elif now > self._ending_at + self._end_seconds:
            self._kill_all("the server processes did not end in time; they are killed")

    def _patience_seconds(self) -> float:
        starts = [place.start_at for place in self._places if place.start_at is not None]
        return max(0.0, min([time.monotonic() + 1.0, *starts]) - time.monotonic())

    # Children -----------------------------------------------------------------------------------

    def _start(self, place: Place) -> Child:
        place.start_at = None
        child = Child(self._command, place.listener)
        self._selector.register(child.tie, selectors.EVENT_READ, (place, child))
        return child

    def _hear(self, place: Place, child: Child) -> None:
        if child.hear():
            self._take_ready(place, child)
            return
        self._selector.unregister(child.tie)
        code = child.bury()
        if self._ending_at is not None:
            self._exit_code = self._exit_code or _exit_code_of(code)
        if child is place.current:
            place.current = None
            if self._ending_at is None and place.successor is None:
                self._follow(place, child, code)
        else:
            self._roll.lose(place, child, code, goes_on=self._ending_at is None)

    def _take_ready(self, place: Place, child: Child) -> None:
        place.was_ever_ready = True
        if child is place.successor and self._ending_at is None:
            self._roll.install(place)
        if not self._told_ready and all(place.was_ever_ready for place in self._places):
            self._told_ready = True
            self._on_ready()

    def _follow(self, place: Place, child: Child, code: int) -> None:
        """Let another process follow one that has died, unless that would be in vain."""
        if place.was_ever_ready:
            delay_seconds = place.plan_restart(child)
            logger.error(
                "server process %d ended with %d; the next one starts in %.1f s",
                child.pid,
                code,
                delay_seconds,
            )
        else:
            logger.error("server process %d ended with %d before it was ready", child.pid, code)
            self._exit_code = _exit_code_of(code) or 1
            self._end_all()

    def _restart_all(self) -> None:
        for place in self._places:
            place.backoff_seconds = 0.0
            if place.start_at is not None:
                place.start_at = time.monotonic()
            if place.current is not None:
                place.current.signal(LEAVE)

    # End ----------------------------------------------------------------------------------------

    def _obey(self, number: int) -> None:
        if self._ending_at is None:
            if number == signal.SIGHUP and not self._hang_up_ends():
                self._roll.begin()
            else:
                self._end_all()
        elif time.monotonic() - self._ending_at > ECHO_SECONDS:
            self._exit_code = 128 + number
            self._kill_all("ended at once by a second signal")

    def _end_all(self) -> None:
        self._ending_at = time.monotonic()
        for place in self._places:
            place.start_at = None
            # A connection must be refused now, not wait in a queue that nobody will ever read.
            let_in_nobody_new(place.listener)
            place.listener.close()
            for child in place.children():
                # Always this one: it is what a server understands as the wish to end in order.
                # Who leaves has been told so; a second wish would end it at once.
                if child is not place.leaving:
                    child.signal(signal.SIGTERM)

    def _kill_all(self, why: str) -> None:
        logger.warning("%s", why)
        self._exit_code = self._exit_code or 1
        self._end_seconds = float("inf")
        for place in self._places:
            for child in place.children():
                child.signal(signal.SIGKILL)


@contextmanager
def _signals(selector: selectors.BaseSelector) -> Iterator[None]:
    """Let the signals to a server arrive as bytes at a socket of the selector."""
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
    if code in (-signal.SIGTERM, -LEAVE):  # ended before it had set itself up to do so in order
        return 0
    return code if code >= 0 else 128 - code
