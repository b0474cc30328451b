"""Benches and explanations kept from one mutant to the next: the same numbers, and never the port of another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import stand_ins

from parity.cases import corpus_cases
from parity.examine import Bench, examine
from parity.mutants import kept
from parity.mutants.kept import KeptBenches
from parity.mutants.trial import Court, put_on_trial
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select
from parity.suites.m2_bert_alternatives import KeptExplanations, explain

(MLP,) = select(["mlp"])
CASES = corpus_cases(MLP, 0)


def test_a_bench_is_made_once_and_its_port_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(kept, "Bench", lambda *given: made.append(given) or Bench(*given))
    benches = KeptBenches()
    first, second = (benches(MLP, CASES[0], CANONICAL) for _ in range(2))
    assert len(made) == 1
    assert first.truth is second.truth
    assert first.modules.port(CANONICAL, RUNGS["f64"]) is not second.modules.port(CANONICAL, RUNGS["f64"])


def test_what_is_kept_judges_as_what_is_made_anew() -> None:
    benches = KeptBenches()
    for _ in range(2):
        for rung in ("f64", "f32"):
            fresh = examine(Bench(MLP, CASES[0], CANONICAL), CANONICAL, RUNGS[rung])
            assert examine(benches(MLP, CASES[0], CANONICAL), CANONICAL, RUNGS[rung]).judgements == fresh.judgements


def test_another_meaning_has_another_truth() -> None:
    benches = KeptBenches()
    here = benches(MLP, CASES[0], CANONICAL)
    there = benches(MLP, CASES[0], CANONICAL.replace(name="other", gelu_mode="tanh"))
    main = here.truth.outputs[-1]
    assert not np.array_equal(here.truth[main].values, there.truth[main].values)
    assert there.profile.gelu_mode == there.modules.profile.gelu_mode == "tanh"


def test_no_more_are_kept_than_asked_for() -> None:
    benches = KeptBenches(most=1)
    first = benches(MLP, CASES[0], CANONICAL)
    benches(MLP, CASES[1], CANONICAL)
    assert benches(MLP, CASES[0], CANONICAL).truth is not first.truth


def test_a_mutant_after_another_has_the_findings_that_it_has_alone() -> None:
    court = Court(seed=0, budget="quick", bench=KeptBenches(), explain=KeptExplanations())
    for mutant in (stand_ins.TANH, stand_ins.TINY, stand_ins.SAME, stand_ins.TANH):
        shared, alone = (
            put_on_trial(mutant, MLP, it) for it in (court, Court(seed=0, budget="quick", explain=explain))
        )
        assert [replace(found, seconds=None) for found in shared.findings] == [
            replace(found, seconds=None) for found in alone.findings
        ]
        assert shared.attribution == alone.attribution
        assert shared.error == alone.error == ""
