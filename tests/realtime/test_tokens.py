import base64
import contextlib
import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jwt import api_jws
from msgspec import Raw

from realtime.protocol.errors import BadRequest, TokenExpired
from realtime.snapshot import ChannelOptions
from realtime.tokens import (
    ConnectionClaims,
    InvalidToken,
    Override,
    sign_connection_token,
    sign_subscription_token,
)
from tests.support.tokens import connection_claims, subscription_claims

# The settings are the same for every example.
same_settings = examples(suppress_health_check=[HealthCheck.function_scoped_fixture])

SECRET = "the-secret-of-these-tests-0123456789"
OTHER = "another-secret-of-these-tests-0123456"


@pytest.fixture(autouse=True)
def configure(settings):
    def configure(**given):
        settings.REALTIME = {"TOKEN_HMAC_SECRET": SECRET, **given}

    configure()
    return configure


def signed(claims, secret=SECRET, **options):
    return jwt.encode(claims, secret, algorithm="HS256", **options)


def signed_text(text, secret=SECRET):
    content = text if isinstance(text, bytes) else text.encode()
    return api_jws.encode(content, secret, algorithm="HS256")


def in_seconds(seconds):
    return int(time.time()) + seconds


@pytest.mark.rule("token-hs256", "token-sub-is-user", "claim-exp-is-expiry")
def test_a_connection_token_says_who_and_until_when():
    expires_at = in_seconds(60)

    claims = connection_claims(signed({"sub": "42", "exp": expires_at}))

    assert claims == ConnectionClaims("42", expires_at, None)


@pytest.mark.rule("token-no-sub-anonymous")
def test_a_token_without_a_user_is_anonymous_and_without_exp_never_expires():
    assert connection_claims(signed({})) == ConnectionClaims("", 0, None)


@pytest.mark.rule("claim-info")
@pytest.mark.parametrize("text", ['{"a":1}', '{ "a" : 1.50 }', "[1e2]", '"text"', "0", '"\\u00e9"'])
def test_info_keeps_the_bytes_it_was_written_with(text):
    claims = connection_claims(signed_text('{"info":' + text + "}"))

    assert bytes(claims.info) == text.encode()


@pytest.mark.rule("claim-b64info")
def test_info_may_be_base64_and_then_stands_above_the_other():
    encoded = base64.b64encode(b'{"a": 1}').decode()

    claims = connection_claims(signed({"info": 5, "b64info": encoded}))

    assert bytes(claims.info) == b'{"a": 1}'


@pytest.mark.parametrize(
    "claims",
    [
        {"b64info": "not base64!"},
        {"b64info": base64.b64encode(b"not json").decode()},
        {"b64info": base64.b64encode(b'"\xff"').decode()},
        {"b64info": 5},
        {"info": json.loads("[" * 200 + "]" * 200)},
    ],
)
def test_info_that_others_could_not_read_makes_the_token_invalid(claims):
    with pytest.raises(InvalidToken):
        connection_claims(signed(claims))


@pytest.mark.parametrize(
    "text", ['{"info":"\\ud800"}', '{"info":NaN}', '{"info":1e999}', b'{"info":"\xff"}']
)
def test_info_that_is_not_json_makes_the_token_invalid(text):
    with pytest.raises(InvalidToken):
        connection_claims(signed_text(text))


@pytest.mark.rule("token-exp-expired")
@pytest.mark.parametrize("expires_at", [-5, 0, 1, 1.5, -(2**70)])
def test_a_token_past_its_exp_is_expired(expires_at):
    with pytest.raises(TokenExpired):
        connection_claims(signed_text(json.dumps({"exp": expires_at})))


@pytest.mark.rule("token-exp-expired")
def test_a_token_expires_on_the_second():
    with pytest.raises(TokenExpired):
        connection_claims(signed({"exp": in_seconds(0)}))


