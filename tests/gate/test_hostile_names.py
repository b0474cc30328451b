"""Names that are meant to do harm: as a component, a profile, a tensor, a family they stay inside the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from gate_pieces import SEEDS, Place, bits_of, results, write
from harness_pieces import filled_row, invoke

from parity.accuracy import Ratio, Stratum, judge_ratios
from parity.results import Digest, Results

NAMES = {
    "script": "<script>alert(1)</script>",
    "parent folder": "../../../../tmp/escaped",
    "absolute path": "/tmp/escaped",
    "long": "x" * 10_000,
    "emoji": "\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{RIGHT-TO-LEFT OVERRIDE}",
    "newline": "a\nb\r\n| c |\n# d",
    "formula": "=cmd|' /C calc'!A0",
    "quote": "'; DROP TABLE runs; --",
    "markup": "[bold red]x[/] `a` | b",
    "star": "*",
    "empty": "",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["parity"])


def named(name: str, seed: int) -> Results:
    """A run all of whose names are this one."""
    found = results(seed)
    found.rows = [filled_row(component=name, rung="f32", profile=name, tensor=name)]
    stratum = Stratum(name, name, "f32", name, name)
    bits = bits_of(Stratum("conv", "canonical", "f32", "short", "normal"), seed)
    assessment = judge_ratios(stratum, 1.0, [Ratio(value, False, "{}") for value in bits])
    found.assessments = [type(assessment)(**{**vars(assessment), "bits": tuple(bits), "port_bits": tuple(bits)})]
    found.digests = [Digest(name, name, "f32", f"cases{seed}", {name: "same"})]
    found.fidelity = []
    return found


@pytest.mark.parametrize("kind", NAMES)
def test_a_hostile_name_goes_through_all_commands_and_leaves_no_file_elsewhere(kind: str, tmp_path: Path) -> None:
    name = NAMES[kind]
    place = Place(tmp_path / "work")
    runs = [write(place.root / f"r{seed}", named(name, seed)) for seed in SEEDS]
    assert place.accept(*runs).status == 0
    assert list(json.loads(place.baseline.read_text())["environments"].popitem()[1]["components"]) == [name]
    write(place.run, named(name, 0))
    page, plot = place.root / "gate.md", place.root / "plot.html"
    outcome = place.gate("--markdown", str(page))
    assert outcome.status == 0, outcome.stdout
    assert "same bits" in outcome.stdout
    assert invoke("baseline", "show", *place.files).status == 0
    shown = invoke("history", "--history", str(place.history), "--plot", str(plot), "--", name)
    assert shown.status == 0, shown.stderr
    assert all(len(line) < 20_000 for line in (outcome.stdout + shown.stdout).splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]
    expected = {"baseline.json", "ledger.json", "history.sqlite", "gate.md", "plot.html", "run"}
    assert {path.name for path in place.root.iterdir()} == expected | {f"r{seed}" for seed in SEEDS}
    assert not Path("/tmp/escaped").exists()
    assert "<script>alert" not in page.read_text(encoding="utf-8")
    assert "<script>alert" not in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", NAMES)
def test_a_hostile_name_leaves_every_table_as_it_is(kind: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "work")
    assert place.accept(*(write(place.root / f"r{seed}", named(NAMES[kind], seed)) for seed in SEEDS)).status == 0
    found = named(NAMES[kind], 0)
    found.digests = [Digest(NAMES[kind], NAMES[kind], "f32", "cases0", {NAMES[kind]: "moved"})]
    write(place.run, found)
    page = place.root / "gate.md"
    outcome = place.gate("--markdown", str(page))
    assert outcome.status == 1
    assert len(outcome.stdout.splitlines()) == 2
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("# ")] == ["# Gate: drift"]
    tables = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|")]
    assert set(tables) <= {4, 7}
