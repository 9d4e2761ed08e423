"""The embedded Valkey: shared, outliving a killed owner, revived, and ended by its last user."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from realtime.server import embedded
from realtime.server.embedded import EmbeddedValkey, embedded_valkey
from realtime.server.valkey_process import EmbeddedValkeyError
from tests.support import processes

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def var_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    pid = EmbeddedValkey(tmp_path).process.pid()
    if pid:
        os.kill(pid, signal.SIGKILL)


def client(var_dir: Path) -> redis.Redis:
    return redis.Redis.from_url(embedded.address(var_dir), socket_timeout=5)


def start_holder(var_dir: Path) -> subprocess.Popen[str]:
    """Start a process that uses the Valkey until its standard input closes."""
    script = """
        import sys
        from pathlib import Path
        from realtime.server.embedded import embedded_valkey
        with embedded_valkey(Path(sys.argv[1])):
            print("ready", flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(var_dir)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    return holder


def let_go(holder: subprocess.Popen[str]) -> None:
    holder.communicate(timeout=20)


def test_it_serves_on_a_private_socket_with_an_append_only_file(var_dir):
    with embedded_valkey(var_dir), client(var_dir) as valkey:
        config = valkey.config_get("*")

    assert config["port"] == "0"
    assert config["unixsocketperm"] == "700"
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["save"] == ""
    assert config["maxmemory-policy"] == "noeviction"


def test_what_was_written_is_there_after_it_was_ended(var_dir):
    with embedded_valkey(var_dir), client(var_dir) as valkey:
        valkey.set("kept", "yes")

    with embedded_valkey(var_dir), client(var_dir) as valkey:
        assert valkey.get("kept") == b"yes"


def test_the_last_user_ends_it(var_dir):
    with embedded_valkey(var_dir) as valkey:
        pid = valkey.process.pid()

    assert pid is not None
    assert valkey.process.pid() is None
    assert not valkey.process.is_listening()


def test_a_second_user_attaches_and_the_first_may_leave(var_dir):
    first, second = EmbeddedValkey(var_dir), EmbeddedValkey(var_dir)
    first.join()
    pid = first.process.pid()

    second.join()
    first.leave()

    assert second.process.pid() == pid
    second.leave()
    assert second.process.pid() is None


def test_many_processes_that_start_at_once_share_one(var_dir):
    holders = [start_holder(var_dir) for _ in range(4)]
    try:
        with client(var_dir) as valkey:
            assert valkey.info("server")["process_id"] == EmbeddedValkey(var_dir).process.pid()
    finally:
        for holder in holders:
            let_go(holder)

    assert EmbeddedValkey(var_dir).process.pid() is None


def test_it_outlives_a_killed_owner_and_the_next_one_attaches(var_dir):
    holder = start_holder(var_dir)
    pid = EmbeddedValkey(var_dir).process.pid()

    holder.kill()
    holder.communicate(timeout=20)

    with embedded_valkey(var_dir) as valkey:
        assert valkey.process.pid() == pid
    assert valkey.process.pid() is None


def test_it_is_revived_with_its_data_when_it_was_killed(var_dir):
    with embedded_valkey(var_dir) as valkey, client(var_dir) as connection:
        connection.set("kept", "yes")
        pid = valkey.process.pid()

        os.kill(pid, signal.SIGKILL)

        processes.wait_until(
            lambda: valkey.process.pid() not in (None, pid) and valkey.process.is_listening(),
            timeout_seconds=10,
            what="a new process",
        )
        with client(var_dir) as again:
            assert again.get("kept") == b"yes"


def test_a_frozen_one_is_left_alone(var_dir):
    with embedded_valkey(var_dir) as valkey:
        pid = valkey.process.pid()
        os.kill(pid, signal.SIGSTOP)

        assert valkey.process.is_listening()

        os.kill(pid, signal.SIGCONT)
        assert valkey.process.pid() == pid


def test_a_frozen_one_from_before_is_told_and_not_waited_for_for_ever(var_dir, monkeypatch):
    monkeypatch.setattr("realtime.server.valkey_process.ANSWER_DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr("realtime.server.valkey_process.PROBE_DEADLINE_SECONDS", 0.2)
    first, second = EmbeddedValkey(var_dir), EmbeddedValkey(var_dir)
    first.join()
    pid = first.process.pid()
    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(EmbeddedValkeyError, match=f"kill -9 {pid}"):
        second.join()

    os.kill(pid, signal.SIGCONT)
    first.leave()


def test_stale_files_do_not_hinder_a_start(var_dir):
    folder = var_dir / "valkey"
    folder.mkdir()
    (folder / "valkey.sock").touch()
    # A living process that is none of ours, as after the number was used again.
    (folder / "valkey.pid").write_text(f"{os.getpid()}\n")

    with embedded_valkey(var_dir), client(var_dir) as valkey:
        assert valkey.ping()


def test_one_without_a_socket_makes_room(var_dir):
    first, second = EmbeddedValkey(var_dir), EmbeddedValkey(var_dir)
    first.join()
    pid = first.process.pid()
    first.process.socket.unlink()

    second.join()

    assert second.process.pid() not in (None, pid)
    first.leave()
    second.leave()


def test_one_that_listens_at_another_socket_is_not_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "SOCKET_PATH_MAX_BYTES", 10)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a"))
    first = EmbeddedValkey(tmp_path)
    first.join()

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "b"))
    with pytest.raises(EmbeddedValkeyError, match="XDG_RUNTIME_DIR"):
        EmbeddedValkey(tmp_path).join()

    assert first.process.is_listening()
    first.leave()


def test_a_wrong_binary_is_one_clear_error(var_dir, monkeypatch, tmp_path):
    monkeypatch.setattr("realtime.server.valkey_process.binary", lambda: tmp_path / "absent")

    with pytest.raises(EmbeddedValkeyError, match=r"cannot run .*absent"):
        EmbeddedValkey(var_dir).join()


def test_a_long_var_dir_gets_a_short_private_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(embedded, "SOCKET_PATH_MAX_BYTES", 10)
    var_dir = tmp_path / "long"

    with embedded_valkey(var_dir) as valkey:
        folder = valkey.process.socket.parent

        assert folder == tmp_path / f"heliograph-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert valkey.process.socket == embedded.socket_path(var_dir)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(embedded, "SOCKET_PATH_MAX_BYTES", 10)
    (tmp_path / f"heliograph-{os.getuid()}").mkdir(mode=0o755)

    with pytest.raises(EmbeddedValkeyError, match="not a private folder"):
        EmbeddedValkey(tmp_path / "long").join()


def test_the_address_does_not_depend_on_how_the_folder_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)

    addresses = {embedded.address(path) for path in (tmp_path, tmp_path / "link", Path())}

    assert len(addresses) == 1


def test_the_watch_ends_when_it_is_told(var_dir):
    with embedded_valkey(var_dir):
        names = {thread.name for thread in threading.enumerate()}
        assert "embedded-valkey" in names

    assert "embedded-valkey" not in {thread.name for thread in threading.enumerate()}
