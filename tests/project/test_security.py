"""What the browser is told about each page."""

import pytest
from django.http import HttpResponse, JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path


def cookie(_request) -> HttpResponse:
    response = HttpResponse("a page")
    response.set_cookie("name", "value")
    return response


def data(_request) -> JsonResponse:
    return JsonResponse({})


urlpatterns = [path("page", cookie), path("data", data)]
pytestmark = pytest.mark.urls(__name__)


def test_a_page_may_reach_nothing_but_its_own_host(client: Client):
    policy = client.get("/page", HTTP_HOST="localhost:8000")["Content-Security-Policy"]

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["script-src"] == rules["style-src"] == "'self'"
    assert rules["connect-src"] == "'self' ws://localhost:8000 wss://localhost:8000"
    assert rules["frame-ancestors"] == rules["object-src"] == rules["base-uri"] == "'none'"
    assert rules["form-action"] == "'self'"


async def test_the_same_holds_without_a_thread(async_client: AsyncClient):
    response = await async_client.get("/page")

    assert "script-src 'self'" in response["Content-Security-Policy"]


def test_a_host_that_is_not_ours_is_refused_and_not_repeated(client: Client):
    response = client.get("/page", HTTP_HOST="evil.example")

    assert response.status_code == 400
    assert "evil" not in response["Content-Security-Policy"]


def test_data_needs_no_policy(client: Client):
    assert "Content-Security-Policy" not in client.get("/data")


def test_cookies_given_over_tls_stay_there(client: Client):
    over_tls = client.get("/page", secure=True)

    assert over_tls.cookies["name"]["secure"] is True


def test_cookies_work_on_a_laptop_without_tls(client: Client):
    assert client.get("/page").cookies["name"]["secure"] == ""


@override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
def test_a_trusted_proxy_says_whether_it_was_tls(client: Client):
    response = client.get("/page", HTTP_X_FORWARDED_PROTO="https")

    assert response.cookies["name"]["secure"] is True
