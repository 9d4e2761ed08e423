"""What can be said of every document: its links lead somewhere, its code is of this project."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.docs.documents import Block, Document, code, documents
from tests.support.servers import REPOSITORY

EVERY = documents()
OURS = {name for name, app in get_commands().items() if app == "realtime"}
PACKAGES = {"realtime", "api", "dashboard", "upstreams", "project"}


def snippets(language: str) -> list:
    return [
        pytest.param(each, block, id=f"{each}:{block.line}")
        for each in EVERY
        for block in each.blocks(language)
    ]


@pytest.mark.parametrize("document", EVERY, ids=str)
def test_relative_links_lead_somewhere(document: Document):
    for link in document.links():
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        path = document.path.parent / target if target else document.path
        assert path.exists(), link
        if anchor:
            assert anchor in Document(path).anchors(), link


@pytest.mark.parametrize("document", EVERY, ids=str)
def test_lines_of_prose_are_short(document: Document):
    lines = [line for line in document.prose().splitlines() if not line.startswith("|")]

    assert [line for line in lines if len(line) > 120] == []


def test_each_part_of_the_changelog_is_one_list():
    (changelog,) = [each for each in EVERY if str(each) == "CHANGELOG.md"]

    assert re.findall(r"^[* ] .*\n\n\* .*", changelog.text, re.MULTILINE) == []


def test_every_document_is_reached_from_the_readme():
    reached: set[Path] = set()
    waiting = [next(each.path for each in EVERY if str(each) == "README.md")]
    while waiting:
        path = waiting.pop().resolve()
        if path in reached:
            continue
        reached.add(path)
        if path.is_dir():
            waiting += path.glob("*.md")
        elif path.suffix == ".md":
            links = [link.partition("#")[0] for link in Document(path).links()]
            waiting += [path.parent / link for link in links if link and "://" not in link]

    assert {each.path for each in EVERY} <= reached


def test_contributors_are_sent_to_files_that_exist():
    (contributing,) = [each for each in EVERY if str(each) == "CONTRIBUTING.md"]

    for name in code(contributing.prose()):
        if "/" in name and " " not in name:
            assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize(("document", "block"), snippets("python"))
def test_python_uses_names_that_exist(document: Document, block: Block):
    for node in ast.walk(ast.parse(block.text)):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.partition(".")[0] in PACKAGES:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module}.{name.name}"


@pytest.mark.parametrize(("document", "block"), snippets("sh"))
def test_shell_uses_commands_and_options_that_exist(document: Document, block: Block):
    for name, arguments in re.findall(r"manage\.py (\w+)([^\n)]*)", block.text):
        assert name in get_commands() or f"{name}.py" in document.text, name
        if name in OURS:
            command = load_command_class("realtime", name)
            command.create_parser("manage.py", name).parse_args(shlex.split(arguments))


@pytest.mark.parametrize(("document", "block"), snippets("sh"))
def test_make_has_the_targets_that_are_named(document: Document, block: Block):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")

    for target in re.findall(r"\bmake (\w+)$", block.text, re.MULTILINE):
        assert re.search(rf"^([\w ]+ )?{target}( [\w ]+)?:", makefile, re.MULTILINE), target
