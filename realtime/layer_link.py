"""The subscription link to one Redis server: acknowledged, watched, taken up again.

Made by the channel layer, one per server and event loop. Nothing here knows what travels on it.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from realtime import conf
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_client import async_pool_options, name_of_redis
from realtime.silence import Silence

logger = logging.getLogger(__name__)

PROBE_SECONDS: Final = 1.5
SILENCE_SECONDS: Final = 4.0
RECONNECT_MIN_SECONDS: Final = 0.05
RECONNECT_ASKED_SECONDS: Final = 0.01  # where somebody waits for it
RECONNECT_MAX_SECONDS: Final = 1.0
SUBSCRIBE_CHUNK: Final = 500
SILENT_ACK_SECONDS: Final = 0.05
SILENT_OPEN_SECONDS: Final = 0.25


class ShardLink:
    """The subscription link to one server, and its publishing side.

    Takes the place of the parent's shard connection, which polls ten times a second, holds one
    lock across all publishes, and does not tell when it loses messages.
    """

    def __init__(
        self,
        index: int,
        host: dict[str, Any],
        *,
        deliver: Callable[[str, bytes], None],
        report: Callable[[int, bool], None],
    ) -> None:
        """Set up a link that opens with the first subscription.

        Args:
            index: Which of the layer's servers it leads to.
            host: Where that is, as in ``CHANNEL_LAYERS``.
            deliver: Called with the address and content of each message.
            report: Called with ``index``, and whether it has all that is wanted or was lost.
        """
        self.index = index
        self.host = host
        self._name = f"layer link {index} ({name_of_redis(host)})"  # without its password
        self.is_up = False
        self._deliver = deliver
        self._report = report
        self._timeout_seconds = conf.current().broker_timeout_seconds
        self._wanted: set[str] = set()
        self._acknowledged: set[str] = set()
        self._in_flight: Counter[str] = Counter()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._connection: AbstractConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._publisher: aioredis.Redis | None = None
        self._heard_at = 0.0
        self._silence = Silence(long_seconds=self._timeout_seconds)
        self._opening_at: float | None = None
        self._asked = asyncio.Event()
        self._resuming: set[str] | None = None  # what the new link has not acknowledged yet

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be heard on this link."""
        return bool(self._wanted)

    async def publish(self, address: str, message: bytes) -> None:
        """Publish for ``send`` and ``group_send``; at most once."""
        if self._publisher is None:
            pool = aioredis.BlockingConnectionPool.from_url(
                self.host["address"],
                max_connections=4,
                timeout=None,
                **async_pool_options(self.host),
            )
            self._publisher = aioredis.Redis.from_pool(pool)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._publisher.publish(address, message)
        except (RedisError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(str(error)) from error

    async def subscribe(self, address: str) -> None:
        """Return once the server has acknowledged that it sends ``address`` on this link.

        Raises:
            BrokerUnavailable: It did not in time, which is short while the server is silent. The
                wish stays: it is repeated when the link is taken up again, until ``unsubscribe``.
        """
        self._wanted.add(address)
        if self._task is None:
            self._task = asyncio.create_task(self._keep_link(), name=self._name)
        if address in self._acknowledged:
            return
        waiter = self._waiters.get(address)
        if waiter is None or waiter.done():
            waiter = self._waiters[address] = asyncio.get_running_loop().create_future()
            if self.is_up:
                await self._send("SUBSCRIBE", [address])
            else:
                self._asked.set()
        try:
            async with asyncio.timeout(self._patience_seconds()):
                await asyncio.shield(waiter)
        except TimeoutError as error:
            self._silence.begin(seconds_ago=self._timeout_seconds)
            raise BrokerUnavailable("the layer did not acknowledge a subscription") from error

    def _patience_seconds(self) -> float:
        # A silent server keeps nobody: a client's commands wait for one another, and one with many
        # channels there must not lose those it has elsewhere.
        if not self._silence.is_long:
            return self._timeout_seconds
        if self.is_up:
            return SILENT_ACK_SECONDS
        begun_at = self._opening_at or asyncio.get_running_loop().time()
        return max(0.0, begun_at + SILENT_OPEN_SECONDS - asyncio.get_running_loop().time())

    async def unsubscribe(self, address: str) -> None:
        """Hear no more of ``address``; not acknowledged."""
        self._wanted.discard(address)
        self._acknowledged.discard(address)
        self._waiters.pop(address, None)  # whoever still waits meets the deadline
        self._resumed(address)
        if self.is_up:
            await self._send("UNSUBSCRIBE", [address])

    async def flush(self) -> None:
        """Close both sides; the layer can be used again afterwards."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._wanted.clear()
        if self._publisher is not None:
            await self._publisher.aclose(close_connection_pool=True)
            self._publisher = None

    async def _keep_link(self) -> None:
        delay_seconds = RECONNECT_MIN_SECONDS
        while True:
            try:
                await self._open()
                delay_seconds = RECONNECT_MIN_SECONDS
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                if self.is_up and isinstance(error, TimeoutError):
                    self._silence.begin(seconds_ago=SILENCE_SECONDS)
                # Told once, not again with each attempt in vain.
                is_news = self.is_up or not self._silence.has_begun
                level = logging.WARNING if is_news else logging.DEBUG
                logger.log(level, "%s lost: %s", self._name, str(error) or "silent")
            except Exception:
                # A surprise costs one reconnect and a comparison, not the process's hearing.
                logger.exception("%s failed", self._name)
            finally:
                if not self.is_up:
                    self._silence.begin()
                await self._close()
            self._refuse_who_waits()
            await self._pause(delay_seconds * random.uniform(0.5, 1.0))
            delay_seconds = min(delay_seconds * 2, RECONNECT_MAX_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; whoever wants something ends it."""
        await asyncio.sleep(RECONNECT_ASKED_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - RECONNECT_ASKED_SECONDS):
                await self._asked.wait()
        self._asked.clear()

    def _refuse_who_waits(self) -> None:
        for waiter in self._waiters.values() if self._silence.is_long else ():
            if not waiter.done():
                waiter.set_exception(BrokerUnavailable("the layer's server does not answer"))
                waiter.exception()  # whoever still waits gets it; nobody need

    async def _open(self) -> None:
        pool = aioredis.ConnectionPool.from_url(
            self.host["address"], **async_pool_options(self.host)
        )
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        self._connection = connection
        self._opening_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(self._timeout_seconds):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
        self._heard_at = asyncio.get_running_loop().time()
        if self._silence.has_begun:
            logger.info("%s is up again", self._name)
        self._silence.end()
        self.is_up = True
        self._resuming = set(self._wanted)
        wanted = sorted(self._wanted)
        for start in range(0, len(wanted), SUBSCRIBE_CHUNK):
            # What was given up while an earlier chunk was on its way is wanted no more.
            chunk = [
                each for each in wanted[start : start + SUBSCRIBE_CHUNK] if each in self._wanted
            ]
            if chunk:
                await self._send("SUBSCRIBE", chunk)

    async def _listen(self) -> None:
        assert self._connection is not None
        connection = self._connection
        self._report_if_resumed()
        async with asyncio.timeout(None) as silence:
            probe = asyncio.create_task(self._probe(silence), name=f"layer probe {self.index}")
            try:
                while True:
                    self._handle(await connection.read_response(disconnect_on_error=False))
            finally:
                probe.cancel()

    async def _probe(self, silence: asyncio.Timeout) -> None:
        """Break a link that has fallen silent: a frozen server sends no error."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            silent_seconds = loop.time() - self._heard_at
            if silent_seconds > SILENCE_SECONDS:
                silence.reschedule(loop.time())
                return
            if silent_seconds > PROBE_SECONDS / 2:
                await self._send("PING", [])

    def _report_if_resumed(self) -> None:
        if self._resuming is not None and not self._resuming:
            self._resuming = None
            self._report(self.index, True)

    def _handle(self, response: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._silence.end()
        if not isinstance(response, list):
            return  # the answer to a PING on a link with no subscription
        kind = response[0]
        if kind == b"message":
            self._deliver(response[1].decode(), response[2])
        elif kind == b"subscribe":
            self._acknowledge(response[1].decode())

    def _acknowledge(self, address: str) -> None:
        self._in_flight[address] -= 1
        # An UNSUBSCRIBE and another SUBSCRIBE may have followed: only the last one counts.
        if self._in_flight[address] > 0:
            return
        del self._in_flight[address]
        self._resumed(address)
        if address not in self._wanted:
            return
        self._acknowledged.add(address)
        waiter = self._waiters.pop(address, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _resumed(self, address: str) -> None:
        if self._resuming is not None:
            self._resuming.discard(address)
            self._report_if_resumed()

    async def _send(self, command: str, addresses: list[str]) -> None:
        if command == "SUBSCRIBE":
            self._in_flight.update(addresses)
        connection = self._connection
        if connection is None:
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await connection.send_command(command, *addresses)
        except (RedisError, OSError, TimeoutError) as error:
            # The reading side will see the same and open the link anew.
            logger.debug("%s: %s not sent: %s", self._name, command, error)

    async def _close(self) -> None:
        was_up, self.is_up = self.is_up, False
        self._acknowledged.clear()
        self._in_flight.clear()
        self._resuming = None
        self._opening_at = None
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        if was_up:
            self._report(self.index, False)
