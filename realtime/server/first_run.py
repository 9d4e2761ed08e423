"""What a laptop needs before the first minute: tables, a login, an API key, a namespace.

Called by ``serve --dev``. Everything is made once and then left alone, so that what was changed
since is kept.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.contrib.auth import get_user_model
from django.core.management import call_command

from realtime.models import ApiKey, Namespace, hash_of_key, make_key
from realtime.server.preflight import unapplied_migrations
from realtime.server.private_files import write_once

LOGIN: Final = "admin"
NAMESPACE: Final = "demo"
KEY_NAME: Final = "development"
KEY_FILE: Final = "api_key"


@dataclass(frozen=True)
class FirstRun:
    """What the banner tells of it.

    Attributes:
        password: Of the user ``admin``, if it was made just now: it is kept nowhere else.
        key_path: The file with the development API key.
    """

    password: str | None
    key_path: Path


def prepare(var_dir: Path) -> FirstRun:
    """Make what is missing.

    Raises:
        django.db.Error: The database refuses.
        OSError: The key file cannot be read or written.
        ValidationError: What stands in it cannot be a key.
    """
    if unapplied_migrations():
        call_command("migrate", verbosity=0, interactive=False)
    password = _make_login()
    Namespace.objects.get_or_create(
        name=NAMESPACE,
        defaults={
            "history_size": 100,
            "history_ttl": 300,
            "force_recovery": True,
            "presence": True,
            "allow_subscribe_for_client": True,
            "allow_publish_for_client": True,
        },
    )
    return FirstRun(password, _keep_api_key(var_dir / KEY_FILE))


def _make_login() -> str | None:
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser(LOGIN, "", password)
    return password


def _keep_api_key(path: Path) -> Path:
    write_once(path, make_key() + "\n")
    key = path.read_text(encoding="utf-8").strip()
    # The database holds the hash alone; a new one gets it again from the file.
    if not ApiKey.objects.filter(key_hash=hash_of_key(key)).exists():
        ApiKey.objects.filter(name=KEY_NAME).delete()
        ApiKey.create(KEY_NAME, key=key)
    return path
