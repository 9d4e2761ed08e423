"""What is counted and measured of upstreams; see ``realtime.metrics``."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REQUESTS: Final = Counter(
    "heliograph_upstream_requests_total",
    "Calls of upstreams: ok, or why they failed.",
    ["upstream", "kind", "outcome"],
)
BAD_ANSWERS: Final = Counter(
    "heliograph_upstream_bad_answers_total",
    "Answers with status 200 whose body is none of Centrifugo's.",
    ["upstream", "kind"],
)
SECONDS: Final = Histogram(
    "heliograph_upstream_request_seconds",
    "How long calls of upstreams took, with the wait for their turn.",
    ["upstream", "kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
IN_FLIGHT: Final = Gauge(
    "heliograph_upstream_in_flight", "Requests to upstreams that are under way.", ["upstream"]
)
QUEUED: Final = Gauge(
    "heliograph_upstream_queued", "Calls of upstreams that wait for their turn.", ["upstream"]
)
BREAKER_OPEN: Final = Gauge(
    "heliograph_upstream_breaker_open", "Whether an upstream is not asked: 1, else 0.", ["upstream"]
)
