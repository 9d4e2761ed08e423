"""Errors that a command may be answered with, one class per code.

Raised by every layer below; turned into replies by ``commands.py`` and by the views of ``api``.
A connection outlives them: what ends one is in ``disconnects.py``.
"""


class ProtocolError(Exception):
    """An error reply: ``code`` and ``message`` as the client sees them.

    Attributes:
        code: 100-113; applications may use 400-1999.
        message: Never empty, because centrifuge-python reads it without a default.
        temporary: Whether a client may retry the same command.
    Source: Centrifugo client protocol, error codes.
    """

    code = 100
    message = "internal server error"
    temporary = False


class InternalError(ProtocolError):
    """Something failed on this side; the command may be repeated."""

    temporary = True


class UnknownChannel(ProtocolError):
    """The channel's namespace is not configured."""

    code = 102
    message = "unknown channel"


class PermissionDenied(ProtocolError):
    """The caller may not do this."""

    code = 103
    message = "permission denied"


class MethodNotFound(ProtocolError):
    """No such method."""

    code = 104
    message = "method not found"


class AlreadySubscribed(ProtocolError):
    """The connection has a subscription to this channel."""

    code = 105
    message = "already subscribed"


class LimitExceeded(ProtocolError):
    """A limit of the connection, such as its number of channels, is reached."""

    code = 106
    message = "limit exceeded"


class BadRequest(ProtocolError):
    """The command is well-formed but its content is not acceptable."""

    code = 107
    message = "bad request"


class NotAvailable(ProtocolError):
    """The feature is switched off for this channel or server."""

    code = 108
    message = "not available"


class TokenExpired(ProtocolError):
    """The token is past its ``exp`` or before its ``nbf``; the client gets a new one."""

    code = 109
    message = "token expired"


class Expired(ProtocolError):
    """The credentials end in the past."""

    code = 110
    message = "expired"


class TooManyRequests(ProtocolError):
    """As many calls are under way as may be; one of them has to end first."""

    code = 111
    message = "too many requests"
    temporary = True


class UnrecoverablePosition(ProtocolError):
    """The stream no longer holds what follows the given position."""

    code = 112
    message = "unrecoverable position"


class BrokerUnavailable(InternalError):
    """Redis gave no answer within the deadline; whether it acted is not known."""
