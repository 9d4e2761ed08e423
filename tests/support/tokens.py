"""Keys and tokens for tests: made here with ``cryptography``, verified as the server does."""

import functools
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from realtime.token_verifier import TokenVerifier
from realtime.tokens import ConnectionClaims, SubscriptionClaims

Private = Any
T = TypeVar("T")
_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
ALGORITHMS = {
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
}


def private_key(kind: str, number: int = 0) -> Private:
    """Return the private key of a kind and a number, always the same one."""
    return _made(kind, number)


@functools.cache
def _made(kind: str, number: int) -> Private:
    if kind.startswith("RSA"):
        bits = int(kind.removeprefix("RSA-") if "-" in kind else 2048)
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(_CURVES.get(kind) or ec.SECP256K1())


def public_pem(key: Private) -> str:
    """Return the public half of a key as it stands in the settings."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(key: Private) -> str:
    """Return a key as it must not stand in the settings."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def jwk(kind: str, number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the public half of a key as it stands in a JSON Web Key Set, its number as its id."""
    algorithm = next(name for name, of in ALGORITHMS.items() if kind.startswith(of))
    public = private_key(kind, number).public_key()
    content = get_default_algorithms()[algorithm].to_jwk(public, as_dict=True)
    return {"kid": str(number), **content, **fields}


def signed(
    algorithm: str, key: Any, claims: dict[str, Any] | None = None, *, kid: str | None = None
) -> str:
    """Return a token of user 42, unless told otherwise, signed with a key or a secret."""
    headers = None if kid is None else {"kid": kid}
    return jwt.encode(claims or {"sub": "42"}, key, algorithm=algorithm, headers=headers)


def in_seconds(seconds: int) -> int:
    return int(time.time()) + seconds


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns without waiting for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("it waited")


def connection_claims(token: str) -> ConnectionClaims:
    """Return what a connection token says by the settings of now; no key of theirs needs a wait."""
    return at_once(TokenVerifier().connection(token))


def subscription_claims(token: str) -> SubscriptionClaims:
    """Return what a subscription token says, as above."""
    return at_once(TokenVerifier().subscription(token))
