"""Keys behind a URL: a real server shows them, changes them, fails, and counts who asks."""

import asyncio
import contextlib
import gzip
import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from realtime import checks, jwks
from realtime.jwks import (
    BODY_MAX_BYTES,
    CACHE_SECONDS,
    FETCH_INTERVAL_SECONDS,
    STALE_MAX_SECONDS,
)
from realtime.protocol.errors import InternalError
from realtime.token_keys import UnusableKey, jwk_key
from realtime.token_verifier import TokenVerifier
from realtime.tokens import InvalidToken
from tests.realtime.client import Closed, CommandError
from tests.support.key_source import KeySource
from tests.support.tokens import ALGORITHMS, at_once, jwk, private_key, signed

SECRET = "the-secret-of-these-tests-0123456789"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def source():
    source = await KeySource().start()
    yield source
    await source.stop()


@pytest.fixture
async def verifier(source, clock, settings):
    settings.REALTIME = {"TOKEN_HMAC_SECRET": SECRET, "TOKEN_JWKS_URL": source.url}
    verifier = TokenVerifier(clock=clock)
    yield verifier
    await verifier.close()


def token(number=0, *, kid=None, algorithm="ES256"):
    """Return a token signed with a key of a number, which is its id unless told otherwise."""
    key = private_key(ALGORITHMS[algorithm], number)
    return signed(algorithm, key, kid=str(number) if kid is None else kid)


# Good -------------------------------------------------------------------------------------------


@pytest.mark.rule("token-jwks")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_keys_of_every_kind_are_found_by_their_id(source, verifier, algorithm):
    kind = ALGORITHMS[algorithm]
    source.show(jwk(kind, 1), jwk(kind, 0, alg=algorithm, use="sig", key_ops=["verify"]))

    assert (await verifier.connection(token(algorithm=algorithm))).user == "42"
    for wrong in (token(2, kid="0", algorithm=algorithm), token(0, kid="1", algorithm=algorithm)):
        with pytest.raises(InvalidToken):
            await verifier.connection(wrong)


async def test_nothing_is_fetched_before_a_key_is_asked_for_and_then_once(source, verifier):
    source.show(jwk("P-256"))
    assert source.request_count == 0

    await verifier.connection(token())
    for _ in range(5):
        at_once(verifier.connection(token()))

    assert source.request_count == 1


async def test_tokens_that_come_at_once_share_a_fetch(source, verifier):
    source.show(jwk("P-256"))
    source.may_answer.clear()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(verifier.connection(token())) for _ in range(20)]
        await source.was_asked.wait()
        source.may_answer.set()

    assert {task.result().user for task in waiting} == {"42"}
    assert source.request_count == 1


async def test_a_fetch_that_takes_long_is_shared_by_those_who_come_late(source, verifier, clock):
    source.show(jwk("P-256"))
    source.may_answer.clear()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(verifier.connection(token()))
        await source.was_asked.wait()
        clock.pass_by(FETCH_INTERVAL_SECONDS)
        late = verifier.connection(token())
        late.send(None)  # it waits now
        source.may_answer.set()
    late.close()

    assert source.request_count == 1


async def test_a_client_that_goes_away_does_not_end_the_fetch_of_others(source, verifier):
    source.show(jwk("P-256"))
    source.may_answer.clear()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        gone = tasks.create_task(verifier.connection(token()))
        stays = tasks.create_task(verifier.connection(token()))
        await source.was_asked.wait()
        gone.cancel()
        await asyncio.wait([gone])
        source.may_answer.set()

    assert stays.result().user == "42"
    assert source.request_count == 1


async def test_keys_of_the_settings_need_no_source(source, verifier):
    assert at_once(verifier.connection(signed("HS256", SECRET, kid="unknown"))).user == "42"
    assert source.request_count == 0


async def test_subscription_tokens_may_have_a_source_of_their_own(source, clock, settings):
    source.show(jwk("P-256"))
    settings.REALTIME = {"TOKEN_HMAC_SECRET": SECRET, "SUBSCRIPTION_TOKEN_JWKS_URL": source.url}
    verifier = TokenVerifier(clock=clock)
    door = signed("ES256", private_key("P-256"), {"sub": "42", "channel": "news"}, kid="0")

    assert (await verifier.subscription(door)).channel == "news"
    with pytest.raises(InvalidToken):
        at_once(verifier.connection(token()))
    with pytest.raises(InvalidToken):
        at_once(verifier.subscription(signed("HS256", SECRET, {"channel": "news"})))
    await verifier.close()


# Changes ----------------------------------------------------------------------------------------


