"""Rows keep the worst case and never forget a failure; the verdict and its exit status follow from rows alone."""

from __future__ import annotations

import json
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from harness_pieces import F32, META, filled_row, judgement_of, pooler_case, results_of, row, traced
from hypothesis import given

from parity.results import Results, Row, Skip
from parity.tolerance import Allowance
from parity.verdict import failed, judge


def added(*errors: float) -> Row:
    gathered = row()
    for seed, error in enumerate(errors):
        case = pooler_case(seed)
        gathered.add(judgement_of(error), case, case.command("canonical", "f32"))
    return gathered


def seed_of(gathered: Row) -> int:
    seed: int = json.loads(gathered.worst_case)["seed"]
    return seed


def test_a_row_that_nothing_was_added_to_has_compared_nothing() -> None:
    assert (row().cases, row().elements, row().worst_case) == (0, 0, "")


@pytest.mark.parametrize("errors", [(0.25, 0.5), (0.5, 0.25)])
def test_the_worst_case_is_kept_in_either_order(errors: tuple[float, float]) -> None:
    gathered = added(*errors)
    assert gathered.ratio == gathered.max_abs == 0.5
    assert seed_of(gathered) == errors.index(0.5)
    assert gathered.headroom_bits == 1.0
    assert f'"seed":{errors.index(0.5)}' in gathered.rerun


def test_of_equal_cases_the_first_is_kept() -> None:
    assert seed_of(added(0.5, 0.5)) == 0


def test_cases_elements_and_failed_cases_are_counted() -> None:
    gathered = added(0.5, 2.0, 4.0)
    assert (gathered.cases, gathered.cases_failed, gathered.elements) == (3, 2, 12)


@given(st.lists(st.sampled_from((0.0, 0.25, 0.5, 1.0, 2.0, 4.0)), min_size=1, max_size=6))
def test_a_row_fails_if_and_only_if_a_case_failed_and_the_worst_says_why(errors: list[float]) -> None:
    gathered = added(*errors)
    assert gathered.verdict == ("fail" if max(errors) > 1 else "pass")
    assert bool(gathered.reason) == (max(errors) > 1)
    assert gathered.ratio == max(errors)


def test_a_passing_case_after_a_failure_does_not_heal_it() -> None:
    gathered = added(2.0, 0.5, 0.0)
    assert gathered.verdict == "fail"
    assert gathered.reason.startswith("largest error is 2 times")


def test_a_tensor_that_is_missing_in_one_case_fails_the_row() -> None:
    gathered = added(0.5)
    gathered.add(failed("the port has no such tensor"), pooler_case(7), "again")
    gathered.add(judgement_of(0.75), pooler_case(8), "later")
    assert (gathered.verdict, gathered.reason) == ("fail", "the port has no such tensor")
    assert (gathered.rerun, seed_of(gathered)) == ("again", 7)
    assert (gathered.elements, gathered.headroom_bits) == (8, None)


def test_special_values_are_counted_over_all_cases() -> None:
    gathered = row()
    ones, bad = traced(np.ones(3)), traced([np.nan, np.inf, 0.0])
    for seed in range(2):
        gathered.add(judge(ones, ones, bad, F32, Allowance(9, 9), 1.0, None), pooler_case(seed), "")
    assert (gathered.nan_mismatches, gathered.inf_mismatches, gathered.zero_mismatches) == (2, 2, 2)


@pytest.mark.parametrize(
    ("results", "verdict", "status"),
    [
        pytest.param(results_of([filled_row(0.5)]), "pass", 0, id="a passing row"),
        pytest.param(results_of([filled_row(0.5), filled_row(2.0)]), "fail", 1, id="one failing row of two"),
        pytest.param(results_of([]), "nothing compared", 3, id="no rows"),
        pytest.param(results_of([row()]), "nothing compared", 3, id="a row without cases"),
        pytest.param(
            results_of([], [Skip("pooler", "canonical", "f64", "why")]), "nothing compared", 3, id="skips alone"
        ),
    ],
)
def test_the_verdict_and_its_exit_status(results: Results, verdict: str, status: int) -> None:
    assert (results.verdict, results.exit_code) == (verdict, status)


def test_a_failed_row_fails_without_a_failure_object() -> None:
    results = Results(dict(META), rows=[filled_row(0.5), filled_row(2.0)])
    assert not results.failures
    assert (results.verdict, results.exit_code) == ("fail", 1)


def test_a_failure_object_fails_without_a_row() -> None:
    failures = results_of([filled_row(2.0)]).failures
    assert Results(dict(META), failures=failures).verdict == "fail"


def test_a_failure_where_no_element_could_be_compared_is_a_failure() -> None:
    missing = row()
    missing.add(failed("the port has no such tensor"), pooler_case(), "")
    results = Results(dict(META), rows=[missing])
    assert (results.compared, results.verdict) == (0, "fail")


def test_a_row_that_compared_nothing_does_not_hide_behind_one_that_did() -> None:
    nans = traced(np.full(3, np.nan))
    hollow = row(tensor="hollow")
    hollow.add(judge(nans, nans, nans, F32, Allowance(9, 9), 1.0, None), pooler_case(), "")
    assert hollow.elements == 0
    assert results_of([filled_row(0.5), hollow]).verdict != "pass"


def test_gradients_alone_are_nothing_compared() -> None:
    values = Row("mlp", "canonical", "f64", "y", "output", 0)
    gradients = Row("mlp", "canonical", "f64", "gradient of x", "gradient", 1, elements=5, cases=1)
    assert Results({}, rows=[values, gradients]).exit_code == 3
    assert Results({}, rows=[replace(values, elements=1), gradients]).exit_code == 0
