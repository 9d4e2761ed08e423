"""The edge to ASGI: handshakes, frames out on plain ``send``, ends."""

import asyncio
import json
import logging
import weakref

import pytest
from channels.testing import WebsocketCommunicator

from project.asgi import application
from realtime import instance
from realtime.consumers import ConnectionConsumer, SendWriter
from realtime.outbox import FRAME_WRITER
from realtime.protocol import websocket
from tests.realtime.client import PATH, SECRET, SNAPSHOT, Client, token
from tests.realtime.conftest import until, within
from tests.realtime.frames import RecordingWriter


class Server:
    """An ASGI server with one connection, whose ``send`` waits while it is told to."""

    def __init__(self, **scope):
        self.scope = {
            "type": "websocket",
            "path": PATH,
            "headers": [(b"host", b"testserver")],
            "subprotocols": [],
            "query_string": b"",
            **scope,
        }
        self.incoming = asyncio.Queue()
        self.sent = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.task = asyncio.create_task(
            ConnectionConsumer.as_asgi()(self.scope, self.incoming.get, self.send)
        )
        self.incoming.put_nowait({"type": "websocket.connect"})

    async def send(self, message):
        await self.gate.wait()
        self.sent.append(message)

    def put(self, *commands):
        text = "\n".join(json.dumps(command) for command in commands)
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def end(self, code=1006):
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": code})
        await within(self.task)

    @property
    def texts(self):
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]

    @property
    def closes(self):
        return [each["code"] for each in self.sent if each["type"] == "websocket.close"]


CONNECT = {"id": 1, "connect": {"token": token()}}


def asked(**options):
    """Return a communicator for a handshake."""
    options.setdefault("headers", [(b"host", b"testserver")])
    return WebsocketCommunicator(application, options.pop("path", PATH), **options)


# Handshakes ------------------------------------------------------------------------------------


@pytest.mark.rule("ws-json-subprotocol", "ws-no-subprotocol", "ws-empty-subprotocol-header")
@pytest.mark.parametrize(
    ("subprotocols", "selected"),
    [
        (None, None),
        ([], None),
        ([""], None),
        (["centrifuge-json"], "centrifuge-json"),
        (["centrifuge-protobuf", "centrifuge-json"], "centrifuge-json"),
        (["something-else"], None),
    ],
)
async def test_a_subprotocol_is_selected_if_it_was_asked_for(engine, subprotocols, selected):
    communicator = asked(subprotocols=subprotocols)

    assert await communicator.connect() == (True, selected)

    await communicator.disconnect()


@pytest.mark.rule("ws-protobuf-refused-400")
@pytest.mark.parametrize(
    "options",
    [
        {"subprotocols": ["centrifuge-protobuf"]},
        {"path": f"{PATH}?format=protobuf"},
        {"path": f"{PATH}?cf_protocol=protobuf"},
        {"path": f"{PATH}?format=protobuf", "subprotocols": ["centrifuge-json"]},
    ],
)
async def test_protobuf_is_refused_and_the_log_says_so(engine, options, caplog):
    communicator = asked(**options)

    is_accepted, _ = await communicator.connect()

    assert not is_accepted
    assert "Protobuf" in caplog.text


@pytest.mark.rule("origin-refused-logged")
async def test_a_foreign_origin_is_refused_and_the_log_names_the_setting(engine, caplog):
    headers = [(b"host", b"testserver"), (b"origin", b"http://evil.example")]

    is_accepted, _ = await asked(headers=headers).connect()

    assert not is_accepted
    assert "REALTIME_ALLOWED_ORIGINS" in caplog.text


