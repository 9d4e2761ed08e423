"""``manage.py runserver``: the server of ``serve``, started anew whenever code changes.

Django's own would answer without WebSockets, and Daphne's without the rules of this server.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.utils.autoreload import StatReloader

from realtime.management import banner
from realtime.management.serving import (
    END_MARGIN_SECONDS,
    PORT_MAX,
    ServingCommand,
    check_range,
    child_command,
    serve_here,
)
from realtime.server import preflight
from realtime.server.child import bind
from realtime.server.supervisor import Supervisor

EXAMPLES: Final = """\
examples:
  manage.py runserver
  manage.py runserver 0.0.0.0:8080
"""
DEFAULT: Final = "127.0.0.1:8000"


class Command(ServingCommand):
    """Serves while somebody works on the code."""

    help = "Serve during development; code that changes starts the server anew."
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        """Add those of Django's command that mean something here."""
        parser.add_argument(
            "addrport", nargs="?", default=DEFAULT, help=f"Port, or IPv4 address:port ({DEFAULT})."
        )
        parser.add_argument(
            "--noreload",
            action="store_false",
            dest="use_reloader",
            help="Leave the server alone when code changes.",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Serve; leave with the server's exit code."""
        host, port = _address(options["addrport"])
        text = f"Serving {banner.url_of(host, port)}/ with the server of `serve`"
        ending = "; it starts anew when code changes" if options["use_reloader"] else ""

        def tell() -> None:
            self.say(f"{text}{ending}. Ctrl-C ends it.")

        with self.one_line_errors():
            preflight.check_port(host, port)
            with self.stores():
                if options["use_reloader"]:
                    code = _serve_and_reload(host, port, on_ready=tell)
                else:
                    code = serve_here(host=host, port=port, on_ready=tell)
        if code:
            raise SystemExit(code)


class CodeWatch:
    """Tells whether a file of the code has changed since the last look."""

    def __init__(self) -> None:
        self._reloader = StatReloader()
        for app in apps.get_app_configs():
            if "site-packages" not in Path(app.path).parts:
                self._reloader.watch_dir(app.path, "**/*.py")
        self._seen = self._look()

    def has_changed(self) -> bool:
        """Look again."""
        now = self._look()
        has_changed = now != self._seen
        self._seen = now
        return has_changed

    def _look(self) -> dict[Path, float]:
        return dict(self._reloader.snapshot_files())


def _serve_and_reload(host: str, port: int, *, on_ready: Callable[[], None]) -> int:
    return Supervisor(
        child_command(),
        bind(host, port, count=1),
        on_ready=on_ready,
        end_seconds=END_MARGIN_SECONDS,
        is_stale=CodeWatch().has_changed,
    ).run()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise CommandError(f"{text!r} is neither a port nor address:port", returncode=2)
    check_range(int(port), "port", largest=PORT_MAX)
    return host or "127.0.0.1", int(port)
