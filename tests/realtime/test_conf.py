from dataclasses import FrozenInstanceError, fields

import pytest
from django.core.exceptions import ImproperlyConfigured

from realtime import conf


def test_nothing_has_to_be_set(settings):
    settings.REALTIME = {}

    assert conf.current() == conf.Settings()


def test_a_key_is_a_field_in_upper_case(settings):
    settings.REALTIME = {"CHANNEL_LIMIT": 3}

    assert conf.current() == conf.Settings(channel_limit=3)


def test_a_key_that_nothing_answers_to_is_an_error(settings):
    settings.REALTIME = {"CHANEL_LIMIT": 3, "channel_limit": 4}

    with pytest.raises(ImproperlyConfigured, match="CHANEL_LIMIT, channel_limit"):
        conf.current()


def test_a_setting_is_read_when_it_is_used(settings):
    before = conf.current().channel_limit

    settings.REALTIME = {"CHANNEL_LIMIT": before + 1}

    assert conf.current().channel_limit == before + 1


def test_reading_twice_costs_nothing(settings):
    settings.REALTIME = {}

    assert conf.current() is conf.current()


def test_the_settings_cannot_be_changed_by_who_reads_them():
    with pytest.raises(FrozenInstanceError):
        conf.current().channel_limit = 1


def test_units_stand_in_the_names():
    units = ("_seconds", "_bytes", "_limit", "_rate", "_publications", "_origins", "_until")
    units += ("_threads", "calls_max")
    numbers = [field.name for field in fields(conf.Settings) if field.type in (int, float)]

    assert [name for name in numbers if not name.endswith(units)] == []


def test_every_number_has_a_least_value_and_a_default_above_it():
    numbers = {
        field.name: field.default
        for field in fields(conf.Settings)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }

    assert numbers.keys() == conf.LEAST.keys()
    assert [name for name, default in numbers.items() if default < conf.LEAST[name]] == []


def test_an_empty_secret_is_the_default():
    assert conf.Settings().token_hmac_secret == ""
    assert conf.Settings().insecure is False
    assert conf.Settings().allow_anonymous is False
