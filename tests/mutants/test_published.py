"""The published table: that of the whole catalogue as it stands, and what README quotes of it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from parity.suites.m2_bert_mutants import MUTANTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "reports" / "mutants" / "mutants.md").read_text(encoding="utf-8")


def test_the_table_has_a_row_for_every_mutant_and_every_component_as_it_stands() -> None:
    with (ROOT / "reports" / "mutants" / "mutants.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    components = {mutant.component for mutant in MUTANTS}
    assert list(rows) == [
        *(mutant.name for mutant in MUTANTS),
        *(name for name in rows if name.removeprefix("unchanged:") in components),
    ]
    assert {name.removeprefix("unchanged:") for name in rows if name.startswith("unchanged:")} == components
    for mutant in MUTANTS:
        row = rows[mutant.name]
        assert bool(row["f64_killed"] or row["f32_killed"]) == (not mutant.equivalent), mutant.name
        assert row["f32_killed"] or mutant.unseen_at_f32 or mutant.equivalent, mutant.name


def test_the_published_session_passed() -> None:
    wrong = [mutant for mutant in MUTANTS if not mutant.equivalent]
    assert re.search(rf"^\* PASS: {len(wrong)} mutants, \d+ that compute the same$", PAGE, re.MULTILINE)
    assert "COMPLAINT" not in PAGE


def test_readme_quotes_the_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `nox -s mutants` \| (.+) \|$", readme, re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", row)
    assert len(quoted) >= 4
    assert [line for line in quoted if f"* {line}\n" not in PAGE] == []
