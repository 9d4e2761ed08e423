"""Centrifugo, the server in Go whose protocol this project speaks, with the same wire."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.peers.base import (
    CROWD,
    EVERYTHING,
    FAN_OUT,
    IDLE,
    PUBLISH,
    RECOVER,
    Peer,
    Running,
    Setting,
    StartFailed,
    http_request,
)
from bench.peers.children import (
    free_port,
    listens,
    redis_version,
    run,
    spawn,
    start_redis,
    start_slow_service,
    wait_until,
)
from bench.peers.heliograph import API_KEY, NAMESPACE, TOKEN_SECRET, CentrifugoProtocolWire

MODULE = "github.com/centrifugal/centrifugo/v6"
BUILD_SECONDS = 1200.0  # the first time: it is a large program, and its modules are fetched
DOCS = "https://centrifugal.dev/docs"
SETTINGS = (
    Setting("GOMAXPROCS", "1, as it has one core", "https://pkg.go.dev/runtime#hdr-Environment"),
    Setting(
        "client.token.hmac_secret_key",
        "as ours",
        f"{DOCS}/server/authentication",
    ),
    Setting(
        "channel.namespaces",
        json.dumps(NAMESPACE),
        f"{DOCS}/server/channels#channel-namespaces",
    ),
    Setting("log.level", "info, its default", f"{DOCS}/server/configuration#log"),
)


class CentrifugoWire(CentrifugoProtocolWire):
    """Centrifugo has no view to call, so its health check stands for one."""

    def empty_view(self) -> bytes:
        return http_request("GET", "/health")


class Centrifugo(Peer):
    """With the memory engine, which cannot be shared by several servers."""

    name = "centrifugo-memory"
    title = "Centrifugo (Go), memory engine"
    wire = "bench.peers.centrifugo:CentrifugoWire"
    scenarios = EVERYTHING - {CROWD}
    note = "its empty view is /health; history is in its own memory"
    settings = (
        *SETTINGS,
        Setting("engine.type", "memory", f"{DOCS}/server/engines#memory-engine"),
        Setting("rpc.proxy.timeout", "1s", f"{DOCS}/server/proxy#rpc-proxy"),
    )

    def unavailable(self) -> str | None:
        try:
            binary()
        except StartFailed as error:
            return str(error).splitlines()[0]
        return None

    def versions(self) -> dict[str, str]:
        return {"centrifugo": built_version()}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        slow, service = start_slow_service(core=helper_core, work_dir=work_dir)
        rpc = {
            "proxy": {"endpoint": f"{service.url}/rpc", "timeout": "1s"},
            "without_namespace": {"proxy_enabled": True},
        }
        try:
            running = self._start({"type": "memory"}, core=core, work_dir=work_dir, rpc=rpc)
        except BaseException:
            slow.terminate()
            slow.wait()
            raise
        running.slow = service
        running.children.insert(0, slow)  # it goes last
        return running

    def _start(
        self, engine: dict[str, object], *, core: int, work_dir: Path, rpc: object = None
    ) -> Running:
        port, log, configuration = free_port(), work_dir / "log", work_dir / "config.json"
        configuration.write_text(
            json.dumps(
                {
                    "http_server": {"address": "127.0.0.1", "port": port},
                    "client": {"token": {"hmac_secret_key": TOKEN_SECRET}},
                    "http_api": {"key": API_KEY},
                    "channel": {"namespaces": [NAMESPACE]},
                    "health": {"enabled": True},
                    "usage_stats": {"disabled": True},
                    "engine": engine,
                    "rpc": rpc or {},
                }
            )
        )
        command: list[str | Path] = [binary(), "--config", configuration]
        child = spawn(command, core=core, log=log, environment={"GOMAXPROCS": "1"})
        wait_until(listens(port), child, log=log)
        return Running(pids=[child.pid], ports=[port], children=[child])


class CentrifugoRedis(Centrifugo):
    """With the Redis engine, which this project's Redis is the like of."""

    name = "centrifugo-redis"
    title = "Centrifugo (Go), Redis engine"
    scenarios = frozenset({IDLE, FAN_OUT, RECOVER, PUBLISH})
    note = "its empty view is /health; history is in Redis, as ours"
    settings = (*SETTINGS, Setting("engine.type", "redis", f"{DOCS}/server/engines#redis-engine"))

    def versions(self) -> dict[str, str]:
        return super().versions() | {"redis": redis_version()}

    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        redis, url = start_redis(core=helper_core, work_dir=work_dir)
        engine: dict[str, object] = {"type": "redis", "redis": {"address": url}}
        try:
            running = self._start(engine, core=core, work_dir=work_dir)
        except BaseException:
            redis.terminate()
            redis.wait()
            raise
        running.helper_pids.append(redis.pid)
        running.children.insert(0, redis)  # it goes last
        return running


def binary() -> Path:
    """Return the program; build it where it is not in the cache yet.

    Raises:
        StartFailed: There is no Go, or it cannot build it.
    """
    folder = cache() / "bin"
    path = folder / "centrifugo"
    if path.exists():
        return path
    if go() is None:
        raise StartFailed("Go is not installed, and Centrifugo is not built")
    print(f"building {MODULE} (once, some minutes) ...", file=sys.stderr)
    environment = dict(os.environ) | {"GOBIN": str(folder), "GOFLAGS": "-modcacherw"}
    command = [go() or "go", "install", f"{MODULE}@latest"]
    run(command, environment=environment, timeout_seconds=BUILD_SECONDS)
    return path


def built_version() -> str:
    """Return the version of the module that the program was built from."""
    if go() is None:
        return "?"
    try:
        told = run([go() or "go", "version", "-m", binary()])
    except (StartFailed, subprocess.SubprocessError):
        return "?"
    found = re.search(rf"mod\s+{re.escape(MODULE)}\s+(\S+)", told)
    return found[1] if found else "?"


def go() -> str | None:
    """Return where Go is; its own installer does not put it into the PATH."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def cache() -> Path:
    """Return the folder where built programs stay from run to run, outside the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "heliograph-bench"
