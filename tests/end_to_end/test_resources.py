"""Resources at ``/api/v1/`` on real servers, with their effects on the other instance."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from tests.support import world

PROBLEM = "application/problem+json"

pytestmark = [pytest.mark.end_to_end, pytest.mark.on_the_ends]


@dataclass(frozen=True)
class Answer:
    """What a resource answered with; ``next_path`` is below ``/api/v1/``."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    next_path: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Resources:
    """The resources of one instance; paths are sent as they are written."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, verb: str, path: str, **options: Any) -> Answer:
        url = URL(f"{self._url}/api/v1/{path}", encoded=True)
        async with self._session.request(verb, url, **options) as response:
            link = response.links.get("next")
            following = link["url"].raw_path_qs.removeprefix("/api/v1/") if link else ""
            return Answer(response.status, response.headers, await response.read(), following)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)


@pytest.fixture
async def resources(pair) -> AsyncIterator[Resources]:
    """The resources of instance a; the clients of these tests are on b."""
    async with aiohttp.ClientSession(headers={"X-API-Key": world.API_KEY}) as session:
        yield Resources(pair.a.url, session)


async def test_a_publication_reaches_a_client_byte_for_byte(pair, connect, resources, fresh):
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.subscribe(channel)

    answer = await resources.ask(
        "POST",
        f"channels/{channel}/publications",
        data=b'{"data": {"id":"m", "x": 1.0, "n": 18446744073709551615}, "tags": {"a": "b"}}',
        headers={"Content-Type": "application/json"},
    )

    seen = await client.log.wait("pub")
    assert answer.status == 201
    assert answer.json == {"offset": 1, "epoch": seen["epoch"]}
    assert seen["data"] == {"id": "m", "x": 1.0, "n": 18446744073709551615}
    assert (seen["offset"], seen["tags"]) == (1, {"a": "b"})
    page = await resources.get(f"channels/{channel}/publications")
    assert b'"data":{"id":"m", "x": 1.0, "n": 18446744073709551615}' in page.body


@pytest.mark.parametrize(
    "name",
    ["a/b", "/", "a//b", "a/publications", "#1,2", "?x=1", "%2F", "50%", "a b", "é", "\U0001f600",
     "a\nb", "..", "../..", "a:b", "$x", "+", "&"],
)  # fmt: skip
async def test_any_name_may_stand_in_the_address(api_b, resources, name, fresh):
    channel = f"{fresh('stream')}{name}"
    path = f"channels/{quote(channel, safe='')}/publications"

    created = await resources.ask("POST", path, json={"data": name})

    assert created.status == 201
    stored = await api_b.call("history", channel=channel, limit=-1)
    assert [each["data"] for each in stored["publications"]] == [name]
    page = (await resources.get(path)).json
    assert [each["data"] for each in page["publications"]] == [name]


async def test_slashes_may_stand_as_they_are(resources, fresh):
    channel = f"{fresh('stream')}/a/b"

    await resources.ask("POST", f"channels/{channel}/publications", json={"data": 1})

    page = (await resources.get(f"channels/{quote(channel, '')}/publications")).json
    assert page["offset"] == 1


async def test_an_address_that_is_not_utf_8_is_refused(resources):
    answer = await resources.get("channels/stream:%FF/publications")

    assert (answer.status, answer.headers["Content-Type"]) == (422, PROBLEM)
    assert answer.json["errors"][0]["field"] == "channel"


async def test_the_link_leads_to_the_next_page(resources, fresh):
    channel = f"{fresh('stream')}/é#,?%"
    path = f"channels/{quote(channel, safe='')}/publications"
    for number in range(5):
        await resources.ask("POST", path, json={"data": number})

    first = await resources.get(f"{path}?limit=3")
    second = await resources.get(first.next_path)

    assert [each["data"] for each in first.json["publications"]] == [0, 1, 2]
    assert [each["data"] for each in second.json["publications"]] == [3, 4]
    assert second.next_path == ""


async def test_head_has_the_tag_and_no_body(resources, fresh):
    path = f"channels/{fresh('stream')}/publications"
    await resources.ask("POST", path, json={"data": 1})

    head = await resources.ask("HEAD", path)
    same = await resources.get(path, headers={"If-None-Match": head.headers["ETag"]})

    assert (head.status, head.body) == (200, b"")
    assert (same.status, same.body) == (304, b"")


async def test_presence_shows_who_is_on_the_other_instance(pair, connect, resources, fresh):
    channel = fresh("room")
    one = await connect(to=pair.b, user="bob", claims={"info": {"n": 1.0}})
    two = await connect(to=pair.a, user="bob")
    for client in (one, two):
        await client.subscribe(channel)

    full = await resources.get(f"channels/{channel}/presence")
    counts = await resources.get(f"channels/{channel}/presence?counts=only")

    shown = full.json
    assert (shown["num_clients"], shown["num_users"]) == (2, 1)
    assert {each["client"] for each in shown["clients"]} == {one.client_id, two.client_id}
    assert b'"conn_info":{"n":1.0}' in full.body
    assert counts.json == {"num_clients": 2, "num_users": 1}


async def test_connections_of_all_instances_are_listed_page_by_page(
    pair, connect, resources, fresh
):
    user, channel = fresh("user"), fresh("room")
    clients = [await connect(to=server, user=user) for server in (pair.a, pair.b, pair.b)]
    await clients[2].subscribe(channel)

    found, path = [], f"connections?user={quote(user)}&limit=2"
    while path:
        page = (await resources.get(path)).json
        found += page["connections"]
        path = (
            f"connections?user={quote(user)}&limit=2&cursor={page['next']}"
            if "next" in page
            else ""
        )

    assert [each["client"] for each in found] == sorted(each.client_id for each in clients)
    assert {each["user"] for each in found} == {user}
    assert len({each["node"] for each in found}) == 2
    subscribed = (await resources.get(f"connections?channel={quote(channel)}")).json
    (only,) = subscribed["connections"]
    assert (only["client"], only["channels"]) == (clients[2].client_id, [channel])


async def test_a_connection_of_the_other_instance_is_closed(pair, connect, resources, kind):
    client = await connect(kind, to=pair.b, user="carol")
    witness = await connect(to=pair.b, user="carol")
    listed = (await resources.get("connections?user=carol")).json
    (number,) = {each["client"] for each in listed["connections"]} - {witness.client_id}

    answer = await resources.ask("DELETE", f"connections/{number}?code=4501&reason=bye")

    told = await client.log.wait("disconnect" if kind != "raw" else "close")
    assert answer.status == 202
    assert (told["code"], told["reason"]) == (4501, "bye")
    assert witness.log.of("close") == []


async def test_namespaces_are_those_of_the_database(resources):
    listed = (await resources.get("namespaces")).json

    assert {each["name"] for each in listed["namespaces"]} >= {
        str(each["name"]) for each in world.NAMESPACES
    }
    room = (await resources.get("namespaces/room")).json
    assert room["options"]["join_leave"] is True


async def test_what_is_refused_is_a_problem_on_the_wire_too(pair, resources):
    async with aiohttp.ClientSession() as session:
        stranger = await Resources(pair.a.url, session).get("namespaces")
    unknown = await resources.get("nothing")
    wrong = await resources.ask("PUT", "namespaces")

    for answer, status in ((stranger, 401), (unknown, 404), (wrong, 405)):
        assert (answer.status, answer.headers["Content-Type"]) == (status, PROBLEM)
        assert answer.json["status"] == status
