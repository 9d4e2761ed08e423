import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import ClientInfo
from realtime.publishing import PublishOptions, encoded, prepare
from realtime.snapshot import ChannelOptions

KEPT = ChannelOptions(history_size=10, history_ttl=60)
OBJECTS = ChannelOptions(publication_data_format="json_object")


@pytest.fixture(autouse=True)
def _defaults(settings):
    settings.REALTIME = {"PUBLICATION_MAX_BYTES": 1000}


def stored(act):
    """Return what the act stores, as JSON."""
    return json.loads(act.args[7])


def retention(act):
    return act.args[3], act.args[4]


@pytest.mark.rule("payload-bytes-kept")
def test_the_publishers_bytes_are_stored_as_they_came():
    data = b'{"b":1.0,  "a":12345678901234567890123,"\\u00e9":"\xc3\xa9"}'

    act = prepare("news", Raw(data), KEPT)

    assert data in act.args[7]


@pytest.mark.rule("payload-newlines-removed")
def test_newlines_between_tokens_are_taken_out():
    act = prepare("news", Raw(b'{\r\n  "a": "\\n"\n}'), KEPT)

    assert b"\n" not in act.args[7]
    assert stored(act)["data"] == {"a": "\n"}


@pytest.mark.rule("publish-no-data-107", "option-format-empty")
@pytest.mark.parametrize("data", [b"", b"null"])
def test_no_data_is_a_bad_request(data):
    with pytest.raises(BadRequest):
        prepare("news", Raw(data), KEPT)


@pytest.mark.rule("option-format-empty")
@pytest.mark.parametrize("data", [b"0", b'""', b"[]", b"{}", b"false"])
def test_empty_values_are_data(data):
    assert stored(prepare("news", Raw(data), KEPT))["data"] == json.loads(data)


@pytest.mark.rule("payload-not-json-refused")
@pytest.mark.parametrize("data", [b"{", b"\xff", b'"\\ud800"', b"NaN", b"1e999", b"nul", b"1 2"])
def test_what_some_receiver_cannot_read_is_refused(data):
    with pytest.raises(BadRequest):
        prepare("news", Raw(data), KEPT)


@pytest.mark.rule("publish-format-107", "option-format-json-object")
@pytest.mark.parametrize("data", [b"[]", b"1", b'"{}"', b"true"])
def test_a_namespace_of_objects_takes_nothing_else(data):
    with pytest.raises(BadRequest):
        prepare("news", Raw(data), OBJECTS)


@pytest.mark.rule("option-format-json-object")
@pytest.mark.parametrize("data", [b"{}", b' {"a":1}', b'\n{"a":1}'])
def test_a_namespace_of_objects_takes_objects(data):
    assert prepare("news", Raw(data), OBJECTS)


@pytest.mark.rule("publish-size-107")
def test_the_bound_of_a_publication_is_met_exactly():
    assert prepare("news", Raw(b'"' + b"x" * 998 + b'"'), KEPT)

    with pytest.raises(BadRequest, match="1000 bytes"):
        prepare("news", Raw(b'"' + b"x" * 999 + b'"'), KEPT)


def test_the_bound_is_of_bytes():
    with pytest.raises(BadRequest):
        prepare("news", encoded("é" * 500), KEPT)


@pytest.mark.rule("option-history-both")
def test_a_channel_without_history_keeps_nothing():
    assert retention(prepare("news", Raw(b"1"), ChannelOptions())) == (0, 0)
    assert retention(prepare("news", Raw(b"1"), ChannelOptions(history_size=5)))[0] == 0


@pytest.mark.rule("publish-skip-history")
def test_skip_history_keeps_nothing():
    act = prepare("news", Raw(b"1"), KEPT, options=PublishOptions(skip_history=True))

    assert retention(act) == (0, 0)


@pytest.mark.rule("publish-stored")
def test_history_is_kept_as_the_namespace_says():
    assert retention(prepare("news", Raw(b"1"), KEPT)) == (10, 60)


def test_publisher_and_tags_travel_along():
    info = ClientInfo("42", "c1", conn_info=Raw(b'{"name":"Al"}'))

    act = prepare("news", Raw(b"1"), KEPT, options=PublishOptions(tags={"a": "b"}), info=info)

    assert stored(act) == {
        "data": 1,
        "info": {"user": "42", "client": "c1", "conn_info": {"name": "Al"}},
        "tags": {"a": "b"},
    }


def test_empty_tags_are_no_tags():
    assert "tags" not in stored(prepare("news", Raw(b"1"), KEPT, options=PublishOptions(tags={})))


@pytest.mark.rule("publish-options-bounded")
@pytest.mark.parametrize(
    "options",
    [
        PublishOptions(idempotency_key="k" * 256),
        PublishOptions(idempotency_key="é" * 128),
        PublishOptions(version=2**64 - 1, version_epoch="e" * 256),
        PublishOptions(tags={"k": "v" * 4095}),
    ],
)
def test_options_at_their_bounds_are_taken(options):
    assert prepare("news", Raw(b"1"), KEPT, options=options)


@pytest.mark.rule("publish-options-bounded")
@pytest.mark.parametrize(
    "options",
    [
        PublishOptions(idempotency_key="k" * 257),
        PublishOptions(idempotency_key="é" * 129),
        PublishOptions(idempotency_key="\ud800"),
        PublishOptions(version=2**64),
        PublishOptions(version=-1),
        PublishOptions(version_epoch="e" * 257),
        PublishOptions(version_epoch="\udfff"),
        PublishOptions(tags={"k": "v" * 4096}),
        PublishOptions(tags={"\ud800": ""}),
        PublishOptions(tags={"k": "\ud800"}),
    ],
)
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(BadRequest):
        prepare("news", Raw(b"1"), KEPT, options=options)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.floats() | st.none()))
def test_a_python_value_either_has_a_json_form_or_is_refused(data):
    try:
        raw = encoded(data)
        body = prepare("news", raw, KEPT).args[7]
    except BadRequest:
        return

    assert json.loads(body)["data"] == json.loads(bytes(raw))


@pytest.mark.parametrize("data", [object(), {1, 2, object()}, {(1, 2): 3}, "\ud800", 1j])
def test_what_has_no_json_form_is_refused(data):
    with pytest.raises(BadRequest):
        prepare("news", encoded(data), KEPT)


def test_a_value_that_contains_itself_is_refused():
    data = []
    data.append(data)

    with pytest.raises(BadRequest):
        encoded(data)


def test_raw_is_taken_as_it_is():
    raw = Raw(b'{"a":  1}')

    assert encoded(raw) is raw
