import asyncio
import time

import pytest

from realtime.fan_out import (
    JOINED_MAX_BYTES,
    QUEUE_MAX_BYTES,
    QUEUE_MAX_SECONDS,
    ChannelQueue,
    FanOut,
)
from realtime.protocol.messages import StreamPosition
from realtime.subscription import Delivery, Subscription


def delivery(offset, *, size=10):
    return Delivery(b"%d" % offset + b" " * size, offset, "now")


class Reader:
    """A live subscription that notes what it was written, in an order shared with others."""

    def __init__(self, queue, name, log, *, on_write=lambda frame: None, wants_join_leave=False):
        self.name = name
        self._log = log
        self._on_write = on_write
        self.subscription = Subscription(
            "news", outbox=self, holder=self, wants_join_leave=wants_join_leave
        )
        self.subscription.release(None)
        queue.subscriptions[self.subscription] = None

    def write(self, frame):
        self._log.extend((self.name, number) for number in frame.decode().split())
        self._on_write(frame)

    def end(self, *_):
        """Nothing ends here."""


@pytest.fixture
def log():
    return []


@pytest.fixture
def fan_out():
    return FanOut()


@pytest.fixture
def queue():
    return ChannelQueue()


def put(fan_out, queue, *offsets, size=10):
    for offset in offsets:
        fan_out.put(queue, delivery(offset, size=size), time.monotonic())


def put_alone(fan_out, queue, *offsets):
    """Put messages that are too large to be joined."""
    put(fan_out, queue, *offsets, size=JOINED_MAX_BYTES)


async def drained(fan_out, queue):
    async with asyncio.timeout(5):
        await fan_out.drained(queue)


async def test_every_subscription_gets_every_message_in_order(fan_out, queue, log):
    for name in "abc":
        Reader(queue, name, log)

    put(fan_out, queue, 1, 2, 3)
    await drained(fan_out, queue)

    assert sorted(log) == [(name, offset) for name in "abc" for offset in "123"]
    assert queue.delivered == StreamPosition(3, "now")
    assert queue.is_idle


async def test_nothing_is_written_in_the_step_that_puts_it(fan_out, queue, log):
    Reader(queue, "a", log)

    put(fan_out, queue, 1)

    assert log == []
    await drained(fan_out, queue)


async def test_channels_take_turns(fan_out, log, monkeypatch):
    monkeypatch.setattr("realtime.fan_out.TURN_SECONDS", 60)  # or a stall would end one early
    queues = [ChannelQueue() for _ in range(3)]
    for name, queue in zip("abc", queues, strict=True):
        Reader(queue, name, log)

    for queue in queues:
        put_alone(fan_out, queue, 1, 2)
    await drained(fan_out, queues[-1])

    assert log == [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("b", "2"), ("c", "2")]


async def test_a_turn_ends_in_time_and_other_work_goes_on(fan_out, queue, log):
    for name in range(400):
        Reader(queue, name, log, on_write=lambda _: time.sleep(0.0001))
    turns = []

    async def other_work():
        while len(log) < 400:
            turns.append(len(log))
            await asyncio.sleep(0)

    put(fan_out, queue, 1)
    async with asyncio.timeout(5):
        await other_work()

    assert len(turns) >= 10  # 40 ms of writing in turns of 2


async def test_a_long_walk_of_one_channel_does_not_hold_up_another(fan_out, log):
    long, short = ChannelQueue(), ChannelQueue()
    for _ in range(400):
        Reader(long, "long", log, on_write=lambda _: time.sleep(0.0001))
    Reader(short, "short", log)

    put(fan_out, long, 1, 2)
    put(fan_out, short, 1)
    await drained(fan_out, short)

    assert len(log) < 200
    await drained(fan_out, long)
    assert len(log) == 801


async def test_who_leaves_before_the_write_gets_nothing(fan_out, queue, log):
    readers = [Reader(queue, name, log) for name in "ab"]

    put(fan_out, queue, 1)
    readers[1].subscription.end()
    await drained(fan_out, queue)

    assert log == [("a", "1")]


