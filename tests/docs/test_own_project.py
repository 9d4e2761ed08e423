"""``docs/how-to/use-in-your-own-project.md``, done in a project that Django has just made."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.conftest import Reader, with_python_first
from tests.docs.documents import document, write_files
from tests.support.sdk import PythonClient
from tests.support.servers import REPOSITORY, bare_environment
from tests.support.valkey import Valkey

pytestmark = pytest.mark.end_to_end

HOW_TO = document("docs/how-to/use-in-your-own-project.md")


@pytest.fixture
def reader(tmp_path: Path, valkey: Valkey) -> Iterator[Reader]:
    """A reader whose own project has the packages and files of the how-to."""
    folder = tmp_path / "own"
    folder.mkdir()
    django_admin = [sys.executable, "-m", "django", "startproject", "mysite", str(folder)]
    subprocess.run(django_admin, check=True, timeout=60)
    for package in ("realtime", "api"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, folder / package, ignore=ignored)
    list(write_files(folder, HOW_TO.blocks()))
    settings = folder / "mysite" / "settings.py"
    text = settings.read_text()
    assert "redis://127.0.0.1:6379/0" in text
    settings.write_text(text.replace("redis://127.0.0.1:6379/0", valkey.url))
    reader = Reader(folder, with_python_first(bare_environment(folder)))
    try:
        yield reader
    finally:
        reader.close()


async def test_a_project_of_ones_own_publishes_to_its_clients(reader: Reader):
    steps, serve = HOW_TO.block("sh", "manage.py migrate").text.split("python manage.py serve")
    assert serve == " --host 127.0.0.1 --port 8000\n"
    reader.type(steps)
    reader.start()
    reader.wait_ready()
    token = reader.type("python manage.py token --user 42").strip()

    async with PythonClient(reader.websocket_url) as client:
        await client.connect(token)
        await client.subscribed("news:today")
        lines = HOW_TO.block("python", 'publish("news:today"').text
        reader.type(f"python manage.py shell -c '{lines}'")
        received = await client.log.wait("pub", channel="news:today")

    assert received["data"] == {"title": "It works"}
    assert reader.get("/api/token/connection")[0] == 401
    reader.terminate()
