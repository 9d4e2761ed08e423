"""The official SDKs behind one interface, so that a test can ask each of them the same.

Their events are written in the words of ``event_log``; what they return has the field names of the
wire. What a method raises is the raw client's ``CommandError``.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import centrifuge
from centrifuge.exceptions import ReplyError

from tests.support.event_log import WAIT_SECONDS, EventLog
from tests.support.raw_client import CommandError

SDK_FOLDER = Path(__file__).resolve().parents[1] / "sdk"
# The SDKs wait up to 20 s between attempts by default; a test has not that much time.
RECONNECT_SECONDS = (0.05, 0.2)


def node_binary() -> str:
    """Return Node: the one that ``scripts/set-up-tests`` put beside Python, else the machine's.

    Raises:
        FileNotFoundError: There is none.
    """
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    if found := shutil.which("node", path=os.pathsep.join(folders)):
        return found
    raise FileNotFoundError("Node is not installed: run scripts/set-up-tests")


def install_packages() -> None:
    """Have ``scripts/set-up-tests`` install what package-lock.json names, unless it is there."""
    lock, stamp = SDK_FOLDER / "package-lock.json", SDK_FOLDER / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    script = SDK_FOLDER.parents[1] / "scripts" / "set-up-tests"
    subprocess.run([script], check=True, timeout=300)


GetToken = Callable[[], Awaitable[str]]
# Positions for an SDK to start from, one for each time that it asks.
States = list[dict[str, Any]] | None


class SdkClient:
    """What the wrappers have in common."""

    def __init__(self, url: str, *, who: str) -> None:
        self.url = url
        self.log = EventLog(who)

    @property
    def client_id(self) -> str:
        """Return the id of the newest connection."""
        return str(self.log.of("connected")[-1]["client"])

    async def subscribed(self, channel: str, **options: Any) -> dict[str, Any]:
        """Subscribe and return the ``subscribed`` event."""
        after = len(self.log.events)
        await self.subscribe(channel, **options)
        return await self.log.wait("subscribed", channel=channel, after=after)

    async def subscribe(self, channel: str, **options: Any) -> None:
        raise NotImplementedError


class JavaScriptClient(SdkClient):
    """npm ``centrifuge`` in a Node process of its own."""

    def __init__(self, url: str, *, who: str = "js") -> None:
        super().__init__(url, who=who)
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._epochs: dict[str, str] = {}
        self._get_token: GetToken | None = None
        self._asked: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "JavaScriptClient":
        self._process = await asyncio.create_subprocess_exec(
            node_binary(),
            "client.mjs",
            cwd=SDK_FOLDER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        self._reader = asyncio.create_task(self._read(), name=f"{self.log.who} reader")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def connect(
        self, token: str = "", *, get_token: GetToken | None = None, **options: Any
    ) -> None:
        """Start connecting; ``log`` tells when it is done."""
        self._get_token = get_token
        least, most = (1000 * seconds for seconds in RECONNECT_SECONDS)
        delays = {"minReconnectDelay": least, "maxReconnectDelay": most}
        options = {"token": token, **delays, **options}
        await self._do("connect", url=self.url, options=options, asks_token=get_token is not None)

    async def disconnect(self) -> None:
        await self._do("disconnect")

    async def subscribe(self, channel: str, *, states: States = None, **options: Any) -> None:
        least, most = (1000 * seconds for seconds in RECONNECT_SECONDS)
        delays = {"minResubscribeDelay": least, "maxResubscribeDelay": most}
        await self._do("subscribe", channel=channel, states=states, options={**delays, **options})

    async def unsubscribe(self, channel: str) -> None:
        await self._do("unsubscribe", channel=channel)

    async def publish(self, channel: str, data: Any) -> None:
        await self._do("publish", channel=channel, data=data)

    async def history(self, channel: str, **options: Any) -> dict[str, Any]:
        return await self._do("history", channel=channel, options=options)

    async def presence(self, channel: str) -> dict[str, Any]:
        return await self._do("presence", channel=channel)

    async def presence_stats(self, channel: str) -> dict[str, Any]:
        return await self._do("presence_stats", channel=channel)

    async def rpc(self, method: str, data: Any) -> Any:
        return await self._do("rpc", method=method, data=data)

    async def _do(self, action: str, **arguments: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = answered = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "do": action, **arguments})
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(WAIT_SECONDS):
            answer = await answered
        if "error" in answer:
            raise CommandError(answer["error"])
        return answer["result"]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif "ask" in message:
                self._asked.add(task := asyncio.create_task(self._answer(message["ask"])))
                task.add_done_callback(self._asked.discard)
            else:
                self._note(message)

    async def _answer(self, number: int) -> None:
        assert self._get_token is not None
        await self._do("answer", ask=number, value=await self._get_token())

    def _note(self, message: dict[str, Any]) -> None:
        event, at = message.pop("event"), message.pop("t")
        if event == "subscribed":
            self._epochs[message["channel"]] = message["epoch"]
        if event == "pub":
            message["epoch"] = self._epochs.get(message["channel"], "")
            message["id"] = _id_of(message.get("data"))
        self.log.add(event, at=at, **message)


class PythonClient(SdkClient):
    """PyPI ``centrifuge-python``."""

    def __init__(self, url: str, *, who: str = "python") -> None:
        super().__init__(url, who=who)
        self._client: centrifuge.Client | None = None

    async def __aenter__(self) -> "PythonClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.disconnect()
            # The SDK closes its socket in the background, and says nothing when it is done.
            if closing := self._client._background_tasks:
                await asyncio.wait(set(closing), timeout=5)

    async def connect(self, token: str = "", **options: Any) -> None:
        """Start connecting; ``log`` tells when it is done."""
        least, most = RECONNECT_SECONDS
        self._client = centrifuge.Client(
            self.url,
            events=_ClientEvents(self.log),
            token=token,
            min_reconnect_delay=least,
            max_reconnect_delay=most,
            proxy=None,
            **options,
        )
        await self._client.connect()

    async def disconnect(self) -> None:
        await self._own.disconnect()

    async def subscribe(self, channel: str, *, states: States = None, **options: Any) -> None:
        async def get_state(_: str) -> centrifuge.StreamPosition:
            self.log.add("get_state", channel=channel)
            return centrifuge.StreamPosition(**states.pop(0))

        subscription = self._own.get_subscription(channel)
        if subscription is None:
            options |= {"get_state": get_state} if states else {}
            least, most = RECONNECT_SECONDS
            subscription = self._own.new_subscription(
                channel,
                events=_SubscriptionEvents(self.log, channel),
                min_resubscribe_delay=least,
                max_resubscribe_delay=most,
                **options,
            )
        await subscription.subscribe()

    async def unsubscribe(self, channel: str) -> None:
        subscription = self._own.get_subscription(channel)
        assert subscription is not None
        await subscription.unsubscribe()

    async def publish(self, channel: str, data: Any) -> None:
        with _as_command_error():
            await self._own.publish(channel, data)

    async def history(
        self, channel: str, *, since: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        position = centrifuge.StreamPosition(**since) if since else None
        with _as_command_error():
            result = await self._own.history(channel, since=position, **options)
        publications = [_publication(publication) for publication in result.publications]
        return {"publications": publications, "offset": result.offset, "epoch": result.epoch}

    async def presence(self, channel: str) -> dict[str, Any]:
        with _as_command_error():
            result = await self._own.presence(channel)
        return {client: _info(info) for client, info in result.clients.items()}

    async def presence_stats(self, channel: str) -> dict[str, Any]:
        with _as_command_error():
            return vars(await self._own.presence_stats(channel))

    async def rpc(self, method: str, data: Any) -> Any:
        with _as_command_error():
            return (await self._own.rpc(method, data)).data

    @property
    def _own(self) -> centrifuge.Client:
        assert self._client is not None
        return self._client


class _ClientEvents(centrifuge.ClientEventHandler):
    """What happens to the connection, and to server-side subscriptions."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.epochs: dict[str, str] = {}

    async def on_connecting(self, ctx: centrifuge.ConnectingContext) -> None:
        self.log.add("connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx: centrifuge.ConnectedContext) -> None:
        self.log.add("connected", client=ctx.client)

    async def on_disconnected(self, ctx: centrifuge.DisconnectedContext) -> None:
        self.log.add("disconnect", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: centrifuge.ErrorContext) -> None:
        self.log.add("error", code=ctx.code, error=repr(ctx.error))

    async def on_subscribing(self, ctx: centrifuge.ServerSubscribingContext) -> None:
        self.log.add("subscribing", channel=ctx.channel)

    async def on_subscribed(self, ctx: centrifuge.ServerSubscribedContext) -> None:
        subscribed = _subscribed(ctx)
        self.epochs[ctx.channel] = subscribed["epoch"]
        self.log.add("subscribed", channel=ctx.channel, **subscribed)

    async def on_unsubscribed(self, ctx: centrifuge.ServerUnsubscribedContext) -> None:
        self.log.add("unsub", channel=ctx.channel)

    async def on_publication(self, ctx: centrifuge.ServerPublicationContext) -> None:
        epoch = self.epochs[ctx.channel]
        fields = {"epoch": epoch, "id": _id_of(ctx.pub.data), **_publication(ctx.pub)}
        self.log.add("pub", channel=ctx.channel, **fields)

    async def on_join(self, ctx: centrifuge.ServerJoinContext) -> None:
        self.log.add("join", channel=ctx.channel, info=_info(ctx.info))

    async def on_leave(self, ctx: centrifuge.ServerLeaveContext) -> None:
        self.log.add("leave", channel=ctx.channel, info=_info(ctx.info))


class _SubscriptionEvents(centrifuge.SubscriptionEventHandler):
    def __init__(self, log: EventLog, channel: str) -> None:
        self.log = log
        self.channel = channel
        self.epoch = ""

    def note(self, event: str, **fields: Any) -> None:
        self.log.add(event, channel=self.channel, **fields)

    async def on_subscribing(self, ctx: centrifuge.SubscribingContext) -> None:
        self.note("subscribing", code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
        subscribed = _subscribed(ctx)
        self.epoch = subscribed["epoch"]
        self.note("subscribed", **subscribed)

    async def on_unsubscribed(self, ctx: centrifuge.UnsubscribedContext) -> None:
        self.note("unsub", code=ctx.code, reason=ctx.reason)

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        publication = _publication(ctx.pub)
        self.note("pub", epoch=self.epoch, id=_id_of(ctx.pub.data), **publication)

    async def on_join(self, ctx: centrifuge.JoinContext) -> None:
        self.note("join", info=_info(ctx.info))

    async def on_leave(self, ctx: centrifuge.LeaveContext) -> None:
        self.note("leave", info=_info(ctx.info))

    async def on_error(self, ctx: centrifuge.SubscriptionErrorContext) -> None:
        self.note("sub_error", code=ctx.code, error=repr(ctx.error))


@contextlib.contextmanager
def _as_command_error() -> Any:
    try:
        yield
    except ReplyError as error:
        reply = {"code": error.code, "message": error.message, "temporary": error.temporary}
        raise CommandError(reply) from error


def _subscribed(
    ctx: centrifuge.SubscribedContext | centrifuge.ServerSubscribedContext,
) -> dict[str, Any]:
    position = ctx.stream_position or centrifuge.StreamPosition(0, "")
    return {
        "epoch": position.epoch,
        "offset": position.offset,
        "was_recovering": ctx.was_recovering,
        "recovered": ctx.recovered,
        "recoverable": ctx.recoverable,
        "positioned": ctx.positioned,
        "data": ctx.data,
    }


def _id_of(data: Any) -> str | None:
    return data.get("id") if isinstance(data, dict) else None


def _info(info: centrifuge.ClientInfo | None) -> dict[str, Any] | None:
    return None if info is None else vars(info)


def _publication(publication: centrifuge.Publication) -> dict[str, Any]:
    return {
        "data": publication.data,
        "offset": publication.offset,
        "info": _info(publication.info),
        "tags": publication.tags or None,
    }
