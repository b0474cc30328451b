"""The table of situations: each one's exit status and word, and the same table in the documentation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from gate_pieces import accepted_place
from situations import SITUATIONS, Situation

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_each_situation_has_its_status_and_its_word(situation: Situation, tmp_path: Path) -> None:
    place = accepted_place(tmp_path, situation.fallback)
    situation.prepare(place)
    outcome = place.gate(*situation.options)
    said = outcome.stdout + outcome.stderr
    assert outcome.status == situation.status, said
    assert situation.word in said
    if situation.status == 2:
        assert len(outcome.stderr.splitlines()) == 1
        assert outcome.stdout == ""


def test_every_refusal_has_words_of_its_own(tmp_path: Path) -> None:
    first = {}
    for index, situation in enumerate(each for each in SITUATIONS if each.status in (2, 3)):
        root = tmp_path / str(index)
        root.mkdir()
        place = accepted_place(root, situation.fallback)
        situation.prepare(place)
        outcome = place.gate()
        said = (outcome.stdout + outcome.stderr).replace(str(root), "").splitlines()[0]
        first[situation.name] = said
    assert len(set(first.values())) == len(first), first


def test_the_table_in_the_documentation_is_the_table_of_the_tests() -> None:
    page = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (\d) \| (.+?) \|$", page.partition("## Situations")[2], re.MULTILINE)
    assert rows == [(each.name, str(each.status), each.word) for each in SITUATIONS]
    assert len(rows) >= 25
