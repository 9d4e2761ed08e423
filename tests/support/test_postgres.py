"""The controllable PostgreSQL does what the tests rely on."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import postgres as support
from tests.support.postgres import Postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    yield server
    server.close()


def make_table(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")


def kept(url: str) -> list[tuple[int]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT one FROM kept").fetchall()


def test_a_database_is_a_copy_of_its_template(server: Postgres) -> None:
    make_table(server.create("source"))

    copy = server.create("copy", template="source")

    assert kept(copy) == [(1,)]


@pytest.mark.parametrize("end", [Postgres.stop, Postgres.kill])
def test_it_keeps_data_and_address_over_an_end(server: Postgres, end) -> None:
    url = server.create(f"after_{end.__name__}")
    make_table(url)

    with psycopg.connect(url):  # a client does not hold it up
        end(server)
    assert not server.answers()
    server.start()

    assert kept(url) == [(1,)]


def test_it_does_not_run_as_root(server: Postgres) -> None:
    owner = Path(f"/proc/{server.process.pid}").stat().st_uid

    assert owner != 0
    assert owner == os.geteuid() or os.geteuid() == 0


def test_nobody_gets_in_without_the_password(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host="127.0.0.1", port=server.port, user="heliograph", dbname="postgres")


def test_a_machine_without_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "_DEBIAN_FOLDERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(FileNotFoundError, match="apt install postgresql"):
        Postgres()
