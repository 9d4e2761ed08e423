"""Print a connection or subscription token for a user."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from msgspec import Raw

from realtime.protocol import codec
from realtime.protocol.errors import BadRequest
from realtime.tokens import sign_connection_token, sign_subscription_token

EXAMPLES = """\
examples:
  manage.py token --user 42
  manage.py token --user 42 --ttl 3600 --info '{"name": "Ada"}'
  manage.py token --user 42 --channel '$reports:7'
"""


class Command(BaseCommand):
    """``token``: the token alone on stdout."""

    help = EXAMPLES
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the examples' lines as they are."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Describe what the token can say."""
        parser.add_argument(
            "--user", required=True, help="whom the token is for; '' is the anonymous user"
        )
        parser.add_argument(
            "--channel", help="make a subscription token, which opens this channel to the user"
        )
        parser.add_argument(
            "--ttl", type=int, metavar="SECONDS", help="default: REALTIME_TOKEN_TTL_SECONDS"
        )
        parser.add_argument("--info", metavar="JSON", help="what others see of the user")

    def handle(
        self, *, user: str, channel: str | None, ttl: int | None, info: str | None, **_: Any
    ) -> None:
        """Sign and print."""
        if ttl is not None and ttl < 1:
            raise CommandError(f"--ttl {ttl}: give a number of seconds above 0", returncode=2)
        shown = None if info is None else _json(info)
        try:
            if channel is None:
                token = sign_connection_token(user, ttl_seconds=ttl, info=shown)
            else:
                token = sign_subscription_token(user, channel, ttl_seconds=ttl, info=shown)
        except BadRequest as error:
            raise CommandError(f"no such token can be made: {error}", returncode=2) from error
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        self.stdout.write(token)


def _json(info: str) -> Raw:
    """Return the info untouched, so that others see it as it was written."""
    raw = Raw(info.encode("utf-8", "surrogateescape"))
    try:
        codec.payload(raw)
    except BadRequest as error:
        raise CommandError(f"--info is not valid JSON: {error}", returncode=2) from error
    return raw
