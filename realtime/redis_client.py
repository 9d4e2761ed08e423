"""Connections to the Redis servers of the channel layer, with deadlines and scripts.

``RedisServers`` for coroutines, ``SyncRedisServers`` for threads and commands; both run the same
``Act``, so that each thing done in Redis is written once. Where Redis is, ``CHANNEL_LAYERS`` says.
"""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import redis.asyncio as aioredis
from channels_redis.utils import _consistent_hash, decode_hosts
from django.conf import settings
from django.core.signals import setting_changed
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from realtime import conf
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_act import Act, T
from realtime.redis_lane import Lane

LAYER_ALIAS: Final = "default"
THREAD_CONNECTIONS: Final = 32
PART_MAX: Final = 1000  # acts that share a deadline: so many are done well within it


def layer_config() -> dict[str, Any]:
    """Return the ``CONFIG`` of the default channel layer."""
    config: Any = settings.CHANNEL_LAYERS[LAYER_ALIAS].get("CONFIG", {})
    return dict(config)


def hosts() -> list[dict[str, Any]]:
    """Return the layer's servers as channels_redis reads them: one dict each, with ``address``."""
    decoded: list[dict[str, Any]] = decode_hosts(layer_config().get("hosts"))
    return decoded


def name_of_redis(host: dict[str, Any]) -> str:
    """Return where a server is, without user and password; just what it is if that is unclear."""
    if "address" not in host:
        return f"redis at {host.get('host')}:{host.get('port')}"
    try:
        url = urlsplit(str(host["address"]))
        if url.scheme.startswith("unix"):
            return f"redis at {url.path}"
        return f"redis at {url.hostname or 'localhost'}:{url.port or 6379}"
    except ValueError:
        return "redis"  # where the port should be, a part of the password may stand


def group_address(group: str) -> str:
    """Return the Redis channel that the layer carries a group's messages on."""
    return _group_prefix() + group


@lru_cache(maxsize=1)
def _group_prefix() -> str:
    return f"{layer_config().get('prefix', 'asgi')}__group__"


def _forget(*, setting: str, **_: object) -> None:
    if setting == "CHANNEL_LAYERS":
        _group_prefix.cache_clear()


# Tests override settings; production never sends this signal.
setting_changed.connect(_forget)


def shard_of(group: str, shard_count: int) -> int:
    """Return which server holds a group, by the layer's own consistent hash."""
    return int(_consistent_hash(group_address(group), shard_count))


