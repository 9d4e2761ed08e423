"""Bare sockets that knock at a server: what came back is told byte for byte, resets included."""

import asyncio

HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT, CLOSE = 1, 8
PATIENCE_SECONDS = 30


def request(path: str) -> bytes:
    """Return a request whose answer is the last of its connection."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def text_frame(text: str) -> bytes:
    """Frame a client's text of 126 to 65535 bytes; with a mask of zeros it stays as it is."""
    payload = text.encode()
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of the frames of a server."""
    found = []
    while data:
        length, start = data[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        found.append((data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return found


def closes(data: bytes) -> list[tuple[int, str]]:
    """Return code and reason of the close frames of a server."""
    return [
        (int.from_bytes(payload[:2], "big"), payload[2:].decode())
        for opcode, payload in frames(data)
        if opcode == CLOSE
    ]


def status(answer: bytes) -> int:
    """Return the HTTP status of an answer."""
    return int(answer.split(b" ", 2)[1])


def body(answer: bytes) -> bytes:
    """Return what follows the head of an answer."""
    return answer.partition(b"\r\n\r\n")[2]


class Line:
    """One connection on which something was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, text: bytes) -> "Line":
        """Connect and send a text; the answer can wait.

        Raises:
            ConnectionRefusedError: Nobody listens.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        return cls(reader, writer)

    def cut(self) -> None:
        """End the connection as a lost client does."""
        self.writer.transport.abort()

    async def rest(self) -> bytes:
        """Return all that arrives until the connection ends.

        Raises:
            ConnectionResetError: It was reset.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self.reader.read()
        finally:
            self.writer.close()


async def ask(port: int, text: bytes) -> bytes:
    """Send a text on a connection of its own and return the whole answer."""
    return await (await Line.open(port, text)).rest()


async def ask_until_refused(port: int, text: bytes, is_answered: asyncio.Event) -> list[bytes]:
    """Ask again and again until nobody listens any more; return the answers.

    Raises:
        ConnectionResetError: A connection that was let in was reset.
    """
    answers: list[bytes] = []
    while True:
        try:
            line = await Line.open(port, text)
        except ConnectionRefusedError:
            return answers
        answers.append(await line.rest())
        is_answered.set()
