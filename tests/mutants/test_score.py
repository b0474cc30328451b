"""The score: every way in which a session must fail, shown failing; and its files, whole or not there."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.errors import OutputError
from parity.mutants.score import Score
from parity.mutants.table import MUTANT_FILES, csv_text, files, page, prepare_files, summary_lines, write_files
from parity.mutants.trial import Finding, Outcome

FINE = Finding("f64", "tensor", 1e6, "act", 1, 0.5, "f64: act: rms error is 1e6 times what is allowed")
COARSE = replace(FINE, rung="f32", margin=40.0)
MUTANT = Outcome("gelu-tanh", "tanh | erf", "a habit", "mlp", "arithmetic", "", "", (FINE, COARSE), "behaves as if: x")
PASSED = tuple(Finding(rung, margin=0.1) for rung in ("f64", "f32", "bf16", "f16"))
SAME = replace(MUTANT, name="swap", equivalent="products commute", findings=PASSED, attribution="")


def mutant(
    name: str = "one", fine: dict[str, Any] | None = None, coarse: dict[str, Any] | None = None, **more: Any
) -> Outcome:
    findings = replace(FINE, **fine or {}), replace(COARSE, **coarse or {})
    return replace(MUTANT, **{"name": name, "findings": findings, **more})


def many(count: int) -> list[Outcome]:
    return [mutant(f"good-{number}") for number in range(count)]


UNSEEN: dict[str, Any] = {"killed": "", "margin": 0.1, "place": "", "rank": None, "seconds": None, "line": ""}


def test_a_score_without_a_fault_passes() -> None:
    score = Score([*many(3), SAME])
    assert score.complaints == []
    assert score.exit_status == 0
    assert summary_lines(score)[-1] == "PASS: 3 mutants, 1 that compute the same"


def test_a_score_of_nothing_is_no_pass() -> None:
    assert Score([]).exit_status == 3
    assert summary_lines(Score([]))[-1].startswith("NOTHING COMPARED")


@pytest.mark.parametrize(
    ("outcomes", "complaint"),
    [
        ([mutant(fine=UNSEEN)], "one survives f64"),
        ([mutant(fine={"margin": 2.9})], "one: killed at f64 by 2.9 times the allowance alone"),
        ([replace(SAME, findings=(PASSED[0], COARSE))], "swap computes the same and was killed: f64: act"),
        ([replace(SAME, findings=(*PASSED[:3], replace(FINE, rung="f16")))], "swap computes the same and was killed"),
        ([mutant(coarse=UNSEEN), *many(9)], "one survives f32 and does not say why"),
        ([mutant(findings=())], "one was put to no rung"),
        ([mutant(error="KeyError: 1", findings=())], "one: the harness raised KeyError: 1"),
        ([mutant(coarse=UNSEEN, unseen_at_f32="small"), *many(5)], "only 83.3 % of mutants are killed at f32"),
        ([mutant(fine={"rank": 2}), *many(18)], "only 94.7 % of kills at the finest rung blame the right module first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_must_not_be_fails_the_session(outcomes: list[Outcome], complaint: str) -> None:
    score = Score(outcomes)
    assert any(line.startswith(complaint) for line in score.complaints), score.complaints
    assert score.exit_status == 1
    assert summary_lines(score)[-1].startswith("FAIL")


@pytest.mark.parametrize(
    "outcomes",
    [
        [mutant(fine={"margin": 3.0})],
        [mutant(coarse={"margin": 1.1})],
        [mutant(coarse=UNSEEN, unseen_at_f32="small"), *many(6)],
        [mutant(fine={"rank": 2}), *many(19)],
        [mutant(fine={"killed": "raised", "rank": None})],
    ],
    ids=["margin 3", "weak at f32", "6 of 7 at f32", "19 of 20 blamed", "a port that raises blames nobody"],
)
def test_what_may_be_does_not(outcomes: list[Outcome]) -> None:
    assert Score(outcomes).exit_status == 0


def test_shares_are_asked_for_of_a_whole_catalogue_alone() -> None:
    outcomes = [mutant(coarse=UNSEEN, unseen_at_f32="small", fine={"rank": None})]
    assert Score(outcomes, whole=False).exit_status == 0
    assert Score(outcomes).exit_status == 1


def test_an_explanation_that_is_no_longer_true_is_said() -> None:
    lines = summary_lines(Score([mutant(unseen_at_f32="small")]))
    assert "said to be unseen at f32, and killed there: one" in lines


def test_the_lines_count_by_rung_and_name_survivors_and_blame() -> None:
    outcomes = [mutant("low", coarse=UNSEEN, unseen_at_f32="small"), mutant("off", fine={"rank": 2}), *many(8), SAME]
    lines = summary_lines(Score(outcomes))
    assert "f64: 10 of 10 killed (100.0 %), 0 of them weak" in lines
    assert "f32: 9 of 10 killed (90.0 %), 0 of them weak" in lines
    assert "blame: 9 of 10 kills at the finest rung name the right module first (90.0 %)" in lines
    assert "survivors at f32: low" in lines
    assert "blamed elsewhere: off (first act, rank 2)" in lines


def test_the_csv_has_a_row_for_each_in_their_order() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(Score([MUTANT, SAME])))))
    assert [row["name"] for row in rows] == ["gelu-tanh", "swap"]
    assert (rows[0]["f64_killed"], rows[0]["f64_margin"], rows[0]["f64_rank"]) == ("tensor", "1e+06", "1")
    assert (rows[1]["f32_killed"], rows[1]["f64_rank"], rows[1]["equivalent"]) == ("", "", "products commute")


def test_the_page_escapes_what_would_end_a_cell() -> None:
    text = page(Score([MUTANT, SAME]), "parity mutants")
    assert "gelu-tanh: tanh \\| erf" in text
    assert "| swap | mlp | passes | products commute |" in text


def test_the_json_is_json_also_where_a_margin_is_infinite() -> None:
    texts = files(Score([mutant(fine={"margin": float("inf")})]), {"seed": 7}, "parity mutants")
    assert tuple(texts) == MUTANT_FILES
    document = json.loads(texts["mutants.json"])
    assert document["seed"] == 7
    assert document["passed"] is True
    assert document["outcomes"][0]["findings"][0]["margin"] == "infinity"


TEXTS = dict.fromkeys(MUTANT_FILES, "new\n")


def test_the_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    prepare_files(tmp_path / "a" / "b")
    write_files(tmp_path / "a" / "b", TEXTS)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(MUTANT_FILES)


def test_a_write_that_fails_leaves_the_older_report_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, dict.fromkeys(MUTANT_FILES, "old\n"))
    replaced: list[Path] = []

    def full(self: Path, target: Path) -> Path:
        replaced.append(target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_files(tmp_path, TEXTS)
    assert replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MUTANT_FILES[:-1])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="choose another with --out"):
        prepare_files(tmp_path / "file")


def test_a_mutant_without_f64_is_judged_at_the_finest_rung_that_its_pair_has() -> None:
    built = {"findings": (COARSE,), "finest": "f32", "finest_reason": "built in float32 | by both"}
    good = mutant("built", **built)
    score = Score([good, *many(2)])
    assert score.exit_status == 0
    assert score.blamed == (3, 3)
    assert score.tried("f64") == score.outcomes[1:]
    text = page(score, "parity mutants")
    assert "* built: f32 is the finest, built in float32 \\| by both" in text
    assert "| built: tanh \\| erf | mlp | - |  | act | 1 | 0.5 | tensor | 40 |" in text
    weak = replace(good, findings=(replace(COARSE, margin=2.9),))
    assert Score([weak]).complaints == ["built: killed at f32 by 2.9 times the allowance alone"]
    survivor = replace(good, findings=(replace(COARSE, **UNSEEN),), unseen_at_f32="no reason counts here")
    assert "built survives f32" in Score([survivor]).complaints
    assert Score([replace(good, findings=(replace(COARSE, rank=2),))]).misblamed
