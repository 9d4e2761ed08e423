"""What is needed before the first minute: tables, a login, an API key, a namespace.

Called by ``serve --dev`` on a laptop, and by ``prepare`` for a deployment. Everything is made once
and then left alone, so that what was changed since is kept.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import transaction

from realtime.models import ApiKey, Namespace, hash_of_key, make_key
from realtime.server.preflight import unapplied_migrations
from realtime.server.private_files import write_once

LOGIN: Final = "admin"
NAMESPACE: Final = "demo"
KEY_NAME: Final = "development"
FIRST_KEY_NAME: Final = "first"
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


@dataclass(frozen=True)
class FirstStart:
    """What was made on the first start of a deployment; readable nowhere else.

    Attributes:
        password: Of the user ``admin``.
        api_key: For the whole server API, unless there was a key already.
    """

    password: str
    api_key: str | None


def prepare_deployment(*, has_demo: bool) -> FirstStart | None:
    """Migrate, and make a login and an API key where nobody could sign in yet.

    Args:
        has_demo: Whether the namespace ``demo`` is wanted.
    Returns:
        What was made; None if there is a superuser, whose keys are then left alone too.
    Raises:
        django.db.Error: The database refuses.
    """
    _migrate()
    with transaction.atomic():
        if has_demo:
            _make_demo_namespace()
        password = _make_login()
        if password is None:
            return None
        key = None if ApiKey.objects.exists() else ApiKey.create(FIRST_KEY_NAME)[1]
    return FirstStart(password, key)


def prepare(var_dir: Path) -> FirstRun:
    """Make what is missing.

    Raises:
        django.db.Error: The database refuses.
        OSError: The key file cannot be read or written.
        ValidationError: What stands in it cannot be a key.
    """
    _migrate()
    password = _make_login()
    _make_demo_namespace()
    return FirstRun(password, _keep_api_key(var_dir / KEY_FILE))


def _migrate() -> None:
    if unapplied_migrations():
        call_command("migrate", verbosity=0, interactive=False)


def _make_demo_namespace() -> None:
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
