"""What a command says when the database fails it."""

from django.core.management.base import CommandError
from django.db import Error as DatabaseError

from realtime.management.serving import EXIT_NOT_READY
from realtime.server import preflight


def refusal(error: DatabaseError) -> CommandError:
    """Return one line that says what helps: migrations if some are missing, or the address."""
    why = " ".join(str(error).split())
    try:
        missing = preflight.unapplied_migrations()
    except DatabaseError:
        missing = 0
    if missing:
        told = f"the database lacks {missing} migrations ({why}): run manage.py migrate"
    else:
        told = f"the database failed: {why}; see that it is there, or correct DATABASE_URL"
    return CommandError(told, returncode=EXIT_NOT_READY)
