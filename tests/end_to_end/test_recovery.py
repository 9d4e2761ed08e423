"""What a client gets that comes back: all it missed, or the word that it cannot have it."""

import pytest

from tests.support.raw_client import CommandError, Position
from tests.support.servers import token

pytestmark = pytest.mark.end_to_end


async def publish(client, channel: str, *names: str) -> None:
    for name in names:
        await client.publish(channel, {"id": name})


def names_seen(client) -> list[str]:
    return [event["id"] for event in client.log.of("pub")]


@pytest.mark.rule("offset-of-request", "recover-missed")
async def test_a_client_gets_what_it_missed_from_the_other_instance(pair, connect, fresh) -> None:
    publisher, client = await connect(to=pair.b), await connect(to=pair.a)
    channel = fresh("stream")
    await client.subscribe(channel)
    await publish(publisher, channel, "one")
    await client.log.wait("pub")
    await client.drop()
    await publish(publisher, channel, "two", "three")

    client.url = pair.b.websocket_url
    await client.connect(token("ada"))
    result = await client.recover(channel)

    assert (result["recovered"], result["was_recovering"], result["offset"]) == (True, True, 1)
    assert names_seen(client) == ["one", "two", "three"]
    assert [event["offset"] for event in client.log.of("pub")] == [1, 2, 3]


