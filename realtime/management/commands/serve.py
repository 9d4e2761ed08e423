"""``manage.py serve``: the server."""

import logging
import os
import signal
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.conf import settings
from django.core.checks import Tags
from django.core.checks.registry import registry
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from realtime import conf, threads
from realtime.management import banner
from realtime.management.serving import (
    END_MARGIN_SECONDS,
    PORT_MAX,
    ServingCommand,
    check_range,
    child_command,
    describe_stores,
    hang_up_of_terminal,
    raise_open_files_limit,
    serve_here,
    var_dir,
    warnings_of_open_files,
)
from realtime.server import first_run, preflight
from realtime.server.child import bind, tied_to_supervisor
from realtime.server.supervisor import Supervisor

EXAMPLES = """\
examples:
  manage.py serve
  manage.py serve --host 0.0.0.0 --port 80 --processes 4
  manage.py serve --dev
"""

logger = logging.getLogger(__name__)

LEFT_SECONDS: Final = 1.0  # for threads that are at work when everything else has ended


class Command(ServingCommand):
    """Serves the site and the WebSockets until a signal."""

    help = (
        "Serve the site and the WebSockets until SIGTERM or Ctrl-C. With several processes SIGHUP "
        "replaces them one after the other."
    )
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ours; each falls back to the setting of its name."""
        parser.add_argument("--host", help="Address to listen on (HOST, 127.0.0.1).")
        parser.add_argument("--port", type=int, help="Port to listen on (PORT, 8000).")
        parser.add_argument(
            "--processes", type=int, help="How many processes share the port (PROCESSES, 1)."
        )
        parser.add_argument("--fd", type=int, help="Listening IPv4 socket to take over instead.")
        parser.add_argument(
            "--dev",
            action="store_true",
            help="First migrate and make a login, an API key and the namespace demo, if missing.",
        )
        parser.add_argument("--supervisor-fd", type=int, help=SUPPRESS)

    def get_check_kwargs(self, options: Mapping[str, Any]) -> dict[Any, Any]:
        """Check all but the addresses, which are the code's and not this server's.

        It would load the views that a process with none but WebSockets never needs.
        """
        if settings.DEBUG:
            return {}
        return {"tags": registry.tags_available() - {Tags.urls, Tags.database}}

    def handle(self, *_: Any, **options: Any) -> None:
        """Serve; leave with the server's exit code."""
        open_files = raise_open_files_limit()
        host = options["host"] or getattr(settings, "HOST", "127.0.0.1")
        port, processes = _port(options), _processes(options)
        with self.one_line_errors():
            if options["supervisor_fd"] is not None:
                code = self._serve_as_child(options["fd"], options["supervisor_fd"])
            else:
                self._warn_of(open_files)
                code = self._serve(host, port, processes, fd=options["fd"], is_dev=options["dev"])
        self._leave_threads(code)
        if code:
            sys.exit(code)

    def _leave_threads(self, code: int) -> None:
        """End at once where a handler hangs in a thread: Python would wait for it without end."""
        if left := threads.left_over(seconds=LEFT_SECONDS):
            logger.warning("handlers are left that hang in their threads: %d", left)
            logging.shutdown()
            self.stdout.flush()
            os._exit(code)

    def _serve_as_child(self, fd: int, supervisor_fd: int) -> int:
        # The parent has looked for what must be there. A child that starts again later comes up
        # without it, not ready, and heals by itself.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent decides what it means
        with tied_to_supervisor(supervisor_fd) as on_ready:
            return serve_here(fd=fd, is_supervised=True, on_ready=on_ready)

    def _warn_of(self, open_files: int) -> None:
        connection_limit = conf.current().connection_limit
        for warning in warnings_of_open_files(open_files, connection_limit=connection_limit):
            self.stderr.write(warning, self.style.WARNING)

    def _serve(self, host: str, port: int, processes: int, *, fd: int | None, is_dev: bool) -> int:
        if fd is not None and processes > 1:
            raise CommandError("--fd is one socket: it goes with one process", returncode=2)
        if fd is None:
            preflight.check_port(host, port)
        with self.stores():
            tell = self._prepare(host, port, processes, is_dev=is_dev)
            if processes > 1:
                return self._supervise(host, port, processes, on_ready=tell)
            return serve_here(host=host, port=port, fd=fd, on_ready=tell)

    def _supervise(
        self, host: str, port: int, processes: int, *, on_ready: Callable[[], None]
    ) -> int:
        return Supervisor(
            child_command(),
            bind(host, port, count=processes),
            on_ready=on_ready,
            end_seconds=conf.current().drain_seconds + END_MARGIN_SECONDS,
            hang_up_ends=hang_up_of_terminal(),
        ).run()

    def _prepare(self, host: str, port: int, processes: int, *, is_dev: bool) -> Callable[[], None]:
        """Do what comes before listening; return what to say once it listens."""
        if not is_dev:
            if missing := preflight.unapplied_migrations():
                self.stderr.write(
                    f"{missing} migrations are not applied: run `manage.py migrate`",
                    self.style.WARNING,
                )
            return lambda: logger.info(
                "serving http://%s:%d/ with %d process(es)", host, port, processes
            )
        try:
            found = first_run.prepare(var_dir())
        except (DatabaseError, OSError, ValidationError) as error:
            why = " ".join(str(error).split())
            raise CommandError(f"cannot make what the first run needs: {why}") from error
        text = banner.development(
            url=banner.url_of(host, port), found=found, stores=describe_stores(), style=self.style
        )
        return lambda: self.say(text)


def _port(options: Mapping[str, Any]) -> int:
    given = options["port"]
    port: int = getattr(settings, "PORT", 8000) if given is None else given
    if options["fd"] is None:  # otherwise the socket has its port
        check_range(port, "PORT" if given is None else "--port", largest=PORT_MAX)
    return port


def _processes(options: Mapping[str, Any]) -> int:
    given = options["processes"]
    processes: int = getattr(settings, "PROCESSES", 1) if given is None else given
    if options["supervisor_fd"] is None:  # otherwise this is one of them
        check_range(processes, "PROCESSES" if given is None else "--processes")
    return processes
