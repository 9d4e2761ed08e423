"""``realtime`` in a project of somebody else: it needs nothing of this one."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import jwt
import pytest

from tests.support import processes
from tests.support.raw_client import RawClient
from tests.support.servers import REPOSITORY, websocket_url

SECRET = "only-for-the-tokens-of-a-minimal-project-0123456789"
OURS = {"project", "api", "dashboard"}
# What a developer's shell may hold must not steer the tests.
INHERITED = {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV"}


class Project:
    """The minimal project with a database and a Redis."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.variables = {
            **{name: value for name, value in os.environ.items() if name in INHERITED},
            "DJANGO_SETTINGS_MODULE": "tests.minimal_project.settings",
            "MINIMAL_DATABASE": str(folder / "db.sqlite3"),
            "REDIS_URL": redis_url,
            "PYTHONUNBUFFERED": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "django", *arguments]

    def manage(self, *arguments: str) -> str:
        process = subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout + process.stderr

    def shell(self, code: str) -> str:
        """Run code after ``django.setup()`` in a process of its own."""
        process = subprocess.run(
            [sys.executable, "-c", f"import django; django.setup()\n{code}"],
            cwd=REPOSITORY,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Project:
    project = Project(tmp_path_factory.mktemp("minimal"), redis_url)
    project.manage("migrate", "--verbosity", "0")
    project.shell(
        "from realtime.models import Namespace\n"
        "Namespace.objects.create(name='chat', history_size=10, history_ttl=60,"
        " allow_subscribe_for_client=True, force_recovery=True)"
    )
    return project


def test_it_passes_its_checks(project: Project) -> None:
    assert "no issues" in project.manage("check", "--fail-level", "WARNING")


def test_its_migrations_are_complete(project: Project) -> None:
    assert "No changes" in project.manage("makemigrations", "--check", "--dry-run")


def test_it_publishes_from_a_process_that_runs_no_instance(
    project: Project, flushed_redis: str
) -> None:
    printed = project.shell(
        "import asyncio\n"
        "from realtime.services import ahistory, apublish, publish\n"
        "print(publish('chat:a', {'n': 1}).offset)\n"
        "print(asyncio.run(apublish('chat:a', {'n': 2})).offset)\n"
        "print(asyncio.run(ahistory('chat:a')).offset)"
    )

    assert printed.split() == ["1", "2", "2"]


def test_nothing_of_our_own_project_is_imported(project: Project) -> None:
    printed = project.shell(
        "import json, sys\n"
        "import realtime.services, realtime.consumers, realtime.routing, realtime.server.server\n"
        "import tests.minimal_project.asgi\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )

    assert not OURS & set(json.loads(printed))


async def test_a_server_of_its_own_carries_what_its_view_publishes(
    project: Project, flushed_redis: str
) -> None:
    port = processes.free_port()
    log = project.folder / "serve.log"
    server = processes.spawn(
        project.command("serve", "--host", "127.0.0.1", "--port", str(port)),
        log_path=log,
        cwd=REPOSITORY,
        env=project.variables,
    )
    try:
        processes.wait_until(
            lambda: listens(port), timeout_seconds=20, what=lambda: processes.tail(log)
        )
        async with RawClient(websocket_url(port)) as client:
            await client.connect(jwt.encode({"sub": "42"}, SECRET, algorithm="HS256"))
            await client.subscribe("chat:a")

            with urllib.request.urlopen(f"http://127.0.0.1:{port}/say?what=hi") as answer:
                assert json.load(answer) == {"offset": 1}

            publication = await client.log.wait("pub", channel="chat:a")
            assert publication["data"] == {"said": "hi"}
    finally:
        processes.end(server)
    assert "Traceback" not in log.read_text()


def listens(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True
