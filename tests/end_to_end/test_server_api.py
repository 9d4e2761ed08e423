"""Every method of the server API, done with ``cent`` on one instance and seen on the other."""

import asyncio
import json
from collections.abc import AsyncIterator

import cent
import pytest

from tests.support import world
from tests.support.publisher import Api

pytestmark = pytest.mark.end_to_end


@pytest.fixture
async def api(pair) -> AsyncIterator[cent.AsyncClient]:
    """``cent`` on instance a; the clients of these tests are on b."""
    async with cent.AsyncClient(f"{pair.a.url}/api", api_key=world.API_KEY) as client:
        yield client


# Each method, by its effect on the other instance ----------------------------------------------


@pytest.mark.rule(
    "push-pub-info-tags",
    "info-not-from-api",
    "api-every-instance",
    "api-publish-result",
    "api-publish-tags",
    "cent-calls",
)
async def test_publish(pair, connect, api, fresh, kind) -> None:
    client = await connect(kind, to=pair.b)
    channel = fresh("stream")
    await client.subscribed(channel)

    result = await api.publish(
        cent.PublishRequest(channel=channel, data={"id": "m", "x": [1, None]}, tags={"a": "b"})
    )

    seen = await client.log.wait("pub")
    assert seen["data"] == {"id": "m", "x": [1, None]}
    assert (seen["offset"], seen["tags"], seen["info"]) == (1, {"a": "b"}, None)
    assert (result.offset, result.epoch) == (1, seen["epoch"])


