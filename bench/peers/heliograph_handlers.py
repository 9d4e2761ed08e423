"""This project with RPC methods in Python: one that waits well, one that blocks the loop."""

from bench.peers.base import SPORADIC, Setting
from bench.peers.heliograph import Heliograph, HeliographWire

ASK, BLOCK = "bench.ask", "bench.block"  # of bench/peers/apps/slow_handlers


class AskingWire(HeliographWire):
    method = ASK


class BlockingWire(HeliographWire):
    method = BLOCK


class HeliographHandler(Heliograph):
    name = "heliograph-handler"
    title = "Heliograph, an async handler that uses aiohttp"
    wire = "bench.peers.heliograph_handlers:AskingWire"
    method = ASK
    settings_module = "bench.peers.apps.heliograph_handler_settings"
    scenarios = frozenset({SPORADIC})
    settings = (Setting("all others", "as heliograph", "docs/how-to/add-an-rpc.md"),)
    noted = {}
    note = "as heliograph; the RPC method is Python, with its arguments validated"


class HeliographBlocked(HeliographHandler):
    """What a handler does to everybody that waits without giving way."""

    name = "heliograph-blocked"
    title = "Heliograph, a handler that blocks the loop"
    wire = "bench.peers.heliograph_handlers:BlockingWire"
    method = BLOCK
    is_blocked_by_calls = True
    note = (
        "time.sleep(0.2) in an async handler, called twice as often as that allows: the row shows "
        "how it harms, and that the server says so"
    )
