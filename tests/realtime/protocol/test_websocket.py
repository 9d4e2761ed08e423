import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.protocol import websocket

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 70000]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("opcode", [websocket.TEXT, websocket.BINARY])
def test_a_frame_gives_its_payload_back(length, opcode):
    payload = b"x" * length

    assert list(websocket.split(websocket.frame(payload, opcode))) == [(opcode, payload)]


@given(st.lists(st.tuples(st.sampled_from([1, 2, 9]), st.binary(max_size=300)), max_size=5))
def test_joined_frames_are_given_back_one_by_one(parts):
    joined = b"".join(websocket.frame(payload, opcode) for opcode, payload in parts)

    assert list(websocket.split(joined)) == parts


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_head_has_the_shortest_form(length, head):
    assert websocket.frame(b"x" * length) == head + b"x" * length


@pytest.mark.rule("close-reason-123-bytes")
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@example("x" * 122 + "é")
@example("x" * 123)
@example("😀" * 31)
def test_a_reason_fits_into_a_close_frame_and_is_cut_between_characters(reason):
    cut = websocket.reason_bytes(reason)

    assert len(cut) <= 123
    # A browser fails a connection whose reason is not UTF-8, with 1007 in place of the code.
    assert reason.startswith(cut.decode())
    assert len(cut) >= min(len(reason.encode()), 120)
