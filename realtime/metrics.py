"""What this process counts and measures, for ``/metrics``.

Whoever has something to tell changes these objects; ``api`` writes them out. The names are a
promise to dashboards.
"""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Histogram, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

LOOP_LAG: Final = Histogram(
    "heliograph_loop_lag_seconds",
    "How late the event loop came to what was due.",
    buckets=(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
LOOP_BLOCKED: Final = Counter(
    "heliograph_loop_blocked_total",
    "How often the event loop was blocked for 100 ms or longer, and by what.",
    ["what"],
)


def text() -> bytes:
    """Return everything in the text format of Prometheus."""
    return generate_latest(REGISTRY)
