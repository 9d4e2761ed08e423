"""``docs/tutorials/first-live-page.md``, done from its first line to its last."""

import json
import re
import shutil

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import NewPage
from tests.docs.conftest import Reader
from tests.docs.documents import document, write_files
from tests.support import banner
from tests.support.sdk import SDK_FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.end_to_end]

TUTORIAL = document("docs/tutorials/first-live-page.md")
CHANNEL = "sensors:temperature"


def follow(reader: Reader) -> tuple[str, str]:
    """Do what the tutorial says up to its page; return the login's name and password."""
    login = ("", "")
    for block in TUTORIAL.blocks():
        if block.title:
            list(write_files(reader.checkout, [block]))
        elif block.text == "make run\n":
            reader.start()
            reader.wait_ready()
            login = banner.login(reader)
        elif "npm pack" in block.text:
            put_sdk(reader, block.text)
        elif "manage.py measure" not in block.text:
            reader.type(block.text)
    reader.terminate()
    reader.start()
    reader.wait_ready()
    return login


def put_sdk(reader: Reader, line: str) -> None:
    """Put the SDK where the line would, without the network."""
    found = re.search(r"-C (\S+) .*centrifuge@([\d.]+)\)\" package/(\S+)$", line.strip())
    assert found, line
    package = SDK_FOLDER / "node_modules" / "centrifuge"
    assert json.loads((package / "package.json").read_text())["version"] == found[2]
    shutil.copy(package / found[3], reader.checkout / found[1])


async def open_page(page: Page, name: str, password: str) -> None:
    await page.goto("/sensors/")
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#state")).to_have_text("connected")


def publish(reader: Reader, *celsius: float) -> None:
    key = (reader.checkout / "var" / "api_key").read_text().strip()
    for each in celsius:
        body = json.dumps({"channel": CHANNEL, "data": {"celsius": each}})
        answer = reader.post("/api/publish", body, {"X-API-Key": key})
        assert "result" in json.loads(answer), answer


async def test_the_tutorial_ends_with_a_page_that_catches_up(
    developer: Reader, new_page: NewPage, sdk_packages: None
):
    reader = developer
    login = follow(reader)
    page = await new_page(reader.url)
    await open_page(page, *login)
    rows = page.locator("#readings li")
    switch = page.get_by_role("button", name="Leave or come back")

    publish(reader, 20.5, 21.5)
    await expect(rows).to_have_text(["21.5", "20.5"])
    await expect(page.locator("#newest")).to_have_text("21.5 °C")

    await switch.click()
    await expect(page.locator("#state")).to_have_text("disconnected")
    publish(reader, 22.5, 23.5)
    await expect(rows).to_have_text(["21.5", "20.5"])
    await switch.click()
    await expect(rows).to_have_text(["23.5", "22.5", "21.5", "20.5"])

    await page.reload()
    await expect(rows).to_have_text(["23.5", "22.5", "21.5", "20.5"])

    await switch.click()
    await expect(page.locator("#state")).to_have_text("disconnected")
    publish(reader, *range(101))
    await switch.click()
    await expect(rows).to_have_text([str(each) for each in range(100, 80, -1)])

    reader.start_typing(TUTORIAL.block("sh", "manage.py measure").text)
    await expect(rows.first).not_to_have_text("100", timeout=15_000)
