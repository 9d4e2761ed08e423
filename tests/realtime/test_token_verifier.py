"""Tokens taken apart: as the library does it, and each header read once."""

import base64
import json

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jwt import PyJWTError, api_jws

from realtime import token_verifier
from realtime.token_verifier import HEADER_KEPT_MAX_BYTES, TokenVerifier
from realtime.tokens import InvalidToken

SECRET = "the-secret-of-these-tests-0123456789"
CONTENT = b'{"sub":"42","exp":4102444800}'


def part(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(header, content=CONTENT, *, segment=None):
    """Sign what stands in the header and the content, or a segment as it is."""
    signing_input = f"{part(json.dumps(header).encode())}.{segment or part(content)}"
    hmac = api_jws.get_algorithm_by_name("HS256")
    signature = hmac.sign(signing_input.encode(), hmac.prepare_key(SECRET))
    return f"{signing_input}.{part(signature)}"


GOOD = signed({"alg": "HS256", "typ": "JWT"})


@pytest.fixture
def verifier(settings):
    settings.REALTIME = {"TOKEN_HMAC_SECRET": SECRET}
    return TokenVerifier()


@pytest.fixture(autouse=True)
def _nothing_kept():
    token_verifier._known_header.cache_clear()


def as_the_library(token):
    try:
        return api_jws.decode(token, SECRET, algorithms=["HS256"])
    except (PyJWTError, UnicodeError):
        return None


def as_here(token):
    try:
        signed_parts = token_verifier._taken_apart(token)
    except InvalidToken:
        return None
    hmac = api_jws.get_algorithm_by_name("HS256")
    is_right = signed_parts.header.algorithm == "HS256" and hmac.verify(
        signed_parts.signing_input, hmac.prepare_key(SECRET), signed_parts.signature
    )
    return signed_parts.content if is_right else None


@given(
    at=st.integers(0, len(GOOD)),
    cut=st.integers(0, 3),
    put=st.text("AQgw_-.+/=\n é!", max_size=3),
)
@example(at=len(GOOD), cut=0, put="=")
@example(at=0, cut=0, put=".")
@example(at=len(GOOD) - 1, cut=1, put="")
def test_a_changed_token_is_read_as_the_library_reads_it(at, cut, put):
    token = GOOD[:at] + put + GOOD[at + cut :]

    # Padding, which the library bears with, is not part of RFC 7515.
    assert as_here(token) == (None if "=" in token else as_the_library(token))


@pytest.mark.parametrize(
    "segment", [part(CONTENT) + "!", "!" + part(CONTENT), "e31", "e3=", "e", "é"]
)
def test_a_segment_that_is_not_base64url_is_invalid_though_it_was_signed(segment):
    token = signed({"alg": "HS256"}, segment=segment)

    assert as_the_library(token) is None
    assert as_here(token) is None


async def test_content_that_does_not_stand_in_the_token_is_invalid(verifier):
    token = signed({"alg": "HS256", "b64": False, "crit": ["b64"]})

    with pytest.raises(InvalidToken):
        await verifier.connection(token)


async def test_a_header_is_read_once_for_all_tokens_that_have_it(verifier):
    for number in range(10):
        token = jwt.encode({"sub": str(number)}, SECRET, algorithm="HS256")
        assert (await verifier.connection(token)).user == str(number)

    assert token_verifier._known_header.cache_info().misses == 1


async def test_a_header_known_as_good_makes_no_other_signature_good(verifier):
    await verifier.connection(GOOD)

    with pytest.raises(InvalidToken):
        await verifier.connection(GOOD[:-6] + "AAAAAA")


async def test_long_headers_of_strangers_are_not_kept(verifier):
    header = {"alg": "HS256", "x": "y" * HEADER_KEPT_MAX_BYTES}

    assert (await verifier.connection(signed(header))).user == "42"

    assert token_verifier._known_header.cache_info().currsize == 0
