"""This project: ``manage.py serve`` with one process, Redis beside it, as its documents ask."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jwt

from bench.peers import children
from bench.peers.base import (
    EVERYTHING,
    SPORADIC,
    Peer,
    Resume,
    Running,
    Seat,
    Setting,
    Wire,
    client_frame,
    http_request,
    upgrade_request,
)

TOKEN_SECRET = "bench-token-secret-of-forty-characters-x"
API_KEY = "bench-key-0123456789abcdef0123456789"
NAMESPACE = {
    "name": "bench",
    "history_size": 100,
    "history_ttl": "300s",
    "force_recovery": True,
    "allow_subscribe_for_client": True,
}
SERVE_DOCUMENT = "docs/how-to/run-several-instances.md"


class CentrifugoProtocolWire(Wire):
    """The JSON protocol and the server API of Centrifugo, which this project speaks too.

    Connect and subscribe go in one frame, as SDKs send them once they have a token.
    """

    ready_marker = b'"id":2,"subscribe"'
    error_marker = b'"error":'
    ping = b"{}"
    pong = b"{}"
    control = "http"
    method = "bench.slow"  # routed to the slow service
    secret = TOKEN_SECRET
    api_key = API_KEY

    def __init__(self) -> None:
        self._expires_at = int(time.time()) + 3600

    def token(self, index: int) -> str:
        return jwt.encode({"sub": f"user-{index}", "exp": self._expires_at}, self.secret, "HS256")

    def handshake(self, seat: Seat, resume: Resume | None = None) -> bytes:
        return upgrade_request("/connection/websocket")

    def opening(self, seat: Seat, resume: Resume | None = None) -> bytes:
        subscribe: dict[str, object] = {"channel": seat.channel}
        if resume is not None:
            subscribe |= self._position(resume) | {"recover": True}
        commands = ({"id": 1, "connect": {"token": seat.token}}, {"id": 2, "subscribe": subscribe})
        return client_frame(b"\n".join(map(_dumps, commands)))

    def call(self, number: int, data: bytes) -> bytes:
        # Behind the ids of connect and subscribe.
        rpc = b'{"id":%d,"rpc":{"method":"%s","data":%s}}'
        return client_frame(rpc % (number + 2, self.method.encode(), data))

    def publish(self, channel: str, data: bytes) -> bytes:
        body = b'{"channel":"%s","data":%s}' % (channel.encode(), data)
        return self._call("publish", body)

    def publish_batch(self, items: Sequence[tuple[str, bytes]]) -> bytes:
        commands = (
            b'{"publish":{"channel":"%s","data":%s}}' % (channel.encode(), data)
            for channel, data in items
        )
        return self._call("batch", b'{"commands":[%s]}' % b",".join(commands))

    def broadcast(self, channels: Sequence[str], data: bytes) -> bytes:
        body = b'{"channels":%s,"data":%s}' % (_dumps(list(channels)), data)
        return self._call("broadcast", body)

    def _call(self, method: str, body: bytes) -> bytes:
        return http_request("POST", f"/api/{method}", body, headers={"X-API-Key": self.api_key})

    @staticmethod
    def _position(resume: Resume) -> dict[str, object]:
        """Return offset and epoch of the last publication that a connection got."""
        replies = [json.loads(line) for line in resume.ready.splitlines()]
        (result,) = [reply["subscribe"] for reply in replies if reply.get("id") == 2]
        return {
            "offset": result.get("offset", 0) + resume.received,
            "epoch": result.get("epoch", ""),
        }


class HeliographWire(CentrifugoProtocolWire):
    def empty_view(self) -> bytes:
        return http_request("GET", "/bench/empty")


class Heliograph(Peer):
    name = "heliograph"
    title = "Heliograph (this project)"
    settings: Sequence[Setting] = (
        Setting("command", "manage.py serve --processes 1", SERVE_DOCUMENT),
        Setting("DEBUG", "unset", SERVE_DOCUMENT),
        Setting("REDIS_URL", "one Redis over TCP", SERVE_DOCUMENT),
        Setting("Redis", "appendonly yes, maxmemory-policy noeviction", SERVE_DOCUMENT),
        Setting("namespace", json.dumps(NAMESPACE), "docs/reference/channel-options.md"),
    )
    noted = {
        "idle.bytes_per_connection": 13.2 * 1024,
        "fan_out.cpu_us_per_delivery": 7.3,
    }
    note = "the empty view is an async one of Django, under the project's middleware"
    scenarios = EVERYTHING - {SPORADIC}
    wire = "bench.peers.heliograph:HeliographWire"
    settings_module = "bench.peers.apps.heliograph_settings"

    def versions(self) -> dict[str, str]:
        return {"redis": children.redis_version()}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        options = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")
        redis, url = children.start_redis(core=helper_core, work_dir=work_dir, options=options)
        running = Running(pids=[], ports=[children.free_port()], helper_pids=[redis.pid])
        running.children.append(redis)
        running.log = work_dir / "serve.log"
        try:
            environment = self._environment(work_dir, url)
            self._prepare(running, environment, core=helper_core, work_dir=work_dir)
            self._serve(running, environment, core=core, log=running.log)
        except BaseException:
            running.stop()
            raise
        return running

    def _environment(self, work_dir: Path, redis_url: str) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": self.settings_module,
            "VAR_DIR": str(work_dir / "var"),
            "SECRET_KEY": "bench-secret-key-0123456789-0123456789-0123456789",
            "REDIS_URL": redis_url,
            "REALTIME_TOKEN_HMAC_SECRET": TOKEN_SECRET,
            "REALTIME_API_KEY": API_KEY,
        }

    def _prepare(
        self, running: Running, environment: dict[str, str], *, core: int, work_dir: Path
    ) -> None:
        """Fill the database, before the server starts."""
        namespaces = work_dir / "namespaces.json"
        namespaces.write_text(json.dumps({"channel": {"namespaces": [NAMESPACE]}}))
        fill = children.python("-m", "bench.peers.apps.heliograph_rows", str(namespaces))
        children.run(fill, environment=environment)

    @staticmethod
    def _serve(running: Running, environment: Mapping[str, str], *, core: int, log: Path) -> None:
        (port,) = running.ports
        command = ["manage.py", "serve", "--host", "127.0.0.1", "--port", str(port)]
        server = children.spawn(
            children.python(*command, "--processes", "1"),
            core=core,
            log=log,
            environment=environment,
        )
        running.children.append(server)
        children.wait_until(_is_ready(port), server, log=log)
        running.pids.append(server.pid)


def _is_ready(port: int) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return answers


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
