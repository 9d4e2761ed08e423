"""Answerers for the tests of who is asked: what each answers, and what each was asked."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from realtime.hooks import Answer, Answerer, Kind, Request

TIMEOUT_SECONDS = 5.0


class Asked:
    """One answerer.

    Attributes:
        requests: What it was asked, in order.
        answer: What it gives; an exception is raised.
        may_answer: It waits for this.
        is_asked: Set by the first request.
        cancelled: How many requests were taken back.
    """

    def __init__(self, answer: Any, timeout_seconds: float) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        self.timeout_seconds = timeout_seconds
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_asked = asyncio.Event()
        self.cancelled = 0

    async def ask(self, request: Request) -> Answer:
        self.requests.append(request)
        self.is_asked.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Answer = self.answer(request) if callable(self.answer) else self.answer
        return answer


class Asking:
    """A provider like that of another app."""

    def __init__(self) -> None:
        self.answerers: dict[tuple[Kind, str], Asked] = {}
        self.shown: frozenset[str] = frozenset()

    def add(
        self,
        kind: Kind,
        name: str = "",
        *,
        answer: Answer | Exception | Callable[[Request], Answer] = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        waits: bool = False,
    ) -> Asked:
        """Answer for a method, for the channels that begin so, or for every connection."""
        asked = self.answerers[kind, name] = Asked(answer, timeout_seconds)
        if waits:
            asked.may_answer.clear()
        return asked

    def find(self, kind: Kind, name: str, parts: Mapping[str, Any]) -> Answerer | None:
        for (known, prefix), asked in self.answerers.items():
            if known is kind and (name == prefix if kind is Kind.RPC else name.startswith(prefix)):
                return Answerer(f"{kind} {prefix}", asked.ask, asked.timeout_seconds)
        return None

    def offers(self, kind: Kind, parts: Mapping[str, Any]) -> bool:
        return any(known is kind for known, _ in self.answerers)

    def headers(self, parts: Mapping[str, Any]) -> frozenset[str]:
        return self.shown