@pytest.mark.rule("origin-refused-403")
@pytest.mark.parametrize("status", [400, 403])
async def test_a_server_that_can_deny_is_given_a_status(engine, status):
    denial = {"websocket.http.response": {}}
    headers = [(b"host", b"testserver")]
    if status == 403:
        headers.append((b"origin", b"http://evil.example"))
    server = Server(
        extensions=denial,
        headers=headers,
        query_string=b"format=protobuf" if status == 400 else b"",
    )

    await within(server.task)

    assert [message["type"] for message in server.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert server.sent[0]["status"] == status
    assert len(engine.connections) == 0


@pytest.mark.rule("origin-own-allowed")
@pytest.mark.parametrize(
    ("headers", "scheme", "is_allowed"),
    [
        ([(b"origin", b"http://testserver")], "ws", True),
        ([(b"origin", b"https://testserver")], "ws", False),
        ([(b"origin", b"https://testserver")], "wss", True),
        ([(b"origin", b"http://testserver")], "wss", False),
        ([(b"origin", b"https://testserver"), (b"x-forwarded-proto", b"https")], "ws", False),
    ],
)
async def test_the_servers_own_scheme_counts(engine, headers, scheme, is_allowed):
    server = Server(headers=[(b"host", b"testserver"), *headers], scheme=scheme)

    await until(lambda: server.sent)

    assert (server.sent[0]["type"] == "websocket.accept") is is_allowed
    await server.end() if is_allowed else await within(server.task)


@pytest.mark.rule("origin-own-allowed")
async def test_a_trusted_proxy_says_what_the_scheme_is(engine, settings):
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = [(b"host", b"testserver"), (b"origin", b"https://testserver")]

    behind = Server(headers=[*headers, (b"x-forwarded-proto", b"https")])
    plain = Server(headers=headers)
    await until(lambda: behind.sent and plain.sent)

    assert behind.sent[0]["type"] == "websocket.accept"
    assert plain.sent[0]["type"] == "websocket.close"
    await behind.end()
    await within(plain.task)


@pytest.mark.rule("frame-connect-then-subscribe")
async def test_the_first_connection_of_an_event_loop_is_served(
    flushed_redis, configure, monkeypatch
):
    # Outside of our own server nobody has started the instance before.
    configure(TOKEN_HMAC_SECRET=SECRET, DEMO=False)
    monkeypatch.setattr("realtime.snapshot.load_if_changed", lambda known: SNAPSHOT)
    client = await Client().open()
    try:
        await client.send_commands(CONNECT, {"id": 2, "subscribe": {"channel": "open:a"}})

        assert (await client.reply(1))["client"]
        assert (await client.reply(2))["recoverable"]
    finally:
        await client.leave()
        await instance.stop_current()


# Frames out ------------------------------------------------------------------------------------


async def test_every_frame_is_sent_once_in_order_and_then_nothing_waits():
    sent = []

    async def send(message):
        sent.append(message["text"])

    writer = SendWriter(send)
    texts = [f"{number} é\U0001f600" + "x" * number for number in range(0, 400, 7)]

    for text in texts:
        writer.write_frame(websocket.frame(text.encode()))
    assert writer.queued_bytes() > sum(map(len, texts))
    await until(lambda: len(sent) == len(texts))
    await asyncio.sleep(0)

    assert sent == texts
    assert writer.queued_bytes() == 0
    writer.stop()


async def test_a_close_goes_out_behind_what_is_queued_and_is_the_last():
    sent = []

    async def send(message):
        sent.append(message["type"])

    writer = SendWriter(send)
    writer.write_frame(websocket.frame(b"{}"))
    writer.close(3001, "shutdown")
    writer.write_frame(websocket.frame(b"{}"))
    writer.close(3501, "bad request")

    await within(asyncio.wait([writer._task]))

    assert sent == ["websocket.send", "websocket.close"]


async def test_a_server_that_cannot_send_any_more_ends_the_writer_alone():
    async def send(message):
        raise ConnectionError("gone")

    writer = SendWriter(send)
    writer.write_frame(websocket.frame(b"{}"))

    await within(asyncio.wait([writer._task]))

    assert writer._task.exception() is None
    for _ in range(10):
        writer.write_frame(websocket.frame(b"{}"))
    assert writer.queued_bytes() == 0


@pytest.mark.rule("slow-3008")
async def test_a_reader_that_is_too_slow_is_closed_with_3008(engine, configure):
    configure(QUEUE_MAX_BYTES=2000)
    server = Server()
    server.put(CONNECT, {"id": 2, "subscribe": {"channel": "live:a"}})
    await until(lambda: len(server.texts) == 2)
    server.gate.clear()

    for number in range(40):
        server.put({"id": 3 + number, "publish": {"channel": "live:a", "data": "x" * 200}})
    await until(lambda: server.incoming.empty())
    await asyncio.sleep(0.05)
    server.gate.set()

    await until(lambda: server.closes == [3008])
    assert json.loads(server.texts[-1]) == {
        "push": {"disconnect": {"code": 3008, "reason": "slow"}}
    }
    assert sum(map(len, server.texts[2:])) < 3000
    await server.end()


async def test_a_slow_reader_costs_the_others_nothing(engine, connect, configure):
    configure(QUEUE_MAX_BYTES=2000)
    server = Server()
    server.put(CONNECT, {"id": 2, "subscribe": {"channel": "live:a"}})
    await until(lambda: len(server.texts) == 2)
    server.gate.clear()
    bob = await connect("43")
    await bob.call("subscribe", channel="live:a")

    for _ in range(40):
        await bob.call("publish", channel="live:a", data="x" * 200)

    assert len(await bob.publications(40)) == 40
    server.gate.set()
    await server.end()


@pytest.mark.rule("slow-empty-queue-accepts")
async def test_a_large_frame_is_accepted_onto_an_empty_queue(engine, connect, configure):
    configure(QUEUE_MAX_BYTES=2000)
    server = Server()
    server.put(CONNECT, {"id": 2, "subscribe": {"channel": "live:a"}})
    bob = await connect("43")
    await until(lambda: len(server.texts) == 2)

    for number in range(3, 8):
        await bob.call("publish", channel="live:a", data="x" * 5000)
        await until(lambda number=number: len(server.texts) == number)

    assert server.closes == []
    await server.end()


@pytest.mark.rule("close-3508")
async def test_a_frame_writer_in_the_scope_is_used(engine):
    writer = RecordingWriter()
    server = Server(extensions={FRAME_WRITER: writer})

    server.put(CONNECT)
    server.put({"id": 2, "send": {}})
    await until(lambda: writer.closes)

    assert [message["type"] for message in server.sent] == ["websocket.accept"]
    assert "connect" in writer.messages[0]
    assert writer.messages[1] == {"push": {"disconnect": {"code": 3508, "reason": "not available"}}}
    assert writer.closes == [(3508, "not available")]
    await server.end()


# Ends ------------------------------------------------------------------------------------------


async def test_nothing_is_left_of_a_connection_that_ended(engine, connect):
    alice = await connect()
    for channel in ("room:a", "open:a"):
        await alice.call("subscribe", channel=channel)

    await alice.leave()

    assert len(engine.connections) == 0
    assert engine.connections.is_empty.is_set()
    assert engine.hub.client_counts("") == {}
    for channel in ("room:a", "open:a"):
        assert await engine.presence.members(channel) == {}


async def test_a_connection_that_is_ending_is_found_no_more(engine, connect, monkeypatch):
    entered, go_on = asyncio.Event(), asyncio.Event()
    remove_many = engine.presence.remove_many

    async def slow(entries):
        entered.set()
        await go_on.wait()
        return await remove_many(entries)

    monkeypatch.setattr(engine.presence, "remove_many", slow)
    alice = await connect()
    await alice.call("subscribe", channel="open:a")
    leaving = asyncio.create_task(alice.leave())
    await within(entered.wait())

    assert engine.connections.find("42") == []
    assert (await engine.report.info()).num_clients == 0
    go_on.set()
    await within(leaving)


@pytest.mark.rule("subscribe-failed-leaves-nothing")
async def test_a_connection_that_ends_in_the_middle_of_a_subscribe_leaves_nothing(
    engine, monkeypatch
):
    entered, go_on = asyncio.Event(), asyncio.Event()
    add = engine.presence.add

    async def slow(member):
        entered.set()
        await go_on.wait()
        await add(member)

    monkeypatch.setattr(engine.presence, "add", slow)
    server = Server()
    server.put(CONNECT, {"id": 2, "subscribe": {"channel": "open:a"}})
    await within(entered.wait())
    ending = asyncio.create_task(server.end())
    await asyncio.sleep(0.02)

    go_on.set()
    await within(ending)

    assert await engine.presence.members("open:a") == {}
    assert engine.hub.client_counts("") == {}


async def test_an_idle_connection_holds_nothing_of_what_it_sent_last(engine):
    class Message(dict):
        """A message that can be watched."""

    server = Server()
    server.put(CONNECT)
    await until(lambda: len(server.texts) == 1)
    text = json.dumps({"id": 2, "presence": {"channel": "x" * 60_000}})
    message = Message(type="websocket.receive", text=text)
    watched = weakref.ref(message)

    server.incoming.put_nowait(message)
    del message
    await until(lambda: len(server.texts) == 2)

    await until(lambda: watched() is None)
    await server.end()


async def test_a_cancelled_connection_leaves_nothing(engine, monkeypatch):
    # Daphne cancels an application that takes too long to end.
    server = Server()
    server.put(CONNECT, {"id": 2, "subscribe": {"channel": "open:a"}})
    await until(lambda: len(server.texts) == 2)

    server.task.cancel()
    await within(asyncio.wait([server.task]))

    assert len(engine.connections) == 0
    assert engine.hub.client_counts("") == {}
    assert await engine.presence.members("open:a") == {}


async def test_a_connection_that_goes_before_it_is_accepted_is_nobody(engine):
    server = Server()
    server.incoming.get_nowait()
    server.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})

    await within(server.task)

    assert server.sent == []


