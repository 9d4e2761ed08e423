"""Keys that verify the signatures of tokens, each good for the algorithms of its own kind alone.

Used by the token verifier for the keys of the settings, and by ``jwks`` for those it fetches. What
a token says of itself never widens what a key is good for.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWTError, api_jws
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from realtime.token_settings import TokenSettings

HMAC_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})
RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512"})
ALGORITHM_OF_CURVE: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
RSA_MIN_BITS: Final = 2048  # Source: RFC 7518, 3.3
RSA_MAX_BITS: Final = 16384  # beyond it OpenSSL does not verify
PUBLIC_ALGORITHMS: Final = RSA_ALGORITHMS | {*ALGORITHM_OF_CURVE.values(), "EdDSA"}
_PEM_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_PUBLIC_LABELS: Final = ("PUBLIC KEY", "RSA PUBLIC KEY")
_READERS: Final = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


class UnusableKey(Exception):
    """No token may be verified with this; the message says why, and never shows the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes:
        algorithms: What it verifies; a token with any other ``alg`` is not its concern.
        material: The key as the library of tokens wants it.
        good_until: When it stops counting, in Unix seconds.
    """

    algorithms: frozenset[str]
    material: Any
    good_until: float = math.inf

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes, now: float) -> bool:
        """Tell whether a signature is of this key, by an algorithm of its kind."""
        if algorithm not in self.algorithms or now >= self.good_until:
            return False
        return api_jws.get_algorithm_by_name(algorithm).verify(
            signing_input, self.material, signature
        )


def keys_of_settings(settings: TokenSettings) -> tuple[Key, ...]:
    """Return the keys that stand in the settings, in the order in which they are tried.

    Raises:
        UnusableKey: One of them; the message begins with the name of its setting.
    """
    keys: list[Key] = []
    until = settings.hmac_previous_secret_until
    for name in ("hmac_secret", "hmac_previous_secret"):
        if secret := getattr(settings, name):
            keys.append(_secret_key(secret, settings.name(name)))
    if settings.hmac_previous_secret and until is not None:
        keys[-1] = replace(keys[-1], good_until=until.timestamp())
    if settings.public_key:
        keys += _pem_keys(settings.public_key, settings.name("public_key"))
    return tuple(keys)


def _secret_key(secret: str, name: str) -> Key:
    try:
        # It refuses keys of other kinds: a public key as a secret would let anybody sign.
        material = api_jws.get_algorithm_by_name("HS256").prepare_key(secret)
    except PyJWTError as error:
        raise UnusableKey(f"{name} is a key of another kind, not a random secret") from error
    return Key(HMAC_ALGORITHMS, material)


def _pem_keys(text: str, name: str) -> list[Key]:
    # Where a variable cannot hold several lines, they are often written with \n between them.
    blocks = list(_PEM_BLOCK.finditer(text.replace("\\n", "\n")))
    if not blocks:
        raise UnusableKey(f"{name} holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)")
    return [
        _pem_key(block[0], block[1], f"{name}, key {number},")
        for number, block in enumerate(blocks, start=1)
    ]


def _pem_key(block: str, label: str, name: str) -> Key:
    if "PRIVATE" in label:
        raise UnusableKey(f"{name} is a private key: give its public half, and make a new pair")
    if label not in _PUBLIC_LABELS:
        raise UnusableKey(f"{name} is a {label.lower()}, not a public key")
    try:
        return public_key(load_pem_public_key(block.encode()))
    except UnusableKey as error:
        raise UnusableKey(f"{name} {error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKey(f"{name} cannot be read") from error


def public_key(material: object) -> Key:
    """Return a public key with the algorithms of its kind.

    Raises:
        UnusableKey: Of a kind, a curve or a size that no algorithm here goes with.
    """
    if isinstance(material, RSAPublicKey):
        if not RSA_MIN_BITS <= material.key_size <= RSA_MAX_BITS:
            raise UnusableKey(
                f"is an RSA key of {material.key_size} bits: "
                f"{RSA_MIN_BITS} to {RSA_MAX_BITS} are accepted"
            )
        return Key(RSA_ALGORITHMS, material)
    if isinstance(material, EllipticCurvePublicKey):
        algorithm = ALGORITHM_OF_CURVE.get(material.curve.name)
        if algorithm is None:
            raise UnusableKey(f"is of the curve {material.curve.name}, which no algorithm has")
        return Key(frozenset({algorithm}), material)
    if isinstance(material, Ed25519PublicKey):
        return Key(frozenset({"EdDSA"}), material)
    raise UnusableKey("is neither an RSA, nor an EC, nor an Ed25519 public key")


def jwk_key(jwk: Mapping[str, Any]) -> Key:
    """Return the public key of a JSON Web Key; its ``alg``, if it has one, is all it is good for.

    Raises:
        UnusableKey: It is private, symmetric, malformed, or of no kind that is used here.
    Source: RFC 7517, 4; RFC 7518, 6.
    """
    if "d" in jwk or "k" in jwk:
        raise UnusableKey("is a secret that the source shows to everybody")
    reader = _READERS.get(str(jwk.get("kty")))
    if reader is None:
        raise UnusableKey(f"is of the kind {jwk.get('kty')!r}")
    try:
        key = public_key(reader(dict(jwk)))
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey("cannot be read") from error
    algorithm = jwk.get("alg")
    if algorithm is None:
        return key
    if not isinstance(algorithm, str) or algorithm not in key.algorithms:
        raise UnusableKey(f"is said to be for {algorithm!r}, which it does not go with")
    return replace(key, algorithms=frozenset({algorithm}))
