"""The WebSocket address; ``asgi.py`` of a project routes to it."""

from django.urls import path

from realtime.consumers import ConnectionConsumer

websocket_urlpatterns = [path("connection/websocket", ConnectionConsumer.as_asgi())]
