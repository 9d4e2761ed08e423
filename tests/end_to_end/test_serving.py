"""``manage.py serve`` as a process: how it starts, refuses to start, and ends."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.server.server import EXIT_AT_ONCE
from realtime.server.supervisor import ECHO_SECONDS
from tests.conftest import Pair
from tests.support import banner, processes, servers, world
from tests.support.publisher import Api
from tests.support.raw_client import RawClient
from tests.support.servers import Server, token

pytestmark = [pytest.mark.end_to_end, pytest.mark.on_the_ends]


@pytest.fixture
def serve(pair: Pair, tmp_path: Path) -> Iterator[object]:
    """Return a starter of servers on the pair's database and Redis; they end with the test."""
    started: list[Server] = []

    def serve(*arguments: str, **variables: str) -> Server:
        own = pair.environment(variables)
        started.append(Server(f"extra-{len(started)}", tmp_path, own, *arguments))
        started[-1].start()
        return started[-1]

    yield serve
    for server in started:
        server.close()


def refusal(pair: Pair, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Return exit code and lines of a start that must fail."""
    process = subprocess.run(
        [sys.executable, "manage.py", "serve", *arguments],
        cwd=servers.REPOSITORY,
        env=pair.environment(variables),
        capture_output=True,
        timeout=20,
    )
    return process.returncode, (process.stdout + process.stderr).decode().strip().splitlines()


async def test_two_processes_serve_one_port_and_a_killed_one_is_replaced(serve) -> None:
    server = serve("--processes", "2")
    await asyncio.to_thread(server.wait_ready)
    children = children_of(server)
    assert len(children) == 2
    clients = [RawClient(server.websocket_url, who=str(n)) for n in range(8)]
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
            await client.connect(token("ada"))
            await client.subscribe("live:processes")

        kill(children[0])
        await asyncio.to_thread(
            processes.wait_until,
            lambda: len(set(children_of(server)) - {children[0]}) == 2,
            timeout_seconds=10,
            what=server.log_tail,
        )
        await asyncio.to_thread(server.wait_ready)
        for _ in range(8):
            late = await stack.enter_async_context(RawClient(server.websocket_url))
            await late.connect(token("ada"))
            await late.subscribe("live:processes")
            clients.append(late)
        await late.publish("live:processes", {"id": "all"})
        living = [client for client in clients if not client.log.of("close")]
        for client in living:
            await client.log.wait("pub", id="all")
        assert len(living) >= 8

    last = children_of(server)
    await asyncio.to_thread(server.terminate)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in last)


def children_of(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.on_the_least
async def test_sigterm_ends_a_server_with_clients_soon(serve) -> None:
    server = serve()
    await asyncio.to_thread(server.wait_ready)
    async with RawClient(server.websocket_url) as client:
        await client.connect(token("ada"))

        took_seconds = await asyncio.to_thread(server.terminate)

        assert (await client.closed())["code"] == 3001
        assert took_seconds < 8


@pytest.mark.on_the_least
def test_a_second_signal_ends_it_at_once(serve) -> None:
    server = serve(REALTIME_DRAIN_SECONDS="30")
    server.wait_ready()
    # A peer that neither reads nor answers holds the drain up for its whole time.
    with socket.create_connection(("127.0.0.1", server.port)) as half_open:
        half_open.sendall(
            b"POST /api/info HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
        )
        server.process.send_signal(signal.SIGTERM)
        time.sleep(ECHO_SECONDS + 0.3)  # sooner it would be an echo of the first
        server.process.send_signal(signal.SIGTERM)

        code = server.process.wait(3)

    assert code == EXIT_AT_ONCE


@pytest.mark.on_the_least
async def test_it_takes_nobody_in_while_it_drains(serve) -> None:
    server = serve(REALTIME_DRAIN_SECONDS="3")
    await asyncio.to_thread(server.wait_ready)
    async with RawClient(server.websocket_url) as client:
        await client.connect(token("ada"))
        server.process.send_signal(signal.SIGTERM)
        await client.log.wait("close")

        status, _ = await asyncio.to_thread(server.get, "/ready")

        assert status in (0, 503)
    assert await asyncio.to_thread(server.process.wait, 8) == 0


@pytest.mark.on_the_least
def test_a_taken_port_is_one_clear_line(pair: Pair) -> None:
    code, lines = refusal(pair, "--port", str(pair.a.port))

    assert code != 0
    assert len(lines) == 1
    assert str(pair.a.port) in lines[0]


@pytest.mark.on_the_least
@pytest.mark.parametrize(
    "variables",
    [
        {"REDIS_URL": "redis://127.0.0.1:1/0"},
        {"DATABASE_URL": "postgres://nobody:nothing@127.0.0.1:1/none"},
        {"REALTIME_TOKEN_HMAC_SECRET": "changeme"},
        {"SECRET_KEY": ""},
        {"PORT": "many"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_what_cannot_work_is_one_clear_line(pair: Pair, variables: dict[str, str]) -> None:
    started_at = time.monotonic()
    arguments = () if "PORT" in variables else ("--port", str(processes.free_port()))
    code, lines = refusal(pair, *arguments, **variables)

    assert code != 0
    assert len(lines) == 1, lines
    assert next(iter(variables)) in lines[0]
    assert "nothing" not in lines[0], "a password is shown"
    assert time.monotonic() - started_at < 10


async def test_a_fresh_checkout_is_up_with_one_command_and_keeps_its_data(tmp_path: Path) -> None:
    """Without Redis and without a word of configuration; the second start is ready within 5 s."""
    folder = tmp_path / "var"
    server = Server("first", tmp_path, servers.bare_environment(folder), "--dev")
    try:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.wait_ready)

        answer = await asyncio.to_thread(banner.run_publish_line, server)

        assert '"offset":1' in answer
        assert (folder / "api_key").stat().st_mode & 0o077 == 0
        await asyncio.to_thread(server.terminate)
        await asyncio.to_thread(
            processes.wait_until, lambda: not valkeys_of(folder), timeout_seconds=5, what="Valkey"
        )

        started_at = time.monotonic()
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.wait_ready)
        assert time.monotonic() - started_at < 5
        assert '"offset":2' in await asyncio.to_thread(banner.run_publish_line, server)
        key = (folder / "api_key").read_text().strip()
        async with Api(server.url, key=key) as api:
            history = await api.call("history", channel="demo:hello", limit=-1)
        assert len(history["publications"]) == 2
        await asyncio.to_thread(server.terminate)
    finally:
        server.close()
        for pid in valkeys_of(folder):
            kill(pid)


def valkeys_of(folder: Path) -> list[int]:
    """Return the processes that serve Redis for a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes()
            if b"-server" in words and str(folder).encode() in words:
                found.append(int(path.parent.name))
    return found


async def test_python_code_publishes_from_a_process_without_an_instance(
    pair: Pair, connect, fresh
) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.subscribe(channel)
    script = (
        "from realtime.services import publish, publish_on_commit\n"
        "from django.db import transaction\n"
        "with transaction.atomic():\n"
        f"    publish_on_commit({channel!r}, {{'id': 'committed'}})\n"
        f"    publish({channel!r}, {{'id': 'at once'}})\n"
    )

    await asyncio.to_thread(pair.manage, "shell", "-c", script)

    await client.log.wait("pub", count=2)
    assert [event["id"] for event in client.log.of("pub")] == ["at once", "committed"]


def test_the_logs_hold_no_secret(pair: Pair) -> None:
    for server in pair.servers:
        for secret in (world.API_KEY, world.TOKEN_SECRET, world.USER_PASSWORD):
            assert secret not in server.log()