async def test_a_new_key_counts_as_soon_as_a_token_names_it(source, verifier, clock):
    source.show(jwk("P-256", 0))
    await verifier.connection(token(0))
    source.show(jwk("P-256", 0), jwk("P-256", 1))
    clock.pass_by(FETCH_INTERVAL_SECONDS)

    assert (await verifier.connection(token(1))).user == "42"
    assert (await verifier.connection(token(0))).user == "42"
    assert source.request_count == 2


async def test_a_key_that_was_removed_stops_counting_after_the_cache_time(source, verifier, clock):
    source.show(jwk("P-256", 0), jwk("P-256", 1))
    await verifier.connection(token(0))
    source.show(jwk("P-256", 1))

    clock.pass_by(CACHE_SECONDS - 1)
    assert at_once(verifier.connection(token(0))).user == "42"
    clock.pass_by(1)
    with pytest.raises(InvalidToken):
        await verifier.connection(token(0))
    assert (await verifier.connection(token(1))).user == "42"


async def test_a_key_may_be_replaced_under_its_id(source, verifier, clock):
    source.show(jwk("P-256", 0))
    await verifier.connection(token(0))
    source.show({**jwk("P-256", 1), "kid": "0"})
    clock.pass_by(CACHE_SECONDS)

    assert (await verifier.connection(token(1, kid="0"))).user == "42"
    with pytest.raises(InvalidToken):
        await verifier.connection(token(0))


async def test_all_keys_may_be_removed(source, verifier, clock):
    source.show(jwk("P-256"))
    await verifier.connection(token())
    source.show()
    clock.pass_by(CACHE_SECONDS)

    with pytest.raises(InvalidToken):
        await verifier.connection(token())


# Unknown ids ------------------------------------------------------------------------------------


async def test_an_id_that_the_source_does_not_know_is_invalid(source, verifier):
    source.show(jwk("P-256"))

    with pytest.raises(InvalidToken):
        await verifier.connection(token(0, kid="unknown"))


async def test_a_flood_of_unknown_ids_does_not_reach_the_source(source, verifier, clock):
    source.show(jwk("P-256"))
    await verifier.connection(token())

    for second in range(60):
        for number in range(10):
            with pytest.raises((InvalidToken, InternalError)):
                await verifier.connection(token(0, kid=f"forged-{second}-{number}"))
        clock.pass_by(1)

    assert source.request_count == 60 / FETCH_INTERVAL_SECONDS
    assert at_once(verifier.connection(token())).user == "42"


async def test_an_id_that_may_be_new_is_not_called_invalid_before_the_source_was_asked(
    source, verifier, clock
):
    source.show(jwk("P-256", 0))
    await verifier.connection(token(0))
    source.show(jwk("P-256", 0), jwk("P-256", 1))
    clock.pass_by(FETCH_INTERVAL_SECONDS - 1)

    with pytest.raises(InternalError) as caught:
        at_once(verifier.connection(token(1)))
    assert (caught.value.code, caught.value.temporary) == (100, True)
    clock.pass_by(1)
    assert (await verifier.connection(token(1))).user == "42"


@pytest.mark.parametrize("kid", [None, ""])
async def test_a_token_without_an_id_has_no_key_there(source, verifier, kid):
    source.show(jwk("P-256"), jwk("P-256", 1, kid=""))

    with pytest.raises(InvalidToken):
        at_once(verifier.connection(signed("ES256", private_key("P-256"), kid=kid)))


@pytest.mark.parametrize("algorithm", ["HS256", "PS256"])
async def test_an_algorithm_that_no_key_there_can_have_does_not_ask(source, verifier, algorithm):
    key = "x" * 64 if algorithm == "HS256" else private_key("RSA")

    with pytest.raises(InvalidToken):
        at_once(verifier.connection(signed(algorithm, key, kid="0")))
    assert source.request_count == 0


# Keys that are not used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "ES384"},
        {"alg": "HS256"},
        {"alg": 5},
        {"kty": "RSA"},
        {"kty": "oct"},
        {"kty": None},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"x": "AAAA"},
        {"x": 5},
        {"x": None},
        {"d": "AAAA"},
        {"kid": 0},
        {"kid": None},
    ],
)
async def test_a_key_that_cannot_or_must_not_verify_is_left_out_alone(source, verifier, changes):
    source.show({**jwk("P-256", 0), **changes}, jwk("P-256", 1))

    with pytest.raises(InvalidToken):
        await verifier.connection(token(0))
    assert (await verifier.connection(token(1))).user == "42"


