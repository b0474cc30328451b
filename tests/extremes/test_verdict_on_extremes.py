"""The verdict compares classes before any norm: a misplaced NaN or infinity fails whatever is allowed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parity.cases import Case
from parity.examine import LARGEST_VALUE, Bench, examine
from parity.pairs import Pair
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import CANONICAL
from parity.suites import select
from parity.tolerance import Allowance
from parity.trace import TracedTensor
from parity.verdict import Judgement, judge

F32 = RUNGS["f32"]
WIDE = Allowance(1e300, 1e300)
"""An allowance that no finite error exceeds, so what fails here fails by its class."""


def verdict(port: float, reference: float, truth: float | None = None, rung: Rung = F32) -> Judgement:
    """Judge four numbers of which the second is an extreme one."""

    def held(value: float, dtype: str) -> TracedTensor:
        return TracedTensor(np.array([1.0, value, -2.0, 0.5]), dtype)

    truth = reference if truth is None else truth
    return judge(held(truth, "float64"), held(reference, rung.dtype), held(port, rung.dtype), rung, WIDE, 1.0, None)


@pytest.mark.parametrize(
    ("port", "reference", "nan", "inf"),
    [
        (math.inf, F32.maximum, 0, 1),
        (F32.maximum, math.inf, 0, 1),
        (math.inf, -math.inf, 0, 1),
        (-math.inf, math.inf, 0, 1),
        (math.nan, 1.0, 1, 0),
        (1.0, math.nan, 1, 0),
        (math.nan, math.inf, 1, 1),
    ],
    ids=["inf for largest", "largest for inf", "inf for -inf", "-inf for inf", "NaN", "no NaN", "NaN for inf"],
)
def test_a_misplaced_class_fails_before_any_norm(port: float, reference: float, nan: int, inf: int) -> None:
    judgement = verdict(port, reference)
    assert not judgement.passed
    assert judgement.ratio == math.inf
    assert judgement.reason.startswith("NaN or infinity where there should be none")
    assert judgement.special is not None
    assert (judgement.special.nan, judgement.special.inf) == (nan, inf)
    index = judgement.special.nan_index if nan else judgement.special.inf_index
    assert index == (1,)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_the_same_class_at_the_same_place_on_all_sides_is_no_mismatch(value: float) -> None:
    judgement = verdict(value, value)
    assert judgement.special is not None
    assert not judgement.special.fatal
    assert judgement.passed


def test_an_overflow_that_both_sides_share_fails_where_the_truth_is_finite() -> None:
    judgement = verdict(math.inf, math.inf, truth=2.0**200)
    assert not judgement.passed
    assert judgement.reason.startswith("NaN or infinity")


def test_a_subnormal_that_was_flushed_passes_and_is_counted() -> None:
    judgement = verdict(0.0, 1e-40)
    assert judgement.passed
    assert judgement.special is not None
    assert (judgement.special.zero, judgement.special.subnormal) == (1, 1)


def test_a_zero_of_the_other_sign_passes_and_is_counted() -> None:
    judgement = verdict(-0.0, 0.0)
    assert judgement.passed
    assert judgement.special is not None
    assert (judgement.special.negative_zero, judgement.special.zero) == (1, 0)


# A case out of range is skipped with the reason -------------------------------------------------------------------


def bench(scale: int) -> Bench:
    pair: Pair = select(["monarch_multiply"])[0]
    case = Case.make(pair.name, pair.corpus[0], scale=scale, ladder=("f64", "f32"))
    return Bench(pair, case, CANONICAL)


def test_a_case_whose_truth_leaves_the_range_is_skipped_at_f32_and_judged_at_f64() -> None:
    loud = bench(70)
    skipped = examine(loud, CANONICAL, F32)
    assert not skipped.judgements
    assert f"above {LARGEST_VALUE['f32']:g}: out of range" in skipped.skipped
    assert all(judgement.passed for judgement in examine(loud, CANONICAL, RUNGS["f64"]).judgements.values())


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_a_case_among_tiny_numbers_is_judged_and_passes(rung: str) -> None:
    made = examine(bench(-120), CANONICAL, RUNGS[rung])  # type: ignore[index]
    assert made.judgements
    assert all(judgement.passed for judgement in made.judgements.values())
