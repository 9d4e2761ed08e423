"""Judge the logs of publishers and subscribers after a run.

Pure: events in, violations out. The rules are those of the project's promise: what was
acknowledged arrives, once, in order, or the client was told that it did not.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.event_log import Event


class Violation(NamedTuple):
    """One broken rule."""

    rule: str
    who: str
    channel: str
    detail: str


@dataclass
class Span:
    """A stretch that a subscriber followed without being told of a loss.

    What was acknowledged in one of its epochs behind ``first_offset`` is owed to it: up to the
    position it held when it was told, or all of it if it never was.
    """

    first_offset: int
    epochs: set[str]
    last_offset: int
    ended_at: int | None = None

    def owes(self, epoch: str, offset: int) -> bool:
        is_behind = self.ended_at is None or offset <= self.ended_at
        return epoch in self.epochs and self.first_offset < offset and is_behind


@dataclass
class Follower:
    """One subscriber's view of one channel, rebuilt from its log."""

    who: str
    channel: str
    spans: list[Span] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    violations: list[Violation] = field(default_factory=list)

    def take(self, event: Event) -> None:
        if event["event"] == "subscribed":
            self._subscribe(event)
        elif event["event"] == "pub":
            self._publication(event)

    def _subscribe(self, event: Event) -> None:
        epoch, offset = event["epoch"], event["offset"]
        if event["recovered"] and self.spans:
            span = self.spans[-1]
            if offset != span.last_offset:
                self._violation("recovery", f"held {span.last_offset}, was answered {offset}")
            span.epochs.add(epoch)
            return
        # Not recovered, or not asked for: the client knows that it starts anew.
        if self.spans:
            self.spans[-1].ended_at = self.spans[-1].last_offset
        self.spans.append(Span(offset, {epoch}, offset))

    def _publication(self, event: Event) -> None:
        name, offset = event["id"], event["offset"]
        if name is not None and name in self.seen:
            self._violation("doubled", f"{name} again at {event['epoch']}/{offset}")
            return
        self.seen.add(name)
        if not offset or not self.spans:
            return
        span = self.spans[-1]
        if offset <= span.last_offset:
            self._violation("reordered", f"{offset} after {span.last_offset}")
        elif offset != span.last_offset + 1:
            self._violation("gap", f"{offset} after {span.last_offset}, and nobody told it")
        span.last_offset = max(offset, span.last_offset)

    def _violation(self, rule: str, detail: str) -> None:
        self.violations.append(Violation(rule, self.who, self.channel, detail))


def check(events: Iterable[Event], *, gone: Iterable[str] = ()) -> list[Violation]:
    """Return what broke the promise in the logs of one run.

    Args:
        events: Those of all publishers and subscribers; order matters only within one ``who``.
        gone: Subscribers that had left before the end, to whom the rest is not owed.
    """
    everything = list(events)
    followers = _followers(everything)
    found = [v for follower in followers for v in follower.violations]
    found += _twice_used(everything)
    found += _phantoms(everything)
    found += _lost(everything, followers, set(gone))
    return found


def _followers(events: list[Event]) -> list[Follower]:
    followers: dict[tuple[str, str], Follower] = {}
    for event in events:
        if event["event"] in ("subscribed", "pub"):
            key = event["who"], event["channel"]
            followers.setdefault(key, Follower(*key)).take(event)
    return list(followers.values())


def _twice_used(events: list[Event]) -> list[Violation]:
    """One position has one content, and one content one place in its epoch."""
    contents: dict[tuple[str, str, int], str] = {}
    places: dict[tuple[str, str, str], int] = {}
    found = []
    for event in events:
        if event["event"] not in ("pub", "ok") or not event["offset"] or event["id"] is None:
            continue
        who, channel, epoch = event["who"], event["channel"], event["epoch"]
        offset, name = event["offset"], event["id"]
        first = contents.setdefault((channel, epoch, offset), name)
        if first != name:
            found.append(Violation("unique", who, channel, f"{epoch}/{offset}: {first}, {name}"))
        place = places.setdefault((channel, epoch, name), offset)
        if place != offset:
            found.append(Violation("once", who, channel, f"{name} at {place} and {offset}"))
    return found


def _phantoms(events: list[Event]) -> list[Violation]:
    tried = {event["id"] for event in events if event["event"] == "try"}
    refused = {event["id"] for event in events if event["event"] == "fail"}
    return [
        Violation("phantom", event["who"], event["channel"], str(event["id"]))
        for event in events
        if event["event"] == "pub" and (event["id"] not in tried or event["id"] in refused)
    ]


def _lost(events: list[Event], followers: list[Follower], gone: set[str]) -> list[Violation]:
    acknowledged: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["event"] == "ok" and event["offset"]:
            acknowledged[event["channel"]].append(event)
    found = []
    for follower in followers:
        if follower.who in gone and follower.spans:
            last = follower.spans[-1]
            last.ended_at = last.last_offset
        for event in acknowledged[follower.channel]:
            is_owed = any(s.owes(event["epoch"], event["offset"]) for s in follower.spans)
            if is_owed and event["id"] not in follower.seen:
                place = f"{event['id']} at {event['epoch']}/{event['offset']}"
                found.append(Violation("lost", follower.who, follower.channel, place))
    return found
