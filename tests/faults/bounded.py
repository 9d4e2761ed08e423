"""A server whose counts and memory are looked at while strangers do their worst."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.faults.sockets import HANDSHAKE, Line, text_frame
from tests.realtime.server.test_server import CountingServer
from tests.support import processes
from tests.support.servers import Deployment, Filled, environment, token
from tests.support.valkey import Valkey

MIB = 1024 * 1024
QUEUE_MAX_BYTES = 200_000
# The allocator keeps pages of what was freed, and a server that works has more than an idle one.
ALLOWANCE_BYTES = 16 * MIB


@contextmanager
def counting_server(folder: Path, database: Filled, **variables: str) -> Iterator[CountingServer]:
    valkey = Valkey(folder / "redis")
    deployment = Deployment(folder, database=database, redis_url=valkey.url)
    variables["REALTIME_QUEUE_MAX_BYTES"] = str(QUEUE_MAX_BYTES)
    server = CountingServer("bounded", folder, environment(folder, valkey.url, variables))
    deployment.servers.append(server)
    try:
        valkey.start()
        server.start()
        server.wait_ready()
        yield server
        server.wait_empty()
        server.terminate()
        assert "Traceback" not in server.log()
    finally:
        deployment.close()
        valkey.close()


def ask_server(server: CountingServer, path: str) -> Any:
    code, answer = server.get(path)
    assert code == 200, server.log_tail()
    return json.loads(answer)


def rss_bytes(server: CountingServer) -> int:
    assert server.process is not None
    told = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", told)
    assert found is not None
    return int(found[1]) * 1024


class MemoryWatch:
    """Samples the memory of a server for as long as it is entered."""

    def __init__(self, server: CountingServer) -> None:
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")
        self.before_bytes = self.peak_bytes = rss_bytes(server)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, rss_bytes(self._server))

    @property
    def added_bytes(self) -> int:
        """How much more there was at the worst moment."""
        return self.peak_bytes - self.before_bytes


async def talking(server: CountingServer, channel: str, *, room_bytes: int = 8192) -> Line:
    """Open a connection that is subscribed, on a socket with little room."""
    line = await Line.open(server.port, HANDSHAKE)
    line.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
    await line.reader.readuntil(b"\r\n\r\n")
    commands = [
        {"id": 1, "connect": {"token": token("42")}},
        {"id": 2, "subscribe": {"channel": channel}},
    ]
    line.writer.write(text_frame("\n".join(json.dumps(command) for command in commands)))
    await line.reader.readuntil(b'"subscribe":{')
    line.writer.transport.pause_reading()
    return line


async def warm_up(server: CountingServer) -> None:
    """Let the first of everything be over: what is loaded once is no leak."""
    lines = [await talking(server, "live:warm") for _ in range(20)]
    for line in lines:
        line.cut()
    await server.until_empty()


@asynccontextmanager
async def leaving_nothing(server: CountingServer) -> AsyncIterator[None]:
    """Make sure that a server holds no more afterwards, and serves as before."""
    before = ask_server(server, "/held")
    memory_bytes = rss_bytes(server)
    yield
    await server.until_empty()
    await asyncio.to_thread(
        processes.wait_until,
        lambda: all(n <= before[name] for name, n in ask_server(server, "/held").items()),
        timeout_seconds=10,
        what=lambda: f"{before} before, now {ask_server(server, '/held')}",
    )
    assert rss_bytes(server) - memory_bytes < ALLOWANCE_BYTES
