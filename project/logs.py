"""How log lines look: one JSON object a line, or a readable line on a terminal.

Called by ``settings.py``. Ordinary ``logging`` calls and structlog's go the same way; the fields of
``extra=`` become fields of the line.
"""

import re
import traceback
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=not is_terminal),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    last = _for_terminal(has_colours=has_colours) if is_terminal else _for_machines()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder(), without_request],
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *last,
                ],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Its own handlers would say the same a second time.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "daphne": {"level": "WARNING"},
        },
    }


def _for_machines() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        escape_control_characters,
        structlog.processors.JSONRenderer(default=str),
    ]


def _for_terminal(*, has_colours: bool) -> list[Processor]:
    return [
        escape_control_characters,
        structlog.dev.ConsoleRenderer(colors=has_colours, exception_formatter=_write_traceback),
    ]


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    # A plain one: structlog's pretty one prints local variables, tokens among them.
    for line in traceback.format_exception(*exc_info):
        out.write("\n" + "\n".join(map(_escaped, line.rstrip("\n").split("\n"))))


def _escaped(value: str) -> str:
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), value)
