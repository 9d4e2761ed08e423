"""Where the HTTP API answers; to be included at the root."""

from django.urls import path

from api import commands, health, tokens

urlpatterns = [
    path("health", health.health),
    path("ready", health.ready),
    path("api/token/connection", tokens.connection),
    path("api/token/subscription", tokens.subscription),
    path("api/<str:method>", commands.command),
]