async def test_ends_are_logged_with_their_code(engine, dial, caplog):
    caplog.set_level(logging.INFO, "realtime.consumers")
    client = await dial()
    await client.send("{}")
    await client.closed()
    await client.leave()

    (record,) = [each for each in caplog.records if each.getMessage() == "closed"]
    assert (record.code, record.reason, record.by) == (3501, "bad request", "server")


async def test_a_token_is_never_logged(engine, dial, caplog):
    caplog.set_level(logging.DEBUG)
    for given in (token(), token(exp=1), "garbage.garbage.garbage"):
        client = await dial()
        await client.send_commands({"id": 1, "connect": {"token": given}})
        await client.next(lambda message: True)

    assert token() not in caplog.text
    assert token(exp=1) not in caplog.text
    assert "garbage" not in caplog.text


@pytest.mark.rule("stale-3502")
async def test_a_client_that_says_nothing_is_closed_as_stale(engine, dial, configure):
    configure(STALE_CLOSE_SECONDS=0.2)
    client = await dial()

    closed = await client.closed()

    assert (closed.code, closed.push["code"]) == (3502, 3502)


@pytest.mark.rule("stale-not-after-connect")
async def test_a_client_that_connects_in_time_is_not_stale(engine, dial, configure):
    configure(STALE_CLOSE_SECONDS=1)
    client = await dial()
    await client.connect()

    await asyncio.sleep(1.3)

    assert await client.call("unsubscribe", channel="open:a") == {}


@pytest.mark.rule("close-3001")
async def test_a_draining_instance_closes_with_3001(engine, connect, dial):
    alice = await connect()
    silent = await dial()

    draining = asyncio.create_task(engine.drain(seconds=0.1))
    closed = [await alice.closed(), await silent.closed()]
    await alice.leave()
    await silent.leave()
    await within(draining)

    assert [(each.code, each.push) for each in closed] == [
        (3001, {"code": 3001, "reason": "shutdown"})
    ] * 2


async def test_a_connection_that_comes_while_draining_is_closed_at_once(engine, dial):
    engine.is_draining = True
    client = await dial()

    assert (await client.closed()).code == 3001
