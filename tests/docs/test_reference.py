"""The reference lists what the code has: no more, no less."""

import argparse
import dataclasses
import inspect
import json
import re
import time
from typing import Any

import prometheus_client
import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from api import problems, resources, schemas
from api.commands import BATCH
from api.methods import METHODS, NotFound
from realtime import handlers, metrics, rules
from realtime.conf import LEAST
from realtime.models import CHANNEL_METHODS, SERVER_METHODS, Namespace
from realtime.protocol import disconnects, errors
from realtime.protocol.disconnects import Disconnect, Unsubscribe
from realtime.protocol.errors import ProtocolError
from tests.docs.documents import code, document
from tests.support.servers import REPOSITORY
from upstreams import metrics as upstream_metrics
from upstreams.client import signature

COMMANDS = {
    path.stem
    for path in (REPOSITORY / "realtime/management/commands").glob("*.py")
    if path.stem != "__init__"
}


# Commands ---------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long options of a parser and of its subcommands, and these by name."""
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found |= {name} | options(sub)
        elif action.help != argparse.SUPPRESS:
            found |= {option for option in action.option_strings if option.startswith("--")}
    return found


def options_of_django() -> set[str]:
    return options(BaseCommand().create_parser("manage.py", "none"))


def test_every_command_has_a_section_and_a_row_in_the_readme():
    headings = set(re.findall(r"^## (\w+)$", document("docs/reference/commands.md").text, re.M))
    rows = [code(cell)[0] for cell, _ in document("README.md").table("Commands")]

    assert headings == COMMANDS
    assert sorted(rows) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_has_a_row(name: str):
    parser = load_command_class("realtime", name).create_parser("manage.py", name)

    rows = document("docs/reference/commands.md").table(name)

    listed = {code(cell)[0].split()[0] for cell, *_ in rows}
    assert {each for each in listed if each != "addrport"} == options(parser) - options_of_django()


# Server API -------------------------------------------------------------------------------------


def test_every_method_is_listed_with_its_fields():
    rows = document("docs/reference/server-api.md").table("Methods")

    listed = {code(method)[0]: set(code(fields)) for method, fields, _ in rows}

    forms: dict[str, Any] = {name: method.request_type for name, method in METHODS.items()}
    forms[BATCH] = schemas.BatchRequest
    assert listed == {name: set(form.__struct_fields__) for name, form in forms.items()}


# Resources --------------------------------------------------------------------------------------


def test_every_resource_is_listed_with_its_scope():
    paths = json.loads(json.dumps(resources.api.get_openapi_schema(path_prefix="/")))["paths"]
    rows = document("docs/reference/rest-api.md").table("List")

    described = {
        f"{verb.upper()} {path}": operation["description"]
        for path, operations in paths.items()
        for verb, operation in operations.items()
    }
    listed = {code(resource)[0]: code(scope)[0] for resource, scope, _ in rows}
    assert set(listed) == set(described)
    for resource, scope in listed.items():
        assert f"scope `{scope}`" in described[resource], resource


def test_every_field_of_a_publication_is_listed():
    rows = document("docs/reference/rest-api.md").table("Publish")

    listed = {code(field)[0] for field, _ in rows}
    assert listed == set(schemas.PublicationBody.__struct_fields__)


def test_every_problem_is_listed_with_its_status_and_code():
    of_code = {kind: str(number) for number, kind in problems.OF_CODE.items()}
    of_code[problems.UNAVAILABLE] = "100"
    kinds = [each for each in vars(problems).values() if isinstance(each, problems.Kind)]

    rows = document("docs/reference/rest-api.md").table("Problems")

    assert {code(name)[0]: (int(status), number[:3]) for name, status, number in rows} == {
        kind.name: (kind.status, of_code.get(kind, "")) for kind in {*kinds, *of_code}
    }


def test_every_scope_is_listed():
    rows = document("docs/how-to/api-keys.md").table("All scopes")

    with_pattern, without = (code(scopes) for _, scopes in rows)
    assert with_pattern == list(CHANNEL_METHODS)
    assert without == list(SERVER_METHODS)


# Handlers and metrics ---------------------------------------------------------------------------


def test_every_decorator_is_listed_with_its_parameters():
    modules = (handlers.__name__, rules.__name__)
    public = {
        name: inspect.signature(value)
        for name, value in vars(handlers).items()
        if inspect.isfunction(value) and value.__module__ in modules and not name.startswith("_")
    }

    rows = document("docs/reference/handlers.md").table("Decorators")

    listed = dict(re.fullmatch(r"(\w+)\(?(.*?)\)?", code(cell)[0]).groups() for cell, *_ in rows)
    assert set(listed) == set(public)
    for name, parameters in listed.items():
        if parameters:
            assert parameters == _written(public[name]), name


