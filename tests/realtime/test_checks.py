"""System checks: what a deployment must have, each with its cure."""

import pytest
from django.core.checks import run_checks

from realtime import checks

BACKEND = "realtime.layers.HeliographChannelLayer"


@pytest.fixture
def found(settings):
    """Return the ids that are found with a configuration."""

    def found(*, hosts=({"address": "redis://a"},), backend=BACKEND, config=None, **values):
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": backend, "CONFIG": {"hosts": list(hosts), **(config or {})}}
        }
        settings.REALTIME = {"TOKEN_HMAC_SECRET": "x" * 32, **values}
        messages = [*checks.check_layer(), *checks.check_settings(), *checks.check_tokens()]
        assert all(message.hint for message in messages)
        return {message.id for message in messages}

    return found


def test_a_good_configuration_has_no_issue(found):
    assert found() == set()
    assert found(hosts=["redis://a", "unix:///b"]) == set()


@pytest.mark.parametrize(
    "backend",
    [
        "channels.layers.InMemoryChannelLayer",
        "channels_redis.pubsub.RedisPubSubChannelLayer",
        "",
        "x",
    ],
)
def test_another_layer_is_an_error(found, backend):
    assert "realtime.E001" in found(backend=backend)


def test_no_layer_at_all_is_an_error(settings):
    settings.CHANNEL_LAYERS = {}

    assert {message.id for message in checks.check_layer()} == {"realtime.E001"}


def test_an_encrypted_layer_is_an_error(found):
    assert found(config={"symmetric_encryption_keys": ["k"]}) == {"realtime.E002"}


def test_redis_pys_traps_are_named(found):
    assert found(hosts=[{"host": "a"}]) == {"realtime.E003"}
    assert found(hosts=[{"address": "redis://a", "protocol": 3}]) == {"realtime.E004"}
    assert found(hosts=[{"address": "redis://a", "socket_timeout": 5}]) == {"realtime.W001"}


@pytest.mark.rule("pong-timeout-below-interval")
def test_settings_that_do_not_fit_together_are_named(found):
    assert found(TOKEN_HMAC_SECRET="") == {"realtime.W002"}
    assert found(INSECURE=True) == {"realtime.W003"}
    assert found(PING_INTERVAL_SECONDS=8, PONG_TIMEOUT_SECONDS=8) == {"realtime.E005"}
    assert found(PRESENCE_TTL_SECONDS=50) == {"realtime.E006"}


def test_the_checks_are_registered():
    assert [message for message in run_checks(tags=["realtime"]) if message.is_serious()] == []
