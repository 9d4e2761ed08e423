"""One thread per connection: the threading server of ``websockets``, broadcasting in a loop.

A connection joins the channel that its path names. What comes in on /control is published: the
channel's name, a newline, the payload. Usage: thread_server.py PORT
"""

import sys
import threading
from collections import defaultdict

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

CHANNELS: defaultdict[str, set[ServerConnection]] = defaultdict(set)
LOCK = threading.Lock()


def publish(channel: str, data: str) -> None:
    with LOCK:
        members = list(CHANNELS[channel])
    for member in members:
        try:
            member.send(data)
        except ConnectionClosed:
            continue  # its own thread takes it off the list


def handle(connection: ServerConnection) -> None:
    assert connection.request is not None  # the handshake is over
    path = connection.request.path
    if path == "/control":
        for message in connection:
            assert isinstance(message, str)
            channel, _, data = message.partition("\n")
            publish(channel, data)
        return
    channel = path.removeprefix("/ws/")
    with LOCK:
        CHANNELS[channel].add(connection)
    try:
        for _ in connection:
            pass
    finally:
        with LOCK:
            CHANNELS[channel].remove(connection)


if __name__ == "__main__":
    with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None) as server:
        server.serve_forever()
