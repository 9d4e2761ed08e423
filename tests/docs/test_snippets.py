"""The first minute of the README, done as it stands there against a real server."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import NewPage
from tests.conftest import Pair
from tests.docs.documents import document
from tests.support import processes, world
from tests.support.publisher import Api
from tests.support.sdk import SDK_FOLDER
from tests.support.servers import REPOSITORY

pytestmark = pytest.mark.end_to_end

README = document("README.md")
CHANNEL = "demo:hello"


@pytest.fixture
def here(pair: Pair) -> Callable[[str], str]:
    """Return a changer of snippets: to the port of a server of the tests."""
    return lambda text: text.replace("127.0.0.1:8000", f"127.0.0.1:{pair.a.port}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory of a reader: with ``manage.py``, ``.venv`` and ``var/api_key``."""
    (tmp_path / "manage.py").symlink_to(REPOSITORY / "manage.py")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "api_key").write_text(f"{world.API_KEY}\n")
    return tmp_path


@pytest.fixture
def type_in(folder: Path, pair: Pair) -> Callable[[str], str]:
    """Return a runner of shell lines that returns what they print."""

    def type_in(text: str) -> str:
        process = subprocess.run(
            ["sh", "-ec", text],
            cwd=folder,
            env=pair.a.variables,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return type_in


@pytest.fixture
async def newest(pair: Pair) -> Callable[[], object]:
    """Return a reader of the newest publication's data."""

    async def newest() -> object:
        async with Api(pair.b.url) as api:
            result = await api.call("history", channel=CHANNEL, limit=1, reverse=True)
        return result["publications"][0]["data"]

    return newest


async def test_the_curl_line_publishes(here, type_in, newest):
    line = here(README.block("sh", "curl").text)

    answer = json.loads(type_in(line))

    assert answer["result"]["offset"] > 0
    assert answer["result"]["epoch"]
    assert await newest() == {"text": "hello"}


def test_the_curl_line_is_everywhere_the_one_of_the_banner():
    line = README.block("sh", "curl").text

    banner = README.block("text", "Heliograph is ready").text
    reference = document("docs/reference/server-api.md").block("sh", "curl").text
    assert banner.partition("Publish  ")[2] == line
    assert reference == line


async def test_the_curl_line_of_the_resources_publishes(here, type_in, newest):
    line = here(document("docs/reference/rest-api.md").block("sh", "curl").text)

    assert json.loads(type_in(line))["offset"] > 0
    assert await newest() == {"text": "hello"}


async def test_the_lines_of_python_publish(type_in, newest):
    lines = README.block("python", "publish(").text

    type_in(f".venv/bin/python manage.py shell -c '{lines}'")

    assert await newest() == {"text": "hello from Django"}


@pytest.fixture
def listening(here, folder: Path, pair: Pair) -> Iterator[Path]:
    """The program of the README, started as it says; returns where it prints."""
    block = README.block("python", "SubscriptionEventHandler")
    assert block.title is not None
    (folder / block.title).write_text(here(block.text))
    install, start = README.block("sh", block.title).text.splitlines()
    assert install.endswith("pip install centrifuge-python")  # done by requirements-dev.txt
    log_path = folder / "listen.log"
    process = processes.spawn(
        ["sh", "-ec", f"exec {start}"], log_path=log_path, cwd=folder, env=pair.a.variables
    )
    try:
        yield log_path
    finally:
        processes.end(process)


async def users(api: Api) -> set[str]:
    present = (await api.call("presence", channel=CHANNEL))["presence"].values()
    return {each["user"] for each in present}


async def test_the_program_with_the_python_sdk_prints_what_arrives(listening: Path, pair: Pair):
    text = uuid.uuid4().hex
    async with Api(pair.b.url) as api:
        async with asyncio.timeout(20):
            while "42" not in await users(api):
                await asyncio.sleep(0.05)  # the program tells nobody that it listens

        result = await api.call("publish", channel=CHANNEL, data={"text": text})

    wanted = f"{result['offset']} {{'text': '{text}'}}\n"
    processes.wait_until(
        lambda: wanted in listening.read_text(),
        timeout_seconds=10,
        what=lambda: processes.tail(listening),
    )


async def sign_in(page: Page) -> None:
    await page.goto("/")
    await page.get_by_label("User name").fill(world.USER)
    await page.get_by_label("Password").fill(world.USER_PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#state")).to_have_text("Live", timeout=10_000)


@pytest.mark.browser
async def test_the_lines_with_the_browser_sdk_log_what_arrives(
    new_page: NewPage, sdk_packages: None, pair: Pair, here
):
    page = await new_page(pair.a.url)
    await sign_in(page)
    scripts = {
        "sdk": (SDK_FOLDER / "node_modules/centrifuge/dist/centrifuge.js").read_text(),
        # The page's own script has left its names to nobody, so that these are free.
        "lines": here(README.block("js", "newSubscription").text)
        + 'subscription.on("subscribed", () => console.log("subscribed"));',
    }

    async def serve(route: Route) -> None:
        name = Path(route.request.url).stem
        await route.fulfill(body=scripts[name], content_type="text/javascript")

    await page.route("**/snippets/*", serve)
    await page.add_script_tag(url="/snippets/sdk.js")
    async with page.expect_console_message(lambda message: message.text == "subscribed"):
        await page.add_script_tag(url="/snippets/lines.js")
    text = uuid.uuid4().hex

    async with (
        Api(pair.b.url) as api,
        page.expect_console_message(lambda message: text in message.text) as logged,
    ):
        result = await api.call("publish", channel=CHANNEL, data={"text": text})

    assert (await logged.value).text == f"{result['offset']} {text}"