@pytest.mark.rule("token-nbf-expired")
def test_a_token_before_its_nbf_counts_as_expired():
    with pytest.raises(TokenExpired):
        connection_claims(signed({"nbf": in_seconds(60)}))


@pytest.mark.rule("token-iat-jti-ignored")
def test_iat_and_jti_are_not_looked_at():
    connection_claims(signed_text('{"iat":99999999999,"jti":5}'))


def test_a_fraction_of_a_second_is_a_time():
    claims = connection_claims(signed({"exp": in_seconds(60) + 0.75}))

    assert claims.expire_at == in_seconds(60)


@pytest.mark.parametrize("expires_at", ['"1999999999"', "true", "[]", "{}", "1e999", "NaN"])
def test_an_exp_that_is_no_number_is_invalid(expires_at):
    with pytest.raises(InvalidToken):
        connection_claims(signed_text('{"exp":' + expires_at + "}"))


@pytest.mark.parametrize("expires_at", ["9223372036854775808", "18446744073709551616", "1e300"])
def test_an_exp_beyond_all_integers_is_a_late_one(expires_at):
    claims = connection_claims(signed_text('{"exp":' + expires_at + "}"))

    assert claims.expire_at == 2**53


@pytest.mark.rule("claim-expire-at", "claim-expire-at-zero")
def test_expire_at_stands_above_exp():
    later = in_seconds(600)

    assert connection_claims(
        signed({"exp": in_seconds(60), "expire_at": later})
    ) == ConnectionClaims("", later, None)
    assert connection_claims(signed({"exp": in_seconds(60), "expire_at": 0})).expire_at == 0
    with pytest.raises(TokenExpired):
        connection_claims(signed({"exp": 5, "expire_at": 0}))


@pytest.mark.rule("token-sub-is-user")
@pytest.mark.parametrize("user", [42, 42.5, True, ["42"], {"id": 42}])
def test_a_user_that_is_no_text_is_invalid(user):
    with pytest.raises(InvalidToken):
        connection_claims(signed_text(json.dumps({"sub": user})))


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b.c", "a.b", "x" * 100_000, "a.b.c\0", "é.é.é", "\ud800", " " * 9],
)
def test_what_is_no_token_is_invalid(token):
    with pytest.raises(InvalidToken):
        connection_claims(token)


@pytest.mark.rule("token-hs256")
def test_a_changed_signature_is_invalid_at_every_place():
    token = signed({"sub": "42"})
    head, _, signature = token.rpartition(".")

    for place in range(len(signature)):
        other = "A" if signature[place] != "A" else "B"
        with pytest.raises(InvalidToken):
            connection_claims(f"{head}.{signature[:place]}{other}{signature[place + 1 :]}")
        with pytest.raises(InvalidToken):
            connection_claims(f"{head}.{signature[:place]}")


@pytest.mark.rule("token-hs256")
def test_a_token_of_another_secret_is_invalid():
    with pytest.raises(InvalidToken):
        connection_claims(signed({"sub": "42"}, OTHER))


@pytest.mark.rule("token-none")
@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "HS384", "HS512", "RS256", "", None])
def test_no_other_algorithm_is_accepted(algorithm):
    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    signature = signed({"sub": "42"}).rpartition(".")[2]
    token = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part({'sub': '42'})}"

    for end in ("", signature):
        with pytest.raises(InvalidToken):
            connection_claims(f"{token}.{end}")


def test_a_properly_signed_token_of_another_hmac_is_invalid():
    with pytest.raises(InvalidToken):
        connection_claims(jwt.encode({"sub": "42"}, SECRET * 2, algorithm="HS512"))


