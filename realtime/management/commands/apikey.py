"""Make, list and revoke the keys of the server API."""

import json
import shlex
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from realtime.management import database_errors
from realtime.models import ApiKey

EXAMPLES = """\
examples:
  manage.py apikey create reports
  manage.py apikey create sensors --scope 'publish:sensors:*' --scope 'history:sensors:*'
  manage.py apikey create visitor --scope presence --expires 2030-01-31T12:00:00Z
  manage.py apikey list --json
  manage.py apikey revoke sensors
"""


class Command(BaseCommand):
    """``apikey create|list|revoke``: what was asked for on stdout, words about it on stderr."""

    help = EXAMPLES
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the examples' lines as they are."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Describe the three acts and their options."""
        acts = parser.add_subparsers(dest="act", required=True, metavar="create|list|revoke")
        create = acts.add_parser("create", help="store a new key and print it; shown this once")
        create.add_argument("name", help="who holds the key")
        create.add_argument("--key", help="the key itself, at least 16 characters; default: random")
        create.add_argument(
            "--scope",
            action="append",
            metavar="METHOD[:PATTERN]",
            help="what the key may do, * in the pattern stands for any characters; may be given "
            "several times; default: everything",
        )
        create.add_argument("--expires", metavar="ISO", help="2030-01-31T12:00:00Z; default: never")
        listing = acts.add_parser("list", help="print every key's name, beginning and use")
        listing.add_argument(
            "--json", action="store_true", dest="as_json", help="one JSON object a line"
        )
        revoke = acts.add_parser("revoke", help="delete a key; refused within two seconds")
        revoke.add_argument("name", help="the name it was created with")

    def handle(self, *, act: str, **options: Any) -> None:
        """Carry out one act."""
        acts: dict[str, Callable[..., None]] = {
            "create": self._create,
            "list": self._list,
            "revoke": self._revoke,
        }
        try:
            acts[act](**options)
        except DatabaseError as error:
            raise database_errors.refusal(error) from error

    def _create(
        self, *, name: str, key: str | None, scope: list[str] | None, expires: str | None, **_: Any
    ) -> None:
        try:
            expires_at = None if expires is None else _moment(expires)
            row, key = ApiKey.create(name, key=key, scopes=scope, expires_at=expires_at)
        except ValidationError as error:
            told = _taken(name) if _is_taken(error) else " ".join(_sentences(error))
            raise CommandError(told, returncode=2) from error
        allowed = "everything" if row.scopes == ["*"] else ", ".join(row.scopes)
        until = f"until {expires_at.isoformat()}" if expires_at else "without an end"
        self.stderr.write(f"created {name}: {allowed}, {until}; the key is not shown again")
        self.stdout.write(key)

    def _list(self, *, as_json: bool, **_: Any) -> None:
        rows = list(ApiKey.objects.all())
        for row in rows:
            self.stdout.write(_as_json(row) if as_json else _as_line(row))
        if not rows:
            self.stderr.write("no API keys: make one with manage.py apikey create NAME")

    def _revoke(self, *, name: str, **_: Any) -> None:
        count, _per_model = ApiKey.objects.filter(name=name).delete()
        if not count:
            raise CommandError(f"no API key is named {name}: see manage.py apikey list")
        self.stderr.write(f"revoked {name}; servers refuse it within two seconds")


def _moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise ValidationError(f"--expires {text}: not a time such as 2030-01-31T12:00:00Z.")
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment)
    if moment <= timezone.now():
        raise ValidationError(f"--expires {text}: the time has passed.")
    return moment


def _is_taken(error: ValidationError) -> bool:
    """Tell whether nothing is wrong but that the name was given before."""
    named = getattr(error, "error_dict", {})
    return list(named) == ["name"] and all(each.code == "unique" for each in named["name"])


def _taken(name: str) -> str:
    return (
        f"there is an API key named {name}: choose another name, or end that one first with "
        f"manage.py apikey revoke {shlex.quote(name)}"
    )


def _sentences(error: ValidationError) -> list[str]:
    if not hasattr(error, "error_dict"):
        return error.messages
    named = error.message_dict.items()
    return [f"{field}: {sentence}" for field, sentences in named for sentence in sentences]


def _as_json(row: ApiKey) -> str:
    moments = {
        name: None if moment is None else moment.isoformat()
        for name, moment in (
            ("expires_at", row.expires_at),
            ("last_used_at", row.last_used_at),
            ("created_at", row.created_at),
        )
    }
    return json.dumps({"name": row.name, "prefix": row.prefix, "scopes": row.scopes, **moments})


def _as_line(row: ApiKey) -> str:
    used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never"
    expires = f"{row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else "never"
    scopes = ", ".join(map(str, row.scopes))
    return f"{row.name}  {row.prefix}…  expires {expires}  last used {used}  {scopes}"
