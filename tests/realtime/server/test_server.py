"""The real server process: handshakes, bounds both ways, closes, and that nothing is left."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.support import processes
from tests.support.raw_client import RawClient
from tests.support.servers import REPOSITORY, Deployment, Filled, Server, environment, token
from tests.support.valkey import Valkey

pytestmark = pytest.mark.end_to_end

HANDSHAKE = (
    "GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MESSAGE_MAX_BYTES = 65536


class CountingServer(Server):
    """The server of ``counting_server``."""

    def start(self) -> None:
        self.process = processes.spawn(
            [sys.executable, "-m", "tests.realtime.server.counting_server", str(self.port)],
            log_path=self.log_path,
            cwd=REPOSITORY,
            env=self.variables,
        )

    def closes(self) -> list[dict[str, Any]]:
        """Return the code of each close that was logged, and who closed."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [
            {"code": line["code"], "by": line["by"]} for line in lines if line["event"] == "closed"
        ]

    def memory_bytes(self) -> int:
        """Return what the process holds of memory."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def counts(self) -> dict[str, int]:
        status, body = self.get("/counts")
        assert status == 200, self.log_tail()
        return json.loads(body)

    async def until_empty(self) -> None:
        """Wait until nothing is held of any WebSocket."""
        await asyncio.to_thread(self.wait_empty)

    def wait_empty(self) -> None:
        processes.wait_until(
            lambda: not any(self.counts().values()),
            timeout_seconds=20,
            what=lambda: f"still held: {self.counts()}",
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Filled) -> Iterator[CountingServer]:
    folder = tmp_path_factory.mktemp("counting")
    valkey = Valkey(folder / "redis")
    deployment = Deployment(folder, database=database, redis_url=valkey.url)
    variables = {"REALTIME_QUEUE_MAX_BYTES": "200000", "REALTIME_STALE_CLOSE_SECONDS": "2"}
    server = CountingServer("counting", folder, environment(folder, valkey.url, variables))
    deployment.servers.append(server)
    try:
        valkey.start()
        server.start()
        server.wait_ready()
        yield server
        server.wait_empty()  # whatever the tests did, nothing is left of it
        server.terminate()
    finally:
        deployment.close()
        valkey.close()


@pytest.fixture
async def client(server: CountingServer) -> Any:
    async with RawClient(server.websocket_url) as client:
        await client.connect(token("42"))
        yield client


@pytest.fixture
def stock(server: CountingServer) -> Any:
    def stock(name: str, **options: Any) -> connect:
        url = f"ws://127.0.0.1:{server.port}/stock/{name}"
        return connect(url, proxy=None, max_size=None, ping_interval=None, **options)

    return stock


async def refused(server: CountingServer, *, query: str = "", **options: Any) -> int:
    """Return the status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as outcome:
        await connect(server.websocket_url + query, proxy=None, **options)
    return outcome.value.response.status_code


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Return how the server closes a connection."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(10):
            while True:
                await socket.recv()
    return socket.close_code, socket.close_reason


# Handshakes ------------------------------------------------------------------------------------


@pytest.mark.rule("ws-protobuf-refused-400")
async def test_protobuf_is_refused_with_400(server: CountingServer) -> None:
    assert await refused(server, subprotocols=["centrifuge-protobuf"]) == 400
    assert await refused(server, query="?format=protobuf") == 400
    assert await refused(server, query="?cf_protocol=protobuf") == 400
    assert "Protobuf" in server.log()


@pytest.mark.rule("origin-refused-403", "origin-refused-logged")
async def test_a_foreign_origin_is_refused_with_403(server: CountingServer) -> None:
    assert await refused(server, origin="http://evil.example") == 403
    assert "REALTIME_ALLOWED_ORIGINS" in server.log()


@pytest.mark.rule("origin-own-allowed")
async def test_the_servers_own_origin_is_let_in(server: CountingServer) -> None:
    async with connect(server.websocket_url, proxy=None, origin=server.url):
        pass


@pytest.mark.rule("ws-json-subprotocol")
@pytest.mark.parametrize(
    ("asked", "selected"),
    [(["centrifuge-json"], "centrifuge-json"), (["other", "centrifuge-json"], "centrifuge-json")],
)
async def test_the_json_subprotocol_is_selected(
    server: CountingServer, asked: list[str], selected: str
) -> None:
    async with connect(server.websocket_url, proxy=None, subprotocols=asked) as socket:
        assert socket.subprotocol == selected


