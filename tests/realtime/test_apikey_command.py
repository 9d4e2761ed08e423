import io
import json
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.utils import timezone

from realtime.models import ApiKey, hash_of_key

pytestmark = pytest.mark.django_db


def run(*arguments):
    """Return what ``apikey`` wrote on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command("apikey", *arguments, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def refusal(*arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return str(caught.value), caught.value.returncode


def test_create_prints_the_key_alone_on_stdout():
    out, err = run("create", "reports")

    assert ApiKey.objects.get(name="reports").key_hash == hash_of_key(out.removesuffix("\n"))
    assert "created reports: everything, without an end" in err
    assert out.strip() not in err


def test_create_takes_a_key_scopes_and_an_end():
    out, err = run(
        "create",
        "sensors",
        "--key=-a-key-of-somebody",
        "--scope=publish:sensors:*",
        "--scope=info",
        "--expires=2130-01-31T12:00:00+02:00",
    )

    row = ApiKey.objects.get()
    assert out == "-a-key-of-somebody\n"
    assert row.key_hash == hash_of_key("-a-key-of-somebody")
    assert row.scopes == ["publish:sensors:*", "info"]
    assert row.expires_at.isoformat() == "2130-01-31T10:00:00+00:00"
    assert "publish:sensors:*, info, until 2130-01-31T12:00:00+02:00" in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--key", "short"], "at least 16"),
        (["--key", "with a space in it"], "visible ASCII"),
        (["--scope", "publsh"], "the methods are"),
        (["--scope", "info:demo:*"], "alone"),
        (["--expires", "tomorrow"], "not a time"),
        (["--expires", "2130-02-31T12:00:00Z"], "not a time"),
        (["--expires", "2001-01-31T12:00:00Z"], "has passed"),
        (["--expires", "2001-01-31T12:00:00"], "has passed"),
    ],
)
def test_what_could_not_work_is_refused_with_the_cure(arguments, word):
    message, returncode = refusal("create", "reports", *arguments)

    assert word in message
    assert returncode == 2
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "n" * 101, ""])
def test_a_name_that_could_not_be_stored_is_refused(name):
    message, returncode = refusal("create", name)

    assert "name:" in message
    assert returncode == 2


def test_a_name_is_given_once():
    run("create", "reports")

    message, returncode = refusal("create", "reports")

    assert message == (
        "there is an API key named reports: choose another name, or end that one first with "
        "manage.py apikey revoke reports"
    )
    assert returncode == 2


@pytest.mark.django_db(transaction=True)
def test_a_database_without_tables_is_told_as_that():
    call_command("migrate", "realtime", "zero", verbosity=0)
    try:
        message, returncode = refusal("list")
    finally:
        call_command("migrate", "realtime", verbosity=0)

    assert re.fullmatch(
        r"the database lacks \d+ migrations \(.*realtime_apikey.*\): run manage.py migrate", message
    )
    assert returncode == 3


def test_list_shows_names_and_beginnings_but_no_key():
    out, _ = run("create", "reports", "--scope", "info")
    ApiKey.objects.update(last_used_at=timezone.now())

    listed, err = run("list")

    assert listed.startswith(f"reports  {out[:6]}…  expires never  last used 2")
    assert out.strip() not in listed
    assert err == ""


def test_list_as_json_is_one_object_a_line():
    run("create", "a-reports", "--scope", "info", "--expires", "2130-01-31T12:00:00Z")
    run("create", "b-reports")

    lines = [json.loads(line) for line in run("list", "--json")[0].splitlines()]

    assert [line["name"] for line in lines] == ["a-reports", "b-reports"]
    assert lines[0]["scopes"] == ["info"]
    assert lines[0]["expires_at"] == "2130-01-31T12:00:00+00:00"
    assert lines[0]["last_used_at"] is None
    assert "key_hash" not in lines[0]


def test_an_empty_list_says_how_to_fill_it():
    out, err = run("list")

    assert out == ""
    assert "apikey create NAME" in err


def test_revoke_deletes_the_key():
    run("create", "reports")
    run("create", "others")

    out, err = run("revoke", "reports")

    assert out == ""
    assert "revoked reports" in err
    assert [row.name for row in ApiKey.objects.all()] == ["others"]


def test_revoking_what_is_not_there_is_an_error():
    message, returncode = refusal("revoke", "reports")

    assert "apikey list" in message
    assert returncode == 1


def test_a_database_that_does_not_answer_is_one_line_and_exit_code_3(monkeypatch):
    def fail(*_, **__):
        raise DatabaseError("gone")

    monkeypatch.setattr(ApiKey, "full_clean", fail)

    message, returncode = refusal("create", "reports")

    assert message == ("the database failed: gone; see that it is there, or correct DATABASE_URL")
    assert returncode == 3


def test_help_starts_with_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        call_command("apikey", "--help")

    assert caught.value.code == 0
    assert "manage.py apikey create sensors --scope 'publish:sensors:*'" in capsys.readouterr().out
