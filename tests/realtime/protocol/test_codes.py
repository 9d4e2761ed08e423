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
    111: ("too many requests", True),
    112: ("unrecoverable position", False),
}


def constants(kind):
    return [value for value in vars(disconnects).values() if type(value) is kind]


@pytest.mark.rule(
    "close-3000",
    "close-3001",
    "close-3004",
    "close-3005",
    "close-3006",
    "close-3008",
    "close-3009",
    "close-3010",
    "close-3011",
    "close-3012",
    "close-3013",
    "close-3500",
    "close-3501",
    "close-3502",
    "close-3503",
    "close-3504",
    "close-3505",
    "close-3506",
    "close-3507",
    "close-3508",
)
def test_every_disconnect_has_its_code_and_reason():
    known = {each.code: each.reason for each in constants(Disconnect) if each.code >= 3000}

    assert known == DISCONNECTS


@pytest.mark.rule("close-reason-never-json")
@pytest.mark.parametrize("each", constants(Disconnect) + constants(Unsubscribe))
def test_a_reason_is_short_and_never_json(each):
    assert 0 < len(each.reason) <= 32
    assert each.reason.isascii()
    with pytest.raises(json.JSONDecodeError):
        json.loads(each.reason)


@pytest.mark.rule(
    "unsubscribe-2000", "unsubscribe-2500", "unsubscribe-2501", "unsubscribe-0-1-never"
)
def test_every_unsubscribe_has_its_code_and_reason():
    assert {tuple(each) for each in constants(Unsubscribe)} == {
        (2000, "server unsubscribe"),
        (2500, "insufficient state"),
        (2501, "subscription expired"),
    }


@pytest.mark.rule(
    "error-100",
    "error-101-unused",
    "error-102",
    "error-103",
    "error-104",
    "error-105",
    "error-106",
    "error-107",
    "error-108",
    "error-109",
    "error-110",
    "error-112",
    "error-message-never-empty",
)
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
