import asyncio

import pytest

from realtime.broker.broker import Broker
from realtime.broker.reads import SharedReads
from realtime.protocol.errors import BrokerUnavailable
from tests.realtime.conftest import until, within


class PausedBroker(Broker):
    """A broker whose reads wait for the test, after Redis has answered."""

    def __init__(self, servers):
        super().__init__(servers)
        self.begun = []
        self.answered = 0
        self.gate = asyncio.Event()
        self.error = None

    async def newest(self, channel, *, after_offset, limit, witness=None):
        self.begun.append((channel, after_offset, limit))
        answer = await super().newest(
            channel, after_offset=after_offset, limit=limit, witness=witness
        )
        self.answered += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return answer


@pytest.fixture
def broker(servers):
    return PausedBroker(servers)


@pytest.fixture
def reads(broker):
    return SharedReads(broker, limit=10)


def start(reads, channel="news", *, after_offset=None):
    return asyncio.create_task(reads.read(channel, after_offset=after_offset))


def offsets_of(history):
    return [publication.offset for publication in history.publications]


async def test_a_caller_gets_what_was_published_before_its_call(reads, broker, stream):
    await stream.fill(3)
    broker.gate.set()

    history = await within(reads.read("news", after_offset=1))

    assert offsets_of(history) == [2, 3]
    assert history.position.offset == 3


async def test_a_read_in_progress_is_never_joined(reads, broker, stream):
    await stream.fill(1)
    first = start(reads, after_offset=0)
    await until(lambda: broker.answered == 1)
    await stream.publish()

    second = start(reads, after_offset=0)
    await asyncio.sleep(0)
    broker.gate.set()

    assert (await within(first)).position.offset == 1
    assert (await within(second)).position.offset == 2


async def test_who_comes_during_a_read_shares_the_next_one(reads, broker, stream):
    await stream.fill(5)
    first = start(reads, after_offset=4)
    await until(lambda: broker.answered == 1)

    later = [start(reads, after_offset=offset) for offset in (3, 1, 2)] + [start(reads)]
    await asyncio.sleep(0)
    broker.gate.set()
    await within(asyncio.gather(first, *later))

    assert broker.begun == [("news", 4, 10), ("news", 1, 10)]
    assert {tuple(offsets_of(task.result())) for task in later} == {(2, 3, 4, 5)}


async def test_many_at_once_need_one_read(reads, broker, stream):
    await stream.fill(2)
    broker.gate.set()

    await within(asyncio.gather(*(start(reads, after_offset=0) for _ in range(200))))

    assert len(broker.begun) == 1


async def test_the_top_alone_is_read_without_publications(reads, broker, stream):
    await stream.fill(2)
    broker.gate.set()

    history = await within(reads.read("news", after_offset=None))

    assert broker.begun == [("news", 0, 0)]
    assert (history.position.offset, offsets_of(history)) == (2, [])


async def test_offset_zero_is_not_the_top_alone(reads, broker, stream):
    await stream.fill(2)
    broker.gate.set()

    assert offsets_of(await within(reads.read("news", after_offset=0))) == [1, 2]


async def test_channels_do_not_wait_for_one_another(reads, broker):
    start(reads, "one")
    start(reads, "two")

    await until(lambda: broker.answered == 2)
    broker.gate.set()


async def test_a_caller_that_leaves_does_not_take_the_read_away_from_the_others(
    reads, broker, stream
):
    await stream.fill(1)
    leaving, staying = start(reads, after_offset=0), start(reads, after_offset=0)
    await until(lambda: broker.answered == 1)

    leaving.cancel()
    await asyncio.wait([leaving])
    broker.gate.set()

    assert offsets_of(await within(staying)) == [1]


async def test_a_failure_reaches_all_of_its_callers_and_none_of_the_next(reads, broker, stream):
    await stream.fill(1)
    failing = [start(reads) for _ in range(3)]
    await until(lambda: broker.answered == 1)
    broker.error = BrokerUnavailable("gone")
    next_one = start(reads)
    await asyncio.sleep(0)

    broker.gate.set()
    await asyncio.wait(failing)
    broker.error = None

    assert all(isinstance(task.exception(), BrokerUnavailable) for task in failing)
    assert (await within(next_one)).position.offset == 1


async def test_reads_one_after_another_each_see_the_newest(reads, broker, stream):
    broker.gate.set()

    for offset in (1, 2, 3):
        await stream.publish()
        assert (await within(reads.read("news", after_offset=None))).position.offset == offset
