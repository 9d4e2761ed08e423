"""What an operator configures: upstreams and their routes, data sources and their channels."""

from upstreams.models.sources import DataSource, DataSourceState, SourceMapping
from upstreams.models.upstreams import Route, Upstream, UpstreamState

__all__ = [
    "DataSource",
    "DataSourceState",
    "Route",
    "SourceMapping",
    "Upstream",
    "UpstreamState",
]