def answer_to(port: int, request: str, *, seconds: float = 8) -> str:
    """Send raw bytes and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        line.sendall(request.encode("latin-1"))
        return line.recv(4096).decode("latin-1").partition("\r\n")[0]


@pytest.mark.rule("ws-empty-subprotocol-header")
async def test_an_empty_subprotocol_header_asks_for_nothing(server: CountingServer) -> None:
    # centrifuge-python up to 0.5 sends it so.
    request = HANDSHAKE.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: \r\n\r\n")

    assert "101" in await asyncio.to_thread(answer_to, server.port, request)


BAD_HANDSHAKES = {
    "no key": HANDSHAKE.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
    "bad key": HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
    "two keys": HANDSHAKE.replace("\r\n\r\n", "\r\nSec-WebSocket-Key: AAAA\r\n\r\n"),
    "old version": HANDSHAKE.replace("Version: 13", "Version: 7"),
    "no host": HANDSHAKE.replace("Host: 127.0.0.1\r\n", ""),
    "not a get": HANDSHAKE.replace("GET", "POST"),
    "http 1.0": HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0"),
    "bad subprotocol": HANDSHAKE.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: \xff\r\n\r\n"),
    "bad origin": HANDSHAKE.replace("\r\n\r\n", "\r\nOrigin: \xff\xfe://[\r\n\r\n"),
    "foreign origin": HANDSHAKE.replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n"),
    "no version": HANDSHAKE.replace("Sec-WebSocket-Version: 13\r\n", ""),
    "future version": HANDSHAKE.replace("Version: 13", "Version: 99"),
    "no upgrade": HANDSHAKE.replace("Connection: Upgrade", "Connection: close"),
    "two hosts": HANDSHAKE.replace("\r\n\r\n", "\r\nHost: other\r\n\r\n"),
    "bad host": HANDSHAKE.replace("127.0.0.1", "127.0.0.1:port"),
    "double subprotocol": HANDSHAKE.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a, a\r\n\r\n"),
    "two extensions": HANDSHAKE.replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions: b\r\n\r\n",
    ),
    "bad header name": HANDSHAKE.replace("\r\n\r\n", "\r\nA b: c\r\n\r\n"),
    "bad header value": HANDSHAKE.replace("\r\n\r\n", "\r\nX-A: \x1c\r\n\r\n"),
    "body": HANDSHAKE.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"),
    "root path": HANDSHAKE.replace("\r\n\r\n", "\r\nDaphne-Root-Path: /x\r\n\r\n"),
    "protobuf": HANDSHAKE.replace("/websocket ", "/websocket?format=protobuf "),
    "bad query": HANDSHAKE.replace("/websocket ", "/websocket?\xff=%ff&&=;; "),
    "fragment": HANDSHAKE.replace("/websocket ", "/websocket#x "),
}


@pytest.mark.parametrize("kind", BAD_HANDSHAKES)
async def test_a_bad_handshake_is_not_our_error(server: CountingServer, kind: str) -> None:
    answer = await asyncio.to_thread(answer_to, server.port, BAD_HANDSHAKES[kind])

    assert " 500 " not in answer


async def test_bad_handshakes_leave_nothing(server: CountingServer) -> None:
    requests = list(BAD_HANDSHAKES.values()) * 3

    await asyncio.gather(
        *(asyncio.to_thread(answer_to, server.port, request) for request in requests)
    )

    await server.until_empty()


async def test_an_unknown_path_is_not_our_error(server: CountingServer) -> None:
    request = HANDSHAKE.replace("/connection/websocket", "/connection/nowhere")

    answer = await asyncio.to_thread(answer_to, server.port, request)

    assert " 404 " in answer


async def test_clients_that_go_in_the_middle_of_a_handshake_leave_nothing(
    server: CountingServer,
) -> None:
    for cut in (10, 60, len(HANDSHAKE) - 2, len(HANDSHAKE)):
        for how in (socket.SHUT_WR, None):
            line = socket.create_connection(("127.0.0.1", server.port))
            line.sendall(HANDSHAKE[:cut].encode())
            if how is not None:
                line.shutdown(how)
            else:
                # Ends with a reset.
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.close()

    await server.until_empty()


async def test_an_application_that_refuses_or_fails_leaves_nothing(
    server: CountingServer, stock: Any
) -> None:
    for name, status in (("close", 403), ("deny", 403), ("fail", 500)):
        with pytest.raises(InvalidStatus) as outcome:
            await stock(name)
        assert outcome.value.response.status_code == status

    await server.until_empty()


async def test_an_application_that_never_answers_a_handshake_is_refused(
    server: CountingServer, stock: Any
) -> None:
    with pytest.raises((InvalidHandshake, TimeoutError)):
        await stock("silent", open_timeout=12)

    await server.until_empty()


async def test_many_connections_that_come_and_go_leave_nothing(server: CountingServer) -> None:
    async def come_and_go(number: int) -> None:
        async with RawClient(server.websocket_url) as client:
            await client.connect(token(str(number)))
            await client.subscribe("stream:busy")
            if number % 2:
                await client.drop()

    await asyncio.gather(*(come_and_go(number) for number in range(60)))

    await server.until_empty()


# Bounds ----------------------------------------------------------------------------------------


@pytest.mark.rule("ws-message-64k-read")
async def test_a_message_of_the_largest_size_is_read(client: RawClient) -> None:
    await client.send_text(" " * MESSAGE_MAX_BYTES)

    assert (await client.closed())["code"] == 3501  # read, and not a command


@pytest.mark.rule("ws-message-beyond-64k-1009", "close-1009")
async def test_a_message_that_is_too_big_closes_with_1009(
    server: CountingServer, client: RawClient
) -> None:
    await client.send_text(" " * (MESSAGE_MAX_BYTES + 1))

    event = await client.closed()

    assert (event["code"], event["reason"]) == (1009, "message too big")
    await server.until_empty()
    assert {"code": 1009, "by": "server"} in server.closes()


async def test_a_message_that_is_far_too_big_closes_with_1009(
    server: CountingServer, client: RawClient
) -> None:
    with contextlib.suppress(ConnectionClosed):
        await client.send_text(" " * 20_000_000)

    assert (await client.closed())["code"] in (1009, 1006)


@pytest.mark.rule("ws-message-beyond-64k-1009")
async def test_a_message_in_parts_that_is_too_big_closes_with_1009(
    server: CountingServer, client: RawClient
) -> None:
    async def parts() -> Any:
        for _ in range(20):
            yield " " * 5000

    with contextlib.suppress(ConnectionClosed):
        await client.socket.send(parts())

    assert (await client.closed())["code"] == 1009


@pytest.mark.rule("rpc-108", "error-108")
async def test_a_message_in_parts_is_one_message(client: RawClient) -> None:
    async def parts() -> Any:
        for part in ('{"id":99,"r', 'pc":{"meth', 'od":"m"}}'):
            yield part

    await client.socket.send(parts())

    answer = {"id": 99, "error": {"code": 108, "message": "not available"}}
    await client.log.wait("frame", direction="in", text=json.dumps(answer, separators=(",", ":")))


async def test_a_flood_of_messages_waits_at_the_socket_and_leaves_nothing(
    server: CountingServer,
) -> None:
    before = await asyncio.to_thread(server.memory_bytes)
    commands = "\n".join(
        f'{{"id":{number},"presence":{{"channel":"stream:a"}}}}' for number in range(2, 52)
    )

    async def flood(user: str) -> None:
        async with RawClient(server.websocket_url) as client:
            await client.connect(token(user))
            for _ in range(200):
                await client.socket.send(commands)
            await client.drop()

    await asyncio.gather(*(flood(str(user)) for user in range(5)))
    most = await asyncio.to_thread(server.memory_bytes)
    await server.until_empty()

    # 5 x 200 messages of 2 KB, each with 50 answers, of which a bound of each may be held.
    assert most - before < 10_000_000
    assert await asyncio.to_thread(server.memory_bytes) - before < 5_000_000


async def test_a_client_that_is_ahead_loses_none_of_its_commands(
    server: CountingServer, client: RawClient
) -> None:
    ask = {"presence": {"channel": "stream:a"}}
    numbers = [(await client.send_commands(dict(ask)))[0] for _ in range(1000)]

    answers = [await client.reply(number, timeout_seconds=30) for number in numbers]

    assert all("presence" in answer for answer in answers)


@pytest.mark.rule("slow-3008")
async def test_a_reader_that_does_not_read_is_cut_off(server: CountingServer) -> None:
    async with RawClient(server.websocket_url) as publisher:
        await publisher.connect(token("43"))
        slow = await connect(server.websocket_url, proxy=None, max_queue=1, ping_interval=None)
        command = {"id": 1, "connect": {"token": token("42")}}
        subscribe = {"id": 2, "subscribe": {"channel": "live:flood"}}
        await slow.send(f"{json.dumps(command)}\n{json.dumps(subscribe)}")
        slow.transport.pause_reading()
        await asyncio.sleep(0.1)

        for _ in range(300):
            await publisher.publish("live:flood", "x" * 50_000)

        async with asyncio.timeout(10):
            while (await asyncio.to_thread(server.counts))["sockets"] != 1:
                await asyncio.sleep(0.1)
        slow.transport.abort()
    await server.until_empty()
    assert {"code": 3008, "by": "server"} in server.closes()


@pytest.mark.rule("slow-3008", "close-3008")
async def test_a_slow_reader_is_told_why(server: CountingServer) -> None:
    async with RawClient(server.websocket_url) as publisher:
        await publisher.connect(token("43"))
        slow = await connect(server.websocket_url, proxy=None, max_size=None, ping_interval=None)
        command = {"id": 1, "connect": {"token": token("42")}}
        subscribe = {"id": 2, "subscribe": {"channel": "live:flood2"}}
        await slow.send(f"{json.dumps(command)}\n{json.dumps(subscribe)}")
        slow.transport.pause_reading()
        await asyncio.sleep(0.1)

        for _ in range(300):
            await publisher.publish("live:flood2", "x" * 50_000)
        slow.transport.resume_reading()
        frames = []
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                while True:
                    frames.append(await slow.recv())

    assert (slow.close_code, slow.close_reason) == (3008, "slow")
    last = json.loads(frames[-1])
    assert last == {"push": {"disconnect": {"code": 3008, "reason": "slow"}}}
    assert all(json.loads(frame) for frame in frames)  # whole, however the socket took them


# Closes ----------------------------------------------------------------------------------------


@pytest.mark.rule("push-disconnect", "close-3501", "close-reason-in-frame")
async def test_a_close_has_its_code_and_reason_and_a_push_before_it(client: RawClient) -> None:
    await client.send_text("{}")

    event = await client.closed()

    assert (event["code"], event["reason"]) == (3501, "bad request")
    (push,) = client.log.of("disconnect")
    assert (push["code"], push["reason"]) == (3501, "bad request")


async def test_a_text_frame_that_is_not_utf8_closes_with_1007(
    server: CountingServer, client: RawClient
) -> None:
    await client.socket.send(b"\xff\xfe", text=True)

    assert (await client.closed())["code"] == 1007


async def test_a_client_that_closes_is_answered_and_its_code_logged(
    server: CountingServer, client: RawClient
) -> None:
    async with asyncio.timeout(2):
        await client.socket.close(4321, "bye")

    await server.until_empty()
    assert {"code": 4321, "by": "client"} in server.closes()


@pytest.mark.rule("stale-3502", "close-3502")
async def test_a_stale_client_is_closed(server: CountingServer) -> None:
    async with connect(server.websocket_url, proxy=None, ping_interval=None) as socket:
        assert await closed(socket) == (3502, "stale")


async def test_native_pings_are_answered(client: RawClient) -> None:
    async with asyncio.timeout(5):
        await (await client.socket.ping(b"are you there"))


# Other consumers on the same server ------------------------------------------------------------


async def test_a_stock_consumer_sends_text_and_bytes(stock: Any) -> None:
    async with stock("echo", subprotocols=["echo"]) as socket:
        assert socket.subprotocol == "echo"
        assert socket.response.headers["x-hello"] == "there"
        for message in ("é\U0001f600", b"\x00\xff", "x" * 60_000, b"y" * 126):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_stock_consumer_without_a_subprotocol(stock: Any) -> None:
    async with stock("echo") as socket:
        await socket.send("a")
        assert await socket.recv() == "a"
        assert socket.subprotocol is None


@pytest.mark.rule("close-reason-in-frame")
async def test_a_stock_consumers_close_has_its_reason(stock: Any) -> None:
    async with stock("echo") as socket:
        await socket.send("close")

        assert await closed(socket) == (4000, "as you wish")


async def test_a_stock_consumer_that_fails_is_closed_with_1011(
    server: CountingServer, stock: Any
) -> None:
    async with stock("echo") as socket:
        await socket.send("fail")

        assert (await closed(socket))[0] == 1011


async def test_a_stock_consumer_cannot_fill_the_memory(server: CountingServer, stock: Any) -> None:
    async with stock("echo", max_queue=1) as socket:
        socket.transport.pause_reading()
        await socket.send("much")
        await asyncio.sleep(0.5)
        socket.transport.resume_reading()

        assert (await closed(socket))[0] == 3008


# HTTP ------------------------------------------------------------------------------------------


async def test_http_is_served_beside_the_sockets(server: CountingServer, client: RawClient) -> None:
    status, body = await asyncio.to_thread(server.get, "/health")

    assert status == 200, body
