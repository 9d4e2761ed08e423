"""Who is there and what was said, across two instances, as each kind of client sees it."""

import pytest

from tests.support.raw_client import CommandError
from tests.support.servers import token

pytestmark = pytest.mark.end_to_end


@pytest.mark.rule("connect-token-names-user", "presence-result", "info-conn-info")
async def test_presence_names_the_clients_of_both_instances(pair, connect, fresh, kind) -> None:
    here = await connect(kind, to=pair.a, user="ada", claims={"info": {"name": "Ada"}})
    there = await connect(kind, to=pair.b, user="bob")
    channel = fresh("room")
    await here.subscribed(channel)
    await there.subscribed(channel)

    entries = await here.presence(channel)

    assert set(entries) == {here.client_id, there.client_id}
    entry = entries[here.client_id]
    assert (entry["user"], entry["client"]) == ("ada", here.client_id)
    assert entry["conn_info"] == {"name": "Ada"}
    assert entries[there.client_id]["user"] == "bob"


@pytest.mark.rule("presence-stats-result", "presence-per-connection")
async def test_two_connections_of_a_user_are_two_clients(pair, connect, fresh, kind) -> None:
    channel = fresh("room")
    clients = [await connect(kind, to=server) for server in (pair.a, pair.b)]
    for client in clients:
        await client.subscribed(channel)

    stats = await clients[0].presence_stats(channel)

    assert stats == {"num_clients": 2, "num_users": 1}


@pytest.mark.rule("zero-presence-stats")
async def test_an_empty_channel_counts_nobody(connect, fresh, kind) -> None:
    client = await connect(kind)

    assert await client.presence_stats(fresh("room")) == {"num_clients": 0, "num_users": 0}
    assert await client.presence(fresh("room")) == {}


@pytest.mark.rule("presence-gone-at-unsubscribe")
async def test_presence_follows_subscribing_and_unsubscribing_at_once(connect, fresh) -> None:
    client = await connect()
    channel = fresh("room")

    for _ in range(20):
        await client.subscribe(channel)
        assert await client.presence_stats(channel) == {"num_clients": 1, "num_users": 1}
        await client.unsubscribe(channel)
        assert await client.presence_stats(channel) == {"num_clients": 0, "num_users": 0}


@pytest.mark.rule("presence-gone-at-disconnect", "leave-at-lost-connection")
@pytest.mark.parametrize("ending", ["close", "drop"])
async def test_presence_ends_with_the_connection(pair, connect, fresh, ending) -> None:
    client, witness = await connect(to=pair.a), await connect(to=pair.b)
    channel = fresh("room")
    await witness.subscribe(channel)
    await client.subscribe(channel)

    await getattr(client, ending)()

    left = await witness.log.wait("leave")
    assert left["info"]["client"] == client.client_id
    assert list(await witness.presence(channel)) == [witness.client_id]


@pytest.mark.rule("join-to-oneself", "leave-not-to-oneself")
async def test_join_and_leave_are_told_to_all_and_join_to_oneself(
    pair, connect, fresh, kind
) -> None:
    here, there = await connect(kind, to=pair.a), await connect(kind, to=pair.b, user="bob")
    channel = fresh("room")
    await here.subscribed(channel)
    own = await here.log.wait("join")

    await there.subscribed(channel)
    joined = await here.log.wait("join", count=2)
    await there.unsubscribe(channel)
    left = await here.log.wait("leave")

    assert own["info"]["client"] == here.client_id
    assert (joined["info"]["client"], joined["info"]["user"]) == (there.client_id, "bob")
    assert left["info"]["client"] == there.client_id
    assert there.log.of("leave") == []


@pytest.mark.rule("history-position-alone", "history-since-forward", "history-reverse-from-top")
async def test_history_is_read_forward_and_backward(connect, fresh, kind) -> None:
    client = await connect(kind)
    channel = fresh("stream")
    for n in range(1, 6):
        await client.publish(channel, {"id": n})

    top = await client.history(channel)
    everything = await client.history(channel, limit=-1)
    later = await client.history(channel, limit=2, since={"offset": 2, "epoch": top["epoch"]})
    backward = await client.history(channel, limit=2, reverse=True)

    assert (top["publications"], top["offset"]) == ([], 5)
    assert [p["data"]["id"] for p in everything["publications"]] == [1, 2, 3, 4, 5]
    assert [p["offset"] for p in later["publications"]] == [3, 4]
    assert [p["offset"] for p in backward["publications"]] == [5, 4]
    assert everything["publications"][0]["info"]["user"] == "ada"


@pytest.mark.rule("history-epoch-112")
async def test_history_of_another_epoch_is_an_error(connect, fresh, kind) -> None:
    client = await connect(kind)
    channel = fresh("stream")
    await client.publish(channel, 1)

    with pytest.raises(CommandError) as raised:
        await client.history(channel, limit=1, since={"offset": 1, "epoch": "zzzzzzzz"})

    assert raised.value.code == 112


@pytest.mark.rule("history-limit-clamped", "default-history-300")
async def test_history_has_a_limit_for_clients(connect, api_a, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    command = {"publish": {"channel": channel, "data": 1}}
    await api_a.call("batch", commands=[command] * 310)

    result = await client.history(channel, limit=-1)

    assert (len(result["publications"]), result["offset"]) == (300, 310)


@pytest.mark.rule("history-reverse-zero-107")
async def test_backward_from_zero_is_a_bad_request(connect, fresh) -> None:
    client = await connect()

    with pytest.raises(CommandError) as raised:
        await client.history(fresh("stream"), reverse=True, since={"offset": 0, "epoch": ""})

    assert raised.value.code == 107


async def test_presence_can_be_read_after_a_reconnect(pair, connect, fresh) -> None:
    client = await connect()
    channel = fresh("room")
    await client.subscribe(channel)
    before = client.client_id
    await client.drop()

    await client.connect(token("ada"))
    await client.subscribe(channel)

    assert client.client_id != before
    assert client.client_id in await client.presence(channel)
