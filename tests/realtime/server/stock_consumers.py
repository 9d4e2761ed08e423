"""Consumers as other applications write them, to run on our server."""

import asyncio

from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.urls import path


class Echo(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        asked = self.scope["subprotocols"]
        await self.accept("echo" if "echo" in asked else None, headers=[(b"x-hello", b"there")])

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "close":
            await self.close(4000, "as you wish")
        elif text_data == "fail":
            raise RuntimeError("asked to fail")
        elif text_data == "much":
            for _ in range(2000):
                await self.send(text_data="x" * 60_000)
        else:
            await self.send(text_data=text_data, bytes_data=bytes_data)


class Closing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close()


class Denying(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise DenyConnection


class Failing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise RuntimeError("asked to fail")


class Silent(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await asyncio.sleep(3600)


stock = URLRouter(
    [
        path("stock/echo", Echo.as_asgi()),
        path("stock/close", Closing.as_asgi()),
        path("stock/deny", Denying.as_asgi()),
        path("stock/fail", Failing.as_asgi()),
        path("stock/silent", Silent.as_asgi()),
    ]
)
