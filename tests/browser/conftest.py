"""The system's headless Chromium, and a page on which nothing may go wrong in silence."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from tests.conftest import Pair

BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NewPage = Callable[[str], Awaitable[Page]]
REPORT_VIOLATIONS = """
addEventListener('securitypolicyviolation',
  (e) => console.error(`CSP ${e.violatedDirective} ${e.blockedURI}`))
"""


def chromium() -> str:
    """Return the path of the system's Chromium.

    Raises:
        FileNotFoundError: There is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("Chromium is not installed: apt-get install chromium")


@pytest.fixture
async def new_page(tmp_path: Path) -> AsyncIterator[NewPage]:
    """Return a maker of pages on a site, each with cookies of its own.

    Errors on a console and violations of a policy fail the test.
    """
    problems: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), args=BROWSER_ARGUMENTS
        )

        async def new_page(url: str) -> Page:
            context = await browser.new_context(base_url=url)
            context.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
            context.on("weberror", lambda error: problems.append(str(error.error)))
            await context.add_init_script(REPORT_VIOLATIONS)
            return await context.new_page()

        yield new_page
        await browser.close()
    assert problems == []


@pytest.fixture
async def page(new_page: NewPage, pair: Pair, tmp_path: Path) -> AsyncIterator[Page]:
    """Return a page of instance a; how it looked at the end is kept as a picture."""
    page = await new_page(pair.a.url)
    yield page
    await page.screenshot(path=tmp_path / "end.png", full_page=True)
