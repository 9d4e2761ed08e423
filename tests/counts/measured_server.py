"""The server with a view of what it costs: ``python -m tests.counts.measured_server PORT``.

``/figures`` answers what the process holds; ``/figures/peak`` the most that was allocated since the
last ``/figures``; ``/threads`` the names of its threads.
"""

import asyncio
import gc
import json
import sys
import threading
import tracemalloc
from typing import Any

import django


def figures(known: int) -> dict[str, int]:
    """Return what the process holds of everything; a new peak begins.

    Args:
        known: How many connections and requests the server has not forgotten.
    """
    gc.collect()
    held = {
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()) + gc.get_freeze_count(),
        "tasks": len(asyncio.all_tasks()),
        "known": known,
    }
    held["bytes"] = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    return held


async def answer(send: Any, content: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def main() -> int:
    django.setup()
    from django.conf import settings

    from project.asgi import application
    from realtime.server.server import HeliographServer

    # Read once: a poll in its thread would be counted with what is looked for.
    settings.REALTIME = {**settings.REALTIME, "SNAPSHOT_POLL_SECONDS": 3600.0}

    async def measured(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/figures":
            await answer(send, figures(len(server.connections)))
        elif scope["path"] == "/figures/peak":
            await answer(send, {"bytes": tracemalloc.get_traced_memory()[1]})
        elif scope["path"] == "/threads":
            names = {thread.native_id: thread.name for thread in threading.enumerate()}
            await answer(send, names)
        else:
            await application(scope, receive, send)

    endpoint = f"tcp:port={sys.argv[1]}:interface=127.0.0.1:backlog=512"
    server = HeliographServer(measured, [endpoint], on_ready=lambda: tracemalloc.start(1))
    server.run()
    return int(server.exit_code)


if __name__ == "__main__":
    sys.exit(main())
