"""SECURITY.md promises nothing that no test holds: every test that it names is there, and its figures are the tests'."""

from __future__ import annotations

import re
from pathlib import Path

from attacks import PAGES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", TEXT))
    assert len(named) >= 10
    absent = [name for name in sorted(named) if not (ROOT / "tests" / name).is_file() and not (ROOT / name).is_file()]
    assert absent == []


def test_every_promise_has_a_test() -> None:
    part = TEXT.split("## What is promised")[1].split("### The service")[0]
    rows = [row for row in part.splitlines() if row.startswith("| ") and not row.startswith(("| promise", "| ---"))]
    assert len(rows) >= 17
    assert [row for row in rows if not re.search(r"`\w+/test_\w+\.py`", row.rsplit("|", 2)[1])] == []


def test_the_number_of_attacks_is_the_tests() -> None:
    found = re.search(r"(\d+) cross-site-scripting strings", TEXT)
    assert found is not None
    assert int(found[1]) == len(PAGES)


def test_others_lead_here() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(../SECURITY.md)" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
