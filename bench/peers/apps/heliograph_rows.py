"""Fill a new database: tables, namespaces from a file, and the upstream that calls go to.

One process for all of it, as each one has to load Django. Usage: heliograph_rows.py FILE URL
"""

import sys

import django
from django.core.management import call_command


def main(namespaces: str, slow_url: str) -> None:
    django.setup()
    from upstreams.models import Route, Upstream  # they need what setup() does

    call_command("migrate", verbosity=0)
    call_command("namespaces", "import", namespaces)
    upstream = Upstream.objects.create(
        name="slow", base_url=slow_url, concurrency=256, allow_private_addresses=True
    )
    Route.objects.create(upstream=upstream, kind="rpc", match="bench.slow", path="/rpc")


if __name__ == "__main__":
    main(*sys.argv[1:])
