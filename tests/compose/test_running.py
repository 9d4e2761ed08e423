"""The deployment seen from outside, through nginx."""

import asyncio
import re
import uuid

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from tests.compose.conftest import INSTANCES, Connect, Visitor, instance_of, secrets_of
from tests.compose.containers import Stack
from tests.support import processes
from tests.support.publisher import Api
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.end_to_end

CHANNEL = "demo:compose"


# Pages ------------------------------------------------------------------------------------------


def who_answers(stack: Stack, beginning: str) -> str:
    """Ask for a page of which there is none, and return which instance said so."""
    path = f"{beginning}{uuid.uuid4().hex}/"
    Visitor(stack).ask(path)
    stack["nginx"].wait_for_line(path=path)
    (line,) = stack["nginx"].lines(path=path)
    return str(line["upstream"])


def test_pages_come_from_the_instance_for_pages(stack: Stack):
    visitor = Visitor(stack)

    answers = [visitor.ask(path) for path in ("/login/", "/admin/login/")]
    home = visitor.ask("/")

    assert [answer.status for answer in answers] == [200, 200]
    assert (home.status, home.headers["Location"]) == (302, "/login/?next=/")
    web = stack["web"].place.here("0.0.0.0:8000")
    assert {who_answers(stack, beginning) for beginning in ("/login/", "/admin/", "/")} == {web}


def test_static_files_have_names_of_their_content_and_stay(stack: Stack):
    visitor = Visitor(stack)
    (path,) = re.findall(r'href="(/static/dashboard/page\.\w+\.css)"', visitor.ask("/login/").body)

    answer = visitor.ask(path)

    assert answer.status == 200
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/ready",
        "/.env",
        "/.git/config",
        "/static/../manage.py",
        "/static/..%2fmanage.py",
        "/metrics",
    ],
)
def test_what_is_inside_stays_inside(stack: Stack, path: str):
    assert Visitor(stack).ask(path).status == 404


def test_health_is_there_for_whoever_asks(stack: Stack):
    answer = Visitor(stack).ask("/health")

    assert (answer.status, answer.body) == (200, "{}")
    assert answer.headers["Server"] == "nginx"


def test_pages_come_from_elsewhere_while_their_instance_is_down(stack: Stack):
    web = stack["web"]
    web.kill()
    try:
        statuses = [Visitor(stack).ask("/login/").status for _ in range(5)]
    finally:
        web.start()
        web.wait_healthy()

    assert statuses == [200] * 5
    address = web.place.here("0.0.0.0:8000")
    processes.wait_until(
        lambda: who_answers(stack, "/") == address, timeout_seconds=5, what=stack["nginx"].log
    )


# Messages ---------------------------------------------------------------------------------------


async def clients_everywhere(stack: Stack, connect: Connect) -> list[RawClient]:
    """Connect until each instance has a client.

    The one with the fewest connections gets the next. But to nginx what an earlier test closed may
    still be one, and an instance that was down is left alone for a second.
    """
    clients: list[RawClient] = []
    held: set[str] = set()
    while held < set(INSTANCES):
        assert len(clients) < 12, f"all of them went to {held}"
        clients.append(await connect())
        if (name := instance_of(stack, clients[-1])) in held:
            await asyncio.sleep(0.2)
        held.add(name)
    return clients


async def test_what_is_published_anywhere_arrives_everywhere(
    stack: Stack, connect: Connect, api: Api
):
    clients = await clients_everywhere(stack, connect)
    for client in clients:
        await client.subscribe(CHANNEL)
    text = uuid.uuid4().hex

    await api.call("publish", channel=CHANNEL, data={"id": text})
    for client in clients:
        await client.log.wait("pub", id=text)


async def test_a_client_whose_instance_dies_recovers_on_another(
    stack: Stack, connect: Connect, api: Api
):
    client = await connect()
    await client.subscribe(CHANNEL)
    lost = stack[instance_of(stack, client)]
    ids = [uuid.uuid4().hex for _ in range(10)]

    lost.kill()
    try:
        await client.log.wait("close")
        for each in ids:
            await api.call("publish", channel=CHANNEL, data={"id": each})
        await connect(client)
        result = await client.recover(CHANNEL)
        other = instance_of(stack, client)
    finally:
        lost.start()
        lost.wait_healthy()

    assert result["recovered"]
    assert [publication["data"]["id"] for publication in result["publications"]] == ids
    assert other != lost.name


async def test_an_instance_that_is_told_to_end_costs_no_publication(
    stack: Stack, connect: Connect, api: Api
):
    client = await connect()
    await client.subscribe(CHANNEL)
    ended = stack[instance_of(stack, client)]
    is_over = asyncio.Event()

    async def publish() -> int:
        count = 0
        while not is_over.is_set():
            await api.call("publish", channel=CHANNEL, data={})  # raises for what is no 200
            count += 1
        return count

    publishing = [asyncio.create_task(publish()) for _ in range(8)]
    try:
        code = await asyncio.to_thread(ended.stop)
    finally:
        is_over.set()
        ended.start()
        await asyncio.to_thread(ended.wait_healthy)
    counts = await asyncio.gather(*publishing)

    assert code == 0
    # nginx waits for a second where its knock fell into the moment of the end.
    assert min(counts) > 0
    assert sum(counts) > 40
    assert (await client.closed())["code"] == 3001


async def test_a_stop_of_nginx_waits_for_no_websocket(stack: Stack, connect: Connect):
    nginx, client = stack["nginx"], await connect()

    code = await asyncio.to_thread(nginx.stop)
    nginx.start()
    await asyncio.to_thread(nginx.wait_healthy)

    assert code == 0
    assert (await client.closed())["code"] == 1006


async def test_the_instance_for_pages_takes_no_websockets(stack: Stack):
    address = stack["web"].place.here("0.0.0.0")
    async with RawClient(f"ws://{address}:8000/connection/websocket") as client:
        with pytest.raises(InvalidStatus) as refused:
            await client.open()

    assert refused.value.response.status_code == 503


def test_instances_hold_few_connections_to_the_database(stack: Stack):
    host, password = stack["postgres"].place.here("0.0.0.0"), secrets_of(stack)["postgres_password"]
    for _ in range(20):
        Visitor(stack).ask("/admin/login/")

    with psycopg.connect(
        host=host, user="heliograph", password=password, dbname="heliograph"
    ) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'heliograph'"
        ).fetchone()

    assert row is not None
    assert row[0] <= 4 * 8 + 1  # the pools of four instances, and this one