@pytest.mark.rule(
    "publish-skip-history", "publish-skip-history-positioned", "api-publish-skip-history"
)
async def test_publish_without_history(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.subscribe(channel)

    result = await api.publish(cent.PublishRequest(channel=channel, data=1, skip_history=True))
    await api.publish(cent.PublishRequest(channel=channel, data=2))

    await client.log.wait("pub", count=2)
    assert (result.offset, result.epoch) == (0, "")
    assert [(e["data"], e["offset"]) for e in client.log.of("pub")] == [(1, 0), (2, 1)]


@pytest.mark.rule(
    "idempotency-original-position", "idempotency-publishes-nothing", "api-publish-idempotency-key"
)
async def test_publish_once_for_one_idempotency_key(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.subscribe(channel)
    request = cent.PublishRequest(channel=channel, data=1, idempotency_key="k")

    first, second = await api.publish(request), await api.publish(request)
    await api.publish(cent.PublishRequest(channel=channel, data="end"))

    await client.log.wait("pub", data="end")
    assert first == second
    assert [e["data"] for e in client.log.of("pub")] == [1, "end"]


@pytest.mark.rule("api-broadcast-responses", "cent-calls")
async def test_broadcast(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    channels = [fresh("stream"), fresh("live")]
    for channel in channels:
        await client.subscribe(channel)

    result = await api.broadcast(
        cent.BroadcastRequest(channels=[channels[0], "nowhere:x", channels[1]], data={"id": "all"})
    )

    for channel in channels:
        await client.log.wait("pub", channel=channel, id="all")
    stored, unknown, unstored = result.responses
    assert stored.result.offset == 1
    assert (unknown.error.code, unknown.error.message) == (102, "unknown channel")
    assert (unstored.error, unstored.result.offset) == (None, 0)


@pytest.mark.rule("cent-calls", "cent-batch")
@pytest.mark.parametrize("parallel", [False, True])
async def test_batch(pair, connect, api, fresh, parallel) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.subscribe(channel)

    result = await api.batch(
        cent.BatchRequest(
            requests=[
                cent.PublishRequest(channel=channel, data=1),
                cent.PresenceStatsRequest(channel=channel),
            ],
            parallel=parallel,
        )
    )

    assert (await client.log.wait("pub"))["data"] == 1
    published, stats = result.replies
    assert published.offset == 1
    assert (stats.num_clients, stats.num_users) == (1, 1)


@pytest.mark.rule("batch-no-result-wrapper", "batch-null-107", "batch-unknown-104")
async def test_a_batch_answers_each_command_in_its_place(api_a, fresh) -> None:
    channel = fresh("stream")

    answer = json.loads(
        await api_a.post(
            "batch",
            json.dumps(
                {
                    "commands": [
                        {"publish": {"channel": channel, "data": 1}},
                        {"publish": {"channel": "nowhere:x", "data": 1}},
                        None,
                        {"unheard_of": {}},
                        {"presence": {"channel": channel}},
                        {"history": {"channel": channel}},
                    ]
                }
            ),
        )
    )

    assert list(answer) == ["replies"]
    replies = answer["replies"]
    assert replies[0]["publish"]["offset"] == 1
    assert [replies[n]["error"]["code"] for n in (1, 2, 3)] == [102, 107, 104]
    assert replies[4] == {"presence": {"presence": {}}}
    assert replies[5]["history"]["offset"] == 1


@pytest.mark.rule(
    "api-history-result", "api-history-position-alone", "api-history-since", "cent-calls"
)
async def test_history(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    for n in range(1, 4):
        await client.publish(channel, {"id": n})

    top = await api.history(cent.HistoryRequest(channel=channel))
    result = await api.history(
        cent.HistoryRequest(
            channel=channel, limit=-1, since=cent.StreamPosition(offset=1, epoch=top.epoch)
        )
    )

    assert (top.offset, top.publications) == (3, [])
    assert [(p.offset, p.data["id"]) for p in result.publications] == [(2, 2), (3, 3)]
    assert result.publications[0].info.user == "ada"


@pytest.mark.rule("stream-remove-keeps-position", "api-history-remove", "cent-calls")
async def test_history_remove(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.publish(channel, 1)

    await api.history_remove(cent.HistoryRemoveRequest(channel=channel))

    result = await client.history(channel, limit=-1)
    assert (result["publications"], result["offset"]) == ([], 1)


@pytest.mark.rule("api-every-instance", "api-presence-result", "cent-calls")
async def test_presence(pair, connect, api, fresh, kind) -> None:
    client = await connect(kind, to=pair.b, user="bob", claims={"info": {"name": "Bob"}})
    channel = fresh("room")
    await client.subscribed(channel)

    result = await api.presence(cent.PresenceRequest(channel=channel))

    (entry,) = result.presence.values()
    assert (entry.user, entry.client, entry.conn_info) == (
        "bob",
        client.client_id,
        {"name": "Bob"},
    )


@pytest.mark.rule("api-presence-stats-result", "cent-calls")
async def test_presence_stats(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    channel = fresh("room")
    nobody = await api.presence_stats(cent.PresenceStatsRequest(channel=channel))
    await client.subscribe(channel)

    somebody = await api.presence_stats(cent.PresenceStatsRequest(channel=channel))

    assert (nobody.num_clients, nobody.num_users) == (0, 0)
    assert (somebody.num_clients, somebody.num_users) == (1, 1)


@pytest.mark.rule("api-every-instance", "api-channels-counts", "api-channels-pattern", "cent-calls")
async def test_channels(pair, connect, api, fresh) -> None:
    here, there = await connect(to=pair.a), await connect(to=pair.b)
    channel, other = fresh("stream"), fresh("live")
    await here.subscribe(channel)
    await there.subscribe(channel)
    await there.subscribe(other)

    everything = await api.channels(cent.ChannelsRequest())
    some = await api.channels(cent.ChannelsRequest(pattern="stream:*"))

    assert everything.channels[channel].num_clients == 2
    assert everything.channels[other].num_clients == 1
    assert channel in some.channels
    assert other not in some.channels


@pytest.mark.rule("api-info-nodes", "cent-calls")
async def test_info(pair, connect, api, fresh) -> None:
    client = await connect(to=pair.b)
    await client.subscribe(fresh("stream"))

    result = await api.info(cent.InfoRequest())

    assert len({node.uid for node in result.nodes}) == 2
    assert sum(node.num_clients for node in result.nodes) >= 1
    assert sum(node.num_subs for node in result.nodes) >= 1
    assert sum(node.num_channels for node in result.nodes) >= 1
    assert all(node.version and node.name and node.uptime >= 0 for node in result.nodes)


@pytest.mark.rule(
    "push-unsubscribe",
    "unsubscribe-2000",
    "api-every-instance",
    "api-unsubscribe-push",
    "cent-calls",
)
async def test_unsubscribe(pair, connect, api, fresh, kind) -> None:
    client = await connect(kind, to=pair.b, user="bob")
    channel = fresh("room")
    await client.subscribed(channel)

    await api.unsubscribe(cent.UnsubscribeRequest(user="bob", channel=channel))

    told = await client.log.wait("unsub", channel=channel)
    assert (told["code"], told["reason"]) == (2000, "server unsubscribe")
    assert await client.presence(channel) == {}


@pytest.mark.rule("api-unsubscribe-narrowed")
async def test_unsubscribe_of_one_client_alone(pair, connect, api, fresh) -> None:
    one, other = [await connect(to=pair.b, user="bob") for _ in range(2)]
    channel = fresh("room")
    await one.subscribe(channel)
    await other.subscribe(channel)

    await api.unsubscribe(
        cent.UnsubscribeRequest(user="bob", channel=channel, client=one.client_id)
    )

    await one.log.wait("unsub", channel=channel)
    assert list(await other.presence(channel)) == [other.client_id]
    assert other.log.of("unsub") == []


@pytest.mark.rule(
    "close-3503",
    "close-terminal-stops-sdks",
    "api-every-instance",
    "api-disconnect-3503",
    "cent-calls",
)
async def test_disconnect(pair, connect, api, kind) -> None:
    client = await connect(kind, to=pair.b, user="carol")
    witness = await connect(to=pair.b, user="bob")

    await api.disconnect(cent.DisconnectRequest(user="carol"))

    told = await client.log.wait("disconnect")
    assert (told["code"], told["reason"]) == (3503, "force disconnect")
    assert witness.log.of("close") == []


@pytest.mark.rule(
    "close-application-codes", "api-disconnect-code-reason", "api-disconnect-whitelist"
)
async def test_disconnect_with_another_code_and_one_client_kept(pair, connect, api) -> None:
    one, kept = [await connect(to=pair.b, user="dave") for _ in range(2)]

    await api.disconnect(
        cent.DisconnectRequest(
            user="dave",
            whitelist=[kept.client_id],
            disconnect=cent.Disconnect(code=4501, reason="bye"),
        )
    )

    closed = await one.closed()
    assert (closed["code"], closed["reason"]) == (4501, "bye")
    assert kept.log.of("close") == []


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.rule(
    "api-error-200",
    "api-namespace-102",
    "api-presence-off-108",
    "api-history-epoch-112",
    "cent-errors",
)
async def test_an_error_is_an_answer_that_cent_understands(api, fresh) -> None:
    with pytest.raises(cent.CentApiResponseError) as raised:
        await api.publish(cent.PublishRequest(channel="nowhere:x", data=1))
    assert (raised.value.code, raised.value.message) == (102, "unknown channel")

    with pytest.raises(cent.CentApiResponseError) as raised:
        await api.presence(cent.PresenceRequest(channel=fresh("live")))
    assert raised.value.code == 108

    with pytest.raises(cent.CentApiResponseError) as raised:
        await api.history(
            cent.HistoryRequest(
                channel=fresh("stream"), since=cent.StreamPosition(offset=1, epoch="zzzzzzzz")
            )
        )
    assert raised.value.code == 112


@pytest.mark.rule("cent-401")
async def test_a_wrong_key_is_unauthorized(pair) -> None:
    async with cent.AsyncClient(f"{pair.a.url}/api", api_key="wrong") as client:
        with pytest.raises(cent.CentUnauthorizedError):
            await client.info(cent.InfoRequest())


@pytest.mark.rule("api-other-verb-405", "api-unknown-method-404", "api-body-unreadable-400")
async def test_statuses_of_http(pair, api_a) -> None:
    assert pair.a.get("/api/publish")[0] == 405
    assert (await api_a.status("unheard_of", "{}"))[0] == 404
    assert (await api_a.status("publish", "{"))[0] == 400
    assert (await api_a.status("publish", "[1]"))[0] == 400


@pytest.mark.on_the_ends
async def test_a_key_made_by_the_command_may_do_what_its_scope_says(pair, api_a, fresh) -> None:
    key = "a-key-for-the-scope-test"
    pair.manage("apikey", "create", "scoped", "--key", key, "--scope", "publish:stream:*")

    async with Api(pair.a.url, key=key) as scoped:
        async with asyncio.timeout(5):
            while (await scoped.status("info", "{}"))[0] == 401:
                await asyncio.sleep(0.1)  # instances learn of the key within two seconds
        allowed = await scoped.call("publish", channel=fresh("stream"), data=1)
        status, _ = await scoped.status(
            "publish", json.dumps({"channel": fresh("live"), "data": 1})
        )
    assert (allowed["offset"], status) == (1, 403)


async def test_a_stock_client_in_a_thread_works_too(pair, connect, fresh) -> None:
    client = await connect(to=pair.b)
    channel = fresh("stream")
    await client.subscribe(channel)

    def publish() -> None:
        session = cent.Client(f"{pair.a.url}/api", api_key=world.API_KEY)
        session.publish(cent.PublishRequest(channel=channel, data="from a thread"))

    await asyncio.to_thread(publish)

    assert (await client.log.wait("pub"))["data"] == "from a thread"
