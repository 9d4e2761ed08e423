"""What a delivery costs, in counts: one write to the socket, and nothing that lasts."""

import pytest

from tests.counts.seats import wait_for

pytestmark = pytest.mark.end_to_end

SEATS = 250
PUBLICATIONS = 10
DELIVERIES = SEATS * PUBLICATIONS

# Counted: one send a delivery. Beside them the acknowledgements of probes on the link to Redis.
SENDS_BESIDE_MAX = 5
# Counted: 2 for each publication, which comes from Redis in one read and one wait for it, and some
# of the ticks between them.
OTHERS_MAX = 20 * PUBLICATIONS
# Counted: -250 to 40, which are the channel's newest position and lists that were made anew.
BLOCKS_MAX = 120
# Counted: 257 KB, almost all of it the buffer that asyncio reads a link into. A copy of the frame
# for each connection would be 40 KB more at once.
PEAK_MAX_BYTES = 256 * 1024 + 32 * 1024


@pytest.fixture
def broadcast(publish):
    """Return a way to publish one after another, each when all have the one before."""

    def broadcast(crowd, count=PUBLICATIONS):
        for number in range(count):
            publish(number)
            wait_for(crowd.sockets, b'"pad"')

    return broadcast


def test_a_delivery_is_one_system_call(traced, seats, broadcast):
    crowd = seats(traced)
    crowd.add(SEATS)
    broadcast(crowd, 2)
    before = traced.calls()

    broadcast(crowd)

    calls = traced.calls() - before
    calls.pop("getpid", None)
    assert DELIVERIES <= calls["sendto"] <= DELIVERIES + SENDS_BESIDE_MAX, calls
    assert calls.total() - calls["sendto"] <= OTHERS_MAX, calls
    assert calls["epoll_ctl"] <= 4, calls  # none for a delivery: Twisted's own way takes two


def test_deliveries_leave_nothing(server, seats, broadcast):
    crowd = seats(server)
    crowd.add(SEATS)
    broadcast(crowd, 2)
    before = server.figures()

    broadcast(crowd)

    after = server.figures()
    assert after["blocks"] - before["blocks"] <= BLOCKS_MAX
    assert after["tasks"] == before["tasks"]


def test_a_broadcast_takes_no_memory_for_each_connection(server, seats, broadcast):
    crowd = seats(server)
    crowd.add(SEATS)
    broadcast(crowd, 2)
    before = server.figures()

    broadcast(crowd)

    assert server.peak_bytes() - before["bytes"] <= PEAK_MAX_BYTES


def test_no_thread_works_for_a_delivery(server, seats, broadcast):
    crowd = seats(server)
    crowd.add(SEATS)
    before = server.thread_turns()

    broadcast(crowd)

    assert server.thread_turns() == before
