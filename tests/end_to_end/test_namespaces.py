"""A change of a namespace is live on every instance within two seconds, however it was made."""

import asyncio
import sqlite3
import time
from contextlib import closing

import psycopg
import pytest

from tests.support.raw_client import CommandError

pytestmark = pytest.mark.end_to_end

LIVE_SECONDS = 2.0
DEADLINE_SECONDS = 20.0  # a shell has to start meanwhile


def plain_connection(url: str) -> closing:
    """Return a connection to the database past Django."""
    if url.startswith("sqlite:///"):
        return closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=5))
    return closing(psycopg.connect(url))


async def becomes(call, code: int | None) -> float:
    """Return when a call ended as it should for the first time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            await call()
            seen = None
        except CommandError as error:
            seen = error.code
        if seen == code:
            return time.monotonic()
        assert time.monotonic() < deadline, f"still {seen}"
        await asyncio.sleep(0.05)


@pytest.mark.on_the_ends
@pytest.mark.rule("option-change-in-two-seconds")
async def test_a_change_made_in_a_shell_is_live_everywhere(pair, connect) -> None:
    clients = [await connect(to=server) for server in (pair.a, pair.b)]
    name = "made-in-a-shell"
    # The shell takes longer to start and to end than a change to spread: it says when it committed.
    script = (
        "from realtime.models import Namespace; import time\n"
        "{}\n"
        "print(time.clock_gettime(time.CLOCK_MONOTONIC))"
    )

    async def after(code: str, expected: int | None) -> list[float]:
        calls = [lambda c=c: c.publish(f"{name}:x", 1) for c in clients]
        output, *seen_at = await asyncio.gather(
            asyncio.to_thread(pair.manage, "shell", "-c", script.format(code)),
            *(becomes(call, expected) for call in calls),
        )
        committed_at = float(output.split()[-1])
        return [at - committed_at for at in seen_at]

    made = await after(
        f"Namespace.objects.create(name={name!r}, allow_publish_for_client=True)", None
    )
    changed = await after(
        f"Namespace.objects.filter(name={name!r}).update(allow_publish_for_client=False)", 103
    )
    removed = await after(f"Namespace.objects.filter(name={name!r}).delete()", 102)

    for seconds in made + changed + removed:
        assert seconds < LIVE_SECONDS


@pytest.mark.rule("option-change-in-two-seconds")
async def test_a_change_made_with_plain_sql_is_live_everywhere(pair, connect) -> None:
    clients = [await connect(to=server) for server in (pair.a, pair.b)]
    with plain_connection(pair.database_url) as database:

        def allow(value: str) -> float:
            database.execute(
                "UPDATE realtime_namespace SET allow_publish_for_client = "
                f"{value} WHERE name = 'closed'"
            )
            database.commit()
            return time.monotonic()

        calls = [lambda c=c: c.publish("closed:sql", 1) for c in clients]
        try:
            allowed_at = allow("TRUE")
            opened_at = await asyncio.gather(*(becomes(call, None) for call in calls))
        finally:
            forbidden_at = allow("FALSE")
            closed_at = await asyncio.gather(*(becomes(call, 103) for call in calls))

    assert max(opened_at) - allowed_at < LIVE_SECONDS
    assert max(closed_at) - forbidden_at < LIVE_SECONDS
