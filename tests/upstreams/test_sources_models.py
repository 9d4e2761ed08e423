"""What a data source may be, said beside the field that is wrong."""

import pytest
from django.core.exceptions import ValidationError

from realtime.models import Namespace
from upstreams.models import DataSource, SourceMapping, Upstream

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank():
    return Upstream.objects.create(name="bank", base_url="https://example.com")


@pytest.fixture
def rates(bank):
    Namespace.objects.create(name="rates", history_size=1, history_ttl=60)
    return DataSource.objects.create(name="rates", upstream=bank)


def errors(row):
    with pytest.raises(ValidationError) as refused:
        row.full_clean()
    return {field: " ".join(each) for field, each in refused.value.message_dict.items()}


def test_the_defaults_are_in_order(bank):
    DataSource(name="rates", upstream=bank).full_clean()


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"interval_seconds": 0.4}, {"interval_seconds"}),
        ({"interval_seconds": 100_000}, {"interval_seconds"}),
        ({"interval_seconds": None}, {"interval_seconds"}),
        ({"interval_seconds": 10, "stale_after_seconds": 9}, {"stale_after_seconds"}),
        ({"interval_seconds": 10, "jitter_seconds": 11}, {"jitter_seconds"}),
        ({"jitter_seconds": -1}, {"jitter_seconds"}),
        ({"path": "//evil"}, {"path"}),
        ({"path": "rates"}, {"path"}),
        ({"headers": {"X-A": "b\r\nc"}}, {"headers"}),
        ({"headers": {"Host": "evil"}}, {"headers"}),
        ({"headers": ["x-a"]}, {"headers"}),
    ],
)
def test_what_cannot_be_is_refused(bank, fields, wrong):
    assert set(errors(DataSource(name="rates", upstream=bank, **fields))) == wrong


def test_stale_is_three_intervals_where_nothing_is_said(bank):
    assert DataSource(interval_seconds=4.0).effective_stale_after_seconds == 12.0
    assert DataSource(stale_after_seconds=5.0).effective_stale_after_seconds == 5.0


def test_a_mapping_needs_a_namespace_with_history(rates):
    Namespace.objects.create(name="live")

    SourceMapping(source=rates, channel="rates:usd", pointer="/usd").full_clean()

    for channel in ("nowhere:usd", "usd", ":usd"):
        told = errors(SourceMapping(source=rates, channel=channel))["channel"]
        assert "add one" in told
    told = errors(SourceMapping(source=rates, channel="live:usd"))["channel"]
    assert "set its history size to 1 and its history TTL" in told


def test_a_namespace_remembers_until_the_next_poll(rates):
    rates.interval_seconds, rates.jitter_seconds = 50, 10

    told = errors(SourceMapping(source=rates, channel="rates:usd"))["channel"]
    rates.jitter_seconds = 9
    SourceMapping(source=rates, channel="rates:usd").full_clean()

    assert "history TTL above 60." in told


def test_a_mapping_alone_is_refused(rates):
    assert "source" in errors(SourceMapping(channel="rates:usd"))


def test_a_channel_without_a_namespace_has_the_empty_one(rates):
    Namespace.objects.create(name="", history_size=1, history_ttl=60)

    SourceMapping(source=rates, channel="usd").full_clean()


def test_a_channel_has_one_source(rates):
    SourceMapping.objects.create(source=rates, channel="rates:usd")

    assert "already exists" in errors(SourceMapping(source=rates, channel="rates:usd"))["channel"]


def test_a_channel_has_a_name_that_a_channel_may_have(rates):
    assert "bytes" in errors(SourceMapping(source=rates, channel="rates:" + "ä" * 200))["channel"]


def test_a_pointer_is_one(rates):
    told = errors(SourceMapping(source=rates, channel="rates:usd", pointer="usd"))["pointer"]

    assert "begins with a slash" in told