async def test_a_secret_that_is_shown_to_everybody_verifies_nothing(source, verifier):
    source.show({"kty": "oct", "kid": "0", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg"})

    with pytest.raises(InvalidToken):
        await verifier.connection(signed("HS256", "x" * 32, kid="0"))


async def test_a_private_key_that_is_shown_to_everybody_verifies_nothing(source, verifier, caplog):
    source.show(
        {**get_default_algorithms()["ES256"].to_jwk(private_key("P-256"), True), "kid": "0"}
    )

    with pytest.raises(InvalidToken):
        await verifier.connection(token())

    assert "'0' is a secret that the source shows to everybody" in caplog.text


async def test_a_key_that_names_its_algorithm_is_good_for_no_other(source, verifier):
    source.show(jwk("RSA", alg="RS256"))

    assert (await verifier.connection(token(algorithm="RS256"))).user == "42"
    for other in ("RS384", "RS512"):
        with pytest.raises(InvalidToken):
            at_once(verifier.connection(token(algorithm=other)))


@pytest.mark.parametrize("algorithm", ["ES384", "RS256", "EdDSA", "HS256", "none", "", 5])
def test_a_key_that_names_an_algorithm_of_another_kind_is_unusable(algorithm):
    with pytest.raises(UnusableKey, match="does not go with"):
        jwk_key(jwk("P-256", alg=algorithm))


async def test_a_small_rsa_key_is_left_out_and_named(source, verifier, caplog):
    source.show({**jwk("RSA-1024"), "kid": "small"})

    with pytest.raises(InvalidToken):
        await verifier.connection(token(0, kid="small", algorithm="RS256"))

    assert "'small' is an RSA key of 1024 bits" in caplog.text


async def test_keys_of_two_kinds_may_share_an_id(source, verifier):
    source.show(jwk("P-256"), jwk("RSA"))

    assert (await verifier.connection(token(algorithm="ES256"))).user == "42"
    assert (await verifier.connection(token(algorithm="RS256"))).user == "42"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    st.sampled_from(["RSA", "EC", "OKP"]),
    st.dictionaries(st.sampled_from(["n", "e", "x", "y", "crv", "alg"]), JSON | st.just("AQAB")),
)
def test_any_json_web_key_is_read_or_unusable(kind, fields):
    with contextlib.suppress(UnusableKey):
        assert jwk_key({"crv": "P-256", **fields, "kty": kind}).algorithms


# A source that fails ----------------------------------------------------------------------------


def redirect(source):
    source.answer(b"", status=302, headers={"Location": "/elsewhere"})


FAILURES = {
    "an error": lambda source: source.answer(b"{}", status=500),
    "not found": lambda source: source.answer(b'{"keys":[]}', status=404),
    "no content": lambda source: source.answer(b"", status=204),
    "no JSON": lambda source: source.answer(b"<html>"),
    "half JSON": lambda source: source.answer(b'{"keys":['),
    "no keys": lambda source: source.answer(b"{}"),
    "an array": lambda source: source.answer(b"[]"),
    "keys of text": lambda source: source.answer(b'{"keys":["a"]}'),
    "not UTF-8": lambda source: source.answer(b'{"keys":[{"kid":"\xff"}]}'),
    "deep": lambda source: source.answer(b'{"keys":[{"a":' + b"[" * 100_000),
    "too much": lambda source: source.answer(
        json.dumps({"keys": [jwk("P-256")], "x": "x" * BODY_MAX_BYTES}).encode()
    ),
    "packed": lambda source: source.answer(
        gzip.compress(json.dumps({"keys": [jwk("P-256")]}).encode()),
        headers={"Content-Encoding": "gzip"},
    ),
    "a redirect": redirect,
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_source_that_shows_no_keys_leaves_the_token_unjudged(
    source, verifier, clock, failure, caplog
):
    FAILURES[failure](source)

    with pytest.raises(InternalError):
        await verifier.connection(token())

    assert source.request_count == 1
    assert "no keys of tokens from 127.0.0.1" in caplog.text
    source.show(jwk("P-256"))
    clock.pass_by(FETCH_INTERVAL_SECONDS)
    assert (await verifier.connection(token())).user == "42"


async def test_a_source_that_is_away_is_asked_again_after_a_while(source, verifier, clock):
    source.show(jwk("P-256"))
    await source.stop()
    with pytest.raises(InternalError):
        await verifier.connection(token())
    await source.start()

    with pytest.raises(InternalError):
        at_once(verifier.connection(token()))
    assert source.request_count == 0
    clock.pass_by(FETCH_INTERVAL_SECONDS)
    assert (await verifier.connection(token())).user == "42"


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_a_host_that_can_have_no_address_is_named_without_the_url(
    clock, settings, caplog, host
):
    url = f"https://{host}/keys?key=a-secret"
    settings.REALTIME = {"TOKEN_HMAC_SECRET": SECRET, "TOKEN_JWKS_URL": url}
    verifier = TokenVerifier(clock=clock)

    with pytest.raises(InternalError):
        await verifier.connection(token())
    await verifier.close()

    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"no keys of tokens from {host}" in record.getMessage()
    assert "a-secret" not in caplog.text
    assert "failed" not in caplog.text


async def test_a_slow_source_is_given_up(source, verifier, monkeypatch):
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_SECONDS", 0.05)
    source.may_answer.clear()

    async with asyncio.timeout(5):
        with pytest.raises(InternalError):
            await verifier.connection(token())

    assert source.request_count == 1


async def test_known_keys_go_on_for_a_while_without_their_source(source, verifier, clock):
    source.show(jwk("P-256"))
    await verifier.connection(token())
    await source.stop()

    clock.pass_by(CACHE_SECONDS)
    assert (await verifier.connection(token())).user == "42"
    with pytest.raises(InternalError):
        await verifier.connection(token(0, kid="unknown"))
    clock.pass_by(STALE_MAX_SECONDS - CACHE_SECONDS - 1)
    assert (await verifier.connection(token())).user == "42"
    clock.pass_by(1)
    with pytest.raises(InternalError):
        await verifier.connection(token())


async def test_a_failure_does_not_make_known_keys_count_longer(source, verifier, clock):
    source.show(jwk("P-256"))
    await verifier.connection(token())
    source.answer(b"{}", status=500)

    for _ in range(int(STALE_MAX_SECONDS / 600) - 1):
        clock.pass_by(600)
        assert (await verifier.connection(token())).user == "42"
    clock.pass_by(600)
    with pytest.raises(InternalError):
        await verifier.connection(token())


async def test_the_end_of_the_verifier_ends_a_fetch(source, verifier):
    source.may_answer.clear()
    waiting = asyncio.create_task(verifier.connection(token()))
    await source.was_asked.wait()

    await verifier.close()

    async with asyncio.timeout(5):
        with pytest.raises(InternalError):
            await waiting


async def test_a_password_in_the_query_is_not_logged(source, clock, settings, caplog):
    settings.REALTIME = {"TOKEN_JWKS_URL": f"{source.url}?key=swordfish"}
    await source.stop()
    verifier = TokenVerifier(clock=clock)

    with pytest.raises(InternalError):
        await verifier.connection(token())

    assert "no keys of tokens" in caplog.text
    assert "swordfish" not in caplog.text
    await verifier.close()


# Seen by a client -------------------------------------------------------------------------------


async def test_a_client_whose_key_cannot_be_had_may_try_again(
    source, verifier, engine, dial, clock
):
    engine.token_verifier = verifier
    source.show(jwk("P-256"))
    await source.stop()

    with pytest.raises(CommandError) as caught:
        await (await dial()).connect(token())
    assert (caught.value.code, caught.value.error["temporary"]) == (100, True)
    await source.start()
    clock.pass_by(FETCH_INTERVAL_SECONDS)
    await (await dial()).connect(token())


async def test_a_client_with_an_unknown_key_is_closed_with_3500(source, verifier, engine, dial):
    engine.token_verifier = verifier
    client = await dial()

    with pytest.raises(Closed) as caught:
        await client.connect(token())

    assert caught.value.code == 3500


# Where keys may come from -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://keys.example/jwks", True),
        ("https://keys.example:8443/jwks?v=1", True),
        ("http://127.0.0.1:9000/jwks", True),
        ("http://[::1]/jwks", True),
        ("http://localhost/jwks", True),
        ("http://keys.example/jwks", False),
        ("http://10.0.0.1/jwks", False),
        ("http://127.0.0.1.example/jwks", False),
        ("http://localhost.example/jwks", False),
        ("https://user:password@keys.example/jwks", False),
        ("https://", False),
        ("https://keys.example:port/", False),
        ("https://[keys/", False),
        ("ftp://keys.example/jwks", False),
        ("file:///etc/jwks", False),
        ("keys.example/jwks", False),
    ],
)
def test_keys_come_over_tls_or_from_this_machine(settings, url, is_allowed):
    settings.REALTIME = {"TOKEN_JWKS_URL": url}

    found = checks.check_tokens()

    if is_allowed:
        assert found == []
        TokenVerifier()
    else:
        assert [message.id for message in found] == ["realtime.E011"]
        assert "password@" not in found[0].msg
        with pytest.raises(ImproperlyConfigured, match="TOKEN_JWKS_URL"):
            TokenVerifier()


def test_while_debugging_they_may_come_from_anywhere(settings):
    settings.DEBUG = True
    settings.REALTIME = {"TOKEN_JWKS_URL": "http://keys.example/jwks"}

    assert checks.check_tokens() == []
