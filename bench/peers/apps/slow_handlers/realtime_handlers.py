"""RPC methods of the benchmark in Python: one that waits as it should, one that blocks the loop.

Each takes the driver's payload apart, and returns it.
"""

import os
import time

import aiohttp
import msgspec

from realtime.handlers import rpc

_session: aiohttp.ClientSession | None = None


@rpc("bench.ask")
async def ask(n: str, t: str, pad: str) -> msgspec.Raw:
    """Return what the slow service answers."""
    payload = {"n": n, "t": t, "pad": pad}
    async with _open_session().post(os.environ["BENCH_SLOW_URL"], json=payload) as answer:
        # A new text: the driver looks for '"n":"', and what json sends has a space there.
        return msgspec.Raw(msgspec.json.encode(await answer.json()))


@rpc("bench.block")
async def block(n: str, t: str, pad: str) -> dict[str, str]:
    """Do what must not be done: wait without giving way to anybody."""
    time.sleep(0.2)  # what the row is there to show
    return {"n": n, "t": t, "pad": pad}


def _open_session() -> aiohttp.ClientSession:
    """Return the one session of this process, which its loop alone uses."""
    global _session  # it needs a running loop, so the first call makes it
    if _session is None:
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    return _session
