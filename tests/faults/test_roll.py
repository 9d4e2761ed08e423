"""SIGHUP replaces the processes of a server one after the other, and nobody is refused."""

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.faults.sockets import HANDSHAKE, Line, ask, closes, request, status, text_frame
from tests.support import processes
from tests.support.follower import Follower
from tests.support.publisher import Api, Publisher
from tests.support.servers import REPOSITORY, Server, token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

FOLLOWERS = 60
ROLLED = "the server processes have been replaced"
ROLL_SECONDS = 60


def children(pid: int) -> set[int]:
    """Return the children of a process that are at work."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return {int(child) for child in listed.split()}


async def until(server: Server, condition: Callable[[], object]) -> None:
    """Wait for what can only be seen from outside."""
    await asyncio.to_thread(
        processes.wait_until, condition, timeout_seconds=ROLL_SECONDS, what=server.log_tail
    )


@contextlib.asynccontextmanager
async def serving_two(breakable, **variables: str) -> AsyncIterator[Server]:
    """Two processes behind one port, all of them ready; nothing is left of them afterwards."""
    environment = breakable.environment({"REALTIME_DRAIN_SECONDS": "1", **variables})
    server = Server("rolling", breakable.folder, environment, "--processes", "2")
    server.log_path.unlink(missing_ok=True)
    breakable.servers.append(server)
    try:
        server.start()
        await until(server, lambda: "2 process(es)" in server.log())
        yield server
    finally:
        await asyncio.to_thread(server.close)
        breakable.servers.remove(server)


async def ask_until(is_over: asyncio.Event, port: int, text: bytes) -> list[bytes]:
    """Ask again and again; that nobody listens, or a reset, is raised."""
    answers = []
    while not is_over.is_set():
        answers.append(await ask(port, text))
    return answers


async def test_a_roll_keeps_every_publication_and_refuses_nobody(breakable, fresh, judge) -> None:
    channels = [fresh("stream") for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving_two(breakable))
        before = children(server.process.pid)
        publisher = Publisher(await stack.enter_async_context(Api(breakable.a.url)))
        followers = [
            await stack.enter_async_context(
                Follower(server.websocket_url, channels[number % 3], who=f"follower {number}")
            )
            for number in range(FOLLOWERS)
        ]
        rolled = asyncio.Event()
        publishing = asyncio.create_task(publish_until(rolled, publisher, channels))
        asking = [
            asyncio.create_task(ask_until(rolled, server.port, request(path)))
            for path in ("/ready", "/health", "/login/")
        ]
        knocking = [
            asyncio.create_task(ask_until(rolled, server.port, HANDSHAKE)) for _ in range(4)
        ]

        server.process.send_signal(signal.SIGHUP)
        await until(server, lambda: ROLLED in server.log())
        rolled.set()

        await publishing
        for follower in followers:
            last = publisher.log.of("ok", channel=follower.channel)[-1]
            await follower.log.wait("pub", id=last["id"], timeout_seconds=30)
        after = children(server.process.pid)
        assert len(after) == 2
        assert not after & before
        for follower in followers:
            assert {event["code"] for event in follower.log.of("close")} == {3001}
            assert all(event["recovered"] for event in follower.log.of("subscribed")[1:])
        judge(publisher.log, *(follower.log for follower in followers))
        for task in asking:
            refused_at_most_twice(await task, wanted=200)
        for task in knocking:
            refused_at_most_twice(await task, wanted=101)
        assert await asyncio.to_thread(server.terminate) < 15


def refused_at_most_twice(answers: list[bytes], *, wanted: int) -> None:
    """Check answers to somebody who asked for one after the other.

    Whoever has a connection to a process, and speaks only after that one began to leave, is told
    so with 503; this can happen once with each of the two.
    """
    statuses = [status(answer) for answer in answers]
    assert set(statuses) <= {wanted, 503}
    assert statuses.count(503) <= 2


async def publish_until(is_over: asyncio.Event, publisher: Publisher, channels: list[str]) -> None:
    while not is_over.is_set():
        await publisher.run(channels, per_second=50, count=25)


async def test_a_signal_during_a_roll_makes_one_more_of_it(breakable) -> None:
    async with serving_two(breakable) as server:
        for _ in range(3):
            server.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.3)

        await until(server, lambda: server.log().count(ROLLED) == 2)

        assert server.log().count("are replaced, one after the other") == 2
        assert await asyncio.to_thread(server.terminate) < 15
        assert server.log().count(ROLLED) == 2


async def test_new_code_that_cannot_start_leaves_the_old_processes_serving(
    breakable, tmp_path
) -> None:
    settings = tmp_path / "rolled_settings.py"
    settings.write_text("from project.settings import *\n")
    variables = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "rolled_settings"}
    async with serving_two(breakable, **variables) as server:
        before = children(server.process.pid)
        settings.write_text("from nowhere import *\n")
        server.process.send_signal(signal.SIGHUP)
        await until(server, lambda: "the others are not replaced" in server.log())
        kept = children(server.process.pid)

        settings.write_text("from project.settings import *\nX_FRAME_OPTIONS = 'SAMEORIGIN'\n")
        server.process.send_signal(signal.SIGHUP)
        await until(server, lambda: ROLLED in server.log())
        answer = await ask(server.port, request("/login/"))

        assert kept == before
        assert b"X-Frame-Options: SAMEORIGIN" in answer
        assert not children(server.process.pid) & before
        assert await asyncio.to_thread(server.terminate) < 15


async def test_a_signal_that_ends_everything_ends_a_roll_as_well(breakable) -> None:
    async with serving_two(breakable) as server:
        server.process.send_signal(signal.SIGHUP)
        await until(server, lambda: len(children(server.process.pid)) == 3)

        assert await asyncio.to_thread(server.terminate) < 15


async def test_who_leaves_is_given_its_time_when_everything_ends(breakable) -> None:
    async with serving_two(breakable, REALTIME_DRAIN_SECONDS="4") as server:
        lines = [await Line.open(server.port, HANDSHAKE) for _ in range(40)]
        for line in lines:
            await line.reader.readuntil(b"\r\n\r\n")
            connect = {"id": 1, "connect": {"token": token("42")}}
            line.writer.write(text_frame(json.dumps(connect)))
            await line.reader.readuntil(b'"connect":{')
        rests = [asyncio.create_task(line.rest()) for line in lines]

        server.process.send_signal(signal.SIGHUP)
        await asyncio.wait(rests, return_when=asyncio.FIRST_COMPLETED)
        server.process.send_signal(signal.SIGTERM)

        told = [closes(rest[rest.index(b"}}") + 2 :]) for rest in await asyncio.gather(*rests)]
        assert told == [[(3001, "shutdown")]] * len(lines)
        assert await asyncio.to_thread(server.process.wait, 15) == 0
        assert server.log().count("ended in") == 3


async def test_a_successor_that_dies_is_not_the_end(breakable) -> None:
    async with serving_two(breakable) as server:
        before = children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        await until(server, lambda: children(server.process.pid) - before)
        for pid in children(server.process.pid) - before:
            os.kill(pid, signal.SIGKILL)
        await until(server, lambda: "the others are not replaced" in server.log())

        assert children(server.process.pid) == before
        assert status(await ask(server.port, request("/ready"))) == 200


# Terminals ----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("setsid") is None, reason="makes the terminal the server's own")
def test_a_terminal_that_hangs_up_ends_a_server_and_another_hang_up_rolls_it(
    breakable, tmp_path
) -> None:
    server = Server("terminal", tmp_path, {})
    terminal, theirs = pty.openpty()
    server.process = subprocess.Popen(
        [
            *("setsid", "--ctty", sys.executable, "manage.py", "serve"),
            *("--port", str(server.port), "--processes", "2"),
        ],
        cwd=REPOSITORY,
        env=breakable.environment({"REALTIME_DRAIN_SECONDS": "1"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        read_until(terminal, b"2 process(es)")
        before = children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        read_until(terminal, ROLLED.encode())
        after = children(server.process.pid)

        os.close(terminal)
        code = server.process.wait(15)
    finally:
        server.process.kill()

    assert len(after) == 2
    assert not after & before
    assert code == 0
    assert server.get("/health")[0] == 0


def read_until(terminal: int, words: bytes) -> None:
    """Read what a terminal shows until it has shown some words; pytest's deadline ends it."""
    shown = b""
    while words not in shown:
        shown += os.read(terminal, 65536)
