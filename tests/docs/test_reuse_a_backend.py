"""``docs/how-to/reuse-a-centrifugo-backend.md``, done as it stands there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.conftest import Reader
from tests.docs.documents import document
from tests.support import processes

pytestmark = pytest.mark.end_to_end

HOW_TO = document("docs/how-to/reuse-a-centrifugo-backend.md")
UNTIL_ANSWERED = """
chat.unsubscribe();
await new Promise((answered) => client.on("connected", answered).on("disconnected", answered));
"""


@pytest.fixture
def there() -> Callable[[str], str]:
    """Return a changer of text: to a port for the backend that is free."""
    port = str(processes.free_port())
    return lambda text: text.replace("9000", port)


def wait_for(log: Path, *lines: str) -> None:
    """Return once a script has logged these lines, in whatever order, and no others."""
    processes.wait_until(
        lambda: sorted(log.read_text().splitlines()) == sorted(lines),
        timeout_seconds=15,
        what=lambda: processes.tail(log),
    )


async def test_a_backend_decides_who_connects_and_subscribes_and_answers_calls(
    developer: Reader, sdk_packages: None, there: Callable[[str], str]
):
    program = HOW_TO.block("python", "ANSWERS")
    assert program.title is not None
    developer.checkout.joinpath(program.title).write_text(there(program.text))
    developer.start()
    developer.wait_ready()
    developer.start_typing(HOW_TO.block("sh", program.title).text)
    developer.type(there(HOW_TO.block("sh", "manage.py shell").text))
    connect, call = HOW_TO.blocks("js")
    script = connect.text + call.text
    processes.wait_until(
        lambda: "connected" in developer.run_script(connect.text + UNTIL_ANSWERED),
        timeout_seconds=15,
        what="nobody is asked who connects",
    )

    wait_for(developer.start_script(script), "connected", "subscribed to chat:red", "42")
    wait_for(developer.start_script(connect.text.replace("admit one", "forged")), "4501 no ticket")
    wait_for(
        developer.start_script(script.replace("chat:red", "chat:blue")),
        *("connected", "1403 not your team", "42"),
    )
    developer.terminate()
