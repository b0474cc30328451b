"""The gate's page: the run's own page with the decision, the ledger and the proposals in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from gate_pieces import accepted_place, results, write
from page_pieces import HOSTILE, folder_of, gate_of, run_of, small_results

from parity.pages import PAGE, render_page


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])


def section(page: str) -> str:
    found = re.search(r'<section class="card" id="gate".*?</section>', page, re.DOTALL)
    return found.group() if found else ""


def test_the_command_writes_the_decision_the_ledger_and_what_moved(tmp_path: Path) -> None:
    place = accepted_place(tmp_path)
    write(place.run, results(seed=7, drift=0.5))
    outcome = place.gate("--html", "gate.html")
    assert outcome.status == 1
    found = section((tmp_path / "gate.html").read_text(encoding="utf-8"))
    assert "Gate: drift" in re.sub(r"<[^>]+>", "", found)
    assert "the error grew" in found
    assert found.count('data-value="0.') > 2
    entries = outcome.stdout.count("ledger:")
    assert entries == 0
    assert re.search(r"margin 2 bits of conv \* f32 long offset</th><td[^>]*>known</td><td>Ada</td>", found)
    assert "baseline a2901f36ed203f6f/standard" in found


def test_proposals_stand_on_the_page_with_the_command_that_applies_them(tmp_path: Path) -> None:
    place = accepted_place(tmp_path)
    assert place.allow("drift", 3.0, "--component", "norm").status == 0
    write(place.run, results(seed=7))
    outcome = place.gate("--html", "gate.html")
    assert "proposal:" in outcome.stdout
    found = section((tmp_path / "gate.html").read_text(encoding="utf-8"))
    assert "Proposals to tighten" in found
    assert "parity baseline tighten RUN" in found


def test_the_page_that_a_run_writes_has_no_decision(tmp_path: Path) -> None:
    page = (folder_of(tmp_path / "run", small_results()) / PAGE).read_text(encoding="utf-8")
    assert section(page) == ""
    assert 'href="#gate"' not in page


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    place = accepted_place(tmp_path)
    write(place.run, results())
    outcome = place.gate("--html", str(tmp_path / "missing" / "gate.html"))
    assert (outcome.status, outcome.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "control"])
def test_a_hostile_name_stays_text(kind: str) -> None:
    run = run_of(small_results())
    tame, wild = (section(render_page(run, gate_of(name))) for name in ("alpha", HOSTILE[kind]))
    assert re.findall(r"<\w+", wild) == re.findall(r"<\w+", tame)
