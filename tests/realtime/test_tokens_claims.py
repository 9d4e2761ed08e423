"""What the claims of a connection token may say beyond who it is, and how claims are compared."""

import base64
import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from jwt import api_jws

from realtime import checks
from realtime.protocol.errors import TokenExpired
from realtime.token_verifier import TokenVerifier
from realtime.tokens import ConnectionClaims, InvalidToken, Override, SubscribeOptions
from tests.support.tokens import connection_claims, in_seconds, signed, subscription_claims

SECRET = "the-secret-of-these-tests-0123456789"


@pytest.fixture(autouse=True)
def configure(settings):
    def configure(**given):
        settings.REALTIME = {"TOKEN_HMAC_SECRET": SECRET, **given}

    configure()
    return configure


def read(text):
    """Return the claims of a connection token with this content."""
    content = text if isinstance(text, str) else json.dumps(text)
    return connection_claims(api_jws.encode(content.encode(), SECRET, algorithm="HS256"))


def refused(text):
    with pytest.raises(InvalidToken):
        read(text)


# Server-side subscriptions ----------------------------------------------------------------------


@pytest.mark.rule("claim-channels")
def test_channels_are_subscribed_to_in_their_order_and_once():
    claims = read({"sub": "42", "channels": ["news", "$a:b", "ä", "news"]})

    assert list(claims.subs) == ["news", "$a:b", "ä"]
    assert set(claims.subs.values()) == {SubscribeOptions()}


@pytest.mark.parametrize("claims", [{}, {"channels": []}, {"subs": {}}, {"channels": None}])
def test_without_channels_there_are_none(claims):
    assert read(claims) == ConnectionClaims("", 0, None, {})


@pytest.mark.rule("claim-subs")
def test_subs_have_options_of_their_own():
    claims = read(
        '{"subs":{"news":{"info":{ "a": 1 },"b64data":"WzEuNTBd",'
        '"override":{"presence":{"value":true},"force_recovery":{"value":false}}},'
        '"quiet":{},"null":null}}'
    )

    news = claims.subs["news"]
    assert bytes(news.info) == b'{ "a": 1 }'
    assert bytes(news.data) == b"[1.50]"
    assert news.override == Override(presence=True, force_recovery=False)
    assert news.expire_at == 0
    assert claims.subs["quiet"] == claims.subs["null"] == SubscribeOptions()


def test_base64_stands_above_the_other_form():
    encoded = base64.b64encode(b"2").decode()
    given = {"info": 1, "b64info": encoded, "data": 1, "b64data": encoded}

    options = read({"subs": {"news": given}}).subs["news"]

    assert (bytes(options.info), bytes(options.data)) == (b"2", b"2")


@pytest.mark.rule("claim-subs-above-channels")
def test_subs_stand_above_channels_unless_they_are_empty():
    assert list(read({"channels": ["a", "b"], "subs": {"c": {}}}).subs) == ["c"]
    assert list(read({"channels": ["a", "b"], "subs": {}}).subs) == ["a", "b"]


@pytest.mark.parametrize(
    "claims",
    [
        {"channels": "news"},
        {"channels": [1]},
        {"channels": [None]},
        {"channels": [["news"]]},
        {"channels": {"news": {}}},
        {"channels": ["news", ""]},
        {"channels": [5], "subs": {"news": {}}},
        {"subs": ["news"]},
        {"subs": {"news": []}},
        {"subs": {"news": True}},
        {"subs": {"": {}}},
        {"subs": {"news": {"b64info": "not base64!"}}},
        {"subs": {"news": {"b64data": base64.b64encode(b"not json").decode()}}},
        {"subs": {"news": {"override": {"presence": True}}}},
        '{"subs":{"news":{"info":NaN}}}',
        '{"subs":{"news":{"data":"\\ud800"}}}',
    ],
)
def test_subscriptions_of_another_form_make_the_token_invalid(claims):
    refused(claims)


def test_a_subscription_token_says_nothing_of_other_channels():
    token = signed("HS256", SECRET, {"sub": "42", "channel": "a", "channels": ["b"], "meta": 5})

    assert subscription_claims(token).channel == "a"


# Meta -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [{}, {"a": {"b": [1]}}, None])
def test_meta_is_an_object(meta):
    assert read({"sub": "42", "meta": meta}).user == "42"


@pytest.mark.rule("claim-meta-object")
@pytest.mark.parametrize("meta", ["text", 5, True, [], [{"a": 1}]])
def test_meta_that_is_no_object_makes_the_token_invalid(meta):
    refused({"sub": "42", "meta": meta})


# Who --------------------------------------------------------------------------------------------


