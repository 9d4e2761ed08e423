"""``prepare``: what a deployment needs, made once, with its secrets shown once."""

import io
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from realtime.models import ApiKey, Namespace, hash_of_key
from realtime.server import store_secrets

ONCE = "(shown only this once)"


def prepare(*arguments: str) -> tuple[str, str]:
    """Return what the command wrote on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command("prepare", *arguments, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


# The database -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_first_time_shows_a_login_and_a_key_that_work(client: Any):
    out, _ = prepare()

    (password,) = re.findall(r"^  Sign in  admin / (\S+) ", out, re.MULTILINE)
    (key,) = re.findall(r"^  API key  (\S+) ", out, re.MULTILINE)
    assert client.login(username="admin", password=password)
    assert get_user_model().objects.get().is_superuser
    assert ApiKey.objects.get().key_hash == hash_of_key(key)
    assert out.count(ONCE) == 2


@pytest.mark.django_db
def test_the_second_time_changes_nothing_and_shows_no_secret():
    first, _ = prepare()
    rows = [list(model.objects.values()) for model in (get_user_model(), ApiKey, Namespace)]

    again, _ = prepare()

    assert ONCE in first
    assert ONCE not in again
    assert rows == [list(m.objects.values()) for m in (get_user_model(), ApiKey, Namespace)]


@pytest.mark.django_db
def test_where_somebody_can_sign_in_already_no_key_appears():
    get_user_model().objects.create_superuser("ada", password="a long word")

    out, _ = prepare()

    assert ONCE not in out
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_keys_that_are_there_are_enough():
    ApiKey.create("reports")

    out, _ = prepare()

    assert out.count(ONCE) == 1
    assert [key.name for key in ApiKey.objects.all()] == ["reports"]


@pytest.mark.django_db
@pytest.mark.parametrize("has_demo", [True, False])
def test_the_demo_has_a_namespace_only_where_it_is_wanted(settings: Any, has_demo: bool):
    settings.REALTIME = {**settings.REALTIME, "DEMO": has_demo}

    prepare()

    assert Namespace.objects.filter(name="demo").exists() == has_demo


@pytest.mark.django_db
def test_it_says_where_the_site_is_if_it_is_told():
    out, _ = prepare("--url", "https://app.example/")

    assert "Page     https://app.example/\n" in out
    assert "Admin    https://app.example/admin/\n" in out


# Secrets ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    """An empty ``VAR_DIR``."""
    settings.REALTIME = {**settings.REALTIME, "VAR_DIR": str(tmp_path)}
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    return {p.name: (stat.S_IMODE(p.stat().st_mode), p.read_text()) for p in folder.iterdir()}


def test_passwords_of_the_stores_are_made_once_and_not_shown(folder: Path):
    out, err = prepare("--secrets")
    made = contents(folder)

    again = prepare("--secrets")

    assert contents(folder) == made
    assert {name: mode for name, (mode, _) in made.items()} == {
        "redis_password": 0o600,
        "redis_users.acl": 0o640,
        "postgres_password": 0o640,
    }
    assert made["redis_password"][1] != made["postgres_password"][1]
    said = "".join((out, err, *again))
    assert "redis_password" in err
    assert "nothing, all are there" in again[1]
    for _, text in made.values():
        assert text.strip() not in said


def test_the_mode_does_not_hang_on_the_mask(folder: Path):
    before = os.umask(0o077)
    try:
        prepare("--secrets")
    finally:
        os.umask(before)

    assert contents(folder)["postgres_password"][0] == 0o640


def test_rights_in_redis_follow_the_version_and_the_password_stays(folder: Path):
    prepare("--secrets")
    password = (folder / "redis_password").read_text().strip()
    (folder / "redis_users.acl").write_text("user default on nopass ~* +@all\n")

    prepare("--secrets")

    assert (folder / "redis_users.acl").read_text() == store_secrets.redis_users(password)
    assert password not in store_secrets.redis_users(password)


def test_a_folder_that_cannot_be_written_to_is_one_line(settings: Any, tmp_path: Path):
    settings.REALTIME = {**settings.REALTIME, "VAR_DIR": str(tmp_path / "nowhere")}

    with pytest.raises(CommandError, match=r"cannot keep secrets in .*nowhere: No such file"):
        prepare("--secrets")
