"""A Channels project as its documentation lays it out; run by Daphne's own command.

Its settings are those of channels_settings.py.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import jwt
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path

Application = Callable[..., Awaitable[None]]
# The driver looks for '"n":"' in a frame, so no space after the colon.
ENCODER = json.JSONEncoder(separators=(",", ":"))


class TokenMiddleware:
    """Put the user of the JWT in the query string into the scope; None without a valid one."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: object, send: object) -> None:
        query = parse_qs(scope["query_string"].decode())
        try:
            user = jwt.decode(query["token"][0], settings.SECRET_KEY, algorithms=["HS256"])["sub"]
        except (KeyError, jwt.InvalidTokenError):
            user = None
        await self.app({**scope, "user": user}, receive, send)


class Subscriber(AsyncJsonWebsocketConsumer):
    """One connection: a member of the group that its URL names."""

    async def connect(self) -> None:
        if self.scope["user"] is None:
            await self.close()
            return
        self.group = self.scope["url_route"]["kwargs"]["channel"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        if self.scope["user"] is not None:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def publication(self, event: dict[str, Any]) -> None:
        await self.send_json(event["data"])

    @classmethod
    async def encode_json(cls, content: object) -> str:
        return ENCODER.encode(content)


async def publish(request: HttpRequest) -> HttpResponse:
    """Send every item of a JSON list to its group."""
    layer = get_channel_layer()
    for item in json.loads(request.body):
        await layer.group_send(item["channel"], {"type": "publication", "data": item["data"]})
    return HttpResponse("ok", headers={"Content-Length": "2"})


async def empty(request: HttpRequest) -> HttpResponse:
    """Answer nothing, which is what an HTTP request costs at least."""
    return HttpResponse("ok", headers={"Content-Length": "2"})


urlpatterns = [path("publish", publish), path("empty", empty)]
sockets = URLRouter([re_path(r"^ws/(?P<channel>[\w.-]+)$", Subscriber.as_asgi())])
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(TokenMiddleware(sockets)),
    }
)
