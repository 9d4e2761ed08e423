"""The tap reads frames however the bytes are cut."""

import json

from websockets.frames import Frame, Opcode

from tests.support.frame_tap import FrameTap, Stream

CHANNEL = "stream:tapped"


def frame(message: object, *, is_masked: bool) -> bytes:
    text = message if isinstance(message, str) else json.dumps(message)
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=is_masked)


def test_frames_of_every_length_come_out_of_single_bytes() -> None:
    texts = ["a", "b" * 200, "c" * 70_000]
    data = b"HTTP/1.1 101\r\n\r\n" + b"".join(frame(t, is_masked=True) for t in texts)
    stream = Stream()

    seen = [text for byte in data for text in stream.feed(bytes([byte]))]

    assert seen == texts


def test_other_frames_are_passed_over() -> None:
    stream = Stream(has_head=True)

    seen = stream.feed(Frame(Opcode.PING, b"?").serialize(mask=False) + frame("x", is_masked=False))

    assert seen == ["x"]


def test_a_session_holds_what_was_asked_recovered_and_delivered() -> None:
    tap = FrameTap(CHANNEL)
    subscribe = {"channel": CHANNEL, "recover": True, "offset": 3, "epoch": "e"}
    result = {"recovered": True, "offset": 3, "epoch": "e", "publications": [{"offset": 4}]}
    push = {"push": {"channel": CHANNEL, "pub": {"offset": 5}}}

    tap.see(1, "up", b"GET / HTTP/1.1\r\n\r\n")
    tap.see(1, "up", frame({"id": 2, "subscribe": subscribe}, is_masked=True))
    tap.see(1, "down", b"HTTP/1.1 101\r\n\r\n")
    tap.see(1, "down", frame({"id": 2, "subscribe": result}, is_masked=False))
    tap.see(1, "down", frame(push, is_masked=False))

    (session,) = tap.sessions
    assert (session.asked_offset, session.recovered, session.offsets) == (3, True, [4, 5])


def test_a_session_cut_before_its_answer_stays_unanswered() -> None:
    tap = FrameTap(CHANNEL)
    tap.see(1, "up", b"\r\n\r\n" + frame({"id": 1, "subscribe": {"channel": CHANNEL}}, is_masked=1))

    assert [session.is_answered for session in tap.sessions] == [False]
