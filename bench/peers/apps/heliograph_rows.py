"""Fill a new database: tables, namespaces from a file, and the upstream where calls have one.

One process for all of it, as each one has to load Django. Usage: heliograph_rows.py FILE
"""

import os
import sys

import django
from django.core.management import call_command


def main(namespaces: str) -> None:
    django.setup()
    call_command("migrate", verbosity=0)
    call_command("namespaces", "import", namespaces)
    if url := os.environ.get("BENCH_SLOW_URL"):
        make_upstream(url)


def make_upstream(url: str) -> None:
    from upstreams.models import Route, Upstream  # models are there once Django is set up

    upstream = Upstream.objects.create(
        name="slow", base_url=url, concurrency=256, allow_private_addresses=True
    )
    Route.objects.create(upstream=upstream, kind="rpc", match="bench.slow", path="/rpc")


if __name__ == "__main__":
    main(*sys.argv[1:])
