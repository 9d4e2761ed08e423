"""What Django's settings become under an environment, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY, bare_environment

PRINT_SETTINGS = """
import json
from django.conf import settings
names = [name for name in dir(settings) if name.isupper()]
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""


def python(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**bare_environment(folder), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def settings_under(tmp_path):
    def read(**variables: str) -> dict:
        variables = {"DJANGO_SETTINGS_MODULE": "project.settings", **variables}
        done = python(tmp_path, "-c", PRINT_SETTINGS, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


@pytest.fixture
def complaint_under(tmp_path):
    """Return what a command prints under a wrong environment: one line, and no traceback."""

    def read(**variables: str) -> str:
        done = python(tmp_path, "manage.py", "check", **variables)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    return read


def test_without_any_variable_everything_is_under_var_dir(settings_under, tmp_path):
    settings = settings_under()

    assert settings["DEBUG"] is False
    assert settings["DATABASES"]["default"]["NAME"] == str(tmp_path / "db.sqlite3")
    hosts = settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"]
    assert hosts == [{"address": f"unix://{tmp_path}/valkey/valkey.sock"}]
    assert settings["REALTIME"]["VAR_DIR"] == str(tmp_path)


def test_secrets_are_made_once_with_mode_600(settings_under, tmp_path):
    first, second = settings_under(), settings_under()

    assert first["SECRET_KEY"] == second["SECRET_KEY"] == read(tmp_path / "secret_key")
    secret = read(tmp_path / "token_hmac_secret")
    assert first["REALTIME"]["TOKEN_HMAC_SECRET"] == secret
    assert first["SECRET_KEY"] != secret


def read(path: Path) -> str:
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_text().strip()


def test_given_secrets_are_taken_and_none_is_made(settings_under, tmp_path):
    (tmp_path / "given").write_text("b" * 40)

    settings = settings_under(
        SECRET_KEY="a" * 40, REALTIME_TOKEN_HMAC_SECRET_FILE=str(tmp_path / "given")
    )

    assert settings["SECRET_KEY"] == "a" * 40
    assert settings["REALTIME"]["TOKEN_HMAC_SECRET"] == "b" * 40
    assert [entry.name for entry in tmp_path.iterdir()] == ["given"]


def test_sqlite_takes_the_write_lock_at_the_start_and_waits_for_it(settings_under):
    options = settings_under()["DATABASES"]["default"]["OPTIONS"]

    assert options["transaction_mode"] == "IMMEDIATE"
    assert options["timeout"] == 5
    assert "journal_mode=WAL" in options["init_command"]


def test_postgresql_gets_a_pool_and_a_deadline(settings_under):
    database = settings_under(
        DATABASE_URL="postgresql://user:p%40ss@db.example:5433/name?sslmode=require"
    )["DATABASES"]["default"]

    assert database["HOST"] == "db.example"
    assert database["PASSWORD"] == "p@ss"
    assert database["OPTIONS"]["connect_timeout"] == 3
    assert database["OPTIONS"]["pool"]["max_size"] > 1
    assert database["OPTIONS"]["tcp_user_timeout"] == 15_000
    assert database["OPTIONS"]["sslmode"] == "require"


def test_the_passwords_of_the_stores_may_stand_beside_their_addresses(settings_under, tmp_path):
    (tmp_path / "password").write_text("of postgres\n")
    settings = settings_under(
        DATABASE_URL="postgresql://user@db.example/name",
        DATABASE_PASSWORD_FILE=str(tmp_path / "password"),
        REDIS_URL="redis://user@a:6379/0 redis://b:6379/0",
        REDIS_PASSWORD="of redis",
    )

    assert settings["DATABASES"]["default"]["PASSWORD"] == "of postgres"
    hosts = settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"]
    assert [host["password"] for host in hosts] == ["of redis", "of redis"]
    assert [host["address"] for host in hosts] == ["redis://user@a:6379/0", "redis://b:6379/0"]


def test_a_password_in_an_address_goes_first(settings_under):
    database = settings_under(
        DATABASE_URL="postgresql://user:own@db.example/name", DATABASE_PASSWORD="another"
    )["DATABASES"]["default"]

    assert database["PASSWORD"] == "own"


def test_several_redis_servers_are_parted_by_blanks(settings_under):
    settings = settings_under(REDIS_URL="redis://a:6379/0 redis://b:6379/0")

    hosts = settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"]
    assert [host["address"] for host in hosts] == ["redis://a:6379/0", "redis://b:6379/0"]


def test_engine_settings_have_their_own_prefix(settings_under):
    realtime = settings_under(REALTIME_PING_INTERVAL_SECONDS="7", REALTIME_DEMO="1")["REALTIME"]

    assert realtime["PING_INTERVAL_SECONDS"] == 7
    assert realtime["DEMO"] is True


def test_no_permission_checks_only_with_debug_or_by_force(settings_under, complaint_under):
    assert settings_under(REALTIME_INSECURE="1", DEBUG="1")["REALTIME"]["INSECURE"] is True
    assert settings_under(REALTIME_INSECURE="force")["REALTIME"]["INSECURE"] is True
    assert "REALTIME_INSECURE" in complaint_under(REALTIME_INSECURE="1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", ""),
        ("SECRET_KEY", "changeme"),
        ("REALTIME_TOKEN_HMAC_SECRET", ""),
        ("REALTIME_TOKEN_HMAC_SECRET", "secret"),
        ("REALTIME_API_KEY", "insecure"),
        ("PORT", "http"),
        ("DEBUG", "perhaps"),
        ("DATABASE_URL", "postgresql://user:pa/ss@host:port/name"),
        ("DATABASE_URL", "mysql://user:pa%2Fss@host/name"),
        ("DATABASE_URL", "postgis://user:pa%2Fss@host/name"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(complaint_under, name, value):
    complaint = complaint_under(**{name: value})

    assert name in complaint
    assert "pa/ss" not in complaint


def test_another_database_is_refused_with_those_that_are_supported(complaint_under):
    complaint = complaint_under(DATABASE_URL="mysql://user:pa55word@host/name")

    assert complaint == (
        "Wrong setting: DATABASE_URL must be like sqlite:////path or "
        "postgresql://user:password@host/name: no other database is supported\n"
    )


def test_a_var_dir_that_cannot_be_made_is_told(complaint_under):
    assert "VAR_DIR: cannot make /proc/x" in complaint_under(VAR_DIR="/proc/x")


def test_an_unknown_engine_variable_is_a_warning(tmp_path):
    done = python(
        tmp_path, "manage.py", "check", "--fail-level", "WARNING", REALTIME_PING_INTERVAL="7"
    )

    assert done.returncode == 1
    assert "REALTIME_PING_INTERVAL is set, but" in done.stderr


def test_our_runserver_is_the_one_that_runs(tmp_path):
    done = python(tmp_path, "manage.py", "runserver", "--help", NO_COLOR="1")

    assert "code that changes starts the server anew" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("command", "example"),
    [("serve", "serve --host 0.0.0.0 --port 80 --processes 4"), ("runserver", "runserver")],
)
def test_the_help_of_the_servers_ends_with_examples(tmp_path, command, example):
    done = python(tmp_path, "manage.py", command, "--help", NO_COLOR="1")

    _, _, examples = done.stdout.partition("\nexamples:\n")
    assert f"  manage.py {example}" in examples.splitlines()
    assert done.stdout.count("manage.py serve --host") <= 1


def test_nothing_is_written_outside_var_dir(tmp_path):
    before = set(os.listdir(REPOSITORY))

    python(tmp_path, "manage.py", "check")

    assert set(os.listdir(REPOSITORY)) - before <= {".mypy_cache", ".pytest_cache"}