async def test_a_write_that_ends_other_subscriptions_does_not_upset_the_walk(fan_out, queue, log):
    def end_others(_):
        for reader in readers[1:]:
            reader.subscription.end()
            queue.subscriptions.pop(reader.subscription, None)

    readers = [Reader(queue, "a", log, on_write=end_others)]
    readers += [Reader(queue, name, log) for name in "bc"]

    put(fan_out, queue, 1, 2)
    await drained(fan_out, queue)

    assert log == [("a", "1"), ("a", "2")]


async def test_who_comes_during_a_walk_is_not_given_its_message(fan_out, queue, log):
    def come(frame):
        if frame.startswith(b"1"):
            Reader(queue, "late", log)

    Reader(queue, "a", log, on_write=come)

    put_alone(fan_out, queue, 1, 2)
    await drained(fan_out, queue)

    assert log == [("a", "1"), ("a", "2"), ("late", "2")]


@pytest.mark.rule("join-only-to-who-wants")
async def test_joins_go_to_those_who_want_them(fan_out, queue, log):
    Reader(queue, "a", log, wants_join_leave=True)
    Reader(queue, "b", log)

    fan_out.put(queue, Delivery(b"join", is_presence_event=True), time.monotonic())
    await drained(fan_out, queue)

    assert log == [("a", "join")]
    assert queue.delivered is None


# Joined messages -------------------------------------------------------------------------------


async def test_what_waits_together_is_written_at_once(fan_out, queue, log):
    writes = []
    Reader(queue, "a", log, on_write=writes.append)

    put(fan_out, queue, 1, 2, 3)
    await drained(fan_out, queue)

    assert [write.split() for write in writes] == [[b"1", b"2", b"3"]]
    assert queue.delivered == StreamPosition(3, "now")


