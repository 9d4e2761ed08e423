import asyncio

import pytest

from api.auth import Caller
from api.batch import PARALLEL_RUNS_MAX, replies
from api.schemas import COMMANDS_MAX
from realtime import services
from realtime.models import ApiKey

UNKNOWN = {"error": {"code": 102, "message": "unknown channel"}}


def publish(channel, data):
    return {"publish": {"channel": channel, "data": data}}


@pytest.mark.rule(
    "api-not-found-message",
    "batch-no-result-wrapper",
    "batch-null-107",
    "batch-unknown-104",
    "batch-in-order",
)
@pytest.mark.parametrize("parallel", [False, True, None])
async def test_each_command_has_its_reply_in_order(call, kept, parallel):
    commands = [
        publish(kept, 1),
        publish("nope:x", 1),
        publish(kept, 2),
        {"history_remove": {"channel": "nope:x"}},
        {"presence": {"channel": "who:x"}},
        {"broadcast": {"channels": ["plain:x"], "data": 1}},
        None,
        {},
        {"batch": {"commands": []}},
        {"publish": None},
        {"info": {}},
        {"channels": {}},
        {"disconnect": {"user": "42"}},
        {"unsubscribe": {"user": "42", "channel": "plain:x"}},
        publish("plain:x", 1),
    ]

    answer = await call("batch", {"commands": commands, "parallel": parallel})

    assert answer.status == 200
    first, unknown, second, *others = answer.json["replies"]
    assert first["publish"]["offset"] == 1
    assert second["publish"] == {**first["publish"], "offset": 2}
    not_found = {"error": {"code": 104, "message": "not found"}}
    assert unknown == UNKNOWN
    assert others == [
        UNKNOWN,
        {"presence": {"presence": {}}},
        {"broadcast": {"responses": [{"result": {}}]}},
        {"error": {"code": 107, "message": "bad request"}},
        not_found,
        not_found,
        not_found,
        {"info": {"nodes": []}},
        {"channels": {"channels": {}}},
        {"disconnect": {}},
        {"unsubscribe": {}},
        {"publish": {}},
    ]


@pytest.mark.parametrize("content", [{}, {"commands": []}, {"commands": None}])
async def test_an_empty_batch_has_no_replies(call, content):
    assert (await call("batch", content)).body == b'{"replies":[]}'


@pytest.mark.rule("batch-sequential")
async def test_one_command_after_another_sees_what_was_done_before(call, kept):
    read = {"history": {"channel": kept, "limit": -1}}

    answer = await call("batch", {"commands": [read, publish(kept, 1), read, publish(kept, 2)]})

    before, _, between, _ = answer.json["replies"]
    assert before["history"]["publications"] == []
    assert [found["data"] for found in between["history"]["publications"]] == [1]


@pytest.mark.rule("batch-in-order")
async def test_publishes_in_a_row_are_one_call_and_stay_in_order(call, kept, stored, monkeypatch):
    sizes = []
    apublish_many = services.apublish_many

    async def counting(items):
        sizes.append(len(items))
        return await apublish_many(items)

    monkeypatch.setattr(services, "apublish_many", counting)
    commands = [publish(kept, number) for number in range(500)]

    answer = await call("batch", {"commands": [*commands, {"info": {}}, publish(kept, 500)]})

    assert sizes == [500, 1]
    offsets = [reply["publish"]["offset"] for reply in answer.json["replies"][:500]]
    assert offsets == list(range(1, 501))
    assert await stored(kept) == list(range(401, 501))


@pytest.mark.rule("batch-sequential", "batch-parallel-bounded")
async def test_a_parallel_batch_is_bounded(call, monkeypatch):
    under_way, most = 0, 0

    async def ainfo():
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return [], []

    monkeypatch.setattr(services, "ainfo", ainfo)
    commands = [{"info": {}}] * (3 * PARALLEL_RUNS_MAX)

    await call("batch", {"commands": commands, "parallel": True})
    assert most == PARALLEL_RUNS_MAX

    most = 0
    await call("batch", {"commands": commands})
    assert most == 1


@pytest.mark.parametrize(("is_parallel", "most"), [(False, 0), (True, PARALLEL_RUNS_MAX)])
async def test_commands_have_no_task_of_their_own(is_parallel, most):
    made = []

    def make(loop, coroutine, **options):
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(make)

    answers = await replies([None] * 1000, Caller("", ()), is_parallel=is_parallel)

    assert len(answers) == 1000
    assert len(made) <= most


@pytest.mark.rule("batch-bounded-400")
@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_is_bounded(call, parallel):
    def commands(count, channels):
        filler = [None] * count
        return {"commands": [*filler, broadcast(channels)], "parallel": parallel}

    def broadcast(channels):
        return {"broadcast": {"channels": ["nope:x"] * channels, "data": 1}}

    for too_many in (commands(COMMANDS_MAX, 1), commands(1, COMMANDS_MAX)):
        answer = await call("batch", too_many)
        assert (answer.status, answer.body) == (400, b"Bad Request")
    for fitting in (commands(COMMANDS_MAX - 1, 1), commands(5000, COMMANDS_MAX - 5000)):
        answer = await call("batch", fitting)
        assert len(answer.json["replies"]) == len(fitting["commands"])


@pytest.mark.rule("api-key-scopes-403")
async def test_what_is_outside_the_scopes_is_refused_for_itself(call, kept, stored):
    key = "a-key-for-the-kept-channels"
    await asyncio.to_thread(make_key, key, ["publish:kept:*"])

    answer = await call(
        "batch", {"commands": [publish(kept, 1), publish("plain:x", 1), {"info": {}}]}, key=key
    )

    denied = {"error": {"code": 103, "message": "permission denied"}}
    assert answer.json["replies"][0]["publish"]["offset"] == 1
    assert answer.json["replies"][1:] == [denied, denied]
    assert await stored(kept) == [1]


def make_key(key, scopes):
    ApiKey.create("another", key=key, scopes=scopes)


@pytest.mark.rule("batch-failure-alone")
async def test_a_failure_stays_with_its_command(call, monkeypatch, caplog):
    async def fail(*_):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(services, "ainfo", fail)
    monkeypatch.setattr(services, "apublish_many", fail)

    answer = await call(
        "batch",
        {
            "commands": [
                {"info": {}},
                publish("plain:x", 1),
                {"publish": {"channel": "plain:x"}},
                {"presence": {"channel": "who:x"}},
            ]
        },
    )

    failed = {"error": {"code": 100, "message": "internal server error"}}
    bad = {"error": {"code": 107, "message": "bad request"}}
    assert answer.json["replies"] == [failed, failed, bad, {"presence": {"presence": {}}}]
    assert b"secret" not in answer.body
    assert "a secret detail" in caplog.text
