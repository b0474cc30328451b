"""A mutant on trial, against small stand-ins: what kills it, by how much, whom it is blamed on, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import stand_ins

from mlx_impl import ops
from parity.mutants import Mutant, trial
from parity.mutants.trial import Court, Outcome, executed, module_of, put_on_trial, rank_of
from parity.results import Results
from parity.run import Plan
from parity.spec.profile import CANONICAL
from parity.suites import select

COURT = Court(seed=0, budget="quick")
(MLP,) = select(["mlp"])


def tried(mutant: Mutant, **changes: Any) -> Outcome:
    return put_on_trial(mutant, MLP, replace(COURT, **changes))


def test_a_wrong_port_is_killed_at_either_rung_and_blamed_where_it_is_wrong() -> None:
    outcome = tried(stand_ins.TANH, explain=lambda *_: ["behaves as if: planted"])
    assert [finding.rung for finding in outcome.findings] == ["f64", "f32"]
    for finding in outcome.findings:
        assert (finding.killed, finding.place, finding.rank) == ("tensor", "act", 1)
        assert finding.margin > trial.WEAK
        assert finding.seconds is not None
        assert 0 < finding.seconds <= outcome.seconds
    assert outcome.findings[0].line.startswith("canonical f64: act: ")
    assert outcome.attribution == "behaves as if: planted"
    assert not outcome.error


def test_the_margin_at_f64_is_that_of_the_worst_of_all_cases() -> None:
    (finding,) = tried(stand_ins.TANH, rungs=("f64",)).findings
    with stand_ins.tanh():
        whole = executed(Plan([MLP], [CANONICAL], ("f64",), "quick", 0))
    assert finding.margin == max(row.ratio for row in whole.rows)


def test_a_leak_below_float32_survives_f32_after_the_whole_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(trial, "executed", lambda plan: plans.append(plan) or executed(plan))
    fine, coarse = tried(stand_ins.TINY).findings
    assert fine.killed == "tensor"
    assert fine.margin > trial.WEAK
    assert not coarse.killed
    assert 0 < coarse.margin < 1
    assert [(plan.rungs, plan.cases) for plan in plans] == [(("f64",), ()), (("f32",), ())]


def test_what_the_port_raises_kills_it() -> None:
    outcome = tried(stand_ins.RAISING)
    assert [(finding.killed, finding.margin, finding.rank) for finding in outcome.findings] == [
        ("raised", math.inf, None),
        ("raised", math.inf, None),
    ]
    assert "ValueError: planted" in outcome.findings[0].line
    assert not outcome.error


def test_what_the_harness_raises_kills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Results:
        raise ZeroDivisionError("the harness's own")

    monkeypatch.setattr(trial, "execute", broken)
    outcome = tried(stand_ins.TANH)
    assert outcome.error == "ZeroDivisionError: the harness's own"
    assert not outcome.killed


def test_a_patch_of_a_name_that_is_gone_is_an_error_and_no_kill() -> None:
    outcome = tried(stand_ins.BROKEN)
    assert "no_such_operation" in outcome.error
    assert outcome.findings == ()


def test_an_equivalent_mutant_is_put_to_every_rung_and_passes() -> None:
    outcome = tried(stand_ins.SAME)
    assert [finding.rung for finding in outcome.findings] == ["f64", "f32", "bf16", "f16"]
    assert not outcome.killed
    assert all(0 < finding.margin < 1 for finding in outcome.findings)


def test_one_that_is_only_said_to_be_equivalent_is_killed() -> None:
    outcome = tried(stand_ins.FALSE_EQUIVALENT)
    assert outcome.killed
    finding = outcome.at("f64")
    assert finding is not None
    assert finding.killed == "tensor"


def test_one_that_changes_nothing_survives_both_rungs() -> None:
    assert [finding.killed for finding in tried(stand_ins.IDLE).findings] == ["", ""]


def test_a_wrong_gradient_of_a_right_forward_pass_is_killed_backwards() -> None:
    outcome = tried(stand_ins.VJP)
    assert [(finding.killed, finding.place, finding.rank) for finding in outcome.findings] == [
        ("gradient", "act", 1)
    ] * 2
    assert outcome.findings[0].margin > trial.WEAK
    whole = tried(replace(stand_ins.VJP, seen_by="run"), rungs=("f64",)).at("f64")
    assert whole is not None
    assert (whole.killed, whole.rank) == ("gradient", 1), "forwards nothing is wrong, and the run goes on to gradients"
    right = replace(stand_ins.IDLE, seen_by="gradients", equivalent="nothing is changed")
    assert not tried(right).killed


def test_special_values_are_asked_for_where_the_suite_sees_nothing() -> None:
    asked: list[str] = []

    def special(rung: str) -> list[tuple[str, str]]:
        asked.append(rung)
        return [("gelu_erf", "gelu_erf of NaN")] if rung == "f64" else []

    fine, coarse = tried(stand_ins.NO_NAN, special=special).findings
    assert (fine.killed, fine.place, fine.rank, fine.line) == ("special", "gelu_erf", 1, "gelu_erf of NaN")
    assert not coarse.killed
    assert asked == ["f64", "f32"]
    assert not tried(replace(stand_ins.NO_NAN, seen_by="run"), special=special).killed
    assert "nobody asks" in tried(stand_ins.NO_NAN).error


def test_a_knob_that_is_ignored_is_seen_under_the_profile_that_turns_it() -> None:
    (finding,) = tried(stand_ins.KNOB, rungs=("f64",)).findings
    assert (finding.killed, finding.rank) == ("tensor", 1)
    assert finding.line.startswith("knob f64: act: ")
    assert not tried(replace(stand_ins.KNOB, knobs={}), rungs=("f64",)).killed


def test_the_patch_is_there_during_the_trial_and_gone_afterwards() -> None:
    during, before = [], ops.Ops.gelu_erf

    @contextmanager
    def watched() -> Iterator[None]:
        with stand_ins.tanh():
            during.append(ops.Ops.gelu_erf)
            yield

    tried(replace(stand_ins.TANH, patch=watched), rungs=("f64",))
    assert during == [ops.Ops.gelu_tanh]
    assert ops.Ops.gelu_erf is before


@pytest.mark.parametrize(
    ("bad", "blamed", "rank"),
    [
        (["act"], ("act",), 1),
        (["wi", "act"], ("act",), 2),
        (["mlp.wo", "mlp.act"], ("mlp.a*", "mlp.wo"), 1),
        (["mlp.layernorm.part"], ("mlp.layernorm",), 1),
        (["mlp.layernorm2"], ("mlp.layernorm",), None),
        (["act", "y"], ("",), 2),
        (["act"], (), None),
        ([], ("act",), None),
    ],
)
def test_the_rank_is_the_place_of_the_blamed_module(bad: list[str], blamed: tuple[str, ...], rank: int | None) -> None:
    assert rank_of(bad, [name == "y" for name in bad], blamed) == rank


def test_a_tensor_is_of_the_module_without_its_call_and_output() -> None:
    assert [module_of(name) for name in ("a.b", "a.b#2", "a.b[0]", "a.b#2[1]")] == ["a.b"] * 4


def test_blame_elsewhere_has_no_rank_or_a_later_one() -> None:
    (finding,) = tried(stand_ins.ELSEWHERE, rungs=("f64",)).findings
    assert finding.place == "act"
    assert finding.rank is None or finding.rank > 1
