"""Give a test run its own Valkey, folder and database before Django reads its settings.

A pytest plugin, named in ``addopts``: a conftest would come too late, because pytest-django
imports the settings first.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.valkey import Valkey

# Where the tests are to run on another database than a SQLite file of their own.
DATABASE_VARIABLE = "TESTS_DATABASE_URL"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    folder = Path(tempfile.mkdtemp(prefix="heliograph-"))
    valkey = Valkey(folder / "redis")

    def end() -> None:
        valkey.close()
        shutil.rmtree(folder, ignore_errors=True)

    early_config.add_cleanup(end)
    # An exit before pytest is configured skips its own cleanup; ending twice does no harm.
    atexit.register(end)
    valkey.start()
    os.environ.update(variables(folder, redis_url=valkey.url))
    return (yield)


def variables(folder: Path, *, redis_url: str) -> dict[str, str]:
    """Return the environment in which the settings of the project point at ``folder`` alone."""
    return {
        "VAR_DIR": str(folder),
        "REDIS_URL": redis_url,
        "DATABASE_URL": os.environ.get(DATABASE_VARIABLE) or f"sqlite:///{folder}/db.sqlite3",
        "SECRET_KEY": secrets.token_hex(32),
        "REALTIME_TOKEN_HMAC_SECRET": secrets.token_hex(32),
    }


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Return the address of this run's Valkey."""
    return os.environ["REDIS_URL"]


@pytest.fixture
def flushed_redis(redis_url: str) -> Iterator[str]:
    """Hand out this run's Valkey empty, and leave it so."""
    valkey = Valkey(Path(os.environ["VAR_DIR"]) / "redis")
    with valkey.client() as client:
        client.flushall()
        yield redis_url
        client.flushall()
