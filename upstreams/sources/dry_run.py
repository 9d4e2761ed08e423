"""One poll that tells nobody but who asked for it. Used by the admin."""

import dataclasses
import time
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from realtime.hooks import CallFailed
from upstreams.configuration import UpstreamConfig
from upstreams.sources import mapping, telling
from upstreams.sources.configuration import SourceConfig
from upstreams.sources.telling import State, Told

EXCERPT_MAX: Final = 2000
_NEVER: Final = 1_000_000_000


class WouldBe(NamedTuple):
    """What one channel would be told: JSON over several lines."""

    channel: str
    pointer: str
    is_ok: bool
    publication: str


class DryRun(NamedTuple):
    """What a poll brought.

    Attributes:
        error: Why there is no answer; empty if there is one.
        excerpt: The beginning of the answer.
    """

    error: str
    latency_seconds: float
    size_bytes: int
    excerpt: str
    channels: list[WouldBe]


async def dry_run(source: SourceConfig, upstream: UpstreamConfig) -> DryRun:
    """Ask once, and return what would be published."""
    started_at = time.monotonic()
    error, body = "", b""
    try:
        body = await _fetch(source, upstream)
    except CallFailed as failed:
        error = str(failed)
    latency_seconds = time.monotonic() - started_at
    channels = [_would_be(channel, pointer, body, error) for channel, pointer in source.mappings]
    return DryRun(error, latency_seconds, len(body), _excerpt(body), channels)


async def _fetch(source: SourceConfig, upstream: UpstreamConfig) -> bytes:
    from upstreams.client import Client  # with all of aiohttp, at the first poll

    # A client of its own: what is tried here says nothing of how the upstream is doing, and must
    # be tried though it is not asked for a while.
    client = Client()
    try:
        tried = dataclasses.replace(upstream, breaker_failures=_NEVER)
        return await client.fetch(tried, source.path, headers=source.headers)
    finally:
        await client.close()


def _would_be(channel: str, pointer: str, body: bytes, error: str) -> WouldBe:
    told = Told(State.FAILING, error=error)
    if not error:
        try:
            value = mapping.resolve(mapping.checked(body), pointer)
            told = Told(State.OK, value, telling.iso(datetime.now(UTC)))
        except mapping.NoValue as missing:
            told = Told(State.FAILING, error=str(missing))
    return WouldBe(channel, pointer, told.state == State.OK, _shown(told))


def _shown(told: Told) -> str:
    text = msgspec.json.format(Raw(msgspec.json.encode(told)), indent=2).decode()
    return text if len(text) <= EXCERPT_MAX else f"{text[:EXCERPT_MAX]}…"


def _excerpt(body: bytes) -> str:
    text = body[: EXCERPT_MAX * 4].decode(errors="replace")
    return text if len(text) <= EXCERPT_MAX else f"{text[:EXCERPT_MAX]}…"
