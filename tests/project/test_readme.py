"""The README's tables say what the code reads and what the tests run with."""

import ast
import json
import re
from collections import Counter
from dataclasses import fields

from project import engine
from realtime.conf import Settings
from tests.docs.documents import code, document
from tests.support.servers import REPOSITORY

READERS = {"text", "words", "flag", "number", "path", "secret"}


def variables_of_settings() -> set[str]:
    """Return the variables that ``settings.py`` reads by name."""
    tree = ast.parse((REPOSITORY / "project/settings.py").read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in READERS and getattr(node.func.value, "id", "") == "env":
            assert isinstance(node.args[0], ast.Constant)
            name = node.args[0].value
            found |= {name, f"{name}_FILE"} if node.func.attr == "secret" else {name}
    return found


def rows_of_settings() -> list[list[str]]:
    return document("README.md").table("Settings")


def test_every_variable_has_exactly_one_row():
    rows = Counter(code(cell)[0] for cell, *_ in rows_of_settings())

    assert rows == Counter(variables_of_settings() | engine.variables())


def test_every_row_says_what_its_variable_means():
    assert [cell for cell, _, meaning in rows_of_settings() if not meaning] == []


def test_defaults_of_the_engine_are_those_of_the_code():
    listed = {code(cell)[0]: default for cell, default, _ in rows_of_settings()}

    for field in fields(Settings):
        if isinstance(field.default, int | float):
            assert listed[f"REALTIME_{field.name.upper()}"] == str(
                int(field.default) if isinstance(field.default, bool) else field.default
            )


def test_versions_are_those_that_the_tests_run_with():
    rows = document("README.md").table("Compatibility")
    listed = {name: version for cell, version in rows for name in code(cell)}
    pins = (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", pins, re.MULTILINE))
    package = json.loads((REPOSITORY / "tests/sdk/package.json").read_text(encoding="utf-8"))

    assert listed["centrifuge-python"] == pinned["centrifuge-python"]
    assert listed["cent"] == pinned["cent"]
    assert listed["centrifuge"] == package["dependencies"]["centrifuge"]


def test_versions_of_the_run_time_are_those_that_are_pinned():
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    listed = dict(document("README.md").table("Compatibility"))

    assert listed["Django"].split()[0] == ".".join(pinned["Django"].split(".")[:2])
    names = ("channels", "channels-redis", "daphne")
    minors = [".".join(pinned[name].split(".")[:2]) for name in names]
    assert listed["Channels, channels-redis, Daphne"] == ", ".join(minors)
