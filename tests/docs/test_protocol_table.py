"""The table of protocol rules is current, and what is not proven is said to be open."""

import re
from pathlib import Path

import pytest

from tests.support import protocol_rules
from tests.support.protocol_rules import RuleError, Rules, read_proofs, read_rules, render

CURED_BY = "run .venv/bin/python scripts/protocol-table"
SECTIONS = ["1.", "2.", "3", "4.", "5", "6.", "7.", "8.", "15."]


@pytest.fixture(scope="module")
def rules() -> Rules:
    return read_rules()


@pytest.fixture(scope="module")
def proofs(rules: Rules) -> protocol_rules.Proofs:
    return read_proofs(rules)


def test_the_table_is_current(rules, proofs):
    assert protocol_rules.TABLE_PATH.read_text() == render(rules, proofs), CURED_BY


def test_exactly_the_rules_without_a_test_are_called_open(rules, proofs):
    unproven = {rule for rule, tests in proofs.items() if not tests}

    assert unproven - set(rules.later) == set(rules.open)
    assert set(rules.later) <= unproven


def test_ids_are_short_words_and_every_rule_is_one_sentence(rules):
    for rule, sentence in rules.sentences().items():
        assert len(rule) <= 60
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", rule), rule
        assert sentence.endswith(".")
        assert "|" not in sentence


@pytest.mark.parametrize("beginning", SECTIONS)
def test_every_section_of_the_protocol_has_rules(rules, beginning):
    assert any(rules.rules[number] for number in rules.sections if number.startswith(beginning))


# How markers are read ---------------------------------------------------------------------------


@pytest.fixture
def proven(tmp_path: Path):
    """Return a reader of the tests that a file of tests proves the rules one and two by."""
    rules = Rules({"1": "A"}, {"1": {"one": "One.", "two": "Two."}}, {}, {}, {})

    def proven(text: str) -> protocol_rules.Proofs:
        folder = tmp_path / "tests"
        folder.mkdir()
        (folder / "test_x.py").write_text(text)
        return read_proofs(rules, folder)

    return proven


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.rule("one")\ndef test_a(): pass\n',
        '@pytest.mark.rule("one")\nasync def test_a(): pass\n',
        'pytestmark = pytest.mark.rule("one")\ndef test_a(): pass\n',
        'pytestmark = [pytest.mark.slow, pytest.mark.rule("one")]\ndef test_a(): pass\n',
        'R = pytest.mark.rule("one")\n@R\ndef test_a(): pass\n',
        '@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.rule("one"))])\n'
        "def test_a(n): pass\n",
        'CASES = [pytest.param(1, marks=pytest.mark.rule("one"))]\n'
        '@pytest.mark.parametrize("n", CASES)\ndef test_a(n): pass\n',
    ],
)
def test_a_marker_is_found_where_pytest_would_find_it(proven, text):
    assert proven(text) == {"one": ["tests/test_x.py::test_a"], "two": []}


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.rule("one")\nclass TestX:\n'
        '  @pytest.mark.rule("two")\n  def test_a(self): pass\n',
        'class TestX:\n  pytestmark = pytest.mark.rule("one", "two")\n  def test_a(self): pass\n',
    ],
)
def test_a_class_passes_its_markers_on(proven, text):
    name = "tests/test_x.py::TestX::test_a"

    assert proven(text) == {"one": [name], "two": [name]}


def test_what_is_no_test_proves_nothing(proven):
    text = '@pytest.mark.rule("one")\ndef a(): pass\ndef test_b(): pass\n'

    assert proven(text) == {"one": [], "two": []}


@pytest.mark.parametrize("marker", ['rule("three")', "rule()", "rule(ONE)", 'rule(id="one")'])
def test_a_marker_that_names_no_rule_is_an_error(proven, marker):
    with pytest.raises(RuleError):
        proven(f"@pytest.mark.{marker}\ndef test_a(): pass\n")


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ('[rules.1]\na = "A."\na = "B."\n[rules.2]\n', "1:|overwrite|line"),
        ('[rules.1]\na = "A."\n[rules.2]\na = "B."\n', "declared twice: a"),
        ('[rules.1]\na = "A."\n[rules.2]\n[open]\nb = "why"\n', "no rule: b"),
        ('[rules.1]\na = "A."\n', "sections"),
    ],
)
def test_rules_that_contradict_themselves_are_an_error(tmp_path, rules, problem):
    path = tmp_path / "rules.toml"
    lists = "".join(f"[{name}]\n" for name in ("ours", "open", "later") if name not in rules)
    path.write_text(f'[sections]\n1 = "X"\n2 = "Y"\n{rules}{lists}')

    with pytest.raises(RuleError, match=problem):
        read_rules(path)
