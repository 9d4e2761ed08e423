"""The HTTP API as a program sees it: Django's asynchronous test client, the real services."""

import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.test import AsyncClient

from realtime.models import ApiKey, Namespace

KEY = "a-key-that-may-do-everything"


@dataclass(frozen=True)
class Answer:
    """An answer with the parts that the tests look at."""

    status: int
    body: bytes
    content_type: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        assert self.status == 200, self
        assert set(self.json) == {"result"}, self
        return self.json["result"]

    @property
    def error(self) -> Any:
        assert self.status == 200, self
        assert set(self.json) == {"error"}, self
        return self.json["error"]


Call = Callable[..., Awaitable[Answer]]


# Rows that migrations and their signal make.
_MADE_ONCE = {"auth.permission", "contenttypes.contenttype", "realtime.snapshotversion"}


@pytest.fixture
def transactional_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Give out a database that every thread sees, and empty it afterwards.

    pytest-django's own has permissions and triggers made anew each time, which takes longer than
    most of these tests.
    """
    with django_db_blocker.unblock():
        yield
        for model in apps.get_models():
            if model._meta.label_lower not in _MADE_ONCE:
                model._base_manager.all().delete()


@pytest.fixture
def configured(transactional_db: None, flushed_redis: str, settings: Any) -> None:
    """Namespaces kept, json, who and plain, and a key for everything; changes count at once."""
    settings.REALTIME = {**settings.REALTIME, "SNAPSHOT_POLL_SECONDS": 0}
    Namespace.objects.create(name="kept", history_size=100, history_ttl=60)
    Namespace.objects.create(
        name="json", history_size=100, history_ttl=60, publication_data_format="json_object"
    )
    Namespace.objects.create(name="who", presence=True)
    Namespace.objects.create(name="plain")
    ApiKey.create("everything", key=KEY)


@pytest.fixture
def call(configured: None) -> Call:
    """Return a caller of the server API: ``await call("publish", {...})``."""
    client = AsyncClient()

    async def call(
        method: str, content: Any, *, key: str = KEY, headers: dict[str, str] | None = None
    ) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        response = await client.post(
            f"/api/{method}",
            body,
            content_type="application/json",
            headers={"X-API-Key": key, **(headers or {})},
        )
        return Answer(response.status_code, response.content, response.headers["Content-Type"])

    return call


@pytest.fixture
def make_key(configured: None) -> Callable[..., Awaitable[str]]:
    """Return a maker of a key with the given scopes."""

    async def make_key(*scopes: str) -> str:
        key = uuid.uuid4().hex
        await sync_to_async(ApiKey.create)(key, key=key, scopes=list(scopes))
        return key

    return make_key


@pytest.fixture
def kept() -> str:
    """Return a channel with history that nobody else uses."""
    return f"kept:{uuid.uuid4().hex}"


@pytest.fixture
def stored(call: Call) -> Callable[[str], Awaitable[list[Any]]]:
    """Return a reader of a channel's whole history."""

    async def stored(channel: str) -> list[Any]:
        result = (await call("history", {"channel": channel, "limit": -1})).result
        return [publication["data"] for publication in result["publications"]]

    return stored
