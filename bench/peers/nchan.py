"""Nchan: publish/subscribe in C as a module of nginx."""

import getpass
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.peers.base import (
    CHANNELS,
    FAN_OUT,
    IDLE,
    MIXED,
    PUBLISH,
    RECOVER,
    SLOW,
    Peer,
    Resume,
    Running,
    Seat,
    Setting,
    Wire,
    http_request,
    upgrade_request,
)
from bench.peers.children import free_port, listens, run, spawn, wait_until

NCHAN = "https://nchan.io"
MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/etc/nginx/modules")
MODULE = "ngx_nchan_module.so"
MESSAGE_ID = re.compile(rb"^id: (\S+)", re.MULTILINE)
HISTORY_COUNT = 100
# "user" counts where root runs it: the worker needs the folder, which is the benchmark's alone.
CONFIGURATION = """
load_module {module};
user {user};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log {folder}/error.log warn;
pid {folder}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    server {{
        listen 127.0.0.1:{port};
        location ~ ^/sub/(.+)$ {{
            nchan_subscriber websocket;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval 25;
        }}
        location ~ ^/pub/(.+)$ {{
            nchan_publisher http;
            nchan_channel_id $1;
            nchan_channel_id_split_delimiter ",";
            nchan_max_channel_id_length 8192;
            nchan_message_buffer_length {history};
            nchan_message_timeout 5m;
        }}
        location = /empty {{ return 200 "ok"; }}
    }}
}}
"""


class NchanWire(Wire):
    """Frames hold the message's id before the payload, so that a connection can be resumed."""

    control = "http"
    keeps_last_frame = True

    def handshake(self, seat: Seat, resume: Resume | None = None) -> bytes:
        query = f"?last_event_id={last_id(resume.last)}" if resume else ""
        headers = {"Sec-WebSocket-Protocol": "ws+meta.nchan"}
        return upgrade_request(f"/sub/{seat.channel}{query}", headers=headers)

    def publish(self, channel: str, data: bytes) -> bytes:
        return http_request("POST", f"/pub/{channel}", data)

    def broadcast(self, channels: Sequence[str], data: bytes) -> bytes:
        return http_request("POST", f"/pub/{','.join(channels)}", data)

    def empty_view(self) -> bytes:
        return http_request("GET", "/empty")


def last_id(frame: bytes) -> str:
    """Return the id of the message in a frame of ws+meta.nchan, "" where there is none."""
    found = MESSAGE_ID.search(frame)
    return found[1].decode() if found else ""


class Nchan(Peer):
    """What a server written in C costs: the floor of the table."""

    name = "nchan"
    title = "Nchan (nginx, C)"
    wire = "bench.peers.nchan:NchanWire"
    scenarios = frozenset({IDLE, FAN_OUT, CHANNELS, MIXED, SLOW, RECOVER, PUBLISH})
    note = (
        "no authentication of its own (it would ask an application); history in memory; it makes "
        "one writev() for each delivery and nothing else, so its figure is the kernel's price of "
        "that call on this machine"
    )
    noted = {
        "idle.bytes_per_connection": 9.7 * 1024,
        "idle.cpu_ms_per_connect": 0.02,
        "fan_out.cpu_us_per_delivery": 3.6,
    }
    settings = (
        Setting("worker_processes", "1, as every row has one core", f"{NCHAN}/#getting-started"),
        Setting("subprotocol", "ws+meta.nchan, which makes it resumable", f"{NCHAN}/#websocket"),
        Setting(
            "nchan_message_buffer_length, nchan_message_timeout",
            f"{HISTORY_COUNT}, 5m",
            f"{NCHAN}/#nchan_message_buffer_length",
        ),
        Setting("nchan_websocket_ping_interval", "25", f"{NCHAN}/#nchan_websocket_ping_interval"),
        Setting(
            "worker_connections",
            "16384, as the default of 512 is too few",
            "https://nginx.org/en/docs/ngx_core_module.html#worker_connections",
        ),
    )

    def unavailable(self) -> str | None:
        if program() is None:
            return "nginx is not installed"
        if module() is None:
            return f"nginx has no {MODULE} (Debian: libnginx-mod-nchan)"
        return None

    def versions(self) -> dict[str, str]:
        found = {"nginx": run(["sh", "-c", '"$0" -v 2>&1', program() or "nginx"]).split("/")[-1]}
        if shutil.which("dpkg-query"):
            query = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
            found["nchan"] = run(query)
        return {name: text.strip() for name, text in found.items()}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        port, log, configuration = free_port(), work_dir / "log", work_dir / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(
                module=module(),
                user=getpass.getuser(),
                folder=work_dir,
                port=port,
                history=HISTORY_COUNT,
            )
        )
        child = spawn(
            [program() or "nginx", "-p", work_dir, "-c", configuration], core=core, log=log
        )
        wait_until(listens(port), child, log=log)
        # The master does nothing but wait, yet is part of what runs.
        workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        return Running(pids=[child.pid, *map(int, workers)], ports=[port], children=[child])


def program() -> str | None:
    """Return where nginx is; /usr/sbin is not in everybody's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def module() -> Path | None:
    """Return where nginx keeps Nchan."""
    return next((path for each in MODULES if (path := Path(each) / MODULE).exists()), None)
