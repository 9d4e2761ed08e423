"""``docs/how-to/guard-a-channel.md``, done as it stands there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.conftest import Reader
from tests.docs.documents import document
from tests.support import processes

pytestmark = pytest.mark.end_to_end

HOW_TO = document("docs/how-to/guard-a-channel.md")
SCRIPT = HOW_TO.block("js", "newSubscription").text
ENDED = ["subscribed", "2000 server unsubscribe"]


def wait_for(log: Path, lines: list[str]) -> None:
    processes.wait_until(
        lambda: log.read_text().splitlines() == lines,
        timeout_seconds=15,
        what=lambda: processes.tail(log),
    )


@pytest.fixture
def reader(developer: Reader, sdk_packages: None) -> Iterator[Reader]:
    """A reader whose server has the rule, and the user ``ada`` with the permission."""
    developer.save(HOW_TO.blocks())
    developer.type(HOW_TO.block("sh", "makemigrations").text)
    developer.start()
    developer.wait_ready()
    developer.type(HOW_TO.block("sh", "create_user").text)
    yield developer
    developer.terminate()


def shell(reader: Reader, lines: str) -> str:
    """Run lines with the models of the project; return the last word that they print."""
    before = "from django.contrib.auth.models import User\nfrom shop.models import Order\n"
    return reader.type(f".venv/bin/python manage.py shell -c '{before}{lines}'").split()[-1]


@pytest.fixture
def ada(reader: Reader) -> str:
    """The id of the user ``ada``."""
    return shell(reader, 'print(User.objects.get(username="ada").pk)')


async def test_who_loses_a_permission_loses_the_channel(reader: Reader, ada: str):
    watching = reader.start_script(SCRIPT, user=ada)
    wait_for(watching, ["subscribed"])

    reader.type(HOW_TO.block("sh", "user_permissions.clear()").text)

    wait_for(watching, ENDED)
    wait_for(reader.start_script(SCRIPT, user=ada), ["103 permission denied"])


async def test_who_sells_an_order_on_watches_it_no_more(reader: Reader, ada: str):
    reader.type(HOW_TO.block("sh", "user_permissions.clear()").text)
    shell(reader, f"print(Order.objects.create(pk=1, owner_id={ada}))")
    watching = reader.start_script(SCRIPT, user=ada)
    wait_for(watching, ["subscribed"])

    shell(reader, "order = Order.objects.get(pk=1)\norder.owner_id = 1\nprint(order.save())")

    wait_for(watching, ENDED)
    wait_for(reader.start_script(SCRIPT, user="1"), ["subscribed"])  # may do everything


async def test_strangers_may_not_watch(reader: Reader):
    wait_for(reader.start_script(SCRIPT, user="nobody"), ["103 permission denied"])
