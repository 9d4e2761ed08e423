"""A server that is told to end sends every client away with a reason, and cuts nobody off.

Publications flow all the time; clients that go on at another instance miss none of them.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import pytest

from tests.faults.sockets import (
    HANDSHAKE,
    TEXT,
    Line,
    ask_until_refused,
    body,
    closes,
    frames,
    request,
    status,
    text_frame,
)
from tests.support.follower import Follower
from tests.support.publisher import Api, Publisher
from tests.support.servers import Server, token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

FOLLOWERS = 200
SLEEPERS = 20
SHUTDOWN = (3001, "shutdown")
PUSH = b'{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}'
HALF_SENT = [
    b"",
    b"GET /health HT",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n",
    b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    HANDSHAKE[:-2],
]


@contextlib.asynccontextmanager
async def draining_server(breakable) -> AsyncIterator[Server]:
    """One more instance, of which nothing is left afterwards."""
    # No pings: who answers one when its close has come already would look no further.
    quiet = {"REALTIME_PING_INTERVAL_SECONDS": "60"}
    server = breakable.add("draining", REALTIME_DRAIN_SECONDS="2", **quiet)
    try:
        await asyncio.to_thread(server.wait_ready)
        yield server
    finally:
        await asyncio.to_thread(server.close)
        breakable.servers.remove(server)


@contextlib.asynccontextmanager
async def following(
    server: Server, channels: list[str], *, count: int
) -> AsyncIterator[list[Follower]]:
    async with contextlib.AsyncExitStack() as stack:
        followers = []
        for number in range(count):
            channel = channels[number % len(channels)]
            follower = Follower(server.websocket_url, channel, who=f"follower {number}")
            followers.append(await stack.enter_async_context(follower))
        yield followers


async def until_caught_up(publisher: Publisher, followers: list[Follower]) -> None:
    for follower in followers:
        last = publisher.log.of("ok", channel=follower.channel)[-1]
        await follower.log.wait("pub", id=last["id"], timeout_seconds=30)


def lived(follower: Follower) -> str:
    """Return what a follower went through, without what was published."""
    seen = [e for e in follower.log.events if e["event"] not in ("frame", "pub")]
    return "\n".join(json.dumps(event) for event in seen)


async def sleep_and_wake(
    server: Server, channel: str, is_over: asyncio.Event, joined: asyncio.Barrier
) -> bytes:
    """Subscribe, read nothing until the server has ended, and return all that then arrives."""
    line = await Line.open(server.port, HANDSHAKE)
    commands = [
        {"id": 1, "connect": {"token": token("ada")}},
        {"id": 2, "subscribe": {"channel": channel}},
    ]
    await line.reader.readuntil(b"\r\n\r\n")
    line.writer.transport.pause_reading()
    line.writer.write(text_frame("\n".join(json.dumps(command) for command in commands)))
    await joined.wait()
    await is_over.wait()
    line.writer.transport.resume_reading()
    return await line.rest()


async def answer_close(line: Line) -> bytes:
    """Answer the server's close, and return what follows until the end of the connection."""
    await line.reader.readuntil(b"\x0b\xb9shutdown")
    line.writer.write(b"\x88\x82\0\0\0\0\x0b\xb9")
    return await line.rest()


@pytest.mark.rule("close-3001", "push-disconnect")
async def test_every_client_is_told_and_those_that_go_on_elsewhere_miss_nothing(
    breakable, fresh, judge
) -> None:
    channels = [fresh("stream") for _ in range(5)]
    async with (
        draining_server(breakable) as server,
        Api(breakable.a.url) as api,
        following(server, channels, count=FOLLOWERS) as followers,
    ):
        publisher = Publisher(api)
        is_over, joined = asyncio.Event(), asyncio.Barrier(SLEEPERS + 1)
        publishing = asyncio.create_task(publisher.run(channels, per_second=50, seconds=8))
        sleepers = [
            asyncio.create_task(sleep_and_wake(server, channels[0], is_over, joined))
            for _ in range(SLEEPERS)
        ]
        await joined.wait()
        for follower in followers:
            await follower.log.wait("pub")
            follower.client.url = breakable.a.websocket_url
        before = {follower.client.client_id for follower in followers}
        held = [await Line.open(server.port, text) for text in HALF_SENT * 4]
        polite = [
            asyncio.create_task(answer_close(await Line.open(server.port, HANDSHAKE)))
            for _ in range(20)
        ]
        is_busy = asyncio.Event()
        knocks = [
            asyncio.create_task(ask_until_refused(server.port, text, is_busy))
            for text in (HANDSHAKE, request("/health")) * 8
        ]
        await is_busy.wait()

        server.process.send_signal(signal.SIGTERM)
        answers = [answer for knock in knocks for answer in await knock]
        present = {
            client
            for channel in channels
            for client in (await api.call("presence", channel=channel))["presence"]
        }
        code = await asyncio.to_thread(server.process.wait, 20)
        is_over.set()

        await publishing
        await until_caught_up(publisher, followers)
        assert code == 0, server.log_tail()
        for follower in followers:
            for kind in ("disconnect", "close"):
                told = [(event["code"], event["reason"]) for event in follower.log.of(kind)]
                assert told == [SHUTDOWN], lived(follower)
            assert [event["recovered"] for event in follower.log.of("subscribed")[1:]] == [True]
        judge(publisher.log, *(follower.log for follower in followers))
        assert not present & before, "presence of a clean end needs no TTL"
        for data in await asyncio.gather(*sleepers):
            last = [payload for opcode, payload in frames(data) if opcode == TEXT][-1]
            assert last.split(b"\n")[-1] == PUSH
            assert closes(data) == [SHUTDOWN]
        for line in held:
            await line.rest()  # a reset would be raised
        assert set(await asyncio.gather(*polite)) == {b""}
        assert {status(answer) for answer in answers} <= {101, 200, 503}
        accepted = [body(answer) for answer in answers if status(answer) == 101]
        assert all(closes(data) == [SHUTDOWN] for data in accepted)
    assert "Traceback" not in server.log()
