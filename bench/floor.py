"""The floor of all figures: what the kernel takes for one small send, here and now.

    python -m bench.floor 0 1

Prints the CPU microseconds of a blocking send() of a delivery's size to each of some hundred
loopback sockets, made on the first core and read on the second: what no server can go below, and
what differs most between machines.
"""

import os
import select
import socket
import sys
import time

SOCKETS = 500
ROUNDS = 40
FRAME = b"x" * 160
PAUSE_SECONDS = 0.02


def main(sender_core: int, reader_core: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=SOCKETS) as listener:
        listener.settimeout(10)
        if os.fork() == 0:
            os.sched_setaffinity(0, {reader_core})
            _read(listener.getsockname()[1])
            os._exit(0)
        os.sched_setaffinity(0, {sender_core})
        sockets = [listener.accept()[0] for _ in range(SOCKETS)]
    began = time.process_time()
    for _ in range(ROUNDS):
        for sock in sockets:
            sock.send(FRAME)
        time.sleep(PAUSE_SECONDS)  # until all is read: a full buffer would make send wait
    print((time.process_time() - began) / ROUNDS / SOCKETS * 1e6)


def _read(port: int) -> None:
    """Read from every socket until the other side is gone."""
    epoll = select.epoll()
    sockets = {}
    for _ in range(SOCKETS):
        sock = socket.create_connection(("127.0.0.1", port))
        sockets[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if not sockets[fd].recv(65536):
                return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
