"""Where the HTTP API answers; to be included at the root."""

from django.urls import include, path

from api import commands, health, resources, tokens

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready),
    path("api/token/connection", tokens.connection),
    path("api/token/subscription", tokens.subscription),
    path("api/v1/", include(resources.urlpatterns)),
    path("api", commands.lines),
    path("api/<str:method>", commands.command),
]
