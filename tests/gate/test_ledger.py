"""Ledger and acceptance: what is written, refused, tightened; nothing is written over that cannot be read."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gate_pieces import OTHER_FINGERPRINT, SEEDS, Place, accepted_place, failing, results, without, write
from harness_pieces import invoke
from situations import F32

from parity.accuracy import Stratum
from parity.cases import STRATUM_FAMILIES
from parity.gate.baseline import read_baseline
from parity.gate.ledger import read_ledger
from parity.suites import PAIRS
from parity.tolerance import constant

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return accepted_place(tmp_path)


def bytes_of(place: Place) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place.baseline, place.ledger)}


def test_a_proposal_is_applied_by_the_command_and_the_gate_still_passes(place: Place) -> None:
    write(place.run, results(7, drift=0.5, only=lambda s: s.component == "conv"))
    assert place.allow("drift", 3.5, *F32).status == 0
    assert "proposal: tighten drift 3.5 bits" in place.gate().stdout
    write(place.run, results(7))
    outcome = invoke("baseline", "tighten", str(place.run), *place.files)
    assert outcome.status == 0, outcome.stderr
    left = [entry for entry in read_ledger(place.ledger).entries if entry.kind == "drift"]
    assert all(entry.bits is not None and entry.bits < 3.5 and entry.changes for entry in left)
    again = place.gate()
    assert again.status == 0
    assert "proposal" not in again.stdout


def test_tightening_reads_nothing_off_a_run_that_does_not_pass(place: Place) -> None:
    write(place.run, failing(results()))
    before = bytes_of(place)
    outcome = invoke("baseline", "tighten", str(place.run), *place.files)
    assert outcome.status == 2
    assert "does not pass" in outcome.stderr
    assert bytes_of(place) == before


def with_meta(seed: int, **changes: Any) -> Any:
    found = results(seed)
    found.meta |= changes
    return found


REFUSED = {
    "a run that failed": ([failing(results(0))], "absolute allowance"),
    "two runs of one seed": ([results(0), results(0)], "same seed"),
    "runs of two environments": ([results(0), with_meta(1, fingerprint="0" * 16)], "fingerprint"),
    "a run of other code": ([with_meta(0, code="0" * 16)], "stale"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_accepted_changes_no_file(name: str, place: Place) -> None:
    given, word = REFUSED[name]
    before = bytes_of(place)
    outcome = place.accept(*(write(place.root / f"new{index}", each) for index, each in enumerate(given)))
    assert outcome.status == 2
    assert word in outcome.stderr
    assert bytes_of(place) == before


@pytest.mark.parametrize("file", ["baseline.json", "ledger.json"])
def test_a_broken_file_is_never_written_over(file: str, place: Place) -> None:
    (place.root / file).write_text("<<<<<<< HEAD", encoding="utf-8")
    before = bytes_of(place)
    outcome = place.accept(write(place.run, results(0)), more=("--smaller",))
    assert outcome.status == 2
    assert "not JSON" in outcome.stderr
    assert bytes_of(place) == before


def test_accepting_again_keeps_the_older_entry_and_the_newer_one_rules(place: Place) -> None:
    assert place.accept(write(place.run, results(5)), more=("--smaller",)).status == 0
    ledger = read_ledger(place.ledger)
    assert len(ledger.of("baseline")) == 2
    assert len([entry for entry in ledger.ruling() if entry.kind == "baseline"]) == 1
    assert place.gate().status == 0


def test_the_baseline_is_the_same_bytes_for_the_same_runs_and_one_stratum_is_one_line(place: Place) -> None:
    before = place.baseline.read_bytes()
    runs = [place.root / f"accepted{seed}" for seed in (0, 1, 2, 3)]
    assert place.accept(*runs).status == 0
    assert place.baseline.read_bytes() == before
    assert len(before) < 6_000
    assert any(line.strip().startswith('"offset": [24, 6, ') for line in before.decode().splitlines())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((1.0, *F32, "--expires", "soon"), "--expires"),
        ((1.0, *F32, "--expires", "2001-01-01"), "--expires"),
        ((1.0, *F32, "--expires", "2999-12-31"), "more than 400 days"),
        ((0.0, *F32), "greater"),
        ((1000.0, *F32), "less than or equal to 4"),
        ((1.0,), "and not everything"),
        ((1.0, "--family", "normal"), "and not everything"),
    ],
)
def test_an_entry_that_is_none_is_refused(options: tuple[Any, ...], word: str, place: Place) -> None:
    before = bytes_of(place)
    outcome = place.allow("drift", *options)
    assert outcome.status == 2
    assert word in outcome.stderr
    assert bytes_of(place) == before


@pytest.mark.parametrize("bits", ["nan", "inf", "-1", "0"])
def test_bits_that_are_no_allowance_are_refused_in_one_line(bits: str, place: Place) -> None:
    before = bytes_of(place)
    outcome = place.allow("drift", float(bits))
    assert outcome.status == 2
    assert outcome.stderr.startswith("parity: --bits is a finite number greater than zero; got ")
    assert len(outcome.stderr.splitlines()) == 1
    assert bytes_of(place) == before


def test_the_decision_is_json_and_markdown_too(place: Place) -> None:
    write(place.run, results(7, drift=0.5))
    page = place.root / "gate.md"
    outcome = place.gate("--json", "--markdown", str(page))
    assert outcome.status == 1
    document = json.loads(outcome.stdout)
    assert (document["schema"], document["verdict"], document["exit_code"]) == (1, "drift", 1)
    assert document["drifts"][0]["percent"] == pytest.approx(41.4, abs=8)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Gate: drift")
    assert [heading for heading in ("## What moved", "## Ledger") if heading not in text] == []
    assert "| Ada |" in text


def test_the_baseline_is_shown_with_what_it_resolves(place: Place) -> None:
    outcome = invoke("baseline", "show", *place.files)
    assert outcome.status == 0
    assert "conv canonical f32: margin 0." in outcome.stdout
    assert "% of the error" in outcome.stdout
    assert "Ada" in outcome.stdout


def test_the_projects_ledger_answers_for_every_margin_that_departs_from_the_standard() -> None:
    entries = read_ledger(ROOT / "reports" / "ledger.json").of("margin")
    answered = set()
    for pair in PAIRS:
        for sizes in pair.strata:
            for rung in ("f32", "bf16", "f16"):
                for family in STRATUM_FAMILIES:
                    stratum = Stratum(pair.name, "canonical", rung, sizes.name, family)
                    margin = constant(sizes.margin(rung, family))
                    covering = [entry for entry in entries if entry.covers(stratum)]
                    if margin > constant("margin"):
                        assert [entry.bits for entry in covering] == [margin], stratum
                        answered.update(entry.title for entry in covering)
    assert answered == {entry.title for entry in entries}


def test_another_fallback_leaves_somebody_who_answers_for_the_first(tmp_path: Path) -> None:
    place = accepted_place(tmp_path, fallback=True)
    write(place.run, results(0))
    assert place.gate().status == 0
    elsewhere = []
    for seed in SEEDS:
        found = results(seed)
        found.meta["fingerprint"] = OTHER_FINGERPRINT
        elsewhere.append(write(place.root / f"else{seed}", found))
    assert place.accept(*elsewhere, more=("--fallback",)).status == 0
    outcome = place.gate()
    assert outcome.status == 0, outcome.stdout
    keys = read_baseline(place.baseline).environments
    assert [key for key, record in keys.items() if record.fallback] == [f"{OTHER_FINGERPRINT}/standard"]


def test_less_than_was_accepted_is_accepted_only_where_that_is_said(place: Place) -> None:
    before = bytes_of(place)
    fewer = [place.root / f"accepted{seed}" for seed in SEEDS[:2]]
    lost = [write(place.root / f"lost{seed}", without(results(seed), component="norm")) for seed in SEEDS]
    for runs, word in (
        (fewer, "2 runs would take the place of 4"),
        (lost, "3 groups would be lost, the first is norm"),
    ):
        outcome = place.accept(*runs)
        assert outcome.status == 2
        assert word in outcome.stderr
        assert "--smaller" in outcome.stderr
        assert bytes_of(place) == before
    assert place.accept(*fewer, more=("--smaller",)).status == 0


def test_the_bits_of_every_accepted_seed_are_kept(place: Place) -> None:
    for seed in SEEDS:
        found = results(seed)
        write(place.run, found)
        assert "same bits" in place.gate().stdout.splitlines()[-1]
        first = found.digests[0]
        found.digests[0] = replace(first, tensors={**first.tensors, "h": "moved"})
        write(place.run, found)
        outcome = place.gate()
        assert outcome.status == 1
        assert "other bits" in outcome.stdout


def test_an_allowance_of_one_stratum_loosens_neither_its_group_nor_another(place: Place) -> None:
    at = (*F32, "--length-class", "long", "--family", "normal")
    assert place.allow("drift", 2.0, *at).status == 0
    write(place.run, results(7, drift=0.7))
    outcome = place.gate()
    assert outcome.status == 1
    assert "error grew: conv canonical f32: " in outcome.stdout
    assert "error grew: conv canonical f32 short, normal" in outcome.stdout
    assert "error grew: conv canonical f32 long, normal" not in outcome.stdout


def test_the_command_for_a_margin_that_nobody_answers_for_makes_the_gate_pass(place: Place) -> None:
    entries = json.loads(place.ledger.read_text(encoding="utf-8"))
    entries["entries"] = [entry for entry in entries["entries"] if entry["kind"] != "margin"]
    place.ledger.write_text(json.dumps(entries), encoding="utf-8")
    write(place.run, results(0))
    outcome = place.gate()
    assert outcome.status == 1
    (command,) = re.findall(r"`parity (baseline allow margin .*) --reason \.\.\.`", outcome.stdout)
    signature = ("--reason", "known", "--author", "Ada", "--link", "https://example.org/3")
    assert invoke(*shlex.split(command), *signature, "--ledger", str(place.ledger)).status == 0
    assert place.gate().status == 0
