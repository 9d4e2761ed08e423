"""The server with a view into it: ``python -m tests.realtime.server.counting_server PORT``.

``/counts`` answers how much it holds of its connections, ``/held`` what it holds of anything,
``/queued`` how many bytes wait for sockets, and ``/garbage`` how much was freed by the collector
alone; ``/stock/...`` are consumers as other applications on the same server write them.
"""

import asyncio
import gc
import json
import sys
from typing import Any

import django


class Counts:
    """What a server still holds."""

    def __init__(self) -> None:
        self.server: Any = None

    def __call__(self) -> dict[str, int]:
        from daphne.http_protocol import WebRequest
        from daphne.ws_protocol import WebSocketProtocol

        from realtime import instance

        running = instance.current()
        known = [each for each in self.server.connections if isinstance(each, WebSocketProtocol)]
        gc.collect()
        alive = gc.get_objects()
        upgrades = [each for each in alive if isinstance(each, WebRequest) and is_upgrade(each)]
        return {
            "upgrades": len(upgrades),
            "protocols": len([each for each in alive if isinstance(each, WebSocketProtocol)]),
            "sockets": self.server.ws_factory.countConnections,
            "known": len(known),
            "sessions": len(running.connections._open),
            "subscriptions": sum(running.hub.client_counts("").values()),
        }


def is_upgrade(request: Any) -> bool:
    """Tell whether a request is for a WebSocket; one that was cut short has no address yet."""
    return getattr(request, "uri", b"/connection").startswith((b"/connection", b"/stock"))


def held(server: Any) -> dict[str, int]:
    """Return what a server would hold more of after a leak."""
    from twisted.internet import reactor

    return {
        "connections": len(server.connections),
        "tasks": len(asyncio.all_tasks()),
        "timers": len(reactor.getDelayedCalls()),
    }


def garbage() -> int:
    """Return how many objects the collector has freed since the start: each was in a cycle."""
    gc.collect()
    return sum(generation["collected"] for generation in gc.get_stats())


async def answer(send: Any, content: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def main() -> int:
    django.setup()
    from project.asgi import application
    from realtime.server.server import HeliographServer
    from tests.realtime.server.stock_consumers import stock

    counts = Counts()

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/counts":
            await answer(send, counts())
        elif scope["path"] == "/held":
            await answer(send, held(counts.server))
        elif scope["path"] == "/queued":
            await answer(send, sum(each.queued_bytes() for each in counts.server.sockets))
        elif scope["path"] == "/garbage":
            await answer(send, garbage())
        elif scope["path"].startswith("/stock/"):
            await stock(scope, receive, send)
        else:
            await application(scope, receive, send)

    endpoint = f"tcp:port={sys.argv[1]}:interface=127.0.0.1:backlog=512"

    def hurry() -> None:
        counts.server.http_factory.timeOut = 2

    counts.server = HeliographServer(counted, [endpoint], on_ready=hurry)
    # What takes seconds in production, so that a test can wait for it.
    counts.server.application_close_timeout = 2
    counts.server.websocket_connect_timeout = counts.server.websocket_handshake_timeout = 2
    counts.server.run()
    return int(counts.server.exit_code)


if __name__ == "__main__":
    sys.exit(main())
