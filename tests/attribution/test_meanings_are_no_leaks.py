"""Another meaning is never taken for a precision leak, also where data hide it below what float32 rounds.

`pytest tests/attribution/test_meanings_are_no_leaks.py -s` prints the figures of docs/accuracy.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from planted_faults import PLANTED_FAULTS
from planted_meanings import PLANTED_MEANINGS

from parity.cases import FINE_LADDER, corpus_cases
from parity.examine import Bench, Modules, classify_tensor, examine, first_bad
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select

CARRIES_A_LEAK = {"layer_norm.eps=1e-5", "gelu=sigmoid", "sin.w_mod=missing", "sin.freq=squared"}
"""Meanings planted with a function that MLX computes in float32: on data that hide the meaning, the leak is left."""


@pytest.mark.parametrize("family", ["normal", "offset"])
def test_another_meaning_is_never_a_leak(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (pair,) = select(["layer"])
    case = replace(corpus_cases(pair, 0)[0], family=family, ladder=FINE_LADDER)
    bench = Bench(pair, case, CANONICAL)
    main = bench.truth.outputs[-1]
    seen = 0
    for planted in (*PLANTED_FAULTS, *PLANTED_MEANINGS):
        if planted.name in CARRIES_A_LEAK:
            continue
        with monkeypatch.context() as patch:
            planted.plant(patch)
            bench.modules = Modules(pair, case, CANONICAL)
            bad = first_bad(examine(bench, CANONICAL, RUNGS["f64"]).judgements)
            if bad is None:
                continue
            first, last = (classify_tensor(bench, CANONICAL, tensor, RUNGS["f64"]) for tensor in (bad, main))
        seen += 1
        if last.roughness is not None:
            print(f"{planted.name:35} | {family:6} | {last.sentence}")  # noqa: T201
        assert first.kind in {"different meaning", "not comparable"}, planted.name
        assert last.kind == "different meaning", planted.name
    assert seen > 35
