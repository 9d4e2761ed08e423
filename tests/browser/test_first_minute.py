"""The first minute: sign in, publish with curl, and see it arrive."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.conftest import Pair
from tests.support import banner, world
from tests.support.servers import Server, bare_environment

pytestmark = pytest.mark.browser


async def sign_in(page: Page, name: str = world.USER, password: str = world.USER_PASSWORD) -> None:
    await page.goto("/")
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#state")).to_have_text("Live", timeout=10_000)


async def curl(url: str, body: object) -> dict[str, object]:
    """Publish as the banner says, with curl itself."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-X", "POST", f"{url}/api/publish"),
        *("-H", f"X-API-Key: {world.API_KEY}", "-d", json.dumps(body)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return json.loads(output)


async def test_a_stranger_is_asked_to_sign_in(page: Page) -> None:
    await page.goto("/")

    assert "/login/" in page.url
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_what_curl_publishes_appears_on_the_open_page(page: Page, pair: Pair) -> None:
    await sign_in(page)
    text = f"hello {uuid.uuid4().hex[:8]}"

    answer = await curl(pair.b.url, {"channel": "demo:hello", "data": {"text": text}})

    assert answer["result"]["offset"] >= 1
    await expect(page.locator("#messages")).to_contain_text(text)


async def test_what_one_page_publishes_appears_on_another(page: Page) -> None:
    await sign_in(page)
    other = await page.context.new_page()
    await other.goto("/")
    await expect(other.locator("#state")).to_have_text("Live")
    text = f"typed {uuid.uuid4().hex[:8]}"

    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Publish").click()

    for shown in (page, other):
        await expect(shown.locator("#messages")).to_contain_text(text)


async def test_markup_in_a_publication_stays_text(page: Page, pair: Pair) -> None:
    await sign_in(page)
    text = f"<img src=x onerror=alert(1)> {uuid.uuid4().hex[:8]}"

    await curl(pair.a.url, {"channel": "demo:hello", "data": {"text": text}})

    await expect(page.locator("#messages")).to_contain_text(text)
    assert await page.locator("#messages img").count() == 0


async def test_the_clock_of_the_page_shows_what_is_published(page: Page, pair: Pair) -> None:
    await sign_in(page)

    await curl(pair.a.url, {"channel": "demo:clock", "data": {"unix": 1_800_000_000}})

    await expect(page.locator("#clock")).not_to_have_text("--:--:--")


async def test_the_line_of_the_banner_changes_the_page_of_a_fresh_checkout(
    new_page, tmp_path: Path
) -> None:
    """All that a newcomer does: one command, the login it prints, the line it prints."""
    server = Server("first", tmp_path, bare_environment(tmp_path / "var"), "--dev")
    server.variables["REALTIME_DEMO"] = "1"
    try:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.wait_ready)
        page = await new_page(server.url)
        await sign_in(page, *await asyncio.to_thread(banner.login, server))
        await expect(page.locator("#clock")).not_to_have_text("--:--:--")

        answer = await asyncio.to_thread(banner.run_publish_line, server)

        assert '"offset":1' in answer
        await expect(page.locator("#messages")).to_contain_text("hello")
        await page.screenshot(path=tmp_path / "first_minute.png")
        await page.close()
        await asyncio.to_thread(server.terminate)
    finally:
        server.close()
