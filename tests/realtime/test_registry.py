import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
import redis

from realtime import registry
from realtime.layers import decode_message
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_keys import CONTROL_GROUP, INSTANCES
from tests.realtime.conftest import until


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
def instances(layer, servers):
    """Return a way to run instances that live and answer questions; None stays silent."""

    @asynccontextmanager
    async def instances(**contents):
        def receive(data):
            message = decode_message(data)
            assert message.type == registry.SURVEY
            question = msgspec.json.decode(message.body, type=registry.Question)
            asked.append(question)
            for uid, content in contents.items():
                if content is not None:
                    answer = registry.answer(question, uid, content)
                    tasks.append(asyncio.ensure_future(servers.run(answer)))

        asked, tasks = [], []
        await layer.listen(CONTROL_GROUP, receive)
        for uid in contents:
            await servers.run(registry.beat(uid))
        yield asked
        await asyncio.gather(*tasks)

    return instances


async def test_every_instance_answers_and_nobody_is_missing(instances, servers):
    async with instances(one={"a": 1}, two={"a": 2}):
        answers, missing = await registry.survey(servers, "channels")

    assert missing == []
    assert {uid: msgspec.json.decode(each) for uid, each in answers.items()} == {
        "one": {"a": 1},
        "two": {"a": 2},
    }


async def test_the_question_arrives_as_it_was_asked(instances, servers):
    async with instances(one=1) as asked:
        await registry.survey(servers, "channels", pattern="news:*é")

    assert [(each.op, each.pattern) for each in asked] == [("channels", "news:*é")]


async def test_who_does_not_answer_in_time_is_named(instances, servers, monkeypatch):
    monkeypatch.setattr(registry, "SURVEY_SECONDS", 0.2)
    async with instances(one=1, silent=None):
        answers, missing = await registry.survey(servers, "info")

    assert answers.keys() == {"one"}
    assert missing == ["silent"]


async def test_without_instances_nobody_is_missing_and_nobody_waited_for(servers):
    async with asyncio.timeout(0.5):
        assert await registry.survey(servers, "info") == ({}, [])


async def test_what_was_read_is_not_read_again(instances, servers, client, monkeypatch):
    monkeypatch.setattr(registry, "SURVEY_SECONDS", 0.3)
    large = "x" * 1_000_000
    async with instances(one=large, two=large, silent=None):
        before = client.info("stats")["total_net_output_bytes"]
        answers, missing = await registry.survey(servers, "info")
        sent = client.info("stats")["total_net_output_bytes"] - before

    assert (answers.keys(), missing) == ({"one", "two"}, ["silent"])
    assert sent < 3_000_000


async def test_two_surveys_do_not_mix(instances, servers):
    async with instances(one=1) as asked:
        await asyncio.gather(registry.survey(servers, "info"), registry.survey(servers, "info"))

    assert len({question.survey for question in asked}) == 2


async def test_answers_lapse(instances, servers, client):
    async with instances(one=1) as asked:
        await registry.survey(servers, "info")

    (question,) = asked
    assert 0 < client.ttl(f"rt:{{control}}:survey:{question.survey}") <= 10


async def test_an_instance_beats_until_it_ends(servers, client):
    task = asyncio.create_task(registry.keep_beating(servers, "one"))
    await until(lambda: client.zscore(INSTANCES, "one"))

    task.cancel()
    await asyncio.wait([task])

    assert client.zscore(INSTANCES, "one") is None


async def test_a_dead_instance_lapses_from_the_list(servers, client):
    await servers.run(registry.beat("dead", life_seconds=1))

    async with asyncio.timeout(4):
        while "dead" in await alive(servers):
            await asyncio.sleep(0.05)

    await servers.run(registry.beat("alive"))
    assert client.zscore(INSTANCES, "dead") is None


async def alive(servers):
    answers = await servers.run(registry._collect(registry.Question("none", "info"), known_count=0))
    return answers.alive


async def test_beating_goes_on_after_redis_was_away(valkey, servers, monkeypatch):
    monkeypatch.setattr(registry, "BEAT_SECONDS", 0.05)
    valkey.stop()
    task = asyncio.create_task(registry.keep_beating(servers, "one"))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(valkey.start)

    async with asyncio.timeout(5):
        while True:
            try:
                if "one" in await alive(servers):
                    break
            except BrokerUnavailable:
                pass
            await asyncio.sleep(0.05)

    task.cancel()
    await asyncio.wait([task])


async def test_a_survey_without_redis_says_so(valkey, servers):
    valkey.stop()

    with pytest.raises(BrokerUnavailable):
        await registry.survey(servers, "info")
