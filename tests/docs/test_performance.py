"""The page of figures says what the stored run says."""

import re

from bench import page, report
from bench.budgets import judge

TEXT = page.PAGE.read_text(encoding="utf-8")
RESULTS = report.read(page.source(TEXT))


def test_tables_are_those_of_the_results():
    assert page.rewritten(TEXT, RESULTS) == TEXT


def test_every_table_of_the_results_is_on_the_page():
    named = set(re.findall(r"<!-- bench: ([^>]+) -->", TEXT))

    assert named == set(page.tables(RESULTS))


def test_every_picture_is_on_the_page():
    assert set(re.findall(r"\(img/([^)]+)\)", TEXT)) == {
        each.name for each in page.PICTURES.iterdir()
    }


def test_the_run_judged_and_met_every_must():
    assert not RESULTS["is_quick"]
    assert [each.budget.title for each in judge(RESULTS) if not each.is_met] == []


def test_results_name_neither_hosts_nor_paths():
    text = page.source(TEXT).read_text(encoding="utf-8")

    assert re.findall(r"(?:/home|/root|/tmp|/work|/usr/local)/\S*", text) == []
