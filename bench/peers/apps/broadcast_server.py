"""Bare ``websockets``: its asyncio server and its ``broadcast``, nothing else.

A connection joins the channel that its path names. What comes in on /control is published: the
channel's name, a newline, the payload. Usage: broadcast_server.py PORT
"""

import asyncio
import sys
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

CHANNELS: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None  # the handshake is over
    path = connection.request.path
    if path == "/control":
        async for message in connection:
            assert isinstance(message, str)
            channel, _, data = message.partition("\n")
            broadcast(CHANNELS[channel], data)
        return
    members = CHANNELS[path.removeprefix("/ws/")]
    members.add(connection)
    try:
        await connection.wait_closed()
    finally:
        members.remove(connection)


async def main(port: int) -> None:
    async with serve(handle, "127.0.0.1", port, compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
