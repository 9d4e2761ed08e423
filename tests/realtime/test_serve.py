"""``serve`` and ``runserver`` as a person or an init system uses them: real processes, signals."""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from realtime.management.serving import warnings_of_open_files
from realtime.server import embedded
from realtime.server.embedded import EmbeddedValkey
from tests.support import processes
from tests.support.servers import REPOSITORY, bare_environment

pytestmark = pytest.mark.end_to_end

READY_SECONDS = 20
EXIT_ERROR, EXIT_USAGE, EXIT_NOT_READY = 1, 2, 3


class Served:
    """One started command and what it says."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder = folder
        self.port = processes.free_port()
        self.log_path = folder / "serve.log"
        self.process = processes.spawn(
            [sys.executable, "manage.py", *(a.format(port=self.port) for a in arguments)],
            log_path=self.log_path,
            cwd=REPOSITORY,
            env={**bare_environment(folder), "REALTIME_DRAIN_SECONDS": "1", **variables},
        )

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
            return self.get("/ready") == 200

        processes.wait_until(is_ready, timeout_seconds=READY_SECONDS, what=self.log)

    def wait_for(self, words: str) -> None:
        processes.wait_until(
            lambda: words in self.log(), timeout_seconds=READY_SECONDS, what=self.log
        )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def children(self) -> set[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in listed.split()}

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*arguments: str, **variables: str) -> Served:
        served = Served(tmp_path, *arguments, **variables)
        started.append(served)
        return served

    yield start
    for served in started:
        processes.end(served.process)
    if pid := EmbeddedValkey(tmp_path).process.pid():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def serve_one(serve) -> Served:
    """One process on one port, ready."""
    served = serve("serve", "--port", "{port}")
    served.wait_ready()
    return served


@pytest.fixture
def serve_two(serve) -> Served:
    """Two processes behind one port, both ready."""
    served = serve("serve", "--port", "{port}", "--processes", "2")
    served.wait_for("2 process(es)")
    return served


def complaint(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, float]:
    """Run a command that cannot serve; return its exit code, its only line, and how long it took.

    The line stands alone: no traceback, no password.
    """
    started_at = time.monotonic()
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=REPOSITORY,
        env={**bare_environment(folder), **variables},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr.count("\n") == 1, done.stderr
    assert "pa55word" not in done.stderr
    assert not (folder / "valkey" / "valkey.pid").exists()
    return done.returncode, done.stderr, time.monotonic() - started_at


def free_port() -> str:
    return str(processes.free_port())


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# One process ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server_and_the_valkey_it_started(serve_one, tmp_path, number):
    assert EmbeddedValkey(tmp_path).process.pid() is not None

    code = serve_one.end(number)

    assert code == 0, serve_one.log()
    assert EmbeddedValkey(tmp_path).process.pid() is None


def test_a_second_signal_ends_the_server_and_its_valkey_at_once(serve, tmp_path):
    served = serve("serve", "--port", "{port}", REALTIME_DRAIN_SECONDS="30")
    served.wait_ready()
    with silent_connection(served.port):
        served.process.terminate()
        time.sleep(0.6)  # longer than two signals that are one can lie apart
        assert served.process.poll() is None

        code = served.end()

    assert code == 130
    processes.wait_until(
        lambda: EmbeddedValkey(tmp_path).process.pid() is None,
        timeout_seconds=5,
        what="the end of Valkey",
    )


def test_two_signals_in_quick_succession_are_one(serve):
    served = serve("serve", "--port", "{port}")
    served.wait_ready()
    with silent_connection(served.port):
        for _ in range(5):
            served.process.terminate()
            time.sleep(0.01)  # so that each of them arrives

        assert served.process.wait(15) == 0, served.log()


@contextmanager
def silent_connection(port: int) -> Iterator[None]:
    """A WebSocket whose client neither speaks nor answers a close."""
    request = (
        "GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request.encode())
        assert b"101" in client.recv(100)
        yield


def test_a_second_server_shares_the_valkey_of_the_first(serve_one, serve, tmp_path):
    second = serve("serve", "--port", "{port}")
    second.wait_ready()
    pid = EmbeddedValkey(tmp_path).process.pid()

    serve_one.end()

    assert EmbeddedValkey(tmp_path).process.pid() == pid
    second.end()
    assert EmbeddedValkey(tmp_path).process.pid() is None


def test_the_next_start_attaches_to_what_a_killed_server_left(serve_one, serve, tmp_path):
    pid = EmbeddedValkey(tmp_path).process.pid()
    serve_one.end(signal.SIGKILL)

    again = serve("serve", "--port", "{port}")
    again.wait_ready()

    assert EmbeddedValkey(tmp_path).process.pid() == pid
    again.end()
    assert EmbeddedValkey(tmp_path).process.pid() is None


def test_a_valkey_that_dies_is_back_within_seconds(serve_one, tmp_path):
    pid = EmbeddedValkey(tmp_path).process.pid()

    os.kill(pid, signal.SIGKILL)

    processes.wait_until(
        lambda: EmbeddedValkey(tmp_path).process.pid() not in (None, pid),
        timeout_seconds=5,
        what=serve_one.log,
    )
    processes.wait_until(
        lambda: serve_one.get("/ready") == 200, timeout_seconds=10, what=serve_one.log
    )


def test_a_listening_socket_can_be_handed_down(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.fileno()
        process = processes.spawn(
            [sys.executable, "manage.py", "serve", "--fd", str(number)],
            log_path=tmp_path / "fd.log",
            cwd=REPOSITORY,
            env=bare_environment(tmp_path),
            pass_fds=(number,),
        )
        port = listener.getsockname()[1]

        # The socket queues what comes too early, so that one request is enough.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
            assert answer.status == 200
    process.terminate()
    assert process.wait(15) == 0


# Several processes ------------------------------------------------------------------------------


def test_several_processes_share_the_port_and_end_together(serve_two, tmp_path):
    assert len(serve_two.children()) == 2

    code = serve_two.end()

    assert code == 0, serve_two.log()
    assert serve_two.get("/health") == 0
    assert EmbeddedValkey(tmp_path).process.pid() is None


def test_a_child_that_dies_is_followed_by_another(serve_two):
    first, second = sorted(serve_two.children())

    os.kill(first, signal.SIGKILL)

    processes.wait_until(
        lambda: len(serve_two.children() - {first}) == 2,
        timeout_seconds=5,
        what=serve_two.log,
    )
    assert second in serve_two.children()
    serve_two.wait_for(f"server process {first} ended with -9")
    # Each request is a connection of its own: the kernel gives some to the new process.
    assert [serve_two.get("/health") for _ in range(20)] == [200] * 20


def test_ctrl_c_on_a_terminal_is_one_signal_for_all(serve_two):
    os.killpg(serve_two.process.pid, signal.SIGINT)

    assert serve_two.process.wait(15) == 0, serve_two.log()


def test_children_end_when_their_parent_is_killed(serve_two):
    children = serve_two.children()

    serve_two.end(signal.SIGKILL)

    processes.wait_until(
        lambda: not any(is_running(pid) for pid in children), timeout_seconds=10, what="children"
    )


def test_a_second_signal_ends_several_processes_at_once(serve_two, tmp_path):
    children = serve_two.children()
    for pid in children:
        os.kill(pid, signal.SIGSTOP)  # as one that hangs
    serve_two.process.terminate()
    time.sleep(0.6)  # longer than two signals that are one can lie apart

    code = serve_two.end()

    assert code == 128 + signal.SIGTERM
    assert not any(is_running(pid) for pid in children)
    assert EmbeddedValkey(tmp_path).process.pid() is None


def test_a_child_that_cannot_start_ends_everything(serve, tmp_path):
    (tmp_path / "broken_settings.py").write_text(
        "from project.settings import *\nASGI_APPLICATION = 'nowhere.application'\n"
    )

    served = serve(
        *("serve", "--port", "{port}", "--processes", "2"),
        PYTHONPATH=str(tmp_path),
        DJANGO_SETTINGS_MODULE="broken_settings",
    )

    assert served.process.wait(15) == 1
    assert "before it was ready" in served.log()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# What is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [False, True])
def test_a_taken_port_is_one_line(tmp_path, shares):
    with socket.socket() as taken:
        # With SO_REUSEPORT on both sides the second bind would succeed in silence.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, line, _ = complaint(tmp_path, "serve", "--port", str(port), "--processes", "2")

    assert code == EXIT_ERROR
    assert f"127.0.0.1:{port} is taken" in line
    assert f"PORT={port + 1}" in line


def test_an_address_of_another_machine_is_one_line(tmp_path):
    code, line, _ = complaint(tmp_path, "serve", "--host", "192.0.2.1", "--port", "8000")

    assert code == EXIT_ERROR
    assert "cannot listen on 192.0.2.1:8000" in line


def test_redis_that_is_not_there_is_one_line(tmp_path):
    url = f"redis://someone:pa55word@127.0.0.1:{processes.free_port()}/0"

    code, line, _ = complaint(tmp_path, "serve", "--port", free_port(), REDIS_URL=url)

    assert code == EXIT_NOT_READY
    assert "REDIS_URL" in line
    assert "refused" in line


def test_redis_that_says_nothing_is_one_line_within_seconds(tmp_path, silent_port):
    url = f"redis://:pa55word@127.0.0.1:{silent_port}/0"

    code, line, seconds = complaint(tmp_path, "serve", "--port", free_port(), REDIS_URL=url)

    assert code == EXIT_NOT_READY
    assert "no answer" in line
    assert seconds < 6  # 3 for Redis, the rest for Python to start


def test_a_redis_url_that_is_none_is_one_line(tmp_path):
    code, line, _ = complaint(tmp_path, "serve", REDIS_URL="redis://u:pa55word/x@host:port/0")

    assert code == EXIT_NOT_READY
    assert "REDIS_URL cannot be understood" in line


def test_a_database_that_is_not_there_is_one_line(tmp_path):
    url = f"postgresql://someone:pa55word@127.0.0.1:{processes.free_port()}/name"

    code, line, _ = complaint(tmp_path, "serve", "--port", free_port(), DATABASE_URL=url)

    assert code == EXIT_NOT_READY
    assert "DATABASE_URL" in line
    assert "refused" in line


def test_a_database_that_says_nothing_is_one_line_within_seconds(tmp_path, silent_port):
    url = f"postgresql://someone:pa55word@127.0.0.1:{silent_port}/name"

    code, line, seconds = complaint(tmp_path, "serve", "--port", free_port(), DATABASE_URL=url)

    assert code == EXIT_NOT_READY
    assert "DATABASE_URL" in line
    assert seconds < 6


def test_a_database_file_that_cannot_be_made_is_one_line(tmp_path):
    code, line, _ = complaint(
        tmp_path, "serve", "--port", free_port(), DATABASE_URL="sqlite:////no/x"
    )

    assert code == EXIT_NOT_READY
    assert "database /no/x cannot be reached" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REALTIME_SNAPSHOT_POLL_SECONDS", "0"),
        ("REALTIME_CHANNEL_LIMIT", "-1"),
        ("REALTIME_CONNECTION_RATE", "-1"),
        ("PROCESSES", "-3"),
        ("REALTIME_CHANNEL_RULE", "nowhere.rule"),
        ("REALTIME_PERSONAL_CHANNEL_NAMESPACE", "a:b"),
    ],
)
def test_a_setting_that_cannot_work_is_named_and_nothing_starts(tmp_path, name, value):
    done = subprocess.run(
        [sys.executable, "manage.py", "serve"],
        cwd=REPOSITORY,
        env={**bare_environment(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == EXIT_ERROR
    assert name.removeprefix("REALTIME_") in done.stderr
    assert "HINT" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "valkey").exists()


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999"])
def test_a_port_that_is_none_is_refused_by_the_name_of_its_option(tmp_path, port):
    code, line, _ = complaint(tmp_path, "serve", "--port", port)

    assert code == EXIT_USAGE
    assert line == f"CommandError: --port {port}: give a number from 1 to 65535\n"


def test_a_port_that_is_none_is_refused_by_the_name_of_its_variable(tmp_path):
    code, line, _ = complaint(tmp_path, "serve", PORT="99999")

    assert code == EXIT_USAGE
    assert line == "CommandError: PORT 99999: give a number from 1 to 65535\n"


@pytest.mark.parametrize("address", ["0", "127.0.0.1:99999"])
def test_runserver_refuses_a_port_that_is_none(tmp_path, address):
    code, line, _ = complaint(tmp_path, "runserver", address)

    assert code == EXIT_USAGE
    assert "give a number from 1 to 65535" in line


@pytest.mark.parametrize("processes", ["0", "-3"])
def test_fewer_processes_than_one_are_refused_in_one_line(tmp_path, processes):
    code, line, _ = complaint(tmp_path, "serve", "--processes", processes)

    assert code == EXIT_USAGE
    assert f"--processes {processes}: give a number of at least 1" in line


# Open files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "connection_limit", "told"),
    [
        (65_536, 0, []),
        (10_000, 9_936, []),
        (9_999, 0, ["9999 open files"]),
        (10_000, 9_937, ["CONNECTION_LIMIT is 9937"]),
        (1_024, 5_000, ["1024 open files", "CONNECTION_LIMIT is 5000"]),
    ],
)
def test_a_limit_of_open_files_that_is_too_low_is_told(limit, connection_limit, told):
    warnings = warnings_of_open_files(limit, connection_limit=connection_limit)

    assert len(warnings) == len(told)
    assert all(words in warning for words, warning in zip(told, warnings, strict=True))


def test_serve_warns_of_few_open_files_once(tmp_path):
    port = processes.free_port()
    script = f'ulimit -n 512 && exec "$0" manage.py serve --processes 2 --port {port}'
    process = processes.spawn(
        ["sh", "-c", script, sys.executable],
        log_path=tmp_path / "few.log",
        cwd=REPOSITORY,
        env={**bare_environment(tmp_path), "REALTIME_CONNECTION_LIMIT": "1000"},
    )
    log = tmp_path / "few.log"
    processes.wait_until(
        lambda: "2 process(es)" in log.read_text(), timeout_seconds=READY_SECONDS, what="ready"
    )
    process.terminate()

    assert process.wait(15) == 0
    assert log.read_text().count("512 open files") == 1
    assert log.read_text().count("CONNECTION_LIMIT is 1000") == 1


# The first minute -------------------------------------------------------------------------------


def test_the_first_run_makes_everything_and_the_second_keeps_it(serve, tmp_path):
    first = serve("serve", "--dev", "--port", "{port}", DEBUG="1", REALTIME_DEMO="1")
    first.wait_for("Ctrl-C ends it")
    banner = first.log()
    password = re.search(r"admin / (\S+)", banner)
    key = (tmp_path / "api_key").read_text()
    first.end()

    second = serve("serve", "--dev", "--port", "{port}", DEBUG="1", REALTIME_DEMO="1")
    second.wait_ready()

    assert password is not None
    assert (tmp_path / "api_key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "api_key").read_text() == key
    assert key.strip() not in (tmp_path / "db.sqlite3").read_bytes().decode("latin-1")
    assert second.log().count(password[1]) == 1  # in the banner of the first run, above
    assert can_sign_in(second, password[1])


def can_sign_in(served: Served, password: str) -> bool:
    script = (
        "from django.contrib.auth import authenticate; "
        f"print(authenticate(username='admin', password={password!r}))"
    )
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", script],
        cwd=REPOSITORY,
        env=bare_environment(served.folder),
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() == "admin"


@pytest.mark.parametrize("is_new", [True, False])
def test_the_curl_line_of_the_banner_works_as_pasted(serve, tmp_path, is_new):
    if not is_new:
        before = serve("serve", "--dev", "--port", "{port}")
        before.wait_for("Ctrl-C ends it")
        before.end()
        (tmp_path / "db.sqlite3").unlink()  # the key file outlives it
        before.log_path.write_text("")
    served = serve("serve", "--dev", "--port", "{port}")
    served.wait_for("Ctrl-C ends it")
    line = re.search(r"curl .*", served.log())

    done = subprocess.run(
        ["sh", "-c", line[0]], cwd=REPOSITORY, capture_output=True, text=True, timeout=10
    )

    assert shlex.split(line[0])[0] == "curl"
    assert json.loads(done.stdout)["result"]["offset"] == 1, done


def test_the_clock_of_the_demo_ticks(serve, tmp_path):
    serve("serve", "--dev", "--port", "{port}", REALTIME_DEMO="1").wait_for("Ctrl-C ends it")

    with redis.Redis.from_url(embedded.address(tmp_path)) as valkey:
        processes.wait_until(
            lambda: any(valkey.type(key) == b"stream" for key in valkey.scan_iter("rt:*")),
            timeout_seconds=5,
            what="a tick",
        )


# runserver --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["127.0.0.1:{port}"], ["{port}", "--noreload"]])
def test_runserver_is_the_same_server(serve, arguments):
    served = serve("runserver", *arguments)
    served.wait_ready()

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)
    connection.request("GET", "/health")

    assert connection.getresponse().headers["Server"] == "heliograph"
    connection.close()
    assert "with the server of `serve`" in served.log()
    assert served.end(signal.SIGINT) == 0


def test_runserver_starts_anew_when_code_changes(serve, tmp_path):
    app = tmp_path / "extra_app"
    app.mkdir()
    (app / "__init__.py").touch()
    (tmp_path / "extra_settings.py").write_text(
        "from project.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'extra_app']\n"
    )
    served = serve(
        "runserver",
        "{port}",
        PYTHONPATH=str(tmp_path),
        DJANGO_SETTINGS_MODULE="extra_settings",
    )
    served.wait_ready()
    before = served.children()

    (app / "new.py").write_text("x = 1\n")

    processes.wait_until(
        lambda: served.children() and not served.children() & before,
        timeout_seconds=10,
        what=served.log,
    )
    served.wait_ready()
