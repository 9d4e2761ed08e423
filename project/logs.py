"""How log lines look: one JSON object a line, or a readable line on a terminal.

Called by ``settings.py``. Ordinary ``logging`` calls and structlog's go the same way; the fields of
``extra=`` become fields of the line.
"""

import logging
import re
import traceback
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What every record has; the rest is ``extra=``.
_OF_RECORDS: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_to_json = msgspec.json.Encoder(enc_hook=str).encode


class JsonLines(logging.Formatter):
    """One JSON object a line.

    By hand: a busy server writes two lines for each connection, and structlog's own formatter
    takes a tenth of all that a connection costs.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, with the fields of its ``extra=``."""
        fields = {name: value for name, value in vars(record).items() if name not in _OF_RECORDS}
        fields.pop("request", None)  # see ``without_request``
        event: dict[str, Any] = {
            "event": record.getMessage(),
            **structlog.contextvars.get_contextvars(),
            **fields,
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        for name, value in event.items():
            if isinstance(value, str) and _CONTROL.search(value):
                event[name] = _escaped(value)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = self.formatStack(record.stack_info)
        return _json_of(event)


def _json_of(event: dict[str, Any]) -> str:
    try:
        return _to_json(event).decode()
    except (TypeError, ValueError, RecursionError):
        # Such as a lone surrogate, or keys that are no texts: told in Python's words.
        return _to_json({name: ascii(value) for name, value in event.items()}).decode()


def escape_control_characters(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make control characters visible, so that a client's words cannot forge or colour a line."""
    return {
        key: _escaped(value) if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }


def without_request(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop the request that Django hands along: its text ends with the query, tokens included.

    The path is in the message itself.
    """
    event.pop("request", None)
    return event


def configuration(*, is_terminal: bool, has_colours: bool) -> dict[str, Any]:
    """Return ``LOGGING`` and set structlog up to go through it."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        logger_factory=logging.getLogger,
        cache_logger_on_first_use=True,
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": _for_terminal(has_colours=has_colours) if is_terminal else {"()": JsonLines}
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Its own handlers would say the same a second time.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "daphne": {"level": "WARNING"},
        },
    }


def _for_terminal(*, has_colours: bool) -> dict[str, Any]:
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
        structlog.stdlib.ExtraAdder(),
        without_request,
    ]
    return {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": before,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            escape_control_characters,
            structlog.dev.ConsoleRenderer(colors=has_colours, exception_formatter=_write_traceback),
        ],
    }


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    # A plain one: structlog's pretty one prints local variables, tokens among them.
    for line in traceback.format_exception(*exc_info):
        out.write("\n" + "\n".join(map(_escaped, line.rstrip("\n").split("\n"))))


def _escaped(value: str) -> str:
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), value)
