"""``docs/how-to/poll-an-api.md``, done as it stands there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.conftest import Reader
from tests.docs.documents import document
from tests.support import processes

pytestmark = pytest.mark.end_to_end

HOW_TO = document("docs/how-to/poll-an-api.md")


@pytest.fixture
def there() -> Callable[[str], str]:
    """Return a changer of text: to a port for the API that is free."""
    port = str(processes.free_port())
    return lambda text: text.replace("9000", port)


def wait_for(log: Path, text: str) -> None:
    processes.wait_until(
        lambda: text in log.read_text(), timeout_seconds=20, what=lambda: processes.tail(log)
    )


async def test_a_change_of_an_api_reaches_who_watches(
    developer: Reader, sdk_packages: None, there: Callable[[str], str]
):
    *files, serve = there(HOW_TO.block("sh", "http.server").text).splitlines()
    developer.type("\n".join(files))
    requests = developer.start_typing(serve)
    developer.start()
    developer.wait_ready()
    developer.type(there(HOW_TO.block("sh", "manage.py shell").text))
    script = HOW_TO.block("js", "newSubscription").text

    watching = developer.start_script(script, user="1")
    wait_for(watching, "1.08\n")
    developer.type(HOW_TO.block("sh", "1.09").text)
    wait_for(watching, "1.09\n")

    assert watching.read_text() == "1.08\n1.09\n"
    assert "GET /latest.json" in requests.read_text()
    late = developer.start_script(script, user="1")
    wait_for(late, "1.09\n")
    assert late.read_text() == "1.09\n"

    developer.type("rm rates/latest.json")
    wait_for(watching, "failing")
    developer.terminate()
