"""The ``websockets`` library by itself: asyncio with ``broadcast``, and a thread per connection."""

from importlib.metadata import version
from pathlib import Path

from bench.peers.base import (
    CHANNELS,
    FAN_OUT,
    IDLE,
    SLOW,
    SPORADIC,
    Peer,
    Resume,
    Running,
    Seat,
    Setting,
    Wire,
    client_frame,
    upgrade_request,
)
from bench.peers.children import (
    free_port,
    listens,
    python,
    spawn,
    start_slow_service,
    wait_until,
)

TOPICS = "https://websockets.readthedocs.io/en/stable/topics"
NO_COMPRESSION = Setting(
    "compression",
    "None: reduces memory from 64 to 14 KiB a connection",
    f"{TOPICS}/memory.html",
)


class BareWire(Wire):
    """The path names the channel, the 101 says joined; a connection to /control publishes."""

    def handshake(self, seat: Seat, resume: Resume | None = None) -> bytes:
        return upgrade_request(f"/ws/{seat.channel}")

    def control_handshake(self) -> bytes:
        return upgrade_request("/control")

    def publish(self, channel: str, data: bytes) -> bytes:
        return client_frame(channel.encode() + b"\n" + data)


class CallingWire(BareWire):
    """A message is what is posted to the slow service; what that answers comes back."""

    def call(self, number: int, data: bytes) -> bytes:
        return client_frame(data)


class BareServer(Peer):
    """One program of bench/peers/apps, in as many processes as a subclass says."""

    program: str
    process_count = 1
    wire = "bench.peers.bare_websockets:BareWire"
    scenarios = frozenset({IDLE, FAN_OUT})

    def versions(self) -> dict[str, str]:
        return {"websockets": version("websockets")}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        running = Running(pids=[], ports=[])
        arguments = []
        try:
            if SPORADIC in self.scenarios:
                slow, running.slow = start_slow_service(core=helper_core, work_dir=work_dir)
                running.children.append(slow)
                arguments.append(f"{running.slow.url}/echo")
            for number in range(self.process_count):
                port, log = free_port(), work_dir / f"{number}.log"
                command = python("-m", self.program, str(port), *arguments)
                child = spawn(command, core=core, log=log)
                running.children.append(child)
                running.pids.append(child.pid)
                running.ports.append(port)
                running.log = log
                wait_until(listens(port), child, log=log)
        except BaseException:
            running.stop()
            raise
        return running


class BareWebsockets(BareServer):
    """What Python costs at least where a library writes the frames."""

    name = "websockets"
    title = "bare websockets, asyncio, broadcast()"
    program = "bench.peers.apps.broadcast_server"
    scenarios = frozenset({IDLE, FAN_OUT, CHANNELS, SLOW})
    note = (
        "no authentication, no history, no HTTP: a set of connections for each channel; its "
        "documentation says 14 KiB for a connection, and the design's figures are Python 3.13's"
    )
    noted = {
        "idle.bytes_per_connection": 11.5 * 1024,
        "idle.cpu_ms_per_connect": 0.17,
        "fan_out.cpu_us_per_delivery": 9.2,
    }
    settings = (
        NO_COMPRESSION,
        Setting("fan-out", "broadcast()", f"{TOPICS}/broadcast.html"),
    )


class Threads(BareServer):
    """A thread for each connection, which ``websockets`` makes three of."""

    program = "bench.peers.apps.thread_server"
    scenarios = frozenset({IDLE, FAN_OUT})
    note = (
        "no authentication, no history; the library runs three threads for a connection: "
        "handler, reader, keepalive (without keepalive, a quarter less memory)"
    )
    settings = (
        NO_COMPRESSION,
        Setting(
            "threads",
            "as the library makes them, stack size as the system has it",
            "https://websockets.readthedocs.io/en/stable/reference/sync/server.html",
        ),
    )


class ThreadsInOneProcess(Threads):
    name = "threads-1x3000"
    title = "a thread per connection (websockets.sync), 1 process"


class ThreadsInThreeProcesses(Threads):
    name = "threads-3x1000"
    title = "a thread per connection (websockets.sync), 3 processes"
    process_count = 3


class ThreadsWithRequests(BareServer):
    """What a thread per connection is for: a blocking HTTP client in it."""

    name = "threads-requests"
    title = "a thread per connection (websockets.sync), each with requests"
    program = "bench.peers.apps.thread_caller"
    wire = "bench.peers.bare_websockets:CallingWire"
    scenarios = frozenset({SPORADIC})
    note = (
        "no authentication, no channels: a message is posted to the service; the library runs "
        "three threads for a connection"
    )
    settings = (
        NO_COMPRESSION,
        Setting(
            "Session",
            "one for each connection, which keeps its HTTP connection open",
            "https://requests.readthedocs.io/en/latest/user/advanced/#session-objects",
        ),
    )

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("websockets", "requests", "urllib3")}
