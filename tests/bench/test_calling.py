"""What is seen of calls: the slow service's answers, the server's own words, and the tables."""

import json
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench import page
from bench.measure import threads
from bench.peers.base import SlowService, payload
from bench.peers.children import SLOW_SECONDS, start_slow_service
from bench.peers.heliograph_calls import blocked_count, line_about
from bench.tables import blocked_table, main_table

SIZES = {"connections": 3000}


@pytest.fixture
def slow(tmp_path):
    child, service = start_slow_service(core=min(os.sched_getaffinity(0)), work_dir=tmp_path)
    yield service
    child.kill()
    child.wait()


def ask(service: SlowService, path: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(service.url + path, body, timeout=10) as answer:
        return answer.read()


def test_the_slow_service_waits_and_answers_as_a_proxy_with_the_payload_as_it_came(slow):
    body = b'{"client":"c1","method":"bench.slow","data":%s}' % payload(3, 17)
    began = time.monotonic()

    answer = ask(slow, "/rpc", body)

    assert time.monotonic() - began >= SLOW_SECONDS
    assert answer == b'{"result":{"data":%s}}' % payload(3, 17)


def test_the_slow_service_holds_no_one_up_for_another_and_counts(slow):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: ask(slow, "/echo", b"%d" % number), range(4)))

    assert answers == [b"0", b"1", b"2", b"3"]
    counted = json.loads(ask(slow, "/counted"))
    assert counted == {
        "requests": 4, "connections": 4, "most_at_once": 4, "at_once": 0,
    }  # fmt: skip


def test_a_thread_that_starts_is_seen():
    before = threads([os.getpid()])
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()

    started = threads([os.getpid()]) - before

    is_over.set()
    thread.join()
    assert started == {thread.native_id}


def test_the_metric_of_a_blocked_loop_is_summed_over_who_blocked_it():
    text = (
        "# HELP heliograph_loop_blocked_total ...\n"
        'heliograph_loop_blocked_total{by="rpc bench.block"} 41.0\n'
        'heliograph_loop_blocked_total{by=""} 1.0\n'
        "heliograph_loop_blocked_created 1.7e+09\n"
    )

    assert blocked_count(text) == 42
    assert blocked_count("process_open_fds 9.0\n") == 0


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("bench.block", "the loop was blocked by rpc bench.block"),
        ("bench.slow", "the loop was blocked by a callback"),
    ],
)
def test_of_what_the_watch_of_the_loop_logs_that_of_the_method_is_shown(method, told):
    log = """not JSON
{"event":"bench.block is there","level":"info","logger":"realtime.instance"}
{"event":"the loop was blocked by rpc bench.block","level":"warning","logger":"realtime.lag"}
{"event":"and rpc bench.block again","level":"warning","logger":"realtime.lag"}
{"event":"the loop was blocked by a callback","level":"warning","logger":"realtime.lag"}
"""

    assert line_about(method, log) == told


def test_a_log_without_the_watch_of_the_loop_says_nothing():
    assert line_about("bench.block", "not JSON\n") == ""


def row(**scenarios: dict) -> dict:
    return {"title": "", "note": "", "settings": [], "failed": {}, "scenarios": scenarios}


def test_who_is_made_for_calls_alone_has_no_row_among_the_idle():
    peers = {"heliograph": row(idle={}, sporadic={}), "threads-requests": row(sporadic={})}
    peers["nchan"] = row() | {"unavailable": "nginx is not installed"}

    table = main_table({"peers": peers, "sizes": SIZES})

    assert [cells[0] for cells in table.rows] == ["heliograph", "nchan"]


def test_what_a_server_says_of_its_loop_is_shown():
    told = {"told_blocked": 42.0, "log_of_blocked": "rpc bench.block blocked the loop | 201 ms"}
    peers = {"heliograph": row(sporadic=told), "threads-requests": row(sporadic={})}

    table = blocked_table({"peers": peers})

    assert table.rows == [
        ["heliograph", "42", "`rpc bench.block blocked the loop / 201 ms`"],
    ]


def test_the_page_has_a_place_for_a_scenario_that_its_run_lacks():
    text = "<!-- bench: Sporadic HTTP calls -->\n<!-- end -->"
    results = {"peers": {"heliograph": row(idle={})}, "sizes": SIZES, "date": "2026-01-01"}
    results |= {"commit": {"id": "0"}, "is_quick": False}
    results["machine"] = dict.fromkeys(("cpu", "cores", "kernel", "python"), "") | {
        "packages": {}, "send_floor_us": 1.0, "load_at_start": 0,
    }  # fmt: skip

    assert page.NOTHING in page.rewritten(text, results)
