"""One server with Python handlers and with upstreams, for the tests of both.

Its upstreams are on a port that is known before it starts; each test that wants them answered
starts a ``FaultUpstream`` there, in its own loop.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.processes import free_port
from tests.support.servers import Deployment, Filled
from tests.support.valkey import Valkey

METRICS_KEY = "only-for-the-metrics-of-the-tests"
_SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.handlers_app.settings"}

# Run within ``manage.py shell``, with what is wanted as JSON on standard input.
_CONFIGURE = """
import json, sys
from realtime.models import ApiKey, Namespace
from upstreams.models import Route, Upstream

def made(model, **fields):
    row = model(**fields)
    row.full_clean()
    row.save()
    return row

wanted = json.load(sys.stdin)
for options in wanted["namespaces"]:
    made(Namespace, **options)
for upstream in wanted["upstreams"]:
    routes = upstream.pop("routes")
    row = made(Upstream, **upstream)
    for route in routes:
        made(Route, upstream=row, **route)
ApiKey.create("metrics", key=wanted["metrics_key"], scopes=["metrics"])
"""


class Backed(Deployment):
    """One server, ``a``, that is ready; ``upstream_port`` is where its upstreams are."""

    def __init__(self, folder: Path, *, upstream_port: int, **options: Any) -> None:
        super().__init__(folder, **options)
        self.upstream_port = upstream_port

    def configure(
        self, *, upstreams: Sequence[dict[str, Any]], namespaces: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Write upstreams, with their ``routes``, and namespaces into the database."""
        upstreams = [{"base_url": self.upstream_url, **upstream} for upstream in upstreams]
        wanted = {"upstreams": upstreams, "namespaces": namespaces, "metrics_key": METRICS_KEY}
        self.manage("shell", "-c", _CONFIGURE, stdin=json.dumps(wanted))

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def begin(self) -> None:
        self.a = self.add("a")
        self.wait_ready()

    async def metrics(self) -> dict[str, float]:
        """Return the samples of the server by name and labels, as its text has them."""
        headers = {"X-API-Key": METRICS_KEY}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{self.a.url}/metrics") as response,
        ):
            response.raise_for_status()
            lines = (await response.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {sample: float(value) for sample, _, value in samples}


@contextmanager
def running(
    folder: Path,
    database: Filled,
    *,
    upstreams: Sequence[dict[str, Any]] = (),
    namespaces: Sequence[dict[str, Any]] = (),
    variables: dict[str, str] | None = None,
) -> Iterator[Backed]:
    """Run one on a Redis of its own; it must end in order."""
    valkey = Valkey(folder / "redis")
    backed = None
    try:
        valkey.start()
        backed = Backed(
            folder,
            upstream_port=free_port(),
            database=database,
            redis_url=valkey.url,
            variables={**_SETTINGS, **(variables or {})},
        )
        backed.configure(upstreams=upstreams, namespaces=namespaces)
        backed.begin()
        yield backed
        backed.a.terminate()
    finally:
        if backed is not None:
            backed.close()
        valkey.close()
