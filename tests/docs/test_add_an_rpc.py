"""``docs/how-to/add-an-rpc.md``, done as it stands there."""

import pytest

from tests.docs.conftest import Reader
from tests.docs.documents import document

pytestmark = pytest.mark.end_to_end

HOW_TO = document("docs/how-to/add-an-rpc.md")
ORDERS = """
from datetime import date
from shop.models import Order
for day in (date(2025, 12, 31), date(2026, 1, 1), date(2026, 2, 1)):
    Order.objects.create(owner_id=1, placed_on=day, cents=250)
"""


async def test_a_page_and_a_program_call_a_function_of_an_app(
    developer: Reader, sdk_packages: None
):
    developer.save(HOW_TO.blocks())
    developer.type(HOW_TO.block("sh", "makemigrations").text)
    developer.start()
    developer.wait_ready()
    script = HOW_TO.block("js", "client.rpc").text

    none, refused = developer.type(HOW_TO.block("sh", "ask.py").text).splitlines()
    assert none == "1404 no orders"
    assert refused.startswith("107 ")
    assert "since" in refused
    assert developer.run_script(script, user="1") == ["1404 no orders"]

    developer.type(f".venv/bin/python manage.py shell -c '{ORDERS}'")
    assert developer.run_script(script, user="1") == ["2 500"]
    assert developer.run_script(script, user="unknown") == ["103 permission denied"]
    developer.terminate()
