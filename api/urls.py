"""Where the HTTP API answers; to be included at the root."""

from django.urls import URLResolver, path
from django.urls.resolvers import RoutePattern

from api import commands, health, metrics, tokens

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready),
    path("metrics", metrics.metrics_text),
    path("api/token/connection", tokens.connection),
    path("api/token/subscription", tokens.subscription),
    # By name and not by ``include``: loaded when the first request comes, or a check looks. Most
    # processes only hold connections, and what describes the resources costs megabytes.
    URLResolver(RoutePattern("api/v1/"), "api.resources"),
    path("api", commands.lines),
    path("api/<str:method>", commands.command),
]
