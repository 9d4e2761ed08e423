"""Which test proves which rule of the protocol, and the table that says so.

``tests/protocol_rules.toml`` has the rules; a test names those that it proves by
``@pytest.mark.rule("id", ...)``. The tests are read as text, none is imported, so that the table
can be written where their fixtures cannot run.
"""

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RULES_PATH = REPOSITORY / "tests" / "protocol_rules.toml"
TABLE_PATH = REPOSITORY / "docs" / "reference" / "protocol.md"

_NOT_OURS = "node_modules"
_HEAD = """\
# Protocol rules and their tests

Every rule of Centrifugo's client protocol and server API that a client could notice, by section of
its description, and the tests that prove it. Where the server deviates on purpose the rule is its
own, and [the reasons](#deviations-and-improvements) are at the end.

`scripts/protocol-table` writes this page from `tests/protocol_rules.toml` and the markers
`@pytest.mark.rule("id")` of the tests. `tests/docs/test_protocol_table.py` fails when it is not
current, and when a rule loses its last test.
"""


class RuleError(Exception):
    """The rules, or the markers of the tests, contradict themselves."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What ``protocol_rules.toml`` says.

    Attributes:
        sections: Titles by number.
        rules: By section, then by id: one sentence each.
        ours: Reasons of the rules that are another, or do not exist, in the reference.
        open: Reasons of the rules that no test proves.
        later: Reasons of the rules that are for a later stage, or for none.
    """

    sections: Mapping[str, str]
    rules: Mapping[str, Mapping[str, str]]
    ours: Mapping[str, str]
    open: Mapping[str, str]
    later: Mapping[str, str]

    def ids(self) -> list[str]:
        """Return every id in the order of the file, as often as it is declared."""
        return [rule for rules in self.rules.values() for rule in rules]

    def sentences(self) -> dict[str, str]:
        """Return the sentence of each rule, by id."""
        return {rule: text for rules in self.rules.values() for rule, text in rules.items()}


Proofs = dict[str, list[str]]  # names of tests, by id of the rule


def read_rules(path: Path = RULES_PATH) -> Rules:
    """Read the rules.

    Raises:
        RuleError: An id is declared twice, or a list of reasons names one that is not declared.
    """
    try:
        rules = Rules(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise RuleError(f"{path.name}: {error}") from error
    known = rules.ids()
    if twice := {rule for rule in known if known.count(rule) > 1}:
        raise RuleError(f"declared twice: {', '.join(sorted(twice))}")
    for reasons in (rules.ours, rules.open, rules.later):
        if unknown := set(reasons) - set(known):
            raise RuleError(f"a reason for what is no rule: {', '.join(sorted(unknown))}")
    if list(rules.sections) != list(rules.rules):
        raise RuleError("the sections are not those of the rules")
    return rules


# Markers ----------------------------------------------------------------------------------------


def read_proofs(rules: Rules, folder: Path = REPOSITORY / "tests") -> Proofs:
    """Return the tests that prove each rule.

    Raises:
        RuleError: A test names a rule that is not declared, or its marker is not made of texts.
    """
    proofs: Proofs = {rule: [] for rule in rules.ids()}
    for path in sorted(folder.rglob("test_*.py")):
        if _NOT_OURS in path.parts:
            continue
        for test, proven in _tests_of(ast.parse(path.read_text(encoding="utf-8"))):
            name = f"{path.relative_to(folder.parent).as_posix()}::{test}"
            for rule in proven:
                if rule not in proofs:
                    raise RuleError(f"{name}: {rule!r} is no rule")
                if name not in proofs[rule]:
                    proofs[rule].append(name)
    return proofs


def _tests_of(module: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Return the name of each test and the rules that it proves."""
    values = dict(_assignments(module))
    inherited = _rules_in(values.get("pytestmark"), values)
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            of_class = inherited + _rules_of_decorators(node, values)
            of_class += _rules_in(dict(_assignments(node)).get("pytestmark"), values)
            for test, proven in _functions(node, values):
                yield f"{node.name}::{test}", of_class + proven
    for test, proven in _functions(module, values):
        yield test, inherited + proven


def _functions(
    parent: ast.Module | ast.ClassDef, values: Mapping[str, ast.expr]
) -> Iterator[tuple[str, list[str]]]:
    for node in parent.body:
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.name.startswith("test"):
            yield node.name, _rules_of_decorators(node, values)


def _assignments(parent: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for node in parent.body:
        if isinstance(node, ast.Assign):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            yield from ((name, node.value) for name in names)


def _rules_of_decorators(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, values: Mapping[str, ast.expr]
) -> list[str]:
    return [rule for each in node.decorator_list for rule in _rules_in(each, values)]


def _rules_in(node: ast.expr | None, values: Mapping[str, ast.expr]) -> list[str]:
    """Return the rules of all markers in an expression, and in what the names in it stand for."""
    found: list[str] = []
    for each in ast.walk(node) if node is not None else ():
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.rule":
            found += _texts_of(each)
        elif isinstance(each, ast.Name) and each.id in values:
            others = {name: value for name, value in values.items() if name != each.id}
            found += _rules_in(values[each.id], others)
    return found


def _texts_of(marker: ast.Call) -> list[str]:
    texts = [each.value for each in marker.args if isinstance(each, ast.Constant)]
    named = [text for text in texts if isinstance(text, str)]
    if marker.keywords or not marker.args or len(named) != len(marker.args):
        raise RuleError(f"{ast.unparse(marker)}: a marker has ids of rules, as texts")
    return named


# The table --------------------------------------------------------------------------------------


def render(rules: Rules, proofs: Proofs) -> str:
    """Return the page."""
    parts = [_HEAD, _counts(rules, proofs)]
    for number, title in rules.sections.items():
        rows = [_row(rules, proofs, rule) for rule in rules.rules[number]]
        parts.append(_table(f"{number} {title}", "id | rule | proven by", rows))
    sentences = rules.sentences()
    parts.append(
        _table(
            "Deviations and improvements",
            "id | here | why",
            [f"`{rule}` | {sentences[rule]} | {why}" for rule, why in rules.ours.items()],
        )
    )
    return "\n".join(parts)


def _counts(rules: Rules, proofs: Proofs) -> str:
    proven = sum(1 for tests in proofs.values() if tests)
    return (
        f"{len(proofs)} rules: {proven} proven, {len(rules.open)} open, "
        f"{len(rules.later)} for a later stage or not planned.\n"
    )


def _row(rules: Rules, proofs: Proofs, rule: str) -> str:
    proof = ", ".join(f"`{test}`" for test in proofs[rule])
    if rule in rules.open:
        proof = f"**open**: {rules.open[rule]}"
    elif rule in rules.later:
        proof = f"later: {rules.later[rule]}"
    return f"`{rule}` | {rules.sentences()[rule]} | {proof or '**open**'}"


def _table(title: str, head: str, rows: list[str]) -> str:
    lines = [head, "|".join(["---"] * 3), *rows]
    body = "\n".join(f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines)
    return f"## {title}\n\n{body}\n"
