"""A Channels project as its documentation lays it out, in one file; run by Daphne's own command.

Reads BENCH_LAYER ("core" or "pubsub"), BENCH_REDIS_URL and BENCH_SECRET from the environment.
"""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import django
import jwt
from django.conf import settings

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
# redis-py 8 ends a silent connection after 5 seconds unless it is told not to, and with it every
# idle consumer: channels_redis issue 422. Its pool holds 100 connections: when more than that many
# consumers are in group_add at the same moment, one fails with "Too many connections".
HOST = {
    "address": os.environ["BENCH_REDIS_URL"],
    "socket_timeout": None,
    "max_connections": 1000,
}

settings.configure(
    DEBUG=False,
    SECRET_KEY=os.environ["BENCH_SECRET"],
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["daphne", "channels"],
    CHANNEL_LAYERS={
        "default": {"BACKEND": LAYERS[os.environ["BENCH_LAYER"]], "CONFIG": {"hosts": [HOST]}}
    },
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402 (needs settings)
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path, re_path  # noqa: E402

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
