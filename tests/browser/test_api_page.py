"""The page that describes the resources, and asks for them."""

import uuid

import pytest
from playwright.async_api import Page, Request, expect

from tests.conftest import Pair
from tests.support import world
from tests.support.publisher import Api

pytestmark = pytest.mark.browser


async def test_a_publication_is_made_from_the_page_with_nothing_from_elsewhere(
    page: Page, pair: Pair
) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    channel = f"stream:{uuid.uuid4().hex[:8]}/a#b"
    await page.goto("/api/v1/docs")
    await expect(page.locator(".opblock")).to_have_count(7)

    await page.get_by_role("button", name="Authorize").click()
    await page.get_by_role("textbox").first.fill(world.API_KEY)
    await page.get_by_role("button", name="Apply credentials").click()
    await page.locator(".btn-done").click()
    await page.locator(".opblock-post .opblock-summary-control").click()
    await page.get_by_role("button", name="Try it out").click()
    await page.get_by_placeholder("channel").fill(channel)
    await page.get_by_role("button", name="Execute").click()

    await expect(page.locator(".live-responses-table .response-col_status").last).to_have_text(
        "201"
    )
    async with Api(pair.b.url) as api:
        stored = await api.call("history", channel=channel, limit=-1)
    assert [each["data"] for each in stored["publications"]] == [{"text": "hello"}]
    assert asked
    assert [url for url in asked if not url.startswith(f"{pair.a.url}/")] == []
