"""``manage.py prepare``: what a deployment needs before its servers start."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from realtime import conf
from realtime.management import banner
from realtime.management.serving import EXIT_NOT_READY, var_dir
from realtime.server import first_run, preflight, store_secrets

EXAMPLES = """\
examples:
  manage.py prepare
  manage.py prepare --url https://app.example
  manage.py prepare --secrets
"""


class Command(BaseCommand):
    """Prepares a deployment, once or again: what is there is kept."""

    help = EXAMPLES
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the examples' lines as they are."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the other half of the work, and the site's address."""
        parser.add_argument(
            "--secrets",
            action="store_true",
            help="only make the passwords of Redis and PostgreSQL, in VAR_DIR; needs neither",
        )
        parser.add_argument("--url", default="", help="where the site is, to say so at the end")

    def handle(self, *_: Any, **options: Any) -> None:
        """Do one half of it."""
        if options["secrets"]:
            self._make_secrets()
        else:
            self._prepare(options["url"].rstrip("/"))

    def _make_secrets(self) -> None:
        try:
            made = store_secrets.make(var_dir())
        except OSError as error:
            raise CommandError(f"cannot keep secrets in {var_dir()}: {error.strerror}") from error
        self.stderr.write(f"made in {var_dir()}: {', '.join(made) or 'nothing, all are there'}")

    def _prepare(self, url: str) -> None:
        try:
            preflight.check_database()
            made = first_run.prepare_deployment(has_demo=conf.current().demo)
        except preflight.NotReady as error:
            raise CommandError(str(error), returncode=EXIT_NOT_READY) from error
        except (DatabaseError, ValidationError) as error:
            why = " ".join(str(error).split())
            raise CommandError(f"cannot prepare the database: {why}") from error
        self.stdout.write(banner.deployment(url=url, made=made, style=self.style))
