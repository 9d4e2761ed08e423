"""List namespaces, and exchange them with a Centrifugo configuration."""

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from realtime import centrifugo_config, centrifugo_options, conf, namespace_import, snapshot
from realtime.centrifugo_config import InvalidConfig
from realtime.centrifugo_options import Option
from realtime.management import database_errors
from realtime.namespace_import import Change
from realtime.snapshot import ChannelOptions

EXAMPLES = """\
examples:
  manage.py namespaces list
  manage.py namespaces import config.json --dry-run
  manage.py namespaces import config.json --skip-unsupported
  manage.py namespaces export namespaces.json
"""
STANDARD: Final = "-"


class Command(BaseCommand):
    """``namespaces list|import|export``: what was asked for on stdout, words about it on stderr."""

    help = EXAMPLES
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the examples' lines as they are."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Describe the three acts and their options."""
        acts = parser.add_subparsers(dest="act", required=True, metavar="list|import|export")
        listing = acts.add_parser("list", help="print every namespace with what is switched on")
        listing.add_argument(
            "--json", action="store_true", dest="as_json", help="one JSON object a line"
        )
        importing = acts.add_parser(
            "import", help="store the channel section of a Centrifugo v6 configuration"
        )
        importing.add_argument("file", help="JSON; - is standard input")
        importing.add_argument(
            "--skip-unsupported", action="store_true", help="leave out what is not supported"
        )
        importing.add_argument(
            "--prune", action="store_true", help="delete namespaces that the file does not have"
        )
        importing.add_argument(
            "--dry-run", action="store_true", help="check and tell everything, change nothing"
        )
        exporting = acts.add_parser("export", help="write all namespaces in the same form")
        exporting.add_argument(
            "file", nargs="?", default=STANDARD, help="where to; default: standard output"
        )

    def handle(self, *, act: str, **options: Any) -> None:
        """Carry out one act."""
        acts: dict[str, Callable[..., None]] = {
            "list": self._list,
            "import": self._import,
            "export": self._export,
        }
        try:
            acts[act](**options)
        except DatabaseError as error:
            raise database_errors.refusal(error) from error

    def _list(self, *, as_json: bool, **_: Any) -> None:
        namespaces = sorted(snapshot.load().namespaces.items())
        if as_json:
            for name, options in namespaces:
                self.stdout.write(json.dumps({"name": name, **asdict(options)}))
        elif namespaces:
            self.stdout.write("\n".join(_table(namespaces)))
        else:
            self.stderr.write("no namespaces: make one in the admin, or import a file")

    def _import(
        self, *, file: str, skip_unsupported: bool, prune: bool, dry_run: bool, **_: Any
    ) -> None:
        try:
            reading = centrifugo_config.read(_read(file), settings=conf.current())
        except InvalidConfig as error:
            raise CommandError(f"{file}: {error}; nothing was changed") from error
        # Before a refusal as well: whoever decides whether to move wants to know it all at once.
        for sentence in reading.notes:
            self.stderr.write(sentence)
        _refuse(
            file,
            problems=namespace_import.problems(reading),
            unsupported=() if skip_unsupported else reading.unsupported,
        )
        changes = namespace_import.apply(reading.namespaces, prune=prune, dry_run=dry_run)
        for sentence in reading.unsupported:
            self.stderr.write(f"skipped {sentence}")
        for change in changes:
            self.stdout.write(_line(change))
        if not changes:
            self.stderr.write("the file has no namespaces")
        if dry_run:
            self.stderr.write("nothing was changed, because of --dry-run")

    def _export(self, *, file: str, **_: Any) -> None:
        text = centrifugo_config.write(snapshot.load().namespaces)
        if file == STANDARD:
            self.stdout.write(text, ending="")
            return
        try:
            Path(file).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"cannot write {file}: {error.strerror}") from error


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == STANDARD else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file}: not UTF-8: {error.reason}; nothing was changed") from error


def _refuse(file: str, *, problems: Sequence[str], unsupported: Sequence[str]) -> None:
    """Raise CommandError if the file asks for what cannot be, or is not to be left out."""
    groups = {
        "This has to change in the file:": problems,
        "This is left out with --skip-unsupported:": unsupported,
    }
    told = ["\n  ".join([heading, *group]) for heading, group in groups.items() if group]
    if told:
        raise CommandError("\n".join([f"{file}: nothing was changed.", *told]))


def _line(change: Change) -> str:
    name = change.namespace or "(without a namespace)"
    if change.act != "changed":
        return f"{change.act} {name}"
    new = [
        f"{option} {json.dumps(before)} -> {json.dumps(after)}"
        for option, (before, after) in change.options.items()
    ]
    return f"changed {name}: {', '.join(new)}"


def _table(namespaces: Sequence[tuple[str, ChannelOptions]]) -> list[str]:
    rows = [("NAMESPACE", "HISTORY", "OPTIONS"), *(_row(name, each) for name, each in namespaces)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:{widths[0]}}  {history:{widths[1]}}  {on}" for name, history, on in rows]


def _row(name: str, options: ChannelOptions) -> tuple[str, str, str]:
    given = centrifugo_options.written(options)
    size, ttl = given.pop("history_size", 0), given.pop("history_ttl", "0s")
    shown = [key if value is True else f"{key}={_word(value)}" for key, value in given.items()]
    history = f"{size} for {ttl}" if size else "none"
    return name or "(without a namespace)", history, " ".join(shown) or "everything is off"


def _word(value: Option) -> str:
    """Return a value for a cell; what could move the cursor is escaped."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
