"""PostgreSQL goes away and comes back: who is connected does not notice, nothing is restarted."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.faults.conftest import BreakablePair, running
from tests.support.databases import FilledPostgres
from tests.support.follower import Follower
from tests.support.postgres import Postgres
from tests.support.publisher import Api, ApiError, Publisher
from tests.support.raw_client import RawClient
from tests.support.servers import Server, token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

BACK_SECONDS = 6.0


@pytest.fixture(scope="module")
def breakable_postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, breakable_postgres: Postgres
) -> Iterator[BreakablePair]:
    folder: Path = tmp_path_factory.mktemp("on-postgres")
    filled = FilledPostgres(folder, breakable_postgres)
    with running(folder, filled, redis_count=1) as pair:
        pair.wait_ready()
        yield pair


async def has_namespace(api: Api, name: str) -> bool:
    """Publish into a namespace; it is unknown, or the publication is stored."""
    try:
        await api.call("publish", channel=f"{name}:x", data=1)
    except ApiError as error:
        if error.code == 102:
            return False
        raise
    return True


async def test_deliveries_go_on_without_the_database_and_changes_are_seen_after_its_return(
    pair, breakable_postgres, fresh, judge
) -> None:
    channel, name = fresh("stream"), "made-after-its-return"
    async with contextlib.AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(Api(server.url)) for server in pair.servers]
        followers = [
            await stack.enter_async_context(Follower(s.websocket_url, channel, who=s.name))
            for s in pair.servers
        ]
        publisher = Publisher(*apis)
        running = asyncio.create_task(publisher.run([channel], per_second=50, seconds=14))
        await followers[0].log.wait("pub", count=10)

        await asyncio.to_thread(breakable_postgres.kill)
        gone_at = time.monotonic()
        for server in pair.servers:
            async with RawClient(server.websocket_url) as client:
                await client.connect(token("bob"))
                await client.subscribe(channel)
            assert (await asyncio.to_thread(server.get, "/ready"))[0] == 200
        # Long enough for a pool's pauses between attempts to have grown.
        await asyncio.sleep(9 - (time.monotonic() - gone_at))
        await asyncio.to_thread(breakable_postgres.start)
        back_at = time.monotonic()

        script = f"from realtime.models import Namespace; Namespace.objects.create(name={name!r})"
        await asyncio.to_thread(pair.manage, "shell", "-c", script)
        for api in apis:
            while not await has_namespace(api, name):
                assert time.monotonic() - back_at < BACK_SECONDS
                await asyncio.sleep(0.1)
        await running
        for follower in followers:
            await follower.log.wait("pub", id=publisher.log.of("ok")[-1]["id"])

        assert publisher.log.of("unknown") + publisher.log.of("fail") == []
        judge(publisher.log, *(follower.log for follower in followers))
        for follower in followers:
            assert len(follower.log.of("connected")) == 1
            assert follower.names() == [event["id"] for event in publisher.log.of("ok")]


async def test_the_first_page_after_a_restart_of_the_database_is_served(
    pair, breakable_postgres
) -> None:
    """What lies in a pool was cut, and whoever is given it first must not pay for that."""
    cookies = {"sessionid": "x" * 32}  # to be looked up
    async with aiohttp.ClientSession(cookies=cookies) as browser:

        async def page(server: Server) -> int:
            async with browser.get(f"{server.url}/admin/", allow_redirects=False) as response:
                return response.status

        for _ in range(3):
            for server in pair.servers:
                assert await page(server) == 302

            await asyncio.to_thread(breakable_postgres.kill)
            await asyncio.to_thread(breakable_postgres.start)

            for server in pair.servers:
                assert await page(server) == 302


async def test_an_instance_starts_when_the_database_comes_and_not_before(
    pair, breakable_postgres, tmp_path
) -> None:
    await asyncio.to_thread(breakable_postgres.stop)
    late = pair.add("late")
    try:
        code = await asyncio.to_thread(late.process.wait, 15)
        assert code == 3
        assert "DATABASE_URL" in late.log()

        await asyncio.to_thread(breakable_postgres.start)
        late.start()

        await asyncio.to_thread(late.wait_ready)
    finally:
        pair.servers.remove(late)
        late.close()
        if not breakable_postgres.answers():
            breakable_postgres.start()