def pool_options(
    host: dict[str, Any], *, timeout_seconds: float | None, retry: Retry | AsyncRetry | None = None
) -> dict[str, Any]:
    """Return the options of a host's pool, under which no call outlives our own deadline.

    RESP2, because raw replies are read; no retries, because redis-py's can take 15 seconds on a
    frozen server and would publish twice after an answer was lost. What else the deployment says
    of a host stands.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": conf.current().broker_timeout_seconds,
        "socket_keepalive": True,
        "retry": retry or Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
    }
    options |= {key: host[key] for key in host.keys() - {"address", "socket_timeout"}}
    if str(host.get("address", "")).startswith("unix"):
        options.pop("socket_keepalive")  # a unix socket knows no such option
        options.pop("socket_connect_timeout")
    return options


def async_pool_options(host: dict[str, Any]) -> dict[str, Any]:
    """Return ``pool_options`` for redis-py's asynchronous connections.

    Without a socket timeout: every caller has a deadline of its own, and the ``wait_for`` that
    redis-py puts round each command loses a cancellation on Python 3.11, so that a call would
    wait twice.
    """
    return pool_options(host, timeout_seconds=None, retry=AsyncRetry(NoBackoff(), 0))


class RedisServers:
    """The layer's servers, for the coroutines of one event loop."""

    def __init__(self) -> None:
        self.timeout_seconds = conf.current().broker_timeout_seconds
        self.clients = [
            aioredis.Redis.from_pool(
                aioredis.ConnectionPool.from_url(host["address"], **async_pool_options(host))
            )
            for host in hosts()
        ]
        self._lanes = [
            Lane(client.connection_pool, timeout_seconds=self.timeout_seconds)
            for client in self.clients
        ]
        self._has_answered = [False] * len(self.clients)

    async def run(self, act: Act[T]) -> T:
        """Carry out one act.

        Raises:
            BrokerUnavailable: No answer within ``broker_timeout_seconds``; whether it was done is
                not known.
        """
        lane = self._lanes[shard_of(act.group, len(self._lanes))]
        (answer,) = await lane.run((act,))
        outcome = _outcome(act, answer)
        if isinstance(outcome, BrokerUnavailable):
            raise outcome
        return outcome

    async def run_many(self, acts: Sequence[Act[T]]) -> list[T | BrokerUnavailable]:
        """Carry out several acts, those of a server in order; each has its own outcome.

        They go in parts of ``PART_MAX``, a round trip each, one after another. Each part has a
        deadline of its own; after one without an answer the server is not asked for the rest.
        """
        outcomes: list[T | BrokerUnavailable] = [BrokerUnavailable("not run")] * len(acts)
        if not acts:
            return outcomes
        shards: dict[int, list[int]] = {}
        for index, act in enumerate(acts):
            shards.setdefault(shard_of(act.group, len(self._lanes)), []).append(index)
        async with asyncio.TaskGroup() as tasks:
            for shard, indexes in shards.items():
                tasks.create_task(self._run_on(shard, indexes, acts, outcomes))
        return outcomes

    async def _run_on(
        self,
        shard: int,
        indexes: list[int],
        acts: Sequence[Act[T]],
        outcomes: list[T | BrokerUnavailable],
    ) -> None:
        for start in range(0, len(indexes), PART_MAX):
            part = indexes[start : start + PART_MAX]
            try:
                answers = await self._lanes[shard].run([acts[index] for index in part])
            except BrokerUnavailable as error:
                # Later acts must not be done without the earlier ones.
                for index in indexes[start:]:
                    outcomes[index] = error
                return
            for index, answer in zip(part, answers, strict=True):
                outcomes[index] = _outcome(acts[index], answer)

    async def ping(self) -> list[int]:
        """Ask every server for a sign of life; return the places of those that gave none.

        The channels of one server are served without the others, so that one away is no reason to
        send clients elsewhere: there it is away too. One that never answered is: its address may
        be wrong here alone.

        Raises:
            BrokerUnavailable: None of them did in time, or one that has not answered yet.
        """
        answers = await asyncio.gather(*map(self._answers, self.clients))
        self._has_answered = [a or b for a, b in zip(self._has_answered, answers, strict=True)]
        if not any(answers) or not all(self._has_answered):
            raise BrokerUnavailable("no sign of life")
        return [place for place, does in enumerate(answers) if not does]

    async def _answers(self, client: aioredis.Redis) -> bool:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await client.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Close every connection."""
        for lane in self._lanes:
            await lane.close()
        for client in self.clients:
            await client.aclose(close_connection_pool=True)


def _outcome(act: Act[T], answer: Any) -> T | BrokerUnavailable:
    if isinstance(answer, Exception):
        return BrokerUnavailable(str(answer))
    return act.parse(answer)


class SyncRedisServers:
    """The same for threads, commands and views; safe to share between threads."""

    def __init__(self) -> None:
        timeout_seconds = conf.current().broker_timeout_seconds
        self.clients = [
            redis.Redis.from_pool(
                redis.BlockingConnectionPool.from_url(
                    host["address"],
                    max_connections=THREAD_CONNECTIONS,
                    # So that waiting for a connection and for its answer stay below two seconds.
                    timeout=timeout_seconds / 4,
                    **pool_options(host, timeout_seconds=timeout_seconds),
                )
            )
            for host in hosts()
        ]

    def run(self, act: Act[T]) -> T:
        """Carry out one act.

        Raises:
            BrokerUnavailable: No answer in time; whether it was done is not known.
        """
        client = self.clients[shard_of(act.group, len(self.clients))]
        keys = len(act.keys)
        try:
            try:
                answer = client.evalsha(act.script.sha, keys, *act.keys, *act.args)
            except NoScriptError:
                answer = client.eval(act.script.text, keys, *act.keys, *act.args)
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(str(error)) from error
        return act.parse(answer)

    def close(self) -> None:
        """Close every connection."""
        for client in self.clients:
            client.close()
