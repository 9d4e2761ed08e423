"""Stock Django Channels on stock Daphne, with either Redis channel layer of channels_redis."""

import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jwt

from bench.peers.base import (
    CHANNELS,
    FAN_OUT,
    IDLE,
    MIXED,
    PUBLISH,
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
from bench.peers.children import (
    free_port,
    listens,
    python,
    redis_version,
    spawn,
    start_redis,
    wait_until,
)

SECRET = "a secret of the benchmark, long enough for HS256"
APPLICATION = "bench.peers.apps.channels_project:application"
DEPLOYING = "https://channels.readthedocs.io/en/latest/deploying.html"
DAPHNE = "https://github.com/django/daphne#readme"
LAYERS = "https://channels.readthedocs.io/en/latest/topics/channel_layers.html"


class StockWire(Wire):
    """A JWT in the query string, a group in the path, and an async Django view that publishes."""

    control = "http"

    def token(self, index: int) -> str:
        claims = {"sub": f"user-{index}", "exp": int(time.time()) + 3600}
        return jwt.encode(claims, SECRET, algorithm="HS256")

    def handshake(self, seat: Seat, resume: Resume | None = None) -> bytes:
        path = f"/ws/{group(seat.channel)}?token={seat.token}"
        return upgrade_request(path, headers={"Origin": "http://127.0.0.1"})

    def publish(self, channel: str, data: bytes) -> bytes:
        return self.publish_batch([(channel, data)])

    def publish_batch(self, items: Sequence[tuple[str, bytes]]) -> bytes:
        body = b",".join(
            b'{"channel":%s,"data":%s}' % (json.dumps(group(channel)).encode(), data)
            for channel, data in items
        )
        return http_request("POST", "/publish", b"[%s]" % body)

    def broadcast(self, channels: Sequence[str], data: bytes) -> bytes:
        return self.publish_batch([(channel, data) for channel in channels])

    def empty_view(self) -> bytes:
        return http_request("GET", "/empty")


def group(channel: str) -> str:
    """Return a name that Channels allows for a group: letters, digits, hyphens, periods."""
    return channel.replace(":", ".")


class StockChannels(Peer):
    """What both rows have in common."""

    layer: str
    scenarios = frozenset({IDLE, FAN_OUT, CHANNELS, MIXED, SLOW, PUBLISH})
    wire = "bench.peers.stock_channels:StockWire"
    note = (
        "JWT in a middleware, group_add; no history, so nothing can be recovered; above some "
        "hundreds of connections Python's collector, which walks all of their objects again and "
        "again, doubles the cost of a delivery (with it off: about that of 500 connections)"
    )
    settings: Sequence[Setting] = (
        Setting("server", "daphne, one process", f"{DEPLOYING}#run-protocol-servers"),
        Setting("-v 0", "no access log, which only helps it", DAPHNE),
        Setting("-e", "tcp:...:backlog=4096; 50 by default lose connections of a storm", DAPHNE),
        Setting("DEBUG", "False", "https://docs.djangoproject.com/en/5.2/howto/deployment/"),
        Setting(
            "socket_timeout",
            "None, or redis-py 8 ends every idle consumer after 5 s",
            "https://github.com/django/channels_redis/issues/422",
        ),
        Setting(
            "max_connections",
            "1000, or redis-py 8 refuses the 101st group_add at the same time",
            "https://redis.readthedocs.io/en/stable/connections.html#connection-pools",
        ),
    )

    def versions(self) -> dict[str, str]:
        names = ("channels", "channels-redis", "daphne", "Django", "hiredis")
        return {name: version(name) for name in names} | {"redis": redis_version()}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        redis, url = start_redis(core=helper_core, work_dir=work_dir)
        running = Running(pids=[], ports=[], helper_pids=[redis.pid], children=[redis])
        port, log = free_port(), work_dir / "daphne.log"
        environment = {
            "BENCH_LAYER": self.layer,
            "BENCH_REDIS_URL": url,
            "BENCH_SECRET": SECRET,
            "DJANGO_SETTINGS_MODULE": "bench.peers.apps.channels_settings",
            "PYTHONUNBUFFERED": "1",
        }
        endpoint = f"tcp:port={port}:interface=127.0.0.1:backlog=4096"
        command = python("-m", "daphne", "-e", endpoint, "-v", "0", APPLICATION)
        try:
            daphne = spawn(command, core=core, log=log, environment=environment)
            running.children.append(daphne)
            wait_until(listens(port), daphne, log=log)
        except BaseException:
            running.stop()
            raise
        running.pids, running.ports = [daphne.pid], [port]
        return running


class StockChannelsCore(StockChannels):
    """With the layer that the documentation of Channels shows."""

    name = "channels-core"
    title = "stock Channels on Daphne, core Redis layer"
    scenarios = frozenset({IDLE, FAN_OUT})
    layer = "core"
    noted = {
        "idle.bytes_per_connection": 44.0 * 1024,  # with the stack for Django's sessions
        "idle.cpu_ms_per_connect": 1.7,
        "fan_out.cpu_us_per_delivery": 286.0,  # at 500 connections
    }
    settings = (*StockChannels.settings, Setting("BACKEND", "core.RedisChannelLayer", LAYERS))


class StockChannelsPubSub(StockChannels):
    """With the layer on Redis Pub/Sub."""

    name = "channels-pubsub"
    title = "stock Channels on Daphne, pub/sub Redis layer"
    layer = "pubsub"
    noted = {
        "idle.bytes_per_connection": 32.0 * 1024,
        "idle.cpu_ms_per_connect": 1.05,
        "fan_out.cpu_us_per_delivery": 204.0,  # at 500 connections
    }
    settings = (
        *StockChannels.settings,
        Setting(
            "BACKEND",
            "pubsub.RedisPubSubChannelLayer",
            "https://github.com/django/channels_redis#redispubsubchannellayer",
        ),
    )
