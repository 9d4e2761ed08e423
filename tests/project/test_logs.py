"""Log lines: JSON for machines, readable for people, and no way to forge one."""

import io
import json
import logging
import logging.config

import pytest
import structlog
from django.test import RequestFactory

from project.logs import configuration


@pytest.fixture
def log_to():
    """Return a logger that writes into a text, configured as the settings would."""

    def make(*, is_terminal: bool) -> tuple[logging.Logger, io.StringIO]:
        config = configuration(is_terminal=is_terminal, has_colours=False)
        text = io.StringIO()
        formatter = dict(config["formatters"]["line"])
        handler = logging.StreamHandler(text)
        handler.setFormatter(formatter.pop("()")(**formatter))
        logger = logging.Logger("realtime.session")  # noqa: LOG001  # nobody else's
        logger.addHandler(handler)
        return logger, text

    yield make
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_its_fields(log_to):
    logger, text = log_to(is_terminal=False)

    logger.warning("closed %s", "a", extra={"code": 3501, "user": "42"})

    line = json.loads(text.getvalue())
    assert line["event"] == "closed a"
    assert line["level"] == "warning"
    assert line["logger"] == "realtime.session"
    assert (line["code"], line["user"]) == (3501, "42")
    assert "timestamp" in line


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_clients_words_cannot_forge_a_line(log_to, is_terminal):
    logger, text = log_to(is_terminal=is_terminal)

    logger.info("user %s", "x\n\x1b[31mforged\x9b", extra={"reason": "a\r\nb\u2028"})

    assert text.getvalue().count("\n") == 1
    assert "\x1b" not in text.getvalue()
    assert "\x9b" not in text.getvalue()
    assert "\r" not in text.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_traceback_is_kept_and_shows_no_local_variables(log_to, is_terminal):
    logger, text = log_to(is_terminal=is_terminal)
    hidden = "a token"

    try:
        raise ValueError("what went wrong")
    except ValueError:
        logger.exception("failed")

    assert "what went wrong" in text.getvalue()
    assert "test_logs.py" in text.getvalue()
    assert hidden not in text.getvalue()


def test_a_payload_that_is_no_json_does_not_lose_the_line(log_to):
    logger, text = log_to(is_terminal=False)

    logger.info("odd", extra={"what": {1, 2}})

    assert json.loads(text.getvalue())["event"] == "odd"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_request_that_django_hands_along_leaves_no_query(log_to, is_terminal):
    logger, text = log_to(is_terminal=is_terminal)
    request = RequestFactory().get("/nowhere", {"token": "a-secret"})

    logger.warning("Not Found: %s", request.path, extra={"request": request, "status_code": 404})

    assert "Not Found: /nowhere" in text.getvalue()
    assert "404" in text.getvalue()
    assert "a-secret" not in text.getvalue()
