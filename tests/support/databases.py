"""Filled databases to copy for each deployment; each time to migrate would be too slow."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import servers, world
from tests.support.postgres import Postgres


class FilledSqlite:
    """A SQLite file, copied into the deployment's folder.

    Args:
        folder: Takes the file to copy.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "db.sqlite3"
        _fill(folder, f"sqlite:///{self._file}")

    def copy(self, folder: Path) -> str:
        shutil.copy(self._file, folder / "db.sqlite3")
        return f"sqlite:///{folder}/db.sqlite3"


class FilledPostgres:
    """A database of a PostgreSQL, copied within it.

    Args:
        folder: Takes what is written on the way.
        server: It runs.
    """

    _TEMPLATE = "world"

    def __init__(self, folder: Path, server: Postgres) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        _fill(folder, server.create(self._TEMPLATE))

    def copy(self, folder: Path) -> str:
        return self._server.create(f"world_{next(self._numbers)}", template=self._TEMPLATE)


def _fill(folder: Path, database_url: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.provision"],
        input=json.dumps(world.description()).encode(),
        cwd=servers.REPOSITORY,
        env=servers.environment(folder, "redis://127.0.0.1:1/0", {"DATABASE_URL": database_url}),
        capture_output=True,
        timeout=60,
    )
    if process.returncode:
        raise RuntimeError(f"the database could not be filled:\n{process.stderr.decode()}")