def _written(signature: inspect.Signature) -> str:
    parts = []
    for each in signature.parameters.values():
        star = "*" if each.kind is each.VAR_POSITIONAL else ""
        default = "" if each.default is each.empty else f"={each.default}"
        parts.append(f"{star}{each.name}{default}")
    return ", ".join(parts)


def test_every_attribute_of_a_connection_is_listed():
    fields = dataclasses.fields(handlers.Connection)

    rows = document("docs/reference/handlers.md").table("Connection")

    listed = [code(cell)[0] for cell, _ in rows]
    assert listed[:-1] == [each.name for each in fields if not each.name.startswith("_")]
    assert listed[-1] == "await connection.auser()"


def test_every_metric_is_listed():
    ours = {
        each._name + ("_total" if isinstance(each, prometheus_client.Counter) else "")
        for module in (metrics, upstream_metrics)
        for each in vars(module).values()
        if isinstance(each, prometheus_client.metrics.MetricWrapperBase)
    }

    rows = document("docs/reference/server-api.md").table("Metrics")

    assert {name for cell, _ in rows for name in code(cell)} == ours


def test_the_lines_that_check_a_signature_know_who_signed():
    lines: dict[str, Any] = {}
    exec(document("docs/reference/upstreams.md").block("python", "is_signed").text, lines)
    header = signature("a secret", b"body", now=int(time.time()))

    assert lines["is_signed"](header, b"body", "a secret")
    assert not lines["is_signed"](header, b"another", "a secret")
    assert not lines["is_signed"](header, b"body", "another")
    assert not lines["is_signed"](signature("a secret", b"body", now=1), b"body", "a secret")


# Codes ------------------------------------------------------------------------------------------


def of_type(kind: type) -> dict[int, str]:
    found = [each for each in vars(disconnects).values() if isinstance(each, kind)]
    return {each.code: each.reason for each in found}


@pytest.mark.rule("close-ranges")
def test_every_close_is_listed():
    rows = document("docs/reference/disconnect-codes.md").table("Closes")

    assert {int(code_): reason for code_, reason, *_ in rows} == of_type(Disconnect)
    for code_, _, comes_back, _ in rows:
        is_terminal = 3500 <= int(code_) < 4000 or 4500 <= int(code_) < 5000
        assert comes_back == ("no" if is_terminal else "yes"), code_


def test_every_unsubscribe_is_listed():
    rows = document("docs/reference/disconnect-codes.md").table("Unsubscribes")

    assert {int(code_): reason for code_, reason, *_ in rows} == of_type(Unsubscribe)
    for code_, _, comes_back, _ in rows:
        assert comes_back == ("yes" if int(code_) >= 2500 else "no"), code_


def test_the_other_wording_of_the_server_api_is_listed():
    rows = document("docs/reference/disconnect-codes.md").table("Errors")

    (when,) = [row[-1] for row in rows if row[0] == str(NotFound.code)]
    assert code(when) == [NotFound.message]


def test_every_error_is_listed():
    kinds = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, ProtocolError) and each is not ProtocolError
    ]

    rows = document("docs/reference/disconnect-codes.md").table("Errors")

    assert {(int(code_), message, again == "yes") for code_, message, again, _ in rows} == {
        (kind.code, kind.message, kind.temporary) for kind in kinds
    }


# Options and checks -----------------------------------------------------------------------------


@pytest.mark.rule("option-defaults-off")
def test_every_channel_option_is_listed_with_its_default():
    fields = [each for each in Namespace._meta.local_fields if each.name not in ("id", "name")]

    rows = document("docs/reference/channel-options.md").table("Channel options")

    words = {False: "off", "": "empty"}
    defaults = {each.name: each.get_default() for each in fields}
    assert {code(cell)[0]: default for cell, default, _ in rows} == {
        name: str(default) if type(default) is int else words[default]
        for name, default in defaults.items()
    }


def test_every_least_value_is_listed():
    rows = document("docs/reference/settings.md").table("Least values")

    listed = {name: least for cell, least, _ in rows[:-1] for name in code(cell)}
    every_other = rows[-1][1]
    assert {f"REALTIME_{name.upper()}": f"{least:g}" for name, least in LEAST.items()} == {
        f"REALTIME_{name.upper()}": listed.pop(f"REALTIME_{name.upper()}", every_other)
        for name in LEAST
    }
    assert listed == {}


def test_every_system_check_is_listed():
    sources = [
        path.read_text(encoding="utf-8")
        for package in ("realtime", "api", "dashboard", "upstreams", "project")
        for path in (REPOSITORY / package).rglob("checks.py")
    ]

    rows = document("docs/reference/settings.md").table("System checks")

    found = re.findall(r'id="(\w+\.[EW]\d+)"', "\n".join(sources))
    assert sorted(code(cell)[0] for cell, _ in rows) == sorted(found)
