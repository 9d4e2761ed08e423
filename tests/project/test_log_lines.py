"""Lines for machines: whatever is logged, and however, is one JSON object."""

import io
import json
import logging

import pytest
import structlog

from project.logs import JsonLines, configuration


@pytest.fixture
def text():
    return io.StringIO()


@pytest.fixture
def logger(text):
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("realtime.session")  # noqa: LOG001  # nobody else's
    logger.addHandler(handler)
    return logger


def line_of(text):
    assert text.getvalue().count("\n") == 1
    return json.loads(text.getvalue())


@pytest.mark.parametrize(
    "value", ["\ud800", {1: "a", (2, 3): "b"}, float("nan"), object, b"\xff", "é\n", 2**70]
)
def test_whatever_is_logged_is_a_line(logger, text, value):
    logger.info("odd %s", "thing", extra={"value": value})

    line = line_of(text)
    assert "odd thing" in line["event"]
    assert "value" in line


def test_a_line_has_what_was_given_and_nothing_of_the_record(logger, text):
    logger.info("connected", extra={"client": "c", "user": "u"})

    assert line_of(text).keys() == {"event", "client", "user", "level", "logger", "timestamp"}


def test_the_time_is_that_of_the_record_in_utc(logger, text):
    record = logger.makeRecord("x", logging.INFO, "", 0, "event", (), None)
    record.created = 1_700_000_000.5
    logger.handle(record)

    assert line_of(text)["timestamp"].startswith("2023-11-14T22:13:20.5")


def test_a_stack_is_kept(logger, text):
    logger.info("here", stack_info=True)

    assert "test_log_lines.py" in line_of(text)["stack"]


def test_what_was_bound_for_a_while_is_in_the_line(logger, text):
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logger.info("event")

    assert line_of(text)["request_id"] == "r1"


def test_the_loggers_of_structlog_write_the_same_lines(logger, text):
    configuration(is_terminal=False, has_colours=False)
    try:
        structlog.wrap_logger(logger).warning("closed %s", "a", code=3501)
    finally:
        structlog.reset_defaults()

    line = line_of(text)
    assert (line["event"], line["code"], line["level"]) == ("closed a", 3501, "warning")
    assert line["logger"] == "realtime.session"
