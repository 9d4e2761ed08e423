"""Commands to all instances that must not be lost: what is to become of whose connections.

A stream of its own with positions and repair, like a channel's. Written by ``services``; each
instance reads it and acts on its own connections. An instance that missed more than is kept
cannot know whom it should have closed, and so closes everybody.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from msgspec import Raw

from realtime import conf
from realtime.broker import acts
from realtime.broker.acts import Published, Retention
from realtime.layers import PUBLICATION, LayerMessage, LoopLayer, decode_message
from realtime.protocol import codec
from realtime.protocol.errors import BadRequest, BrokerUnavailable
from realtime.protocol.messages import ABSENT, Publication, StreamPosition, is_absent
from realtime.publishing import VERSION_EPOCH_MAX_BYTES, check_text
from realtime.recovery import History
from realtime.redis_act import Act
from realtime.redis_client import RedisServers
from realtime.redis_keys import CONTROL, CONTROL_GROUP
from realtime.tokens import Override, SubscribeOptions

logger = logging.getLogger(__name__)

KEPT_COMMANDS: Final = 100_000
ID_MAX_BYTES: Final = 255  # of a client or a session, which have 36
WHITELIST_MAX: Final = 1000
CHECK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.5


class DisconnectCommand(msgspec.Struct, tag="disconnect", tag_field="op"):
    """Close the matching connections of a user; without one, the connection of a client."""

    user: str | None
    code: int
    reason: str
    client: str = ""
    session: str = ""
    whitelist: list[str] = []


class UnsubscribeCommand(msgspec.Struct, tag="unsubscribe", tag_field="op"):
    """End a subscription of the matching connections of a user."""

    user: str
    channel: str
    client: str = ""
    session: str = ""


class SubscribeCommand(msgspec.Struct, tag="subscribe", tag_field="op", omit_defaults=True):
    """Subscribe the matching connections of a user to a channel, by the server's own will."""

    user: str
    channel: str
    client: str = ""
    session: str = ""
    expire_at: int = 0
    info: Raw = ABSENT
    data: Raw = ABSENT
    override: Override = Override()
    since: StreamPosition | None = None

    def options(self) -> SubscribeOptions:
        """Return what the subscription is given beyond its namespace's options."""
        return SubscribeOptions(
            info=None if is_absent(self.info) else self.info,
            data=None if is_absent(self.data) else self.data,
            override=self.override,
            expire_at=self.expire_at,
        )


class RefreshCommand(msgspec.Struct, tag="refresh", tag_field="op", omit_defaults=True):
    """Give the matching connections of a user another end; 0 is never."""

    user: str
    client: str = ""
    session: str = ""
    expire_at: int = 0
    info: Raw = ABSENT


ControlCommand = DisconnectCommand | UnsubscribeCommand | SubscribeCommand | RefreshCommand
_decode = msgspec.json.Decoder(ControlCommand).decode


def send(command: ControlCommand) -> Act[Published]:
    """Return the act that brings a command to every instance.

    Raises:
        BadRequest: A user, client, session or epoch is too long, or a whitelist.
    """
    _check(command)
    body = codec.encode_publication(Publication(data=Raw(msgspec.json.encode(command))))
    retention = Retention(KEPT_COMMANDS, conf.current().control_ttl_seconds)
    return acts.publish(CONTROL_GROUP, body, retention=retention, keys=CONTROL)


def _check(command: ControlCommand) -> None:
    """Refuse what would fill the memory of Redis and of every instance."""
    # Whoever can connect can be disconnected: no message brings a token with a longer user.
    check_text("user", command.user or "", max_bytes=conf.current().message_max_bytes)
    check_text("client", command.client, max_bytes=ID_MAX_BYTES)
    check_text("session", command.session, max_bytes=ID_MAX_BYTES)
    if isinstance(command, DisconnectCommand):
        if len(command.whitelist) > WHITELIST_MAX:
            raise BadRequest(f"whitelist exceeds {WHITELIST_MAX} clients")
        for client in command.whitelist:
            check_text("whitelist", client, max_bytes=ID_MAX_BYTES)
    elif isinstance(command, SubscribeCommand) and command.since is not None:
        check_text("recover_since", command.since.epoch, max_bytes=VERSION_EPOCH_MAX_BYTES)


class ControlReader:
    """Reads the control stream for one instance, each command once."""

    def __init__(
        self,
        layer: LoopLayer,
        servers: RedisServers,
        *,
        obey: Callable[[ControlCommand], None],
        lose: Callable[[], None],
        notice: Callable[[LayerMessage], None],
    ) -> None:
        """Set up the reader.

        Args:
            layer: Carries the commands as they are sent.
            servers: Where the stream is read when some were missed.
            obey: Called with each command, in order.
            lose: Called when commands were missed that nobody can name.
            notice: Called with what else arrives on the control group.
        """
        self._layer = layer
        self._servers = servers
        self._obey = obey
        self._lose = lose
        self._notice = notice
        self._position: StreamPosition | None = None
        self._wake = asyncio.Event()
        self._has_begun = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether every command from now on is obeyed."""
        return self._has_begun.is_set()

    async def until_begun(self) -> None:
        """Wait for ``has_begun``."""
        await self._has_begun.wait()

    async def run(self) -> None:
        """Read until cancelled; takes every failure of Redis as something that passes."""
        self._layer.watchers.append(self._on_link)
        try:
            await self._until_done(self._begin)
            while True:
                self._wake.clear()
                await self._until_done(self._catch_up)
                try:
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            self._layer.watchers.remove(self._on_link)

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except BrokerUnavailable as error:
                logger.debug("control stream: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _begin(self) -> None:
        await self._layer.listen(CONTROL_GROUP, self._receive)
        top = await self._read(None, limit=0)
        # Earlier commands are for connections that this instance never had: until now it let
        # nobody connect.
        self._position = top.position
        self._has_begun.set()

    async def _read(self, since: StreamPosition | None, *, limit: int) -> History:
        return await self._servers.run(
            acts.history(CONTROL_GROUP, since=since, limit=limit, keys=CONTROL)
        )

    def _on_link(self, shard_index: int, is_up: bool) -> None:
        if is_up and shard_index == self._layer.shard_index(CONTROL_GROUP):
            self._wake.set()

    def _receive(self, data: bytes) -> None:
        try:
            message = decode_message(data)
        except msgspec.DecodeError as error:
            # Anybody may send to a group of the layer, and a newer version may send more.
            logger.warning("unknown message on the control group: %s", error)
            return
        if message.type != PUBLICATION:
            self._notice(message)
            return
        position = self._position
        if position is not None and (message.offset, message.epoch) == (
            position.offset + 1,
            position.epoch,
        ):
            self._position = StreamPosition(message.offset, message.epoch)
            self._act_on(codec.decode_publication(message.body))
        else:
            self._wake.set()

    async def _catch_up(self) -> None:
        position = self._position
        assert position is not None
        history = await self._read(position, limit=-1)
        if self._position != position:
            self._wake.set()  # the link was faster; look again
            return
        missed = history.publications
        is_whole = history.continues(position) and (
            len(missed) == history.position.offset - position.offset
        )
        self._position = history.position
        if not is_whole:
            logger.error("control commands were lost between %s and %s", position, history.position)
            self._lose()
            return
        for publication in missed:
            self._act_on(publication)

    def _act_on(self, publication: Publication) -> None:
        try:
            command = _decode(publication.data)
        except msgspec.DecodeError as error:
            # A newer version may send what this one does not know.
            logger.error("unknown control command: %s", error)
        else:
            self._obey(command)
