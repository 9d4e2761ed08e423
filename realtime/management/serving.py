"""What ``serve`` and ``runserver`` have in common: what must be there first, and signals."""

import os
import resource
import signal
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from channels.routing import get_default_application
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from realtime import conf
from realtime.redis_client import hosts, name_of_redis
from realtime.server import embedded, preflight
from realtime.server.embedded import embedded_valkey
from realtime.server.supervisor import ECHO_SECONDS
from realtime.server.valkey_process import EmbeddedValkeyError

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_READY: Final = 3
PORT_MAX: Final = 65535
END_MARGIN_SECONDS: Final = 10.0  # beyond its drain, before a process that ends is killed
OPEN_FILES_WANTED: Final = 10_000
OWN_FILES: Final = 64  # of a process that serves: stores, listening socket, event loop, threads
_OPEN_FILES: Final = 1024 * 1024
_HANG_UP_SECONDS: Final = 0.05


class ServingCommand(BaseCommand):
    """A command that serves until a signal; what is missing is told in one line."""

    requires_migrations_checks = False
    examples = ""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """End the help with examples, their lines as they are."""
        kwargs |= {"epilog": self.examples, "formatter_class": RawDescriptionHelpFormatter}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; a signal that comes while it prepares ends it in order."""
        _interrupt_on_signals()
        try:
            return super().execute(*args, **options)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)

    def say(self, text: str) -> None:
        """Write to stdout now: in a file or a pipe it would wait there until the end."""
        self.stdout.write(text)
        self.stdout.flush()

    @contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """Turn what is missing into an error message and an exit code."""
        try:
            yield
        except preflight.PortTaken as error:
            raise CommandError(str(error), returncode=EXIT_ERROR) from error
        except (preflight.NotReady, EmbeddedValkeyError) as error:
            raise CommandError(str(error), returncode=EXIT_NOT_READY) from error

    @contextmanager
    def stores(self) -> Iterator[None]:
        """Have the database and Redis within reach while the block runs.

        Raises:
            NotReady, EmbeddedValkeyError: One of them is not.
        """
        preflight.check_database()
        if not uses_embedded_valkey():
            preflight.check_redis()
            yield
            return
        with embedded_valkey(var_dir()):
            yield
            # What a sender and make pass on twice is one signal; a later one ends this at once.
            _interrupt_on_signals(deaf_seconds=ECHO_SECONDS)


def serve_here(
    *,
    on_ready: Callable[[], None],
    host: str | None = None,
    port: int | None = None,
    fd: int | None = None,
    is_supervised: bool = False,
) -> int:
    """Run the server in this process until a signal; return its exit code."""
    # Not at the top: it makes Twisted's event loop, which a supervisor has no use for.
    from realtime.server.server import run

    return run(
        get_default_application(),
        host=host,
        port=port,
        fd=fd,
        is_supervised=is_supervised,
        on_ready=on_ready,
    )


def check_range(value: int, source: str, *, largest: int | None = None) -> None:
    """Refuse a number below 1 or above the largest.

    Raises:
        CommandError: It names ``source``, the option or variable that the number came from.
    """
    if value < 1 or (largest is not None and value > largest):
        wanted = "of at least 1" if largest is None else f"from 1 to {largest}"
        raise CommandError(f"{source} {value}: give a number {wanted}", returncode=EXIT_USAGE)


def child_command() -> list[str]:
    """Return how a child of a supervisor is started: as this process was."""
    package = getattr(sys.modules["__main__"], "__package__", None)
    program = ["-m", package] if package else [sys.argv[0]]
    return [sys.executable, *program, "serve", "--skip-checks"]


def describe_stores() -> str:
    """Return in a few words where everything is kept."""
    redis = "embedded Valkey" if uses_embedded_valkey() else name_of_redis(hosts()[0])
    return f"{connection.display_name} and {redis}"


def var_dir() -> Path:
    """Return the folder that keeps what outlives a process."""
    return Path(conf.current().var_dir)


def uses_embedded_valkey() -> bool:
    """Tell whether the channel layer is pointed at the embedded Valkey and nothing else."""
    addresses = [host.get("address") for host in hosts()]
    return addresses == [embedded.address(var_dir())]


def raise_open_files_limit() -> int:
    """Let this process and its children hold as many sockets as the system allows; say how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def warnings_of_open_files(limit: int, *, connection_limit: int) -> list[str]:
    """Return what a person should know of the limit of open files: a connection is one.

    Args:
        limit: Most files that a server process may have open.
        connection_limit: ``conf.connection_limit``; 0 for none.
    """
    found: list[str] = []
    if limit < OPEN_FILES_WANTED:
        found.append(
            f"a process may have {limit} open files, and each connection is one: raise the hard "
            "limit (ulimit -Hn 65536, LimitNOFILE=65536 in systemd, ulimits in docker compose)"
        )
    room = max(0, limit - OWN_FILES)
    if connection_limit > room:
        found.append(
            f"CONNECTION_LIMIT is {connection_limit}, but the limit of open files ends at about "
            f"{room} connections: beyond it they are cut off instead of answered with 503"
        )
    return found


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def hang_up_of_terminal() -> Callable[[], bool]:
    """Return what tells at a SIGHUP whether the terminal that is here now has hung up."""
    had_terminal = has_terminal()

    def has_hung_up() -> bool:
        if not had_terminal:
            return False
        time.sleep(_HANG_UP_SECONDS)  # the system may send the signal a moment before
        return not has_terminal()

    return has_hung_up


def _interrupt_on_signals(*, deaf_seconds: float = 0.0) -> None:
    deaf_until = time.monotonic() + deaf_seconds

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if time.monotonic() >= deaf_until:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants it ignored
        # A closed terminal is a wish to end in order, for the server as well.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
