"""A web server that shows JSON Web Keys, and can be asked to do it badly."""

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.support.processes import free_port


class KeySource:
    """Serves ``answer`` at ``url``, and counts who asks.

    Attributes:
        request_count: Requests so far, to whatever path.
        may_answer: Cleared, requests wait.
        was_asked: Set by the first request.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/keys"
        self.request_count = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.was_asked = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.show()

    def show(self, *keys: dict[str, Any]) -> None:
        """Show these keys and no others."""
        self.answer(json.dumps({"keys": keys}).encode())

    def answer(
        self, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with this to every request."""
        self._body, self._status, self._extra = body, status, headers or {}

    async def start(self) -> "KeySource":
        """Listen, always on the same port."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def stop(self) -> None:
        """Refuse connections from now on."""
        self.may_answer.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.Response:
        self.request_count += 1
        self.was_asked.set()
        await self.may_answer.wait()
        return web.Response(body=self._body, status=self._status, headers=self._extra)
