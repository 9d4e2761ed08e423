import io
import time

import pytest
from django.core.management import CommandError, call_command

from tests.support.tokens import connection_claims, subscription_claims


def run(*arguments):
    """Return the line that ``token`` wrote on stdout; it writes nothing else."""
    out, err = io.StringIO(), io.StringIO()
    call_command("token", *arguments, stdout=out, stderr=err)
    assert err.getvalue() == ""
    assert out.getvalue().count("\n") == 1
    return out.getvalue().removesuffix("\n")


def refusal(*arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return str(caught.value), caught.value.returncode


def test_it_prints_a_connection_token():
    claims = connection_claims(run("--user", "42"))

    assert claims.user == "42"
    assert claims.info is None
    assert claims.expire_at == pytest.approx(time.time() + 1800, abs=2)


def test_time_to_live_and_info_can_be_given():
    claims = connection_claims(run("--user=42", "--ttl=60", '--info={"name": "Ada"}'))

    assert claims.expire_at == pytest.approx(time.time() + 60, abs=2)
    assert bytes(claims.info) == b'{"name": "Ada"}'


def test_with_a_channel_it_is_a_subscription_token():
    claims = subscription_claims(run("--user", "42", "--channel", "$reports:7"))

    assert (claims.user, claims.channel) == ("42", "$reports:7")


def test_an_empty_user_is_anonymous():
    assert connection_claims(run("--user", "")).user == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--user", "42", "--ttl", "0"],
        ["--user", "42", "--ttl", "-5"],
        ["--user", "42", "--channel", ""],
        ["--user", "42", "--info", "{"],
        ["--user", "42", "--info", "NaN"],
        ["--user", "42", "--info", ""],
        ["--user", "42", "--info", "[" * 5000],
        ["--user", "42", "--info", '"\udcff"'],
        ["--user", "\udcff"],
        ["--user", "42", "--channel", "\udcff"],
    ],
)
def test_what_no_server_would_accept_is_refused(arguments):
    message, returncode = refusal(*arguments)

    assert message
    assert returncode == 2


def test_info_that_is_no_json_is_told_by_the_name_of_its_option():
    message, _ = refusal("--user", "42", "--info", "{")

    assert message == "--info is not valid JSON: Input data was truncated"


@pytest.mark.parametrize("arguments", [[], ["--user", "42", "--ttl", "soon"]])
def test_wrong_usage_is_refused(arguments):
    with pytest.raises(CommandError):
        run(*arguments)


def test_without_a_secret_it_says_which_to_set(settings):
    settings.REALTIME = {}

    message, returncode = refusal("--user", "42")

    assert "REALTIME_TOKEN_HMAC_SECRET" in message
    assert returncode == 1