@pytest.mark.rule("token-user-id-claim")
def test_another_claim_may_say_who_the_user_is(configure):
    configure(TOKEN_USER_ID_CLAIM="user_id")

    assert read({"sub": "1", "user_id": "42"}).user == "42"
    assert read({"sub": "1"}).user == ""
    assert read({"sub": 1, "user_id": "42"}).user == "42"
    token = signed("HS256", SECRET, {"user_id": "42", "channel": "news"})
    assert subscription_claims(token).user == "42"


@pytest.mark.parametrize("user", [42, True, ["42"], {"id": "42"}])
def test_another_claim_that_is_no_text_is_invalid(configure, user):
    configure(TOKEN_USER_ID_CLAIM="user_id")

    refused({"sub": "42", "user_id": user})


@pytest.mark.parametrize("claim", ["exp", "channel", "info", ""])
def test_a_claim_with_another_meaning_does_not_say_who(configure, claim):
    configure(TOKEN_USER_ID_CLAIM=claim)

    [message] = checks.check_tokens()

    assert message.id == "realtime.E012"
    with pytest.raises(ImproperlyConfigured, match="TOKEN_USER_ID_CLAIM"):
        TokenVerifier()


# Audience and issuer ----------------------------------------------------------------------------


@pytest.mark.rule("token-audience-regex")
@pytest.mark.parametrize(
    ("audience", "is_valid"),
    [
        ("app-1", True),
        (["other", "app-22"], True),
        ("app-", False),
        ("app-1x", False),
        ("xapp-1", False),
        ("app-1\n", False),
        ([], False),
        ("", False),
        (None, False),
    ],
)
def test_an_audience_may_be_of_a_pattern(configure, audience, is_valid):
    for pattern in ("app-[0-9]+", "^app-[0-9]+$"):
        configure(TOKEN_AUDIENCE_REGEX=pattern)
        if is_valid:
            read({"aud": audience})
        else:
            refused({"aud": audience})


@pytest.mark.parametrize("pattern", [".*", "", "x?"])
def test_a_pattern_that_matches_nothing_at_all_still_wants_the_claim(configure, pattern):
    configure(TOKEN_ISSUER_REGEX=pattern)

    if pattern:
        refused({"sub": "42"})
        refused({"sub": "42", "iss": ""})
        assert read({"sub": "42", "iss": "x"}).user == "42"
    else:
        assert read({"sub": "42"}).user == "42"


@pytest.mark.rule("token-issuer-regex")
def test_an_issuer_may_be_of_a_pattern(configure):
    configure(TOKEN_ISSUER_REGEX=r"https://(eu|us)\.example")

    read({"iss": "https://eu.example"})
    for issuer in ("https://eu.example.net", "https://asia.example", "https://eu-example"):
        refused({"iss": issuer})
    refused('{"iss":"https://eu.example\\ud800"}')


@pytest.mark.rule("token-issuer-regex")
def test_the_longer_of_two_alternatives_counts_as_well(configure):
    configure(TOKEN_ISSUER_REGEX="us|us-west")

    read({"iss": "us"})
    read({"iss": "us-west"})
    refused({"iss": "us-east"})


@pytest.mark.parametrize("name", ["AUDIENCE", "ISSUER"])
@pytest.mark.parametrize(
    "given", [{"{}_REGEX": "("}, {"{}_REGEX": "x", "{}": "x"}, {"{}_REGEX": r"(a)\1"}]
)
def test_a_pattern_that_cannot_be_used_is_named(configure, name, given):
    configure(**{f"TOKEN_{key.format(name)}": value for key, value in given.items()})

    [message] = checks.check_tokens()

    assert message.id == "realtime.E012"
    assert f"TOKEN_{name}_REGEX" in message.msg
    with pytest.raises(ImproperlyConfigured, match=f"TOKEN_{name}_REGEX"):
        TokenVerifier()


# When -------------------------------------------------------------------------------------------


def test_a_token_of_the_wrong_audience_is_invalid_also_when_it_has_expired(configure):
    configure(TOKEN_AUDIENCE="us")

    refused({"aud": "you", "exp": in_seconds(-5)})
    with pytest.raises(TokenExpired):
        read({"aud": "us", "exp": in_seconds(-5)})


@pytest.mark.rule("claim-expire-at", "claim-expire-at-zero")
def test_a_connection_may_outlive_its_token_and_for_ever():
    assert read({"exp": in_seconds(60), "expire_at": 0}).expire_at == 0
    assert read({"expire_at": in_seconds(60)}).expire_at == in_seconds(60)
    with pytest.raises(TokenExpired):
        read({"exp": in_seconds(-1), "expire_at": 0})
