"""Which instances live, and questions to all of them.

Each instance says every few seconds that it lives. A question goes out on the control group, the
answers come back in a list of its own; who did not answer in time is named.
"""

import asyncio
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from realtime import redis_keys
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_act import Act, Script, script
from realtime.redis_client import RedisServers, group_address
from realtime.redis_keys import CONTROL_GROUP, INSTANCES

BEAT_SECONDS: Final = 2.0
LIFE_SECONDS: Final = 7
SURVEY_SECONDS: Final = 1.0
ANSWER_TTL_SECONDS: Final = 10
SURVEY: Final = "realtime.survey"
_POLL_SECONDS: Final = 0.01
_HERE = Path(__file__).parent / "broker"


class Question(msgspec.Struct, omit_defaults=True):
    """What all instances are asked.

    ``info``; ``channels`` that match ``pattern``; ``connections`` of ``user`` (None for all)
    that are subscribed to ``channel`` (empty for any), the first ``limit`` in the order of their
    clients behind ``after``.
    """

    survey: str
    op: str
    pattern: str = ""
    user: str | None = None
    channel: str = ""
    after: str = ""
    limit: int = 0


class Answer(msgspec.Struct):
    """What one instance says; ``content`` is JSON."""

    uid: str
    content: msgspec.Raw


class Collected(NamedTuple):
    """Who lives, and the answers that were asked for."""

    alive: set[str]
    answers: list[Answer]


class NodeInfo(msgspec.Struct):
    """One instance, as the server API shows it."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int


class ConnectionInfo(msgspec.Struct):
    """One connection, as lists show it; ``node`` is the uid of its instance."""

    client: str
    user: str
    node: str
    channels: list[str]


def _script(name: str) -> Script:
    return script(_HERE / f"{name}.lua")


def beat(uid: str, *, life_seconds: int = LIFE_SECONDS) -> Act[None]:
    """Say that an instance lives for so long; 0 takes it out."""
    return Act(CONTROL_GROUP, _script("beat"), (INSTANCES,), (uid, life_seconds), lambda _: None)


def ask(question: Question) -> Act[None]:
    """Put a question to every instance."""
    arguments = (group_address(CONTROL_GROUP), SURVEY, msgspec.json.encode(question))
    return Act(CONTROL_GROUP, _script("announce"), (), arguments, lambda _: None)


def answer(question: Question, uid: str, content: object) -> Act[None]:
    """Answer a question."""
    said = Answer(uid, msgspec.Raw(msgspec.json.encode(content)))
    return Act(
        CONTROL_GROUP,
        _script("survey_answer"),
        (redis_keys.survey(question.survey),),
        (msgspec.json.encode(said), ANSWER_TTL_SECONDS),
        lambda _: None,
    )


def _collect(question: Question, *, known_count: int) -> Act[Collected]:
    keys = (INSTANCES, redis_keys.survey(question.survey))
    return Act(CONTROL_GROUP, _script("survey_collect"), keys, (known_count,), _collected)


def _collected(raw: Any) -> Collected:
    alive, answers = raw
    said = [msgspec.json.decode(each, type=Answer) for each in answers]
    return Collected({uid.decode() for uid in alive}, said)


async def survey(
    servers: RedisServers, op: str, **wanted: Any
) -> tuple[dict[str, msgspec.Raw], list[str]]:
    """Ask every instance and return the answers by instance, and who did not answer.

    Args:
        servers: Where the question is put and the answers are read.
        op: What is asked.
        wanted: Further fields of the ``Question``.
    Raises:
        BrokerUnavailable: Redis did not answer.
    """
    question = Question(secrets.token_hex(8), op, **wanted)
    await servers.run(ask(question))
    ends_at = time.monotonic() + SURVEY_SECONDS
    answers: list[Answer] = []
    while True:
        # Only the new ones: an answer may be large, and one missing instance makes many turns.
        collected = await servers.run(_collect(question, known_count=len(answers)))
        answers += collected.answers
        missing = sorted(collected.alive - {each.uid for each in answers})
        if not missing or time.monotonic() >= ends_at:
            return {each.uid: each.content for each in answers}, missing
        await asyncio.sleep(_POLL_SECONDS)


async def keep_beating(servers: RedisServers, uid: str) -> None:
    """Say every two seconds that an instance lives, until cancelled; then take it out."""
    try:
        while True:
            with suppress(BrokerUnavailable):  # the next beat says it again
                await servers.run(beat(uid))
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        with suppress(BrokerUnavailable):  # it lapses by itself
            await servers.run(beat(uid, life_seconds=0))
