"""Whose signatures count: each key is good for the algorithms of its own kind, and for no other."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from django.core.exceptions import ImproperlyConfigured
from jwt import api_jws

from project import engine
from project.environment import Environment
from realtime import checks
from realtime.token_verifier import TokenVerifier
from realtime.tokens import InvalidToken, sign_connection_token, sign_subscription_token
from tests.support.tokens import (
    ALGORITHMS,
    connection_claims,
    private_key,
    private_pem,
    public_pem,
    signed,
    subscription_claims,
)

SECRET = "the-secret-of-these-tests-0123456789-0123456789-0123456789-012345"
OTHER = "another-secret-of-these-tests-0123456-0123456789-0123456789-012345"
KINDS = ["RSA", "P-256", "P-384", "P-521", "Ed25519"]


@pytest.fixture(autouse=True)
def configure(settings):
    def configure(**given):
        settings.REALTIME = given

    return configure


@pytest.fixture
def found(configure):
    """Return what the system checks say of settings, each as id and message."""

    def found(**given):
        configure(**given)
        messages = checks.check_tokens()
        assert all(message.hint for message in messages)
        return [(message.id, message.msg) for message in messages]

    return found


def unsigned_token(algorithm, sign):
    """Return a token with a signature that ``sign`` makes of its first two parts."""

    def part(content):
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    signing_input = part(header) + b"." + part(b'{"sub":"42"}')
    return (signing_input + b"." + part(sign(signing_input))).decode()


# Good -------------------------------------------------------------------------------------------


@pytest.mark.rule("token-hs256", "token-hs384-hs512")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_secret_verifies_every_hmac(configure, algorithm):
    configure(TOKEN_HMAC_SECRET=SECRET)

    assert connection_claims(signed(algorithm, SECRET)).user == "42"
    with pytest.raises(InvalidToken):
        connection_claims(signed(algorithm, OTHER))


@pytest.mark.rule("token-rs", "token-es", "token-eddsa")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_public_key_verifies_what_its_private_half_has_signed(configure, algorithm):
    kind = ALGORITHMS[algorithm]
    configure(TOKEN_PUBLIC_KEY=public_pem(private_key(kind)))

    assert connection_claims(signed(algorithm, private_key(kind))).user == "42"
    with pytest.raises(InvalidToken):
        connection_claims(signed(algorithm, private_key(kind, 1)))


def test_several_public_keys_may_stand_one_after_the_other(configure):
    old, new = private_key("RSA"), private_key("RSA", 1)
    curve = private_key("P-256")
    configure(TOKEN_PUBLIC_KEY=public_pem(old) + "\n# new\n" + public_pem(new) + public_pem(curve))

    for algorithm, key in (("RS256", old), ("RS256", new), ("ES256", curve)):
        assert connection_claims(signed(algorithm, key)).user == "42"


def test_a_public_key_may_be_written_on_one_line(configure):
    configure(TOKEN_PUBLIC_KEY=public_pem(private_key("P-256")).replace("\n", "\\n"))

    assert connection_claims(signed("ES256", private_key("P-256"))).user == "42"


def test_a_secret_and_public_keys_count_side_by_side(configure):
    configure(TOKEN_HMAC_SECRET=SECRET, TOKEN_PUBLIC_KEY=public_pem(private_key("Ed25519")))

    assert connection_claims(signed("HS256", SECRET)).user == "42"
    assert connection_claims(signed("EdDSA", private_key("Ed25519"))).user == "42"


def test_a_kid_means_nothing_to_keys_of_the_settings(configure):
    configure(TOKEN_HMAC_SECRET=SECRET, TOKEN_PUBLIC_KEY=public_pem(private_key("P-256")))

    assert connection_claims(signed("HS256", SECRET, kid="x")).user == "42"
    assert connection_claims(signed("ES256", private_key("P-256"), kid="x")).user == "42"


# Refused ----------------------------------------------------------------------------------------


@pytest.mark.rule("token-algorithm-unconfigured")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_signed_with_the_text_of_a_public_key_is_refused(configure, algorithm, kind):
    pem = public_pem(private_key(kind))
    hmac = api_jws.get_algorithm_by_name(algorithm)

    for given in ({}, {"TOKEN_HMAC_SECRET": SECRET}):
        configure(TOKEN_PUBLIC_KEY=pem, **given)
        for text in (pem, pem.strip(), pem.replace("\n", "\\n")):
            secret = text.encode()
            token = unsigned_token(algorithm, lambda content, key=secret: hmac.sign(content, key))
            with pytest.raises(InvalidToken):
                connection_claims(token)


@pytest.mark.rule("token-none")
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["RS256"], {"x": 1}, 5])
def test_no_key_makes_an_unsigned_token_good(configure, algorithm):
    pems = "".join(public_pem(private_key(kind)) for kind in KINDS)
    configure(TOKEN_HMAC_SECRET=SECRET, TOKEN_PUBLIC_KEY=pems)

    for signature in (b"", b"x"):
        with pytest.raises(InvalidToken):
            connection_claims(unsigned_token(algorithm, lambda _, signature=signature: signature))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_kind_or_curve_does_not_verify(configure, algorithm, kind):
    configure(TOKEN_PUBLIC_KEY=public_pem(private_key(kind)))
    signer = private_key(ALGORITHMS[algorithm], 1)

    with pytest.raises(InvalidToken):
        connection_claims(signed(algorithm, signer))


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_a_curve_goes_with_one_algorithm(configure, algorithm, kind):
    configure(TOKEN_PUBLIC_KEY=public_pem(private_key(kind)))
    # PyJWT would not sign with another curve; somebody else may.
    any_curve = jwt.algorithms.ECAlgorithm(api_jws.get_algorithm_by_name(algorithm).hash_alg)
    token = unsigned_token(algorithm, lambda content: any_curve.sign(content, private_key(kind)))

    if ALGORITHMS[algorithm] == kind:
        assert connection_claims(token).user == "42"
    else:
        with pytest.raises(InvalidToken):
            connection_claims(token)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("PS256", "RSA"), ("PS384", "RSA"), ("PS512", "RSA"), ("ES256K", "secp256k1")],
)
def test_algorithms_beyond_those_promised_are_refused(configure, algorithm, kind):
    pems = "".join(public_pem(private_key(each)) for each in KINDS)
    configure(TOKEN_PUBLIC_KEY=pems)

    with pytest.raises(InvalidToken):
        connection_claims(signed(algorithm, private_key(kind)))


@pytest.mark.rule("token-algorithm-unconfigured")
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "HS256", "HS384", "HS512"])
def test_an_algorithm_without_a_key_is_refused(configure, algorithm):
    is_hmac = algorithm.startswith("HS")
    key = SECRET if is_hmac else private_key(ALGORITHMS[algorithm])
    configure(
        **{"TOKEN_PUBLIC_KEY": public_pem(private_key("RSA", 1))}
        if is_hmac
        else {"TOKEN_HMAC_SECRET": SECRET}
    )

    with pytest.raises(InvalidToken):
        connection_claims(signed(algorithm, key))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_that_was_tampered_with_is_refused(configure, algorithm):
    key = private_key(ALGORITHMS[algorithm])
    configure(TOKEN_PUBLIC_KEY=public_pem(key))
    header, content, signature = signed(algorithm, key).split(".")
    _, other_content, other_signature = signed(algorithm, key, {"sub": "43"}).split(".")

    for token in (
        f"{header}.{other_content}.{signature}",
        f"{header}.{content}.{other_signature}",
        f"{header}.{content}.",
        f"{header}.{content}.{signature[:-8]}",
        f"{header}.{content}.{signature}AAAA",
        f"{header}.{content}.{'A' * len(signature)}",
    ):
        with pytest.raises(InvalidToken):
            connection_claims(token)


def test_a_signature_of_zeros_is_no_signature(configure):
    configure(TOKEN_PUBLIC_KEY=public_pem(private_key("P-256")))

    with pytest.raises(InvalidToken):
        connection_claims(unsigned_token("ES256", lambda _: bytes(64)))


# The previous secret ----------------------------------------------------------------------------


@pytest.mark.rule("token-previous-secret", "token-previous-secret-until")
def test_a_previous_secret_counts_until_its_date_even_while_the_server_runs(configure, monkeypatch):
    until = datetime.now(UTC) + timedelta(seconds=60)
    configure(
        TOKEN_HMAC_SECRET=SECRET,
        TOKEN_HMAC_PREVIOUS_SECRET=OTHER,
        TOKEN_HMAC_PREVIOUS_SECRET_UNTIL=until,
    )
    verifier = TokenVerifier()

    def user(secret):
        try:
            verifier.connection(signed("HS256", secret)).send(None)
        except StopIteration as done:
            return done.value.user

    assert (user(SECRET), user(OTHER)) == ("42", "42")
    monkeypatch.setattr(time, "time", until.timestamp)
    assert user(SECRET) == "42"
    with pytest.raises(InvalidToken):
        user(OTHER)


# Subscription tokens of their own ---------------------------------------------------------------

ONE_CHANNEL = {"sub": "42", "channel": "news"}


def test_subscription_tokens_have_the_same_keys_until_they_have_their_own(configure):
    configure(TOKEN_HMAC_SECRET=SECRET)

    assert subscription_claims(signed("HS256", SECRET, ONE_CHANNEL)).channel == "news"


@pytest.mark.rule("token-subscription-own-keys")
@pytest.mark.parametrize(
    ("own", "algorithm", "key"),
    [
        ({"HMAC_SECRET": OTHER}, "HS256", OTHER),
        ({"HMAC_PREVIOUS_SECRET": OTHER}, "HS256", OTHER),
        ({"PUBLIC_KEY": "P-256"}, "ES256", "P-256"),
    ],
)
def test_any_key_of_their_own_is_all_that_counts_for_them(configure, own, algorithm, key):
    if key in KINDS:
        own, key = {"PUBLIC_KEY": public_pem(private_key(key))}, private_key(key)
    configure(
        TOKEN_HMAC_SECRET=SECRET,
        TOKEN_AUDIENCE="us",
        **{f"SUBSCRIPTION_TOKEN_{name}": value for name, value in own.items()},
    )

    assert subscription_claims(signed(algorithm, key, ONE_CHANNEL)).user == "42"
    with pytest.raises(InvalidToken):
        subscription_claims(signed("HS256", SECRET, {**ONE_CHANNEL, "aud": "us"}))
    assert connection_claims(signed("HS256", SECRET, {"sub": "42", "aud": "us"})).user == "42"
    with pytest.raises(InvalidToken):
        connection_claims(signed(algorithm, key, {"sub": "42", "aud": "us"}))


def test_their_own_settings_are_all_that_their_claims_are_compared_with(configure):
    configure(
        TOKEN_HMAC_SECRET=SECRET,
        SUBSCRIPTION_TOKEN_HMAC_SECRET=OTHER,
        SUBSCRIPTION_TOKEN_AUDIENCE="doors",
        SUBSCRIPTION_TOKEN_ISSUER_REGEX="gate-[0-9]",
        SUBSCRIPTION_TOKEN_USER_ID_CLAIM="uid",
    )
    claims = {"uid": "7", "channel": "news", "aud": "doors", "iss": "gate-1"}

    assert subscription_claims(signed("HS256", OTHER, claims)).user == "7"
    for wrong in ({"aud": "us"}, {"iss": "gate-10"}):
        with pytest.raises(InvalidToken):
            subscription_claims(signed("HS256", OTHER, {**claims, **wrong}))


def test_tokens_are_signed_as_those_of_their_kind_are_verified(configure):
    configure(
        TOKEN_HMAC_SECRET=SECRET,
        TOKEN_AUDIENCE="us",
        TOKEN_ISSUER="we",
        TOKEN_USER_ID_CLAIM="user_id",
        SUBSCRIPTION_TOKEN_HMAC_SECRET=OTHER,
        SUBSCRIPTION_TOKEN_AUDIENCE="doors",
    )

    assert connection_claims(sign_connection_token("42")).user == "42"
    subscription = subscription_claims(sign_subscription_token("42", "news"))
    assert (subscription.user, subscription.channel) == ("42", "news")


def test_what_would_not_be_accepted_is_not_signed(configure):
    pem = public_pem(private_key("P-256"))

    configure(TOKEN_PUBLIC_KEY=pem)
    with pytest.raises(ImproperlyConfigured, match="REALTIME_TOKEN_HMAC_SECRET"):
        sign_connection_token("42")
    configure(TOKEN_HMAC_SECRET=SECRET, SUBSCRIPTION_TOKEN_PUBLIC_KEY=pem)
    with pytest.raises(ImproperlyConfigured, match="REALTIME_SUBSCRIPTION_TOKEN_HMAC_SECRET"):
        sign_subscription_token("42", "news")
    configure(TOKEN_HMAC_SECRET=SECRET, TOKEN_AUDIENCE_REGEX="us.*")
    with pytest.raises(ImproperlyConfigured, match="REALTIME_TOKEN_AUDIENCE_REGEX"):
        sign_connection_token("42")


# Keys that cannot be used -----------------------------------------------------------------------


def rsa_of(bits):
    return public_pem(private_key(f"RSA-{bits}"))


UNUSABLE = {
    "is a private key": lambda: private_pem(private_key("P-256")),
    "key 2, is a private key": lambda: (
        public_pem(private_key("P-256")) + private_pem(private_key("P-256"))
    ),
    "RSA key of 1024 bits": lambda: rsa_of(1024),
    "of the curve secp256k1": lambda: public_pem(private_key("secp256k1")),
    "neither an RSA, nor an EC": lambda: public_pem(private_key("Ed448")),
    "no public key in PEM form": lambda: "a secret, by mistake",
    "cannot be read": lambda: public_pem(private_key("P-256")).replace("M", "x"),
    "holds no public key": lambda: public_pem(private_key("P-256"))[:100],
    "is a certificate": lambda: "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----",
}


@pytest.mark.parametrize("name", ["TOKEN_PUBLIC_KEY", "SUBSCRIPTION_TOKEN_PUBLIC_KEY"])
@pytest.mark.parametrize("case", UNUSABLE)
def test_a_public_key_that_cannot_be_used_is_named_and_not_shown(found, name, case):
    key = UNUSABLE[case]()

    [(identifier, message)] = found(TOKEN_HMAC_SECRET=SECRET, **{name: key})

    assert identifier == "realtime.E010"
    assert message.startswith(name)
    assert case in message
    assert not any(line in message for line in key.splitlines() if len(line) > 30)
    with pytest.raises(ImproperlyConfigured, match=name):
        TokenVerifier()


def test_the_key_among_several_that_cannot_be_used_is_counted(found):
    pems = public_pem(private_key("P-256")) + rsa_of(1024)

    [(_, message)] = found(TOKEN_PUBLIC_KEY=pems)

    assert "key 2" in message
    assert "1024 bits" in message


def test_a_key_of_another_kind_is_no_secret(found):
    pem = public_pem(private_key("RSA"))

    messages = found(TOKEN_HMAC_SECRET=pem)

    assert [identifier for identifier, _ in messages] == ["realtime.E010"]
    with pytest.raises(ImproperlyConfigured, match="TOKEN_HMAC_SECRET"):
        TokenVerifier()


def test_a_short_secret_is_warned_of(found):
    assert [identifier for identifier, _ in found(TOKEN_HMAC_SECRET="x" * 31)] == ["realtime.W004"]
    assert found(TOKEN_HMAC_SECRET="x" * 32) == []


def test_no_key_at_all_is_warned_of(found):
    assert [identifier for identifier, _ in found()] == ["realtime.W002"]
    assert found(TOKEN_PUBLIC_KEY=public_pem(private_key("RSA"))) == []
    assert found(TOKEN_JWKS_URL="https://keys.example/jwks") == []


@pytest.mark.parametrize(
    "given", [{"AUDIENCE": "us"}, {"ISSUER_REGEX": "x"}, {"USER_ID_CLAIM": "u"}]
)
def test_settings_of_subscription_tokens_without_a_key_are_an_error(found, given):
    own = {f"SUBSCRIPTION_TOKEN_{name}": value for name, value in given.items()}

    assert [each for each, _ in found(TOKEN_HMAC_SECRET=SECRET, **own)] == ["realtime.E013"]
    assert found(TOKEN_HMAC_SECRET=SECRET, SUBSCRIPTION_TOKEN_HMAC_SECRET=OTHER, **own) == []


# From the environment ---------------------------------------------------------------------------


def test_keys_come_from_variables_or_from_files(tmp_path):
    file = tmp_path / "public.pem"
    file.write_text(public_pem(private_key("P-256")))
    env = Environment(
        {
            "REALTIME_TOKEN_PUBLIC_KEY_FILE": str(file),
            "REALTIME_TOKEN_JWKS_URL": "https://keys.example/jwks",
            "REALTIME_SUBSCRIPTION_TOKEN_HMAC_SECRET": OTHER,
            "REALTIME_SUBSCRIPTION_TOKEN_HMAC_PREVIOUS_SECRET_UNTIL": "2030-01-31T12:00:00Z",
        }
    )

    values = engine.values(env, var_dir=tmp_path, is_debug=False)

    assert values["TOKEN_PUBLIC_KEY"] == file.read_text().strip()
    assert values["TOKEN_JWKS_URL"] == "https://keys.example/jwks"
    assert values["SUBSCRIPTION_TOKEN_HMAC_SECRET"] == OTHER
    until = values["SUBSCRIPTION_TOKEN_HMAC_PREVIOUS_SECRET_UNTIL"]
    assert until == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert "REALTIME_SUBSCRIPTION_TOKEN_PUBLIC_KEY_FILE" in engine.variables()