@pytest.mark.parametrize("headers", [{"crit": ["x"]}, {"crit": []}, {"crit": "b64"}])
def test_a_critical_header_that_is_not_understood_is_invalid(headers):
    def part(content):
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    header = json.dumps({"alg": "HS256", **headers}).encode()
    signing_input = part(header) + b"." + part(b"{}")
    algorithm = api_jws.get_algorithm_by_name("HS256")
    signature = part(algorithm.sign(signing_input, algorithm.prepare_key(SECRET)))

    with pytest.raises(InvalidToken):
        connection_claims((signing_input + b"." + signature).decode())


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "kid"])
def test_key_hints_in_the_header_are_ignored(name):
    token = signed({"sub": "42"}, headers={name: "../../etc/passwd"})

    assert connection_claims(token).user == "42"


@pytest.mark.parametrize("header", ["[" * 50_000, "[]", "5", "null", '{"kid":5,"alg":"HS256"}'])
def test_a_strange_header_is_invalid(header):
    part = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()

    with pytest.raises(InvalidToken):
        connection_claims(f"{part}.e30.AAAA")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"x":' * 50_000, "[]", "5", "", "{", "null"])
def test_claims_that_are_no_object_are_invalid(text):
    with pytest.raises(InvalidToken):
        connection_claims(signed_text(text))


@pytest.mark.rule("token-algorithm-unconfigured")
def test_without_a_secret_nothing_is_valid(configure):
    configure(TOKEN_HMAC_SECRET="")

    with pytest.raises(InvalidToken):
        connection_claims(signed({"sub": "42"}))
    part = signed({"sub": "42"}).rpartition(".")[0]
    with pytest.raises(InvalidToken):
        connection_claims(f"{part}.")


@pytest.mark.rule("token-previous-secret", "token-previous-secret-until")
def test_a_previous_secret_is_good_until_its_date(configure):
    token = signed({"sub": "42"}, OTHER)
    now = datetime.now(UTC)

    configure(TOKEN_HMAC_PREVIOUS_SECRET=OTHER)
    assert connection_claims(token).user == "42"
    assert connection_claims(signed({"sub": "7"})).user == "7"

    configure(
        TOKEN_HMAC_PREVIOUS_SECRET=OTHER,
        TOKEN_HMAC_PREVIOUS_SECRET_UNTIL=now + timedelta(seconds=60),
    )
    assert connection_claims(token).user == "42"

    configure(TOKEN_HMAC_PREVIOUS_SECRET=OTHER, TOKEN_HMAC_PREVIOUS_SECRET_UNTIL=now)
    with pytest.raises(InvalidToken):
        connection_claims(token)


@pytest.mark.rule("token-audience")
@pytest.mark.parametrize(
    ("audience", "is_valid"),
    [("us", True), (["you", "us"], True), ("you", False), ([], False), (None, False)],
)
def test_the_audience_must_be_ours_where_one_is_set(configure, audience, is_valid):
    configure(TOKEN_AUDIENCE="us")
    token = signed_text(json.dumps({"aud": audience}))

    if is_valid:
        connection_claims(token)
    else:
        with pytest.raises(InvalidToken):
            connection_claims(token)


@pytest.mark.rule("token-issuer")
def test_the_issuer_must_be_the_expected_where_one_is_set(configure):
    configure(TOKEN_ISSUER="them")

    connection_claims(signed({"iss": "them"}))
    for claims in ({}, {"iss": "others"}):
        with pytest.raises(InvalidToken):
            connection_claims(signed(claims))


@pytest.mark.rule("claim-channel-forbidden", "sub-claim-channel")
def test_a_token_is_good_for_one_purpose():
    with pytest.raises(InvalidToken):
        connection_claims(signed({"sub": "42", "channel": "news"}))
    for claims in ({"sub": "42"}, {"sub": "42", "channel": ""}, {"sub": "42", "channel": None}):
        with pytest.raises(InvalidToken):
            subscription_claims(signed(claims))
    with pytest.raises(InvalidToken):
        connection_claims(signed({"sub": "42", "channel": "news", "exp": 5}))


