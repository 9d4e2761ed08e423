"""Secrets made at random once and kept in files that only their owner reads.

Called by ``settings.py`` for secrets that the environment does not give.
"""

import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from realtime.server.private_files import write_once


def kept_secret(path: Path) -> str:
    """Return the secret kept at ``path``; make it first if there is none.

    Any number of processes may call this at once; all return the same secret.

    Raises:
        ImproperlyConfigured: The file cannot be read or made, or is empty.
    """
    try:
        if not path.exists():
            write_once(path, secrets.token_urlsafe(48) + "\n")
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ImproperlyConfigured(f"cannot keep a secret in {path}: {error.strerror}") from error
    if not value:
        raise ImproperlyConfigured(f"{path} is empty: delete it to have a new secret made")
    return value
