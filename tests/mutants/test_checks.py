"""Mutants of the checks themselves: the harness is spoilt in one place, and its own acceptance notices.

There is no gate yet that could be given a partial run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import acceptance
import pytest

from parity import examine, report, run
from parity.examine import Examination
from parity.results import Results
from parity.tolerance import Allowance, propagated
from parity.verdict import Judgement, judge

Spoil = Callable[[pytest.MonkeyPatch], None]


def _passing(judgement: Judgement) -> Judgement:
    return dataclasses.replace(judgement, passed=True, reason="")


def _judgement_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(examine, "judge", lambda *given: _passing(judge(*given)))


def _failures_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run._PairRun, "_failures", lambda _self: [])


def _first_bad_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run, "first_bad", lambda _judgements: None)


def _verdict_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Results, "verdict", "pass")


def _what_is_raised_is_swallowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(examine, "_judgements", lambda *_: {})


def _no_case(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run, "plan_cases", lambda *_: [])
    patch.setattr(run._PairRun, "_aim", lambda _self: [])
    patch.setattr(run, "assess_class", lambda *_: ())


def _no_drawn_case_and_no_corpus(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run, "draw_cases", lambda *_: [])
    patch.setattr(run, "corpus_cases", lambda *_: [])
    patch.setattr(run._PairRun, "_aim", lambda _self: [])
    patch.setattr(run, "assess_class", lambda *_: ())


def _loose(*given: Any) -> Allowance:
    allowance = propagated(*given)
    return Allowance(1e3 * allowance.rms, 1e3 * allowance.maximum)


def _tolerance_times_a_thousand(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(examine, "propagated", _loose)


def _rung_skipped(name: str) -> Spoil:
    def spoil(patch: pytest.MonkeyPatch) -> None:
        original = run._PairRun._gather

        def gather(self: Any, case: Any, profile: Any, rung: Any, found: Examination, outputs: Any) -> None:
            if rung != name:
                original(self, case, profile, rung, found, outputs)

        patch.setattr(run._PairRun, "_gather", gather)

    return spoil


def _rung_left_out_of_the_plan(patch: pytest.MonkeyPatch) -> None:
    original = run.RUNGS
    patch.setattr(run, "RUNGS", {name: rung for name, rung in original.items() if name != "f64"})


def _not_written(patch: pytest.MonkeyPatch) -> None:
    original = report.write_report
    written: list[Path] = []

    def once(folder: Path, texts: Mapping[str, str], bundles: Any = None) -> None:
        if folder not in written:
            written.append(folder)
            original(folder, texts, bundles)

    patch.setattr(report, "write_report", once)
    patch.setattr(report, "prepare_folder", lambda _folder: None)


def _stale_summary_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(report, "prepare_folder", lambda _folder: None)


SPOILT: Mapping[str, tuple[Spoil, Callable[[], str], str]] = {
    "a judgement's result is dropped": (_judgement_dropped, acceptance.a_wrong_port_fails, "failures at no rung"),
    "the failures are dropped": (_failures_dropped, acceptance.a_wrong_port_fails, "failures at no rung"),
    "the first bad tensor is dropped": (_first_bad_dropped, acceptance.a_wrong_port_fails, "failures at no rung"),
    "the run's verdict is dropped": (_verdict_dropped, acceptance.a_wrong_port_fails, "exit status 0"),
    "no tensor is judged": (_what_is_raised_is_swallowed, acceptance.every_rung_is_accounted_for, "neither compared"),
    "the list of cases is empty": (_no_case, acceptance.a_right_port_passes, "nothing compared, 0 compared"),
    "neither corpus nor drawn cases": (
        _no_drawn_case_and_no_corpus,
        acceptance.a_right_port_passes,
        "nothing compared, 0 compared",
    ),
    "a tolerance is multiplied by 1e3": (
        _tolerance_times_a_thousand,
        acceptance.a_small_factor_is_seen,
        "1 + 2^-42 is not seen at f64",
    ),
    "f64 is skipped silently": (
        _rung_skipped("f64"),
        acceptance.every_rung_is_accounted_for,
        "mlp under canonical at f64 was neither compared nor skipped",
    ),
    "f32 is skipped silently": (
        _rung_skipped("f32"),
        acceptance.every_rung_is_accounted_for,
        "mlp under canonical at f32 was neither compared nor skipped",
    ),
    "f64 is left out of what is run": (
        _rung_left_out_of_the_plan,
        acceptance.every_rung_is_accounted_for,
        "mlp under canonical at f64 was neither compared nor skipped",
    ),
}
"""What is spoilt, what must notice, and what it says."""


@pytest.mark.parametrize(("spoil", "notices", "said"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_check_is_noticed(
    spoil: Spoil, notices: Callable[[], str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    assert said in notices()


@pytest.mark.parametrize(
    "notices", dict.fromkeys(notices for _, notices, _ in SPOILT.values()), ids=lambda it: it.__name__
)
def test_unspoilt_nothing_is_said(notices: Callable[[], str]) -> None:
    assert notices() == ""


STALE: Mapping[str, tuple[Spoil, str]] = {
    "the second report is not written": (_not_written, "after seed 2 the report is of seed 1, exit status 0"),
    "an older summary is not taken away": (_stale_summary_stays, "a run that was broken off left an older report"),
}


@pytest.mark.parametrize(("spoil", "said"), STALE.values(), ids=STALE)
def test_a_report_of_stale_files_is_noticed(
    spoil: Spoil, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil(monkeypatch)
    assert acceptance.a_report_is_of_its_own_run(tmp_path) == said


def test_unspoilt_a_report_is_of_its_own_run(tmp_path: Path) -> None:
    assert acceptance.a_report_is_of_its_own_run(tmp_path) == ""
