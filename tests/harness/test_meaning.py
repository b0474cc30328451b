"""Rounding or meaning: the six planted bugs are meaning, a float32 step is a leak, rounding is rounding."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import pytest
from planted_faults import PLANTED_FAULTS, PlantedFault

from parity.backends.mlx_float64 import Float64Library
from parity.cases import Case, corpus_cases
from parity.examine import Bench, classify_tensor, examine, first_bad
from parity.meaning import classify
from parity.pairs import Pair
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select

U64 = RUNGS["f64"].u


@pytest.mark.parametrize(
    ("f64_error", "kappa", "kind"),
    [
        (0.0, 0.0, "rounding"),
        (99 * U64, 0.0, "rounding"),
        (101 * U64, 1.0, "precision leak"),
        (5000 * U64, 64.0, "rounding"),
        (5e-9, 10.0, "precision leak"),
        (9.9e-8, 1.0, "precision leak"),
        (1.1e-7, 1.0, "different meaning"),
        (math.inf, 1.0, "different meaning"),
        (None, 1.0, "not comparable"),
        (math.nan, 1.0, "not comparable"),
    ],
)
def test_the_plateau_decides(f64_error: float | None, kappa: float, kind: str) -> None:
    assert classify(f64_error, 1e-6, kappa).kind == kind


def test_the_slope_is_one_for_rounding_and_zero_for_meaning() -> None:
    assert classify(U64, RUNGS["f32"].u, 1.0).slope == 1.0
    assert classify(1e-3, 1e-3, 1.0).slope == 0.0
    assert classify(0.0, 1e-7, 1.0).slope is None
    assert classify(1e-3, None, 1.0).slope is None


def test_the_sentence_says_what_was_measured() -> None:
    assert classify(2e-4, 2e-4, 3.0).sentence == "different meaning: error at f64 0.0002, slope 0.00, kappa 3"
    assert "not comparable" in classify(None, None, 3.0).sentence


@pytest.mark.parametrize("fault", PLANTED_FAULTS, ids=lambda fault: fault.name)
def test_a_planted_bug_is_a_different_meaning(fault: PlantedFault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    plan = Plan(select(["layer"]), [CANONICAL], ("f64",), "quick", 0)
    (failure,) = execute(plan, Results({"seed": 0})).failures
    assert failure.meaning is not None
    assert failure.meaning.kind == "different meaning"
    assert failure.meaning.slope is not None
    assert abs(failure.meaning.slope) < 0.5
    assert failure.worst_ratio >= failure.ratio * (1 - 1e-9)
    assert Case.from_json("layer", failure.worst_case)


def layer_bench() -> tuple[Pair, Bench]:
    (pair,) = select(["layer"])
    return pair, Bench(pair, corpus_cases(pair, 0)[0], CANONICAL)


@pytest.mark.parametrize("name", ["erf", "exp", "sin", "layer_norm"])
def test_a_function_left_in_float32_is_a_precision_leak(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {
        "erf": lambda self, x: mx.erf(x),
        "exp": lambda self, x: mx.exp(x),
        "sin": lambda self, x: mx.sin(x),
        "layer_norm": lambda self, x, weight, bias, eps: mx.fast.layer_norm(x, weight, bias, eps),
    }
    monkeypatch.setattr(Float64Library, name, own[name])
    _, bench = layer_bench()
    bad = first_bad(examine(bench, CANONICAL, RUNGS["f64"]).judgements)
    assert bad is not None
    assert classify_tensor(bench, CANONICAL, bad).kind in {"precision leak", "different meaning"}
    assert classify_tensor(bench, CANONICAL, bad).plateau < 1e-5


def test_the_right_port_differs_by_rounding_alone() -> None:
    _, bench = layer_bench()
    kinds = {name: classify_tensor(bench, CANONICAL, name).kind for name in list(bench.truth)[-3:]}
    assert set(kinds.values()) == {"rounding"}


def test_a_port_that_raises_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_impl import ops

    def broken(self: ops.Ops, *arguments: Any) -> mx.array:
        raise ValueError("planted")

    monkeypatch.setattr(ops.Ops, "linear", broken)
    _, bench = layer_bench()
    assert classify_tensor(bench, CANONICAL, "y").kind == "not comparable"
