"""What the jobs make, who can read it, and that a second start shows nothing."""

import http.cookies
import re
import stat

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.compose.conftest import SECRETS, FirstStart, Visitor, leaks, secrets_of
from tests.compose.containers import Stack

pytestmark = pytest.mark.end_to_end


def test_secrets_are_for_nobody_else(stack: Stack):
    folder = stack.folder / "volumes" / "secrets"

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    shared = {"postgres_password": 0o640, "redis_users.acl": 0o640}
    assert modes == {**dict.fromkeys(SECRETS, 0o600), **shared}
    owners = {path.stat().st_uid for path in folder.iterdir()}
    assert owners == {folder.joinpath("secret_key").stat().st_uid}


def test_every_secret_is_long_and_its_own(stack: Stack):
    made = secrets_of(stack)

    assert len(set(made.values())) == len(made)
    assert all(len(value) >= 40 for name, value in made.items() if name != "password")
    assert len(made["password"]) >= 16


def test_a_second_start_keeps_all_and_shows_no_secret(stack: Stack):
    before = secrets_of(stack)

    said = stack["secrets"].run() + stack["migrate"].run()

    assert secrets_of(stack) == before
    assert "Heliograph is prepared" in said
    assert "http://localhost:8000/" in said
    assert [name for name, value in before.items() if value in said] == []
    assert "shown only this once" not in said
    assert leaks(stack, before) == []


def test_the_password_of_the_first_start_opens_the_page_and_the_admin(
    stack: Stack, first: FirstStart
):
    visitor = Visitor(stack, host=210)
    form = visitor.ask("/login/")
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form.body)
    cookie = cookies_of(form.headers["Set-Cookie"])

    answer = visitor.ask(
        "/login/",
        method="POST",
        body=f"csrfmiddlewaretoken={token}&username=admin&password={first.password}&next=/",
        Content_Type="application/x-www-form-urlencoded",
        Origin="http://localhost",
        Cookie=cookie,
    )

    assert (answer.status, answer.headers["Location"]) == (302, "/")
    session = cookies_of(*answer.headers.get_all("Set-Cookie", []))
    assert visitor.ask("/", Cookie=session).status == 200
    assert visitor.ask("/admin/", Cookie=session).status == 200
    assert visitor.ask("/api/token/connection", Cookie=session).status == 200


def cookies_of(*lines: str) -> str:
    jar = http.cookies.SimpleCookie()
    for line in lines:
        jar.load(line)
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())


def redis_of(stack: Stack, **login: str) -> redis.Redis:
    host, once = stack["redis"].place.here("0.0.0.0"), Retry(NoBackoff(), 0)
    return redis.Redis(host, 6379, socket_timeout=5, retry=once, **login)


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "FLUSHDB", "CONFIG GET *", "KEYS *", "SHUTDOWN", "ACL LIST", "GET foreign"],
)
def test_redis_lets_the_instances_do_no_more_than_they_need(stack: Stack, command: str):
    password = secrets_of(stack)["redis_password"]

    with (
        redis_of(stack, username="heliograph", password=password) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command.split())


@pytest.mark.parametrize(
    "login", [{}, {"password": ""}, {"username": "heliograph", "password": "guessed"}]
)
def test_redis_lets_nobody_in_without_its_password(stack: Stack, login: dict[str, str]):
    with (
        redis_of(stack, **login) as client,
        pytest.raises((redis.exceptions.AuthenticationError, redis.exceptions.ResponseError)),
    ):
        client.ping()


def test_who_checks_the_health_of_redis_can_do_nothing_else(stack: Stack):
    with redis_of(stack, username="health", password="any") as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("rt:{x}:meta")


def test_redis_keeps_what_it_was_given(stack: Stack):
    text = (stack.folder / "containers" / "redis" / "mounts" / "redis" / "redis.conf").read_text()

    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(
        text.splitlines()
    )
    assert list((stack.folder / "volumes" / "redis").glob("appendonlydir/*.incr.aof"))


def postgres_of(stack: Stack, user: str, password: str) -> psycopg.Connection:
    host = stack["postgres"].place.here("0.0.0.0")
    return psycopg.connect(
        host=host, user=user, password=password, dbname="heliograph", connect_timeout=5
    )


def test_the_user_of_the_database_is_no_superuser(stack: Stack):
    password = secrets_of(stack)["postgres_password"]

    with postgres_of(stack, "heliograph", password) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()

    assert rights == (False, False, False)


@pytest.mark.parametrize("user", ["postgres", "heliograph"])
def test_nobody_reaches_the_database_without_a_password(stack: Stack, user: str):
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        postgres_of(stack, user, "guessed")


def test_the_superuser_has_no_password_at_all(stack: Stack):
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        postgres_of(stack, "postgres", secrets_of(stack)["postgres_password"])
