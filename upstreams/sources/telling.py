"""What the viewers of one channel are told: the value, or that it fails or is stale.

What was told last is read from the channel itself, which also keeps it for the next viewer. So a
poller that has just begun repeats nothing, and mends what was lost.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from realtime import services
from realtime.protocol.errors import (
    BadRequest,
    BrokerUnavailable,
    NotAvailable,
    ProtocolError,
    UnknownChannel,
)
from upstreams.models import DataSourceState
from upstreams.sources import mapping

State = DataSourceState.State
_NULL: Final = Raw(b"null")


class Told(msgspec.Struct):
    """The data of a publication.

    Attributes:
        value: The newest one, also while the source fails.
        at: When it was read; None while there is none.
        error: Why it fails.
    """

    state: str
    value: Raw = _NULL
    at: str | None = None
    error: str | UnsetType = UNSET


class Outcome(NamedTuple):
    """What a channel's viewers are told now, and why, if it is not a value."""

    state: State
    error: str = ""


_decode = msgspec.json.Decoder(Told).decode


class Teller:
    """Tells one channel of a source.

    Args:
        pointer: Which part of an answer is its value.
        stale_after_seconds: How long without a value until it is stale.
    """

    def __init__(self, channel: str, pointer: str, *, stale_after_seconds: float) -> None:
        self.channel = channel
        self.read_at: datetime | None = None  # when the newest value was read, by this one
        self._pointer = pointer
        self._stale_after_seconds = stale_after_seconds
        self._fresh_until = 0.0  # until it begins
        self._polled_at = 0.0
        self._is_stale = False
        self._error = ""  # of the last poll

    def begin(self, polled_seconds_ago: float | None) -> None:
        """Go on where another has stopped; the first time with as long as a value stays fresh.

        Args:
            polled_seconds_ago: How long ago the last poll was begun, by anybody; None for never.
        """
        now = time.monotonic()
        self._polled_at = 0.0 if polled_seconds_ago is None else now - polled_seconds_ago
        if not self._fresh_until:
            self._fresh_until = now + self._stale_after_seconds

    @property
    def seconds_left(self) -> float:
        """How long until ``tell_stale`` has something to tell, or longer; 0 or less is now."""
        if self._is_stale:
            return self._stale_after_seconds  # as soon as a value that is read now
        return self._fresh_until - time.monotonic()

    async def tell(self, answer: Raw | str, *, version: int) -> Outcome:
        """Publish what became of a poll, if it is other than what was told last.

        Args:
            answer: Checked JSON, or why there is none.
            version: Above those of all polls before.
        """
        try:
            if isinstance(answer, str):
                return await self._tell_failure(answer, version)
            try:
                return await self._tell_value(mapping.resolve(answer, self._pointer), version)
            except (mapping.NoValue, BadRequest) as error:  # or it is too large, for one
                return await self._tell_failure(str(error), version)
        except ProtocolError as error:  # nobody can be told
            return Outcome(State.FAILING, f"{self.channel}: {_why(error)}")

    async def tell_stale(self, *, version: int) -> Outcome | None:
        """Publish that no value was read for too long; None if that is not so, or not told."""
        if self.seconds_left > 0:
            return None
        with suppress(ProtocolError):
            reason = self._error or f"no value for {self._stale_after_seconds:g} seconds"
            return await self._tell_failure(reason, version)
        return None

    async def retire(self, reason: str, *, version: int) -> None:
        """Call a value stale that nobody will look for again; who was told nothing is not now."""
        self._fresh_until, self._polled_at = time.monotonic(), 0.0
        with suppress(ProtocolError):
            if await self._last() is not None:
                await self._tell_failure(reason, version)

    async def _tell_value(self, value: Raw, version: int) -> Outcome:
        read_at = datetime.now(UTC)
        last = await self._last()
        if last is None or last.state != State.OK or not mapping.is_same(last.value, value):
            await self._publish(Told(State.OK, value, iso(read_at)), version)
        self.read_at = read_at
        self._fresh_until = time.monotonic() + self._stale_after_seconds
        self._is_stale, self._error = False, ""
        return Outcome(State.OK)

    async def _tell_failure(self, reason: str, version: int) -> Outcome:
        self._error = reason
        last = await self._last() or Told("")
        if last.state == State.OK:  # so the poll before has brought a value, also another's
            value_until = self._polled_at + self._stale_after_seconds
            self._fresh_until = max(self._fresh_until, value_until)
        # What is stale stays so until there is a value: another poller may have said it.
        is_stale = last.state == State.STALE or time.monotonic() >= self._fresh_until
        outcome = Outcome(State.STALE if is_stale else State.FAILING, reason)
        if outcome.state != last.state:
            await self._publish_failure(outcome, last, version)
        self._is_stale = is_stale
        return outcome

    async def _publish_failure(self, outcome: Outcome, last: Told, version: int) -> None:
        reason = outcome.error
        at = iso(self.read_at) if last.at is not None and self.read_at else last.at
        told = Told(outcome.state, last.value, at, reason)
        try:
            await self._publish(told, version)
        except BadRequest:  # the value was as large as it may be, and now there is a reason
            await self._publish(Told(outcome.state, error=reason), version)

    async def _last(self) -> Told | None:
        kept = await services.akeep(self.channel)
        try:
            return None if kept is None else _decode(kept.data)
        except msgspec.MsgspecError:
            return None  # somebody else's publication

    async def _publish(self, told: Told, version: int) -> None:
        await services.apublish(self.channel, Raw(msgspec.json.encode(told)), version=version)


def _why(error: ProtocolError) -> str:
    """Say why nothing can be published, to an operator."""
    match error:
        case UnknownChannel():
            return "its namespace does not exist any more"
        case NotAvailable():
            return "its namespace keeps no history any more"
        case BrokerUnavailable():
            return "Redis did not answer"
    return error.message


def iso(moment: datetime) -> str:
    """Return a moment as viewers are told it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