@pytest.mark.rule("recover-nothing-missed")
async def test_a_client_that_missed_nothing_is_recovered_with_nothing(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await client.subscribe(channel)
    await publish(client, channel, "one")
    await client.log.wait("pub")
    await client.drop()
    await client.connect(token("ada"))

    result = await client.recover(channel)

    assert (result["recovered"], result.get("publications")) == (True, None)


@pytest.mark.rule("subscribe-recover-defaults")
async def test_recovery_without_a_position_means_from_the_start(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await publish(client, channel, "one", "two")

    result = await client.subscribe(channel, recover=True)

    assert result["recovered"] is True
    assert names_seen(client) == ["one", "two"]


@pytest.mark.rule(
    "subscribe-publications-if-recovered",
    "offset-of-top",
    "recover-other-epoch",
    "recover-failed-no-publications",
    "sentinel-never-recovers",
)
@pytest.mark.parametrize("epoch", ["zzzzzzzz", "_"])
async def test_another_epoch_is_not_recovered(connect, fresh, epoch) -> None:
    client = await connect()
    channel = fresh("stream")
    await publish(client, channel, "one", "two")

    result = await client.subscribe(channel, recover=True, offset=1, epoch=epoch)

    assert result.get("recovered", False) is False
    assert (result["was_recovering"], result["offset"]) == (True, 2)
    assert "publications" not in result


@pytest.mark.rule("recover-above-top")
async def test_an_offset_that_was_never_given_out_is_not_recovered(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await publish(client, channel, "one")
    epoch = (await client.history(channel))["epoch"]

    result = await client.subscribe(channel, recover=True, offset=9, epoch=epoch)

    assert result.get("recovered", False) is False


@pytest.mark.rule("option-history-size", "recover-trimmed")
async def test_what_was_trimmed_is_not_recovered(connect, fresh) -> None:
    client = await connect()
    channel = fresh("short")
    await publish(client, channel, *map(str, range(7)))  # five are kept
    epoch = (await client.history(channel))["epoch"]

    lost = await client.subscribe(channel, recover=True, offset=1, epoch=epoch)
    await client.unsubscribe(channel)
    kept = await client.subscribe(channel, recover=True, offset=2, epoch=epoch)

    assert lost.get("recovered", False) is False
    assert kept["recovered"] is True
    assert names_seen(client) == ["2", "3", "4", "5", "6"]


@pytest.mark.rule("default-recovery-300", "recover-limit")
async def test_more_than_the_limit_is_not_recovered_in_part(connect, api_a, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    command = {"publish": {"channel": channel, "data": 1}}
    await api_a.call("batch", commands=[command] * 301)

    beyond = await client.subscribe(channel, recover=True)
    await client.unsubscribe(channel)
    within = await client.subscribe(channel, recover=True, offset=1)

    assert beyond.get("recovered", False) is False
    assert (within["recovered"], len(within["publications"])) == (True, 300)


@pytest.mark.rule("reject-112", "reject-subscribes-nothing", "error-112")
async def test_a_client_can_ask_for_an_error_instead_of_a_loss(connect, api_a, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await publish(client, channel, "one")

    with pytest.raises(CommandError) as raised:
        await client.subscribe(channel, recover=True, offset=1, epoch="zzzzzzzz", flag=2)

    assert (raised.value.code, raised.value.message) == (112, "unrecoverable position")
    assert await client.presence(channel) == {}
    assert channel not in (await api_a.call("channels"))["channels"]


@pytest.mark.rule("reject-good-position", "reject-since-zero")
async def test_the_flag_changes_nothing_for_a_good_position(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await publish(client, channel, "one")

    result = await client.subscribe(channel, recover=True, flag=2)

    assert result["recovered"] is True


@pytest.mark.rule("recover-not-enabled")
async def test_a_namespace_without_recovery_says_only_that_it_was_asked(connect, fresh) -> None:
    client = await connect()

    result = await client.subscribe(fresh("live"), recover=True, offset=3, epoch="x")

    assert result == {"was_recovering": True}


@pytest.mark.rule("recover-entries-gone")
async def test_history_removed_is_a_loss_that_is_told(connect, api_a, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await publish(client, channel, "one", "two")
    epoch = (await client.history(channel))["epoch"]
    await api_a.call("history_remove", channel=channel)

    result = await client.subscribe(channel, recover=True, offset=1, epoch=epoch)

    assert result.get("recovered", False) is False
    assert (result["offset"], result["epoch"]) == (2, epoch)


@pytest.mark.rule("recover-buffered-follows")
async def test_a_recovering_client_goes_on_live_without_a_seam(pair, connect, fresh) -> None:
    """Publications made all the while a client recovers arrive once each."""
    publisher, client = await connect(to=pair.b), await connect(to=pair.a)
    channel = fresh("stream")
    await client.subscribe(channel)
    for round_ in range(10):
        await client.drop()
        commands = [{"publish": {"channel": channel, "data": {"id": round_}}} for _ in range(20)]
        await publisher.send_commands(*commands[:10])
        await client.connect(token("ada"))
        held = client.positions[channel]
        await publisher.send_commands(*commands[10:])
        await client.subscribe(channel, recover=True, offset=held.offset, epoch=held.epoch)
        await client.log.wait("pub", offset=20 * (round_ + 1))

    assert [event["offset"] for event in client.log.of("pub")] == list(range(1, 201))


async def test_an_sdk_bootstraps_from_a_position(connect, fresh) -> None:
    publisher, client = await connect(), await connect("js")
    channel = fresh("stream")
    await publish(publisher, channel, "one", "two", "three")
    epoch = (await publisher.history(channel))["epoch"]

    seen = await client.subscribed(channel, since={"offset": 1, "epoch": epoch})

    assert seen["recovered"] is True
    await client.log.wait("pub", count=2)
    assert names_seen(client) == ["two", "three"]


@pytest.mark.rule("reject-sdk-state")
async def test_an_sdk_asks_for_its_state_again_when_a_position_is_no_good(
    connect, fresh, sdk
) -> None:
    publisher, client = await connect(), await connect(sdk)
    channel = fresh("stream")
    await publish(publisher, channel, "one", "two", "three")
    epoch = (await publisher.history(channel))["epoch"]
    states = [{"offset": 1, "epoch": "zzzzzzzz"}, {"offset": 2, "epoch": epoch}]

    seen = await client.subscribed(channel, states=states)

    assert seen["recovered"] is True
    assert len(client.log.of("get_state")) == 2
    await client.log.wait("pub")
    assert names_seen(client) == ["three"]


async def test_positions_are_shared_by_all_instances(pair, connect, fresh) -> None:
    here, there = await connect(to=pair.a), await connect(to=pair.b)
    channel = fresh("stream")
    await publish(here, channel, "one")

    await here.subscribe(channel)
    await there.subscribe(channel)

    assert here.positions[channel] == there.positions[channel]
    assert here.positions[channel] == Position(1, here.positions[channel].epoch)
