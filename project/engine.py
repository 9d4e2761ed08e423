"""``settings.REALTIME`` from the environment: one variable for each field of ``realtime.conf``.

Called by ``settings.py``.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from project.environment import Environment
from project.kept_secrets import kept_secret
from realtime.conf import Settings

_PREFIX = "REALTIME_"
_SECRETS = {
    "token_hmac_secret",
    "token_hmac_previous_secret",
    "token_public_key",  # no secret, but long enough to want a file
    "subscription_token_hmac_secret",
    "subscription_token_hmac_previous_secret",
    "subscription_token_public_key",
    "api_key",
}
_BY_HAND = {"token_hmac_secret", "insecure", "var_dir"}


def values(env: Environment, *, var_dir: Path, is_debug: bool) -> dict[str, Any]:
    """Return ``settings.REALTIME``; make the secret of tokens if the environment has none.

    Raises:
        ImproperlyConfigured: A variable cannot be understood, or must not have this value.
    """
    given = env.fields_of(Settings, prefix=_PREFIX, secrets=_SECRETS, skip=_BY_HAND)
    secret = env.secret(f"{_PREFIX}TOKEN_HMAC_SECRET", is_required=True)
    return given | {
        "TOKEN_HMAC_SECRET": secret or kept_secret(var_dir / "token_hmac_secret"),
        "INSECURE": _is_insecure(env, is_debug=is_debug),
        "VAR_DIR": str(var_dir),
    }


def variables() -> set[str]:
    """Return the names of the variables that are read here."""
    names = {_PREFIX + field.name.upper() for field in fields(Settings)}
    names.discard(f"{_PREFIX}VAR_DIR")  # VAR_DIR, without the prefix
    return names | {f"{_PREFIX}{name.upper()}_FILE" for name in _SECRETS}


def _is_insecure(env: Environment, *, is_debug: bool) -> bool:
    name = f"{_PREFIX}INSECURE"
    if env.text(name).lower() == "force":
        return True
    is_insecure = env.flag(name)
    if is_insecure and not is_debug:
        raise ImproperlyConfigured(
            f"{name} switches every permission check off: with DEBUG off only the word force does"
        )
    return is_insecure
