"""``uvicorn project.asgi:application``: the engine on another server, through plain ``send``."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import processes
from tests.support.raw_client import RawClient
from tests.support.servers import REPOSITORY, Deployment, Filled, Server, environment, token
from tests.support.valkey import Valkey


class UvicornServer(Server):
    """The application on uvicorn."""

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--ws", "websockets-sansio"]
        self.process = processes.spawn(
            [sys.executable, "-m", "uvicorn", "project.asgi:application", *options],
            log_path=self.log_path,
            cwd=REPOSITORY,
            env=self.variables,
        )

    def _is_ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself\n{self.log_tail()}")
        return self.get("/health")[0] == 200  # the first connection makes it ready


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("uvicorn")
    valkey = Valkey(folder / "redis")
    deployment = Deployment(folder, database=database, redis_url=valkey.url)
    variables = {
        "REALTIME_PING_INTERVAL_SECONDS": "2",
        "REALTIME_PONG_TIMEOUT_SECONDS": "1",
        "DJANGO_SETTINGS_MODULE": "project.settings",
    }
    server = UvicornServer("uvicorn", folder, environment(folder, valkey.url, variables))
    deployment.servers.append(server)
    try:
        valkey.start()
        server.start()
        server.wait_ready()
        yield server
    finally:
        deployment.close()
        valkey.close()


@pytest.fixture
async def client(server: Server) -> Any:
    async with RawClient(server.websocket_url) as client:
        await client.connect(token("42"))
        yield client


async def test_what_is_published_reaches_who_has_subscribed(
    server: Server, client: RawClient
) -> None:
    async with RawClient(server.websocket_url) as publisher:
        await publisher.connect(token("43"))
        await client.subscribe("stream:uvicorn")

        for number in range(50):
            await publisher.publish("stream:uvicorn", {"n": number})

        await client.log.wait("pub", count=50, channel="stream:uvicorn")
        got = client.log.of("pub")
        assert [each["data"]["n"] for each in got] == list(range(50))


async def test_messages_that_wait_together_arrive_one_by_one(
    server: Server, client: RawClient
) -> None:
    await client.subscribe("stream:together")

    numbers = [
        (await client.send_commands({"publish": {"channel": "stream:together", "data": number}}))[0]
        for number in range(100)
    ]
    for number in numbers:
        await client.reply(number)

    await client.log.wait("pub", count=100, channel="stream:together")
    assert [each["data"] for each in client.log.of("pub")] == list(range(100))


async def test_pings_keep_a_connection_that_answers(client: RawClient) -> None:
    await client.log.wait("ping", count=3)

    assert (await client.call("presence", channel="stream:uvicorn"))["presence"] == {}


@pytest.mark.rule("push-disconnect")
async def test_a_close_has_its_code_and_reason_and_a_push_before_it(client: RawClient) -> None:
    await client.send_text("{}")

    event = await client.closed()

    assert (event["code"], event["reason"]) == (3501, "bad request")
    (push,) = client.log.of("disconnect")
    assert (push["code"], push["reason"]) == (3501, "bad request")


async def test_a_client_that_goes_is_gone(server: Server, client: RawClient) -> None:
    await client.subscribe("room:uvicorn")
    async with RawClient(server.websocket_url) as other:
        await other.connect(token("43"))
        await other.subscribe("room:uvicorn")
        await client.close()

        async with asyncio.timeout(5):
            while len((await other.call("presence", channel="room:uvicorn"))["presence"]) != 1:
                await asyncio.sleep(0.05)
