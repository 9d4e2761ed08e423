"""System checks: what a deployment must have, each with its cure."""

import math

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from realtime import checks, conf
from realtime.instance import Instance

BACKEND = "realtime.layers.HeliographChannelLayer"


@pytest.fixture
def found(settings):
    """Return the ids that are found with a configuration."""

    def found(*, hosts=({"address": "redis://a"},), backend=BACKEND, config=None, **values):
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": backend, "CONFIG": {"hosts": list(hosts), **(config or {})}}
        }
        settings.REALTIME = {"TOKEN_HMAC_SECRET": "x" * 32, **values}
        messages = run_checks(tags=["realtime"])
        assert all(message.hint for message in messages)
        return {message.id for message in messages}

    return found


@pytest.fixture
def messages(settings):
    """Return what is said of a configuration, message by message."""

    def messages(**values):
        settings.REALTIME = {"TOKEN_HMAC_SECRET": "x" * 32, **values}
        return [message.msg for message in run_checks(tags=["realtime"])]

    return messages


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


@pytest.mark.parametrize("name", sorted(conf.LEAST))
def test_a_number_below_its_least_value_is_named(messages, name):
    least = conf.LEAST[name]

    (message,) = messages(**{name.upper(): least - 1})

    assert f"REALTIME['{name.upper()}'] must be a number and at least {least}" in message
    assert messages(**{name.upper(): math.nextafter(least, -math.inf)}) != []


def test_every_number_that_is_below_its_least_value_is_named_at_once(found, messages):
    values = {name.upper(): least - 1 for name, least in conf.LEAST.items()}

    assert found(**values) == {"realtime.E007"}
    assert len(messages(**values)) == len(conf.LEAST)


def test_the_least_values_are_allowed(found):
    values = {name.upper(): least for name, least in conf.LEAST.items()}

    assert found(**{**values, "PING_INTERVAL_SECONDS": 2}) == set()


@pytest.mark.parametrize("value", [math.nan, math.inf, "3", None, True])
def test_what_is_no_number_or_has_no_end_is_named(found, value):
    assert found(BROKER_TIMEOUT_SECONDS=value) == {"realtime.E007"}
    assert found(PING_INTERVAL_SECONDS=value) == {"realtime.E007"}


@pytest.mark.parametrize("processes", [0, -3])
def test_fewer_processes_than_one_are_an_error(found, settings, processes):
    settings.PROCESSES = processes

    assert found() == {"realtime.E007"}


def test_without_a_number_of_processes_there_is_one(found, settings):
    del settings.PROCESSES

    assert found() == set()


@pytest.mark.parametrize(
    "path",
    ["nowhere.rule", "rule", ".rule", "..rule", "tests.api.rules.nothing", "tests.api.rules"],
)
def test_a_channel_rule_that_is_not_there_is_an_error(found, messages, path):
    assert found(CHANNEL_RULE=path) == {"realtime.E008"}
    assert path in messages(CHANNEL_RULE=path)[0]


def test_a_channel_rule_that_cannot_be_called_is_an_error(found):
    assert found(CHANNEL_RULE="tests.api.rules.NOT_CALLABLE") == {"realtime.E008"}


@pytest.mark.parametrize("name", ["own_news", "own_news_later", "own_news_object"])
def test_a_channel_rule_that_can_be_called_is_fine(found, name):
    assert found(CHANNEL_RULE=f"tests.api.rules.{name}") == set()


@pytest.mark.parametrize("name", ["a:b", "u", "$users", "us ers", "users:", "ü" * 3, "u" * 101])
def test_personal_channels_need_a_name_that_a_namespace_can_have(found, name):
    assert found(PERSONAL_CHANNEL_NAMESPACE=name) == {"realtime.E009"}


@pytest.mark.parametrize("name", ["", "users", "of-users_1.x"])
def test_a_name_that_a_namespace_can_have_is_fine(found, name):
    assert found(PERSONAL_CHANNEL_NAMESPACE=name) == set()


@pytest.mark.parametrize("network", ["10.0.0.1/8", "somewhere", ""])
def test_who_reads_metrics_without_a_key_is_said_as_networks(found, network):
    assert found(METRICS_NETWORKS=(network,)) == {"realtime.E014"}


def test_networks_and_single_addresses_may_read_metrics(found):
    assert found(METRICS_NETWORKS=("10.0.0.0/8", "::1", "fd00::/8")) == set()


def test_a_handler_that_cannot_be_called_is_named(found, messages, handlers):
    handlers.problem = "shop.total: the method 'total' is taken"

    assert found() == {"realtime.E015"}
    assert messages() == [handlers.problem]


async def test_with_such_a_handler_no_instance_starts(handlers):
    handlers.problem = "shop.total: the method 'total' is taken"

    with pytest.raises(ImproperlyConfigured, match="'total' is taken"):
        Instance()


def test_the_checks_are_registered():
    assert [message for message in run_checks(tags=["realtime"]) if message.is_serious()] == []
