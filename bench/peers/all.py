"""Every peer, in the order of the table's rows."""

from importlib import import_module
from typing import Any

from bench.peers.base import Peer

PEERS = (
    "bench.peers.heliograph:Heliograph",
    "bench.peers.heliograph_calls:HeliographUpstream",
    "bench.peers.heliograph_calls:HeliographHandler",
    "bench.peers.heliograph_calls:HeliographBlocked",
    "bench.peers.stock_channels:StockChannelsCore",
    "bench.peers.stock_channels:StockChannelsPubSub",
    "bench.peers.bare_websockets:BareWebsockets",
    "bench.peers.bare_websockets:ThreadsInOneProcess",
    "bench.peers.bare_websockets:ThreadsInThreeProcesses",
    "bench.peers.bare_websockets:ThreadsWithRequests",
    "bench.peers.uvicorn_plain:Uvicorn",
    "bench.peers.nchan:Nchan",
    "bench.peers.centrifugo:Centrifugo",
    "bench.peers.centrifugo:CentrifugoRedis",
)


def load() -> list[Peer]:
    """Return one of each."""
    return [made(name) for name in PEERS]


def made(dotted_name: str) -> Any:
    """Return an instance of the class behind ``module:Class``: a Peer or a Wire."""
    module, _, name = dotted_name.partition(":")
    return getattr(import_module(module), name)()
