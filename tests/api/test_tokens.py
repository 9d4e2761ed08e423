import json

import pytest
from django.db import OperationalError
from django.test import AsyncClient, Client

from realtime.handlers import Allow, channel_rule
from tests.api import rules
from tests.support.tokens import connection_claims, subscription_claims

RULES = "tests.api.rules."

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user(django_user_model):
    return django_user_model.objects.create_user("ada", password="x")


@pytest.fixture
def browser(user):
    """Return a client that is signed in."""
    client = AsyncClient()
    client.force_login(user)
    return client


@pytest.fixture
def use_rule(settings):
    def use_rule(path):
        settings.REALTIME = {**settings.REALTIME, "CHANNEL_RULE": path}

    return use_rule


async def ask(browser, channel="$news:1", **options):
    body = channel if isinstance(channel, bytes) else json.dumps({"channel": channel})
    return await browser.post(
        "/api/token/subscription", body, content_type="application/json", **options
    )


async def test_a_signed_in_user_gets_a_connection_token(browser, user):
    response = await browser.get("/api/token/connection")

    assert response.status_code == 200
    assert set(response.json()) == {"token"}
    assert response.headers["Cache-Control"] == "no-store"
    claims = connection_claims(response.json()["token"])
    assert claims.user == str(user.pk)
    assert claims.info is None
    assert claims.expire_at > 0


async def test_nobody_else_gets_one():
    response = await AsyncClient().get("/api/token/connection")

    assert response.status_code == 401
    assert response.json() == {"error": "sign in first"}
    assert "Location" not in response.headers


async def test_a_user_who_is_no_longer_active_gets_none(browser, user):
    user.is_active = False
    await user.asave()

    assert (await browser.get("/api/token/connection")).status_code == 401


async def test_a_connection_token_is_asked_for_with_get(browser):
    assert (await browser.post("/api/token/connection")).status_code == 405


async def test_without_a_secret_there_is_no_token_and_no_traceback(browser, settings, caplog):
    settings.REALTIME = {}

    response = await browser.get("/api/token/connection")

    assert response.status_code == 500
    assert response.json() == {"error": "internal server error"}
    assert "REALTIME_TOKEN_HMAC_SECRET" in caplog.text


@pytest.mark.parametrize("rule", ["own_news", "own_news_later", "own_news_object"])
async def test_a_rule_opens_what_it_allows_and_nothing_else(browser, user, use_rule, rule):
    use_rule(RULES + rule)

    allowed = await ask(browser, f"$news:{user.pk}")

    claims = subscription_claims(allowed.json()["token"])
    assert (claims.user, claims.channel) == (str(user.pk), f"$news:{user.pk}")
    assert allowed.headers["Cache-Control"] == "no-store"
    for channel in ("$news:0", "nope:x", f"talk#{user.pk}", f"#{user.pk}", "news", "$", "é"):
        refused = await ask(browser, channel)
        assert refused.status_code == 403
        assert refused.json() == {"error": "not allowed"}


@pytest.mark.parametrize("channel", ["$news:1", "nope:x", "talk#1", "#1", "news"])
async def test_without_a_rule_every_request_is_forbidden(browser, channel):
    response = await ask(browser, channel)

    assert response.status_code == 403
    assert "REALTIME_CHANNEL_RULE" in response.json()["error"]


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ("fail", 500),
        ("refuse", 403),
        ("answer_text", 403),
        ("answer_none", 403),
        ("NOT_CALLABLE", 500),
        ("missing", 500),
    ],
)
async def test_a_rule_that_does_not_say_true_opens_nothing(browser, use_rule, caplog, rule, status):
    use_rule(RULES + rule)

    response = await ask(browser)

    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert b"secret" not in response.content
    assert caplog.text or rule == "refuse"


# Channel rules ----------------------------------------------------------------------------------


@pytest.fixture
def channel_rules(monkeypatch):
    """Have the rules of a project, which end with the test."""
    monkeypatch.setattr("realtime.rules._rules", [])

    @channel_rule("$orders:{pk:int}")
    def own_order(user, pk):
        return user.pk == pk

    @channel_rule("$drafts:{pk}")
    async def draft():
        return Allow(publish=True, history=True, presence=True)

    @channel_rule("$away:{pk}")
    def away():
        raise OperationalError("gone, and the password")


async def test_a_channel_rule_decides_about_tokens(browser, user, channel_rules):
    allowed = await ask(browser, f"$orders:{user.pk}")

    claims = subscription_claims(allowed.json()["token"])
    assert (claims.user, claims.channel) == (str(user.pk), f"$orders:{user.pk}")
    for channel in (f"$orders:{user.pk + 1}", "$drafts:1"):
        refused = await ask(browser, channel)
        assert (refused.status_code, refused.json()) == (403, {"error": "not allowed"})


async def test_what_has_a_channel_rule_is_not_asked_of_the_other_one(
    browser, user, channel_rules, use_rule
):
    use_rule(RULES + "own_news_later")
    rules.ASKED.clear()

    assert (await ask(browser, f"$news:{user.pk}")).status_code == 200
    use_rule(RULES + "own_news")
    assert (await ask(browser, "$drafts:1")).status_code == 403

    assert rules.ASKED == []


async def test_what_has_no_channel_rule_is_forbidden_without_the_other_one(browser, channel_rules):
    response = await ask(browser, "$news:1")

    assert response.status_code == 403
    assert "REALTIME_CHANNEL_RULE" in response.json()["error"]


async def test_a_channel_rule_without_an_answer_is_to_be_asked_again(browser, channel_rules):
    response = await ask(browser, "$away:1")

    assert (response.status_code, response.json()) == (503, {"error": "try again later"})


async def test_nobody_else_reaches_the_rule(use_rule):
    use_rule(RULES + "own_news")
    rules.ASKED.clear()

    response = await ask(AsyncClient())

    assert response.status_code == 401
    assert response.json() == {"error": "sign in first"}
    assert rules.ASKED == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b'{"channel":null}',
        b'{"channel":""}',
        b'{"channel":5}',
        b'{"channel":"\\ud800"}',
        b'{"channel":"\xff"}',
        b'{"channel":"a\\u0000b"}',
        b'{"channel":"' + b"x" * 256 + b'"}',
        b"[" * 100_000,
        b"channel=news",
    ],
)
async def test_a_body_without_a_channel_is_a_bad_request(browser, use_rule, body):
    use_rule(RULES + "own_news")
    rules.ASKED.clear()

    response = await ask(browser, body)

    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    assert rules.ASKED == []


async def test_a_form_is_a_bad_request(browser, use_rule):
    use_rule(RULES + "own_news")

    assert (await browser.post("/api/token/subscription", {"channel": "x"})).status_code == 400


async def test_a_body_beyond_the_limit_is_refused(browser, use_rule, settings):
    use_rule(RULES + "own_news")
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100

    assert (await ask(browser, "x" * 200)).status_code == 413


def test_a_subscription_token_needs_the_csrf_token_of_the_page(user, use_rule):
    use_rule(RULES + "own_news")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    client.cookies["csrftoken"] = "a" * 32

    def status(**headers):
        return client.post(
            "/api/token/subscription",
            {"channel": f"$news:{user.pk}"},
            content_type="application/json",
            headers=headers,
        ).status_code

    assert status() == 403
    assert status(**{"X-CSRFToken": "b" * 32}) == 403
    assert status(**{"X-CSRFToken": "a" * 32}) == 200


async def test_a_subscription_token_is_asked_for_with_post(browser):
    assert (await browser.get("/api/token/subscription")).status_code == 405
