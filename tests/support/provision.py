"""Fill a database for the tests: ``python -m tests.support.provision < description.json``.

Runs in a process of its own, because the tests' process has Django bound to another database.
"""

import json
import sys

import django


def main() -> None:
    """Migrate the database of ``DATABASE_URL`` and create what standard input describes."""
    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from realtime.models import ApiKey, Namespace

    wanted = json.load(sys.stdin)
    call_command("migrate", verbosity=0, interactive=False)
    for options in wanted["namespaces"]:
        namespace = Namespace(**options)
        namespace.full_clean()
        namespace.save()
    for name, key in wanted["api_keys"].items():
        ApiKey.create(name, key=key)
    for name, password in wanted["users"].items():
        get_user_model().objects.create_superuser(name, password=password)


if __name__ == "__main__":
    main()
