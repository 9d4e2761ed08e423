"""An HTTP service that takes its time: what the calls of the scenario "sporadic" go to.

Every POST is answered after a wait that holds nothing up: /rpc with a Centrifugo proxy's result
that has the request's ``data`` in it, every other path with the body as it came. GET /counted
tells at once what there was so far. Connections stay open.

Usage: slow_upstream.py PORT SECONDS
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass


@dataclass
class Counted:
    """POST requests, the most of them at once, and the connections that they came on."""

    requests: int = 0
    connections: int = 0
    most_at_once: int = 0
    at_once: int = 0

    def come(self, *, is_first: bool) -> None:
        self.requests += 1
        self.connections += is_first
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)

    def gone(self) -> None:
        self.at_once -= 1


class SlowUpstream(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, counted: Counted, wait_seconds: float) -> None:
        self._counted = counted
        self._wait_seconds = wait_seconds
        self._buffer = b""
        self._has_asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = _content_length(head)
        if not end or len(rest) < length:
            return
        self._buffer = rest[length:]
        if head.startswith(b"GET /counted "):
            self._answer(json.dumps(asdict(self._counted)).encode())
            return
        self._counted.come(is_first=not self._has_asked)
        self._has_asked = True
        answer = _answer(head.split(b" ", 2)[1], rest[:length])
        asyncio.get_running_loop().call_later(self._wait_seconds, self._answer_slowly, answer)

    def _answer_slowly(self, body: bytes) -> None:
        self._counted.gone()
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _answer(path: bytes, body: bytes) -> bytes:
    if path != b"/rpc":
        return body
    # The driver looks for '"n":"' in what it is sent, so no space after the colon.
    result = {"result": {"data": json.loads(body)["data"]}}
    return json.dumps(result, separators=(",", ":")).encode()


async def main(port: int, wait_seconds: float) -> None:
    counted = Counted()
    server = await asyncio.get_running_loop().create_server(
        lambda: SlowUpstream(counted, wait_seconds), "127.0.0.1", port, backlog=4096
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
