"""What must be there before a server listens: a free port, the database, Redis.

Called by the commands that serve. Each check answers within seconds, and says what is wrong, why
and what helps in one line that holds no password.
"""

import errno
import socket
import threading
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, Final

import redis
from django.db import DEFAULT_DB_ALIAS, connections
from django.db import Error as DatabaseError
from django.db.migrations.executor import MigrationExecutor
from redis.exceptions import BusyLoadingError, RedisError

from realtime.redis_client import hosts, name_of_redis, pool_options

DEADLINE_SECONDS: Final = 3.0

_REDIS_URL_HINT = (
    "it must be like redis://user:password@host:6379/0, with %40 for an @ in the password"
)


class NotReady(Exception):
    """Something that a server needs is missing; the message is one line for a person."""


class PortTaken(NotReady):
    """Somebody else listens there already, or nobody may."""


def check_port(host: str, port: int) -> None:
    """Make sure that nobody listens on a port.

    By a plain bind: with SO_REUSEPORT two servers would share the port without a word.

    Raises:
        PortTaken: It is in use, or cannot be used.
    """
    where = f"{host}:{port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            # Connections of a server that just ended linger; they take the port from nobody.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise PortTaken(_why_no_port(error, where, port)) from error


def check_database() -> None:
    """Make sure that the default database answers.

    Raises:
        NotReady: It does not.
    """
    name = _name_of_database()
    try:
        _within_deadline(_ask_database)
    except TimeoutError as error:
        why = f"no answer within {DEADLINE_SECONDS:.0f} s"
        raise NotReady(_unreachable(name, why, "DATABASE_URL")) from error
    except (DatabaseError, ValueError) as error:
        cure = "DATABASE_URL" if _database_settings()["HOST"] else "VAR_DIR or DATABASE_URL"
        raise NotReady(_unreachable(name, _one_line(error), cure)) from error


def check_redis() -> None:
    """Make sure that every Redis of the channel layer answers.

    Raises:
        NotReady: One does not.
    """
    for host in hosts():
        name = name_of_redis(host)
        try:
            _within_deadline(partial(_ask_redis, host))
        except BusyLoadingError:
            continue  # there, and soon ready
        except (TimeoutError, redis.exceptions.TimeoutError) as error:
            why = f"no answer within {DEADLINE_SECONDS:.0f} s"
            raise NotReady(_unreachable(name, why, "REDIS_URL")) from error
        except (RedisError, OSError) as error:
            raise NotReady(_unreachable(name, _one_line(error), "REDIS_URL")) from error
        except ValueError as error:
            # Not repeated: where the port should be, a part of the password may stand.
            raise NotReady(f"REDIS_URL cannot be understood: {_REDIS_URL_HINT}") from error


def unapplied_migrations() -> int:
    """Return how many migrations the default database lacks."""
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _name_of_database() -> str:
    settings = _database_settings()
    if settings["HOST"]:
        port = f":{settings['PORT']}" if settings["PORT"] else ""
        return f"database at {settings['HOST']}{port}"
    return f"database {settings['NAME']}"


def _database_settings() -> dict[str, Any]:
    settings: dict[str, Any] = connections[DEFAULT_DB_ALIAS].settings_dict
    return settings


def _ask_database() -> None:
    settings = deepcopy(_database_settings())
    # A pool would try again in the background and keep the reason to itself.
    settings["OPTIONS"].pop("pool", None)
    connection = connections[DEFAULT_DB_ALIAS].__class__(settings, DEFAULT_DB_ALIAS)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()


def _ask_redis(host: dict[str, Any]) -> None:
    options = pool_options(host, timeout_seconds=DEADLINE_SECONDS / 2)
    if "address" in host:
        client = redis.Redis.from_url(host["address"], **options)
    else:
        client = redis.Redis(**options)
    with client:
        client.ping()


def _within_deadline(ask: Callable[[], None]) -> None:
    """Run a call that may hang in a name server or a socket, and wait for it no longer than that.

    Raises:
        TimeoutError: It goes on in a thread that the end of the process takes along.
    """
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:  # handed to the caller's thread
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, name="preflight", daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    if not outcome:
        raise TimeoutError
    if outcome[0] is not None:
        raise outcome[0]


def _why_no_port(error: OSError, where: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where} is taken by another process: end it, or choose another port with "
            f"PORT={port + 1}"
        )
    if error.errno == errno.EACCES:
        return f"{where} is not for this user: choose a port above 1023 with PORT=8000"
    return f"cannot listen on {where}: {_one_line(error)}; choose an address with HOST and PORT"


def _unreachable(name: str, why: str, variable: str) -> str:
    return f"{name} cannot be reached ({why}): see that it is there, or correct {variable}"


def _one_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).rstrip(".")
