"""What a connection costs, in counts: JWT identity and one positioned, recoverable subscription.

Each bound is what was counted, with a tenth of it as room. Whoever passes one has given every
connection something more to carry, and says why it is worth it.
"""

import pytest

from tests.support import processes

pytestmark = pytest.mark.end_to_end

WARM = 40  # the first ones fill caches, and tables that grow in steps
COUNTED = 200

# Counted: 47. Protocol, transport, session and their dictionaries, the application's coroutines.
OBJECTS_MAX = 52
# Counted: 8,700 bytes of Python's, tracemalloc's own way of counting. The kernel's are not in it.
BYTES_MAX = 9600
# Counted: 20. accept, its options and names, three sends (handshake, two replies), two reads, the
# log line, the registration with epoll.
CALLS_MAX = 23


@pytest.fixture
def cost(server, seats):
    """Return what the connections of a test cost, each."""
    crowd = seats(server)
    crowd.add(WARM)
    before = server.figures()
    crowd.add(COUNTED)
    after = server.figures()
    return {name: (after[name] - before[name]) / COUNTED for name in before}


def test_a_connection_is_so_many_objects(cost):
    assert 20 < cost["objects"] <= OBJECTS_MAX


def test_a_connection_is_so_many_bytes(cost):
    assert 4000 < cost["bytes"] <= BYTES_MAX


def test_a_connection_is_one_task(cost):
    assert cost["tasks"] == 1


def test_nothing_is_left_of_a_connection_that_has_ended(server, seats):
    idle_tasks = server.figures()["tasks"]
    with seats(server) as crowd:
        crowd.add(COUNTED)
    until_gone(server, idle_tasks)
    before = server.figures()["objects"]

    for _ in range(2):
        with seats(server) as crowd:
            crowd.add(COUNTED)
        until_gone(server, idle_tasks)

    # Not one object for ten connections: tables, and lists of what is used again. Timers that were
    # taken back stay for a while.
    processes.wait_until(
        lambda: server.figures()["objects"] - before < 2 * COUNTED / 10,
        timeout_seconds=30,
        what=lambda: f"{server.figures()['objects'] - before} objects are left",
    )


def test_no_thread_works_for_a_connection(server, seats):
    crowd = seats(server)
    crowd.add(WARM)
    before = server.thread_turns()

    crowd.add(COUNTED)

    assert server.thread_turns() == before


def test_a_connection_is_so_many_system_calls(traced, seats):
    crowd = seats(traced)
    crowd.add(WARM)
    before = traced.calls()

    crowd.add(COUNTED)

    calls = traced.calls() - before
    # Which process this is is asked by libraries, and costs less than a microsecond.
    calls.pop("getpid", None)
    each = {name: count / COUNTED for name, count in calls.items()}
    assert 5 < sum(each.values()) <= CALLS_MAX, each
    assert each["accept4"] >= 1
    assert each["epoll_ctl"] <= 3.2, each  # in, out for the handshake, and in again
    assert each["sendto"] <= 3.3, each


def until_gone(server, idle_tasks):
    """Wait until the server has ended its side of everything, and forgotten it."""

    def is_gone() -> bool:
        found = server.figures()
        # Requests for figures are among what it knows, of which the last may not be forgotten yet.
        return found["tasks"] <= idle_tasks and found["known"] <= 3

    processes.wait_until(
        is_gone,
        timeout_seconds=20,
        what=lambda: f"{server.figures()}, and {idle_tasks} tasks without a connection",
    )