async def test_no_more_is_joined_than_a_bound(fan_out, queue, log):
    writes = []
    Reader(queue, "a", log, on_write=writes.append)

    put(fan_out, queue, 1, 2, 3, size=JOINED_MAX_BYTES // 2 - 10)
    await drained(fan_out, queue)

    assert [write.split() for write in writes] == [[b"1", b"2"], [b"3"]]
    assert max(map(len, writes)) <= JOINED_MAX_BYTES


async def test_a_join_stands_alone_between_what_is_joined(fan_out, queue, log):
    Reader(queue, "a", log, wants_join_leave=True)
    Reader(queue, "b", log)

    put(fan_out, queue, 1, 2)
    fan_out.put(queue, Delivery(b"join", is_presence_event=True), time.monotonic())
    put(fan_out, queue, 3, 4)
    await drained(fan_out, queue)

    assert [text for name, text in log if name == "a"] == ["1", "2", "join", "3", "4"]
    assert [text for name, text in log if name == "b"] == ["1", "2", "3", "4"]


async def test_who_is_not_live_is_handed_the_messages_one_by_one(fan_out, queue, log):
    reader = Reader(queue, "other", [], on_write=lambda frame: log.append(frame.strip()))
    del queue.subscriptions[reader.subscription]
    guarded = Subscription("news", outbox=reader, holder=reader, is_positioned=True)
    guarded.release(StreamPosition(2, "now"))
    joining = Subscription("news", outbox=reader, holder=reader, is_positioned=True)
    queue.subscriptions.update({guarded: None, joining: None})

    put(fan_out, queue, 1, 2, 3, 4)
    await drained(fan_out, queue)

    assert log == [b"3", b"4"]  # what its reply covered is not written again
    assert joining.keeps(1)
    assert joining.keeps(4)


async def test_a_write_that_fails_costs_none_of_the_others_theirs(fan_out, queue, log):
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    def fail(_):
        raise RuntimeError("a broken socket")

    Reader(queue, "a", log)
    Reader(queue, "broken", log, on_write=fail)
    Reader(queue, "b", log)

    put(fan_out, queue, 1)
    await drained(fan_out, queue)

    assert [name for name, _ in log] == ["a", "broken", "b"]


# Bounds ----------------------------------------------------------------------------------------


async def test_a_queue_is_full_by_bytes_but_never_when_empty(queue):
    big = delivery(1, size=QUEUE_MAX_BYTES + 1)
    assert not queue.is_full(big, 0.0)

    queue.append(delivery(1, size=QUEUE_MAX_BYTES // 2), 0.0)

    assert not queue.is_full(delivery(2, size=QUEUE_MAX_BYTES // 2 - 10), 0.0)
    assert queue.is_full(delivery(2, size=QUEUE_MAX_BYTES // 2), 0.0)


async def test_a_queue_is_full_by_time(queue):
    queue.append(delivery(1), 10.0)

    assert not queue.is_full(delivery(2), 10.0 + QUEUE_MAX_SECONDS)
    assert queue.is_full(delivery(2), 10.1 + QUEUE_MAX_SECONDS)


async def test_a_drop_forgets_what_waits_and_moves_the_position_past_it(fan_out, queue, log):
    Reader(queue, "a", log)
    put(fan_out, queue, 1, 2, 3)

    dropped = queue.drop()
    await drained(fan_out, queue)

    assert dropped == 3
    assert log == []
    assert queue.delivered == StreamPosition(3, "now")


async def test_a_drop_in_the_middle_of_a_walk_lets_the_message_under_way_finish(
    fan_out, queue, log
):
    def drop(frame):
        if frame.startswith(b"1"):
            queue.drop()

    Reader(queue, "a", log, on_write=drop)
    Reader(queue, "b", log)

    put_alone(fan_out, queue, 1, 2, 3)
    await drained(fan_out, queue)

    assert log == [("a", "1"), ("b", "1")]
    assert queue.delivered == StreamPosition(3, "now")


async def test_what_comes_after_a_drop_is_delivered_once(fan_out, queue, log):
    Reader(queue, "a", log)
    put(fan_out, queue, 1, 2)
    queue.drop()

    put(fan_out, queue, 3, 4)
    await drained(fan_out, queue)

    assert log == [("a", "3"), ("a", "4")]
    assert queue.delivered == StreamPosition(4, "now")


async def test_a_dropped_queue_has_room_again(fan_out, queue):
    fan_out.put(queue, delivery(1, size=QUEUE_MAX_BYTES), 0.0)
    queue.drop()

    queue.append(delivery(2), 0.0)

    assert not queue.is_full(delivery(3, size=QUEUE_MAX_BYTES // 2), 0.0)
    await drained(fan_out, queue)


async def test_waiting_for_an_idle_queue_takes_no_time(fan_out, queue):
    await drained(fan_out, queue)


async def test_several_may_wait_for_the_same_queue(fan_out, queue, log):
    Reader(queue, "a", log)
    put(fan_out, queue, 1, 2)

    waiting = [asyncio.create_task(drained(fan_out, queue)) for _ in range(3)]
    waiting[0].cancel()
    await asyncio.wait(waiting)

    assert [task.cancelled() for task in waiting] == [True, False, False]
    assert all(task.exception() is None for task in waiting[1:])


async def test_one_socket_that_fails_does_not_stop_the_delivery_of_everything(fan_out, log):
    # Nothing else restarts the scheduler: one exception would silence the process for good.
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail(_):
        raise RuntimeError("a broken socket")

    broken, sound = ChannelQueue(), ChannelQueue()
    Reader(broken, "broken", log, on_write=fail)
    Reader(sound, "sound", log)
    put(fan_out, broken, 1)
    put(fan_out, sound, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    put(fan_out, sound, 2)
    await drained(fan_out, sound)

    assert [entry for entry in log if entry[0] == "sound"] == [("sound", "1"), ("sound", "2")]
