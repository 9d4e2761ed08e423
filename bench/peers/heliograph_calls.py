"""This project with RPC methods: routed to an upstream, and in Python, well and badly written."""

import json
import re
import urllib.request
from pathlib import Path

from bench.peers import children
from bench.peers.base import IDLE, SPORADIC, Running, Setting
from bench.peers.heliograph import API_KEY, Heliograph, HeliographWire

UPSTREAMS_DOCUMENT = "docs/how-to/reuse-a-centrifugo-backend.md"
HANDLERS_DOCUMENT = "docs/how-to/add-an-rpc.md"
ASK, BLOCK = "bench.ask", "bench.block"  # of bench/peers/apps/slow_handlers
LOOP_BLOCKED = re.compile(r"^heliograph_loop_blocked_total(?:\{.*\})? (\S+)$", re.MULTILINE)
LAG_LOGGER = "realtime.lag"


class AskingWire(HeliographWire):
    method = ASK


class BlockingWire(HeliographWire):
    method = BLOCK


class HeliographUpstream(Heliograph):
    """With an upstream, without which a server does not load what asks one."""

    name = "heliograph-upstream"
    title = "Heliograph, RPC methods routed to an upstream"
    method = HeliographWire.method
    scenarios = frozenset({IDLE, SPORADIC})
    settings = (
        Setting("all others", "as heliograph", UPSTREAMS_DOCUMENT),
        Setting("upstream", "concurrency 256, private addresses allowed", UPSTREAMS_DOCUMENT),
    )
    noted = {}
    note = "as heliograph"

    def told_of_its_loop(self, running: Running) -> tuple[float, str]:
        assert running.log is not None
        address = f"http://127.0.0.1:{running.ports[0]}/metrics"
        request = urllib.request.Request(address, headers={"X-API-Key": API_KEY})
        with urllib.request.urlopen(request, timeout=10) as answer:
            count = blocked_count(answer.read().decode())
        log = running.log.read_text(errors="replace")
        line = line_about(self.method, log)
        return count, line.replace(f"{children.ROOT}/", "")

    def _prepare(
        self, running: Running, environment: dict[str, str], *, core: int, work_dir: Path
    ) -> None:
        slow, running.slow = children.start_slow_service(core=core, work_dir=work_dir)
        running.children.append(slow)
        environment["BENCH_SLOW_URL"] = running.slow.url
        super()._prepare(running, environment, core=core, work_dir=work_dir)


class HeliographHandler(HeliographUpstream):
    name = "heliograph-handler"
    title = "Heliograph, an async handler that uses aiohttp"
    wire = "bench.peers.heliograph_calls:AskingWire"
    method = ASK
    settings_module = "bench.peers.apps.heliograph_handler_settings"
    scenarios = frozenset({SPORADIC})
    settings = (Setting("all others", "as heliograph-upstream", HANDLERS_DOCUMENT),)
    note = "as heliograph; the RPC method is Python, with its arguments validated"


class HeliographBlocked(HeliographHandler):
    """What a handler does to everybody that waits without giving way."""

    name = "heliograph-blocked"
    title = "Heliograph, a handler that blocks the loop"
    wire = "bench.peers.heliograph_calls:BlockingWire"
    method = BLOCK
    is_blocked_by_calls = True
    note = (
        "time.sleep(0.2) in an async handler, called twice as often as that allows: the row shows "
        "how it harms, and that the server says so"
    )


def blocked_count(metrics: str) -> float:
    """Return how often the loop was blocked, whoever blocked it, from the text of /metrics."""
    return sum(map(float, LOOP_BLOCKED.findall(metrics)))


def line_about(method: str, log: str) -> str:
    """Return the first event that what watches the loop has logged of a method.

    Where there is none, its last of anything, "" where it was silent.
    """
    lines = [json.loads(line) for line in log.splitlines() if f'"{LAG_LOGGER}"' in line]
    events = [str(line["event"]) for line in lines]
    return next((each for each in events if method in each), events[-1] if events else "")
