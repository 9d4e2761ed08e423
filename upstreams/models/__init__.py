"""What an operator configures: upstreams and their routes."""

from upstreams.models.upstreams import Route, Upstream, UpstreamState

__all__ = ["Route", "Upstream", "UpstreamState"]
