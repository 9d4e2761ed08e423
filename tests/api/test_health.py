import pytest
from django.test import AsyncClient

from realtime import services
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_client import RedisServers


async def get(path):
    response = await AsyncClient().get(path)
    return response.status_code, response.json()


async def test_health_answers_while_the_process_lives():
    assert await get("/health") == (200, {})


@pytest.mark.django_db(transaction=True)
async def test_ready_names_each_check():
    status, checks = await get("/ready")

    assert status == 200
    assert {"redis", "layer", "database", "draining"} <= set(checks)
    assert set(checks.values()) == {"ok"}


@pytest.mark.django_db(transaction=True)
async def test_ready_says_what_is_wrong(monkeypatch):
    async def ping(self):
        raise BrokerUnavailable

    monkeypatch.setattr(RedisServers, "ping", ping)

    status, checks = await get("/ready")

    assert status == 503
    assert checks["redis"] != "ok"
    assert checks["database"] == "ok"


async def test_a_check_that_fails_itself_is_not_ready(monkeypatch, caplog):
    async def areadiness():
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(services, "areadiness", areadiness)

    status, checks = await get("/ready")

    assert status == 503
    assert "secret" not in str(checks)
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_they_are_only_read(path):
    assert (await AsyncClient().post(path)).status_code == 405
