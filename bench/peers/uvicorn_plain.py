"""uvicorn with an ASGI application that uses no framework."""

from importlib.metadata import version
from pathlib import Path

from bench.peers.base import (
    CHANNELS,
    FAN_OUT,
    IDLE,
    PUBLISH,
    Peer,
    Resume,
    Running,
    Seat,
    Setting,
    Wire,
    http_request,
    upgrade_request,
)
from bench.peers.children import free_port, listens, python, spawn, wait_until

APPLICATION = "bench.peers.apps.plain_asgi:application"
DOCS = "https://uvicorn.dev"


class PlainWire(Wire):
    """The path names the channel, the 101 says joined; POST /publish/CHANNEL publishes."""

    control = "http"

    def handshake(self, seat: Seat, resume: Resume | None = None) -> bytes:
        return upgrade_request(f"/ws/{seat.channel}")

    def publish(self, channel: str, data: bytes) -> bytes:
        return http_request("POST", f"/publish/{channel}", data)

    def empty_view(self) -> bytes:
        return http_request("GET", "/empty")


class Uvicorn(Peer):
    """The usual ASGI server beside Daphne, with nothing of Django or Channels."""

    name = "uvicorn"
    title = "uvicorn, plain ASGI application"
    wire = "bench.peers.uvicorn_plain:PlainWire"
    scenarios = frozenset({IDLE, FAN_OUT, CHANNELS, PUBLISH})
    note = (
        "no authentication, no history: a set of `send`s for each channel; one that never reads "
        "stops the loop over them for everybody, until uvicorn's ping closes it after 40 seconds"
    )
    settings = (
        Setting(
            "--loop, --http",
            "uvloop, httptools: what uvicorn[standard] brings and uses by default",
            f"{DOCS}/installation/",
        ),
        Setting("--ws", "websockets-sansio, its default", f"{DOCS}/settings/"),
        Setting("--ws-per-message-deflate", "false", f"{DOCS}/settings/"),
        Setting("--timeout-keep-alive", "3600: publishers may wait", f"{DOCS}/settings/"),
        Setting("--no-access-log", "which only helps it", f"{DOCS}/settings/"),
    )

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("uvicorn", "uvloop", "httptools", "websockets")}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        port, log = free_port(), work_dir / "uvicorn.log"
        command = python("-m", "uvicorn", APPLICATION, "--host", "127.0.0.1", "--port", str(port))
        command += ["--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"]
        command += ["--ws-per-message-deflate", "false", "--lifespan", "off"]
        command += ["--timeout-keep-alive", "3600"]  # the driver's publishing connections wait
        command += ["--no-access-log", "--log-level", "warning"]
        child = spawn(command, core=core, log=log)
        wait_until(listens(port), child, log=log)
        return Running(pids=[child.pid], ports=[port], children=[child])
