"""The codes are the protocol's. Source: Centrifugo client protocol, errors and disconnects."""

import json

import pytest

from realtime.protocol import disconnects, errors
from realtime.protocol.disconnects import Disconnect, Unsubscribe

DISCONNECTS = {
    3000: "connection closed",
    3001: "shutdown",
    3004: "internal server error",
    3005: "connection expired",
    3006: "subscription expired",
    3008: "slow",
    3009: "write error",
    3010: "insufficient state",
    3011: "force reconnect",
    3012: "no pong",
    3013: "too many requests",
    3500: "invalid token",
    3501: "bad request",
    3502: "stale",
    3503: "force disconnect",
    3504: "connection limit",
    3505: "channel limit",
    3506: "inappropriate protocol",
    3507: "permission denied",
    3508: "not available",
}
ERRORS = {
    100: ("internal server error", True),
    102: ("unknown channel", False),
    103: ("permission denied", False),
    104: ("method not found", False),
    105: ("already subscribed", False),
    106: ("limit exceeded", False),
    107: ("bad request", False),
    108: ("not available", False),
    109: ("token expired", False),
    110: ("expired", False),
    112: ("unrecoverable position", False),
}


def constants(kind):
    return [value for value in vars(disconnects).values() if type(value) is kind]


def test_every_disconnect_has_its_code_and_reason():
    known = {each.code: each.reason for each in constants(Disconnect) if each.code >= 3000}

    assert known == DISCONNECTS


@pytest.mark.parametrize("each", constants(Disconnect) + constants(Unsubscribe))
def test_a_reason_is_short_and_never_json(each):
    assert 0 < len(each.reason) <= 32
    assert each.reason.isascii()
    with pytest.raises(json.JSONDecodeError):
        json.loads(each.reason)


def test_every_unsubscribe_has_its_code_and_reason():
    assert {tuple(each) for each in constants(Unsubscribe)} == {
        (2000, "server unsubscribe"),
        (2500, "insufficient state"),
        (2501, "subscription expired"),
    }


def test_every_error_has_its_code_message_and_whether_to_retry():
    classes = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.ProtocolError)
    ]
    known = {
        each.code: (each.message, each.temporary)
        for each in classes
        if each is not errors.ProtocolError
    }

    assert known == ERRORS
