"""What the broker does in Redis, as data: each act with its script, keys and reading.

Used by ``Broker`` in coroutines and by ``services`` in threads.
"""

import secrets
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from realtime import conf
from realtime.layers import PUBLICATION
from realtime.protocol import codec
from realtime.protocol.messages import UINT64_MAX, Publication, StreamPosition
from realtime.recovery import History
from realtime.redis_act import Act, script
from realtime.redis_client import group_address
from realtime.redis_keys import ChannelKeys, of_channel

_HERE = Path(__file__).parent
_META = _HERE / "meta.lua"
_PUBLISH = script(_META, _HERE / "publish.lua")
_EPOCH_LETTERS = 8
_LETTER_OF_BYTE = (string.ascii_letters * 5)[:256].encode()


class Published(NamedTuple):
    """The answer to a publish: where it is, or where the first one of its key is."""

    position: StreamPosition
    outcome: str


class Retention(NamedTuple):
    """How much of a stream is kept, and how long after the last publish; 0 keeps nothing.

    ``meta_ttl_seconds`` is how long offset and epoch outlive the last use; 0 for the default.
    """

    size: int = 0
    ttl_seconds: int = 0
    meta_ttl_seconds: int = 0


def new_epoch() -> str:
    """Return a random epoch of eight letters.

    Source: Centrifugo client protocol, stream model.
    """
    return secrets.token_bytes(_EPOCH_LETTERS).translate(_LETTER_OF_BYTE).decode()


def publish(
    channel: str,
    body: bytes,
    *,
    retention: Retention,
    idempotency_key: str = "",
    version: int = 0,
    version_epoch: str = "",
    keys: ChannelKeys | None = None,
) -> Act[Published]:
    """Append ``body`` to the stream if it is kept, and tell every instance.

    A repeated idempotency key answers with the first publication's position and does nothing.
    """
    keys = keys or of_channel(channel)
    settings = conf.current()
    return Act(
        keys.group,
        _PUBLISH,
        # Without a key of the caller the third one is not used.
        (keys.meta, keys.stream, keys.idempotency_prefix + idempotency_key),
        (
            channel,
            new_epoch(),
            retention.meta_ttl_seconds or settings.history_meta_ttl_seconds,
            retention.size if retention.ttl_seconds > 0 else 0,
            retention.ttl_seconds,
            group_address(keys.group),
            PUBLICATION,
            body,
            settings.idempotency_ttl_seconds if idempotency_key else 0,
            version,
            version_epoch,
        ),
        _published,
    )


def _published(answer: Any) -> Published:
    offset, epoch, outcome = answer
    return Published(StreamPosition(int(offset), epoch.decode()), outcome.decode())


def history(
    channel: str,
    *,
    since: StreamPosition | None,
    limit: int,
    reverse: bool = False,
    keys: ChannelKeys | None = None,
) -> Act[History]:
    """Read ``limit`` publications after ``since`` (before it, newest first, with ``reverse``).

    ``limit`` 0 reads the top alone, below 0 all. The epoch of ``since`` is for the caller to judge.
    """
    if reverse:
        before = "+" if since is None else str(max(since.offset - 1, 0))
        bounds = ("XREVRANGE", before, "-")
    else:
        bounds = ("XRANGE", _after(since.offset) if since else "-", "+")
    return _read(channel, bounds, limit, None, keys)


def newest(
    channel: str, *, after_offset: int, limit: int, witness: StreamPosition | None = None
) -> Act[History]:
    """Read the newest ``limit`` publications with an offset above ``after_offset``, oldest first.

    ``witness`` is a position that this instance was handed; where it lies above what a restart
    of Redis kept, it forbids recovery across that restart.
    """
    bounds = ("XREVRANGE", "+", _after(after_offset))
    act = _read(channel, bounds, limit, witness, None)
    return act._replace(parse=_oldest_first)


def top(channel: str, *, witness: StreamPosition | None = None) -> Act[History]:
    """Read the stream's top alone."""
    return _read(channel, ("", "-", "+"), 0, witness, None)


def _after(offset: int) -> str:
    # An exclusive bound would overflow on the last offset there is.
    return str(min(offset + 1, UINT64_MAX))


def _read(
    channel: str,
    bounds: tuple[str, str, str],
    limit: int,
    witness: StreamPosition | None,
    keys: ChannelKeys | None,
) -> Act[History]:
    keys = keys or of_channel(channel)
    command, first, second = bounds
    witness = witness or StreamPosition()
    return Act(
        keys.group,
        script(_META, _HERE / "history.lua"),
        (keys.meta, keys.stream),
        (
            channel,
            new_epoch(),
            conf.current().history_meta_ttl_seconds,
            command if limit else "",
            first,
            second,
            max(limit, -1),
            witness.epoch,
            witness.offset,
        ),
        _history,
    )


def _history(answer: Any) -> History:
    offset, epoch, previous_epoch, previous_top, entries = answer
    return History(
        [_publication(*entry) for entry in entries],
        StreamPosition(int(offset), epoch.decode()),
        StreamPosition(int(previous_top), previous_epoch.decode()),
    )


def _oldest_first(answer: Any) -> History:
    answer[4].reverse()
    return _history(answer)


def _publication(entry_id: bytes, fields: Sequence[bytes]) -> Publication:
    publication = codec.decode_publication(fields[1])
    publication.offset = int(entry_id.partition(b"-")[0])
    return publication


def remove(channel: str) -> Act[None]:
    """Drop the publications; offset and epoch stay."""
    keys = of_channel(channel)
    return Act(keys.group, script(_HERE / "remove.lua"), (keys.stream,), (), lambda _: None)


def keep(channel: str, *, ttl_seconds: int) -> Act[Publication | None]:
    """Read the newest publication, and have the stream live on as if it came just now."""
    keys = of_channel(channel)
    return Act(
        keys.group,
        script(_HERE / "keep.lua"),
        (keys.meta, keys.stream),
        (ttl_seconds,),
        lambda body: None if body is None else codec.decode_publication(body),
    )


def announce(group: str, kind: str, body: bytes) -> Act[None]:
    """Tell every instance something that no stream keeps: it may be lost."""
    arguments = (group_address(group), kind, body)
    return Act(group, script(_HERE / "announce.lua"), (), arguments, lambda _: None)
