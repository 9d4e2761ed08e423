"""Channel rules on two instances: what code elsewhere takes away ends on both."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.conftest import Pair
from tests.support.raw_client import CommandError
from tests.support.valkey import Valkey

pytestmark = pytest.mark.end_to_end

# Run by a process that serves nobody.
_MAKE_USER = """
import json
from django.contrib.auth.models import Group, Permission, User
group = Group.objects.create(name={name!r})
group.permissions.add(Permission.objects.get(codename="view_namespace"))
user = User.objects.create_user({name!r}, first_name="Ada", is_staff=True)
user.groups.add(group)
print(json.dumps(user.pk))
"""
_CHANGES = {
    "staff": "from django.contrib.auth.models import User;"
    "User.objects.filter(username={name!r}).update(is_staff=False)",
    "active": "from django.contrib.auth.models import User;"
    "User.objects.filter(username={name!r}).update(is_active=False)",
    "group": "from django.contrib.auth.models import User;"
    "User.objects.get(username={name!r}).groups.clear()",
    "permission": "from django.contrib.auth.models import Group;"
    "Group.objects.get(name={name!r}).permissions.clear()",
    "raw": "from django.db import connection;"
    'connection.cursor().execute("DELETE FROM auth_user_groups")',
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, database) -> Iterator[Pair]:
    """Two instances with the rules of ``tests.handlers_app``."""
    folder = tmp_path_factory.mktemp("rules")
    valkey = Valkey(folder / "redis")
    pair = None
    try:
        valkey.start()
        settings = {"DJANGO_SETTINGS_MODULE": "tests.handlers_app.settings"}
        pair = Pair(folder, database=database, redis_url=valkey.url, variables=settings)
        pair.wait_ready()
        yield pair
        for server in pair.servers:
            server.terminate()
            assert "Traceback" not in server.log(), server.log()[-5000:]
    finally:
        if pair is not None:
            pair.close()
        valkey.close()


@pytest.fixture
def elsewhere(pair):
    """Return a way to run code in a process of its own."""

    async def elsewhere(code: str, **values: str) -> str:
        return await asyncio.to_thread(pair.manage, "shell", "-c", code.format(**values))

    return elsewhere


@pytest.mark.parametrize(
    ("change", "channel"),
    [
        ("staff", "closed:staff-x"),
        ("active", "closed:staff-x"),
        ("group", "closed:permitted-x"),
        ("permission", "closed:permitted-x"),
        ("raw", "closed:permitted-x"),
    ],
)
async def test_what_is_taken_away_ends_on_every_instance(pair, connect, elsewhere, change, channel):
    user = str(json.loads((await elsewhere(_MAKE_USER, name=change)).splitlines()[-1]))
    clients = [await connect(to=server, user=user) for server in (pair.a, pair.b)]
    other = "closed:permitted-x" if channel == "closed:staff-x" else "closed:staff-x"
    for client in clients:
        await client.call("subscribe", channel=channel)
        await client.call("subscribe", channel=other)

    await elsewhere(_CHANGES[change], name=change)

    for client in clients:
        push = await client.log.wait("unsub", channel=channel, timeout_seconds=5)
        assert push["code"] == 2000
        with pytest.raises(CommandError) as raised:
            await client.call("subscribe", channel=channel)
        assert raised.value.code == 103
        if change != "active":
            assert client.log.of("unsub", channel=other) == []


async def test_what_expires_is_asked_again(pair, connect, elsewhere):
    user = str(json.loads((await elsewhere(_MAKE_USER, name="brief")).splitlines()[-1]))
    client = await connect(to=pair.b, user=user)
    await client.call("subscribe", channel="closed:brief-x")

    await elsewhere(
        "from django.contrib.auth.models import User;"
        "User.objects.filter(username='brief').update(first_name='Eve')"
    )

    push = await client.log.wait("unsub", channel="closed:brief-x", timeout_seconds=10)
    assert push["code"] == 2000


async def test_nobody_else_gets_in(connect, pair):
    for user in ("0", "07", "ada"):
        client = await connect(to=pair.a, user=user)
        with pytest.raises(CommandError) as raised:
            await client.call("subscribe", channel="closed:staff-x")
        assert raised.value.code == 103
