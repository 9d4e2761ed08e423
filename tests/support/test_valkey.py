"""The controllable Valkey does what the fault tests rely on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.processes import free_port
from tests.support.valkey import Valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path / "valkey", port=free_port(), append_only=True)
    valkey.start()
    yield valkey
    valkey.close()


def write(valkey: Valkey, *names: str) -> None:
    with valkey.client() as client:
        for name in names:
            client.set(name, "x" * 100)


def names_in(valkey: Valkey) -> set[str]:
    with valkey.client() as client:
        return {name.decode() for name in client.scan_iter()}


def test_a_restart_keeps_data_and_port(valkey: Valkey) -> None:
    write(valkey, "kept")
    port = valkey.port

    valkey.stop()
    assert not valkey.answers()
    valkey.start()

    assert names_in(valkey) == {"kept"}
    assert valkey.port == port


def test_a_kill_keeps_what_was_acknowledged(valkey: Valkey) -> None:
    write(valkey, "kept")

    valkey.kill()
    valkey.start()

    assert names_in(valkey) == {"kept"}


def test_a_truncated_log_loses_the_newest_writes_only(valkey: Valkey) -> None:
    write(valkey, "old")
    kept_bytes = valkey.log_bytes()
    write(valkey, "new")

    valkey.kill()
    valkey.truncate_log(kept_bytes)
    valkey.start()

    assert names_in(valkey) == {"old"}


def test_a_frozen_server_answers_after_the_thaw(valkey: Valkey) -> None:
    with redis.Redis(port=valkey.port, socket_timeout=0.2, retry=None) as client:
        valkey.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()

        valkey.thaw()

        assert valkey.answers()


def test_the_valkey_of_this_run_is_empty_when_asked_for(flushed_redis: str) -> None:
    with redis.Redis.from_url(flushed_redis) as client:
        assert client.dbsize() == 0
        client.set("left over", "1")
