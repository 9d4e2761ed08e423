import socket
import sys
from collections.abc import Iterator

import pytest

from realtime.server.listening import let_in_nobody_new

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the filter is one of Linux")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        listener.settimeout(5)
        yield listener


def test_nobody_new_is_let_in(listener):
    let_in_nobody_new(listener)

    with socket.socket() as late:
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):  # unanswered, and not refused: the port is still open
            late.connect(listener.getsockname())


def test_who_waits_already_is_still_taken_and_served(listener):
    with socket.create_connection(listener.getsockname()) as waiting:
        let_in_nobody_new(listener)
        taken, _ = listener.accept()
        with taken:
            waiting.sendall(b"hello")
            heard = taken.recv(5)
            taken.sendall(b"there")
            answer = waiting.recv(5)

    assert (heard, answer) == (b"hello", b"there")


def test_connections_of_before_go_on(listener):
    with socket.create_connection(listener.getsockname()) as early:
        taken, _ = listener.accept()
        let_in_nobody_new(listener)
        with taken:
            early.sendall(b"x" * 100_000)
            heard = b""
            while len(heard) < 100_000:
                heard += taken.recv(65536)

    assert len(heard) == 100_000


def test_who_waits_is_reset_without_it_when_the_socket_closes(listener):
    """What the filter is for: the system lets in who then is cut off."""
    with socket.create_connection(listener.getsockname()) as waiting:
        listener.close()

        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