@pytest.mark.rule("sub-claim-exp", "sub-claim-info", "sub-claim-data")
def test_a_subscription_token_says_what_it_opens():
    expires_at = in_seconds(60)

    claims = subscription_claims(
        signed(
            {
                "sub": "42",
                "channel": "$news",
                "client": "c1",
                "exp": expires_at,
                "info": {"a": 1},
                "b64data": base64.b64encode(b"[1]").decode(),
                "override": {"presence": {"value": True}, "force_recovery": {"value": False}},
            }
        )
    )

    assert (claims.user, claims.channel, claims.client) == ("42", "$news", "c1")
    assert claims.expire_at == expires_at
    assert bytes(claims.info) == b'{"a":1}'
    assert bytes(claims.data) == b"[1]"
    assert claims.override == Override(presence=True, force_recovery=False)


@pytest.mark.rule("sub-claim-override")
def test_an_override_changes_what_it_names_and_nothing_else():
    options = ChannelOptions(history_size=5, history_ttl=5, force_recovery=True, join_leave=True)

    changed = Override(presence=True, force_recovery=False).apply(options)

    assert changed == ChannelOptions(history_size=5, history_ttl=5, presence=True, join_leave=True)
    assert Override().apply(options) == options


@pytest.mark.parametrize(
    "override", [{"presence": True}, {"presence": {"value": 1}}, [], "presence", {"presence": []}]
)
def test_an_override_of_another_form_is_invalid(override):
    with pytest.raises(InvalidToken):
        subscription_claims(signed({"channel": "news", "override": override}))


def test_an_override_may_be_empty_or_unknown():
    claims = {"channel": "n", "override": {"presence": None, "history_size": {"value": 9}}}

    assert subscription_claims(signed(claims)).override == Override()


def test_what_is_signed_verifies():
    connection = connection_claims(sign_connection_token("42", info={"name": "Ada"}))
    subscription = subscription_claims(
        sign_subscription_token("42", "$news", ttl_seconds=5, info=Raw(b'{ "a": 1 }'))
    )

    assert connection.user == "42"
    assert bytes(connection.info) == b'{"name":"Ada"}'
    assert connection.expire_at == pytest.approx(in_seconds(1800), abs=1)
    assert (subscription.user, subscription.channel) == ("42", "$news")
    assert bytes(subscription.info) == b'{ "a": 1 }'
    assert subscription.expire_at == pytest.approx(in_seconds(5), abs=1)


def test_the_usual_time_to_live_is_a_setting(configure):
    configure(TOKEN_TTL_SECONDS=7)

    assert connection_claims(sign_connection_token("42")).expire_at <= in_seconds(7)


def test_an_anonymous_token_can_be_signed():
    assert connection_claims(sign_connection_token("")).user == ""


def test_nothing_is_signed_without_a_secret(configure):
    configure(TOKEN_HMAC_SECRET="", TOKEN_HMAC_PREVIOUS_SECRET=OTHER)

    with pytest.raises(ImproperlyConfigured, match="REALTIME_TOKEN_HMAC_SECRET"):
        sign_connection_token("42")


@pytest.mark.parametrize(
    "given",
    [
        {"user": "\ud800"},
        {"channel": "\ud800"},
        {"info": object()},
        {"info": Raw(b"not json")},
        {"info": Raw(b"")},
        {"info": "\ud800"},
        {"channel": ""},
    ],
)
def test_what_no_receiver_could_read_is_not_signed(given):
    with pytest.raises(BadRequest):
        sign_subscription_token(**{"user": "42", "channel": "news", **given})


@same_settings
@given(st.binary(max_size=60) | st.text(max_size=60))
@example(b'{"sub":"\\ud800"}')
@example(b'{"aud":[1]}')
@example(b'{"info":}')
def test_any_signed_content_is_read_or_invalid(content):
    text = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    for verify in (connection_claims, subscription_claims):
        with contextlib.suppress(InvalidToken, TokenExpired):
            verify(signed_text(text))


@same_settings
@given(st.text(max_size=80))
def test_any_text_is_read_or_invalid(token):
    with pytest.raises(InvalidToken):
        connection_claims(token)
