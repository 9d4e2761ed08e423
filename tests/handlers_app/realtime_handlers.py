"""RPC methods and hooks that servers of the tests are asked for; see ``tests/end_to_end``.

A handler that waits does so before a gate, which another call opens: no test has to guess how long
something takes. Only those servers import this module: it would answer in the tests' process too.
"""

import asyncio
import os
import threading
import time
from collections import defaultdict
from datetime import date
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied

from realtime.handlers import (
    Allow,
    Connection,
    channel_rule,
    on_connect,
    on_disconnect,
    on_publish,
    on_subscribe,
    rpc,
)
from realtime.hooks import ApplicationError
from realtime.protocol.errors import LimitExceeded
from tests.handlers_app.gates import DEADLINE_SECONDS, gates

# Who has left, as on_disconnect was told, and who waits to hear it.
_left: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


# Arguments and results ---------------------------------------------------------------------------


@rpc("sum")
async def add(a: int, b: int = 0) -> int:
    return a + b


@rpc("age")
async def age(born: date, on: date) -> dict[str, Any]:
    return {"days": (on - born).days, "born": born}


@rpc("whoami")
async def whoami(connection: Connection) -> dict[str, Any]:
    user = await connection.auser()
    return {"user": connection.user, "client": connection.client, "name": user.get_username()}


@rpc("nothing")
async def nothing() -> None:
    return None


# Errors ------------------------------------------------------------------------------------------


@rpc("refuse")
async def refuse(code: int, message: str) -> None:
    raise ApplicationError(code, message)


@rpc("forbid")
async def forbid() -> None:
    raise PermissionDenied("the reason stays here")


@rpc("limit")
async def limit() -> None:
    raise LimitExceeded


@rpc("fail")
async def fail() -> None:
    raise RuntimeError("a secret of the handler")


@rpc("unspeakable")
async def unspeakable() -> object:
    return object()


# Time --------------------------------------------------------------------------------------------


@rpc("gate.wait", timeout_seconds=30)
async def wait(gate: str) -> str:
    await gates[gate].wait()
    return gate


@rpc("gate.wait_briefly", timeout_seconds=DEADLINE_SECONDS)
async def wait_briefly(gate: str) -> str:
    await gates[gate].wait()
    return gate


@rpc("gate.wait_in_a_thread", timeout_seconds=30)
def wait_in_a_thread(gate: str) -> dict[str, Any]:
    gates[gate].wait_in_a_thread()
    return {"gate": gate, "is_main": threading.current_thread() is threading.main_thread()}


_hanging: list[float] = []


@rpc("hang", timeout_seconds=100)
def hang(seconds: float) -> None:
    _hanging.append(seconds)
    time.sleep(seconds)  # a thread that nobody can end


@rpc("hanging")
async def hanging() -> int:
    return len(_hanging)


@rpc("gate.open")
async def open_gate(gate: str) -> None:
    gates[gate].open()


@rpc("gate.counts")
async def counts(gate: str) -> dict[str, int]:
    found = gates[gate]
    return {"waiting": found.waiting, "most": found.most, "cancelled": found.cancelled}


@rpc("gate.cancelled", timeout_seconds=30)
async def cancelled(gate: str) -> int:
    await gates[gate].has_cancelled.wait()
    return gates[gate].cancelled


@rpc("block")
async def block(seconds: float) -> None:
    time.sleep(seconds)


@rpc("users")
def users() -> list[str]:
    return sorted(user.get_username() for user in get_user_model().objects.all())


# Hooks -------------------------------------------------------------------------------------------


@on_connect
async def welcome(connection: Connection) -> dict[str, str] | None:
    if connection.user == "unwelcome":
        raise ApplicationError(1403, "not you")
    return {"welcome": connection.user} if connection.user.startswith("guest") else None


@on_disconnect
async def note_leaving(connection: Connection) -> None:
    _left[connection.user].set()


@rpc("left", timeout_seconds=30)
async def left(user: str) -> None:
    await _left[user].wait()


@on_subscribe("live:guarded-{name}")
async def guard(connection: Connection, name: str) -> None:
    if connection.user != name:
        raise PermissionDenied


@on_publish("live:marked-{name}")
async def mark(connection: Connection, data: Any) -> dict[str, Any] | None:
    if data == "refuse":
        raise ApplicationError(1422, "not this")
    return {"by": connection.user, "text": data} if isinstance(data, str) else None


# Channel rules -----------------------------------------------------------------------------------


@channel_rule("closed:staff-{name}", watches=[Group])
def staff(user: Any) -> bool:
    return user.is_staff


@channel_rule("closed:permitted-{name}")
async def permitted(user: Any) -> Allow:
    may = await user.ahas_perm("realtime.view_namespace")
    return Allow(subscribe=may, publish=may)


@channel_rule("closed:brief-{name}", expires_seconds=1)
def brief(user: Any) -> bool:
    return user.first_name == "Ada"  # no change of access is noted for a name


# The process -------------------------------------------------------------------------------------


@rpc("process")
async def process() -> dict[str, Any]:
    """Return what the tests look for leaks in: the process and its tasks."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return {"pid": os.getpid(), "tasks": sorted(task.get_name() for task in tasks)}
