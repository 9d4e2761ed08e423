"""The live page and the login before it, as a browser without JavaScript gets them."""

import re
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.staticfiles import finders
from django.test import Client

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


@pytest.fixture
def ada():
    return get_user_model().objects.create_user("ada", password=PASSWORD)


def script() -> str:
    return Path(finders.find("dashboard/page.js")).read_text()


def test_a_stranger_is_sent_to_the_login_and_back(client: Client, ada):
    response = client.get("/")

    assert response.status_code == 302
    assert response["Location"] == "/login/?next=/"
    response = client.post(
        "/login/", {"username": "ada", "password": PASSWORD, "next": "/"}, follow=True
    )
    assert response.redirect_chain == [("/", 302)]
    assert b'id="state"' in response.content


def test_a_wrong_password_is_told_where_it_is_heard(client: Client, ada):
    response = client.post("/login/", {"username": "ada", "password": "wrong"})

    assert response.status_code == 200
    assert b'role="alert"' in response.content
    assert b'value="ada"' in response.content
    assert b"wrong" not in response.content


def test_a_login_does_not_lead_to_another_site(client: Client, ada):
    response = client.post(
        "/login/", {"username": "ada", "password": PASSWORD, "next": "https://evil.example/"}
    )

    assert response["Location"] == "/"


def test_signing_out_takes_a_post_and_ends_the_session(client: Client, ada):
    client.force_login(ada)

    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_only_staff_is_shown_the_way_to_the_admin(client: Client, ada):
    client.force_login(ada)
    assert b"/admin/" not in client.get("/").content

    ada.is_staff = True
    ada.save()
    assert b"/admin/" in client.get("/").content


def test_the_page_is_not_kept_by_caches(client: Client, ada):
    client.force_login(ada)

    assert "no-store" in client.get("/")["Cache-Control"]


@pytest.mark.parametrize("path", ["/", "/login/"])
def test_no_page_has_inline_script_or_style(client: Client, ada, path):
    if path == "/":
        client.force_login(ada)

    text = client.get(path).content.decode()

    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=", text)
    assert not re.search(r"(src|href|action)=\"https?:", text)


def test_the_state_is_announced_and_the_clock_is_not(client: Client, ada):
    client.force_login(ada)
    text = client.get("/").content.decode()

    assert re.search(r'id="state"[^>]*role="status"', text)
    assert re.search(r'<p id="clock" class="clock">', text)


def test_the_script_is_short():
    assert len(script().splitlines()) < 120


def test_the_icon_that_browsers_ask_for_is_there(client: Client):
    assert client.get("/favicon.ico")["Location"].endswith("dashboard/icon.svg")
