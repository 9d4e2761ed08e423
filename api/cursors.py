"""Pages of a stream: where the next one begins, and whether it still can."""

import base64
import binascii
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from api.problems import invalid
from realtime.protocol.errors import UnrecoverablePosition
from realtime.protocol.messages import (
    UINT64_MAX,
    HistoryResult,
    Publication,
    StreamPosition,
    Unsigned,
)

Order = Literal["asc", "desc"]


class Cursor(NamedTuple):
    """The last publication of a page, and which way the pages go."""

    order: Order
    offset: Unsigned
    epoch: str

    @property
    def position(self) -> StreamPosition:
        """Where the next page begins."""
        return StreamPosition(self.offset, self.epoch)

    def encoded(self) -> str:
        """Return it as callers hand it back; what is in it is no business of theirs."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()


def decode(text: str, *, order: Order) -> Cursor | None:
    """Return the cursor of a text; None of an empty one.

    Raises:
        Refused: No page of this order ever named it.
    """
    if not text:
        return None
    try:
        padded = text.encode() + b"=" * (-len(text) % 4)
        cursor = msgspec.json.decode(base64.b64decode(padded, b"-_", validate=True), type=Cursor)
    except (binascii.Error, msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise invalid("query", "cursor", "cursor is none of ours") from error
    if cursor.order != order:
        raise invalid("query", "cursor", "cursor is of the other order")
    if not 0 < cursor.offset <= UINT64_MAX:
        raise invalid("query", "cursor", "cursor is none of ours")
    return cursor


def next_cursor(read: HistoryResult, cursor: Cursor | None, *, order: Order, limit: int) -> str:
    """Return where the page after this one begins; empty if this is the last.

    Args:
        read: This page.
        cursor: Where it began.
        order: Which way the pages go.
        limit: How many publications a page has at most.
    Raises:
        UnrecoverablePosition: What follows the cursor is not kept any more.
    """
    found = read.publications
    if order == "asc":
        if cursor is not None and not _continues(found, cursor.offset, read.offset):
            raise UnrecoverablePosition
        has_more = bool(found) and found[-1].offset < read.offset
    else:
        has_more = len(found) == limit and found[-1].offset > 1
    return Cursor(order, found[-1].offset, read.epoch).encoded() if has_more else ""


def _continues(found: Sequence[Publication], offset: int, top: int) -> bool:
    if offset == top:
        return True
    return bool(found) and found[0].offset == offset + 1
