"""What the database decides, once more on PostgreSQL; the tests themselves know of none."""

import os
import subprocess
import sys

import psycopg
import pytest

from tests.support.environment import DATABASE_VARIABLE
from tests.support.postgres import Postgres
from tests.support.servers import REPOSITORY

# Constraints, JSON, case, triggers and what a transaction sees: not the same in both.
MODULES = [
    "tests/realtime/test_access.py",
    "tests/realtime/test_access_triggers.py",
    "tests/realtime/test_models.py",
    "tests/realtime/test_snapshot.py",
    "tests/realtime/test_admin.py",
    "tests/realtime/test_apikey_command.py",
    "tests/realtime/test_namespaces_command.py",
    "tests/api/test_auth.py",
]


@pytest.mark.timeout(300)
def test_what_the_database_decides_is_the_same_on_postgresql(postgres: Postgres) -> None:
    # Kept, because threads of the tests still hold connections; it ends with its server.
    options = ["-q", "--reuse-db", "-p", "no:cacheprovider", "--no-cov"]

    run = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "pytest", *options, *MODULES],
        cwd=REPOSITORY,
        env={**os.environ, DATABASE_VARIABLE: postgres.create("tests")},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    with psycopg.connect(
        postgres.url("test_tests")
    ) as connection:  # there it was, and not in SQLite
        connection.execute("SELECT number FROM realtime_snapshotversion")
