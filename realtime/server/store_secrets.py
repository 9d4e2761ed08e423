"""Passwords of the stores of a deployment, made before the stores start.

Called by ``prepare --secrets``. Each is a file in ``VAR_DIR``. PostgreSQL reads its password and
Redis its users from there as another user of the same group; the rest is the owner's alone.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Final

from realtime.server.private_files import write_anew, write_once

REDIS_USER: Final = "heliograph"
REDIS_PASSWORD_FILE: Final = "redis_password"
REDIS_USERS_FILE: Final = "redis_users.acl"
POSTGRES_PASSWORD_FILE: Final = "postgres_password"
_FOR_THE_GROUP: Final = 0o640

# Scripts ask INFO for the run of the server. Nobody may flush, configure, list keys or end it.
_RIGHTS: Final = "~rt:* &* +@all -@admin -@dangerous +info"


def make(folder: Path) -> list[str]:
    """Make the passwords that are missing.

    Returns:
        The names of the files that were made.
    Raises:
        OSError: A file cannot be read or written.
    """
    before = {path.name for path in folder.iterdir()}
    write_once(folder / REDIS_PASSWORD_FILE, _password())
    write_once(folder / POSTGRES_PASSWORD_FILE, _password(), mode=_FOR_THE_GROUP)
    password = (folder / REDIS_PASSWORD_FILE).read_text(encoding="utf-8").strip()
    # Anew each time, so that a newer version's rights reach an older deployment.
    write_anew(folder / REDIS_USERS_FILE, redis_users(password), mode=_FOR_THE_GROUP)
    return sorted({path.name for path in folder.iterdir()} - before)


def redis_users(password: str) -> str:
    """Return an ACL file: ours may do what the engine does, and ``health`` only PING.

    Source: Redis, ACL rules; the password is there as its SHA-256 alone.
    """
    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = [
        "user default off",
        "user health on nopass +ping",
        f"user {REDIS_USER} on #{digest} {_RIGHTS}",
    ]
    return "\n".join(lines) + "\n"


def _password() -> str:
    return secrets.token_urlsafe(32) + "\n"
