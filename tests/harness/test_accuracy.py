"""The accuracy test: passes a port as good as the reference, fails one that loses two bits, and states its odds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given

from mlx_impl import norm, ops, weights
from parity import strata
from parity.accuracy import (
    FEWEST_CASES,
    LARGEST_GAIN,
    LARGEST_LOSS,
    LEVEL,
    LOOKS,
    Assessment,
    Ratio,
    Stratum,
    error_bits,
    false_alarm,
    judge_ratios,
    looks,
    settled,
    skipped_stratum,
)
from parity.backends.shifts import Noise
from parity.calibrate import Calibration, calibrate_seed
from parity.cases import FINE_LADDER, STRATUM_FAMILIES, Case, corpus_cases
from parity.examine import Bench, Modules, accuracy, examine
from parity.pairs import LengthClass, Pair
from parity.results import Results
from parity.run import BUDGETS, Plan, execute
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import CANONICAL, load_profile
from parity.strata import StrataPlan, assess_pair
from parity.suites import PAIRS, select
from parity.tolerance import CONSTANTS, REFINED_DRAWS, SCREENING_DRAWS, constant

STRATUM = Stratum("mlp", "canonical", "f32", "any", "normal")

seeds = st.integers(0, 2**32 - 1)


def sample(mean: float, spread: float, count: int, seed: int, exceeds: bool = False) -> list[Ratio]:
    bits = mean + spread * np.random.Generator(np.random.Philox(seed)).standard_normal(count)
    return [Ratio(float(b), exceeds, f"case {index}") for index, b in enumerate(bits)]


# One stratum ----------------------------------------------------------------------------------------------------


def test_a_port_as_accurate_as_the_reference_passes() -> None:
    assessment = judge_ratios(STRATUM, 1.0, sample(0.1, 0.2, 24, 0))
    assert assessment.passed
    assert assessment.mean < assessment.bound < 1
    assert assessment.cases == 24


def test_a_port_that_loses_more_than_the_margin_fails_and_says_by_how_much() -> None:
    assessment = judge_ratios(STRATUM, 1.0, sample(1.3, 0.2, 96, 0))
    assert not assessment.passed
    assert "less accurate than the reference: 1.29 bits" in assessment.reason


@given(seed=seeds)
def test_the_verdict_does_not_depend_on_the_order_of_cases(seed: int) -> None:
    ratios = sample(0.5, 0.5, 24, seed)
    shuffled = list(np.random.Generator(np.random.Philox(seed)).permutation(np.array(ratios, dtype=object)))
    one, other = judge_ratios(STRATUM, 1.0, ratios), judge_ratios(STRATUM, 1.0, shuffled)
    assert (one.passed, one.largest, one.worst_case) == (other.passed, other.largest, other.worst_case)
    assert one.bound == pytest.approx(other.bound, rel=1e-12)


def judge_by_looks(draw: Callable[[np.random.Generator, int], Any], seed: int) -> Assessment:
    """Judge one stratum as a run does: look after look, until it is settled."""
    rng = np.random.Generator(np.random.Philox(seed))
    ratios: list[Ratio] = []
    for look in LOOKS:
        ratios += [Ratio(float(bits), False, "") for bits in draw(rng, look - len(ratios))]
        assessment = judge_ratios(STRATUM, 1.0, ratios)
        if settled(assessment):
            break
    return assessment


def test_at_the_margin_it_passes_no_more_often_than_its_level_over_all_looks() -> None:
    trials = 4000
    passed = sum(
        judge_by_looks(lambda rng, count: 1.0 + 0.3 * rng.standard_normal(count), seed).passed for seed in range(trials)
    )
    assert passed <= 12, f"{LEVEL * trials:g} are expected, 12 or fewer with a probability of 0.9997"


SKEWED: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "exponential": lambda rng, count: rng.exponential(1.05, count),
    "2.9 bits in 36 %": lambda rng, count: 2.9 * (rng.random(count) < 0.36) + 0.1 * rng.standard_normal(count),
}


@pytest.mark.parametrize("name", SKEWED)
def test_skewed_losses_beyond_the_margin_pass_one_stratum_rarely_and_a_component_never(name: str) -> None:
    """One stratum of six cases may miss what few cases have; a component's strata together have `FEWEST_CASES`."""
    trials = 2000
    passed = sum(judge_by_looks(SKEWED[name], seed).passed for seed in range(trials)) / trials
    assert passed < 0.08
    assert passed ** (FEWEST_CASES / LOOKS[0]) < 1e-2


def test_few_strata_begin_with_more_cases_each() -> None:
    assert looks(15) == LOOKS
    assert looks(2) == (8, 12, 24, 48, 96)
    assert looks(1) == (FEWEST_CASES, 24, 48, 96)
    assert all(strata * looks(strata)[0] >= FEWEST_CASES for strata in range(1, 40))


def test_a_case_far_beyond_fails_only_if_its_error_is_larger_than_predicted() -> None:
    ratios = sample(0.0, 0.2, 23, 0)
    lucky, real = (judge_ratios(STRATUM, 1.0, [*ratios, Ratio(3.5, exceeds, "odd")]) for exceeds in (False, True))
    assert lucky.passed
    assert not real.passed
    assert (real.beyond, real.worst_case) == (1, "odd")
    assert settled(real)


def test_a_port_without_a_finite_error_fails() -> None:
    assessment = judge_ratios(STRATUM, 1.0, [*sample(0.0, 0.2, 5, 0), Ratio(math.inf, True, "broken")])
    assert not assessment.passed


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_cases_are_a_failure(count: int) -> None:
    assessment = judge_ratios(STRATUM, 1.0, sample(0.0, 0.1, count, 0))
    assert not assessment.passed
    assert f"only {count} cases" in assessment.reason


def test_equal_ratios_are_no_certainty() -> None:
    assert judge_ratios(STRATUM, 1.0, [Ratio(0.9999, False, "")] * 6).bound > 1


def test_an_exact_case_cannot_outweigh_the_others() -> None:
    assert error_bits(0.0) == -LARGEST_GAIN
    assert error_bits(math.inf) == LARGEST_LOSS
    assert error_bits(4.0) == 2.0
    assert not judge_ratios(STRATUM, 1.0, [Ratio(error_bits(0.0), False, ""), *sample(1.4, 0.1, 95, 0)]).passed


def test_a_difference_is_reported_and_gates_nothing() -> None:
    assessment = judge_ratios(STRATUM, 1.0, sample(0.3, 0.05, 96, 0))
    assert assessment.p_no_difference < 1e-20
    assert assessment.passed


def test_the_probability_of_a_false_alarm_is_that_of_simulated_strata() -> None:
    mean, spread, margin, trials = 0.72, 0.6, 1.0, 3000
    failed = sum(
        not judge_ratios(STRATUM, margin, sample(mean, spread, LOOKS[-1], seed)).passed for seed in range(trials)
    )
    assert failed / trials == pytest.approx(false_alarm(mean, spread, margin), rel=0.15)
    assert false_alarm(0.1, 0.2, 1.0) < 1e-12 < false_alarm(0.9, 0.6, 1.0)


def test_a_skipped_stratum_neither_passes_cases_nor_fails() -> None:
    skipped = skipped_stratum(STRATUM, 1.0, "out of range", 6)
    assert (skipped.passed, skipped.cases, skipped.skipped, skipped.cases_skipped) == (True, 0, "out of range", 6)


# The suite ------------------------------------------------------------------------------------------------------


def assessed(name: str, seed: int = 0, families: tuple[str, ...] = ("normal",)) -> list[Any]:
    (pair,) = select([name])
    return list(assess_pair(StrataPlan(pair, [CANONICAL], ["f64", "f32", "bf16", "f16"], families, seed)))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_component_has_strata_with_known_names(pair: Pair) -> None:
    assert pair.strata or pair.fresh
    for sizes in pair.strata:
        assert set(sizes.families) <= set(STRATUM_FAMILIES)
        assert {sizes.margin(rung, family) for rung in ("f32", "bf16") for family in STRATUM_FAMILIES} <= set(CONSTANTS)


def test_a_margin_is_chosen_by_rung_and_family_before_either() -> None:
    sizes = LengthClass("any", {}, margins={"f32/tiny": "a", "tiny": "b", "bf16": "c"})
    assert [sizes.margin(*key) for key in (("f32", "tiny"), ("f16", "tiny"), ("bf16", "tone"), ("f32", "tone"))] == [
        "a",
        "b",
        "c",
        "margin",
    ]


def test_the_strata_repeat_themselves_and_another_seed_draws_others() -> None:
    assert assessed("mlp") == assessed("mlp")
    assert [a.mean for a in assessed("mlp")] != [a.mean for a in assessed("mlp", seed=1)]


def test_no_rung_with_an_accuracy_leaves_no_stratum() -> None:
    (pair,) = select(["mlp"])
    assert list(assess_pair(StrataPlan(pair, [CANONICAL], ["f64"], ("normal",), 0))) == []


def test_what_is_out_of_a_rungs_range_is_skipped_by_name() -> None:
    found = assessed("layer", families=("offset",))
    skipped = [a for a in found if "out of range" in a.skipped]
    assert {(a.stratum.length_class, a.stratum.rung) for a in skipped} == {("full", "f16")}
    assert all(a.cases_skipped == FEWEST_CASES for a in skipped)
    assert {a.stratum.length_class for a in found if "draws none" in a.skipped} == {"sliced"}


def test_cases_out_of_range_are_counted_and_the_others_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    original = strata.out_of_range

    def every_third(bench: Bench, rung: Rung) -> str:
        return "planted" if bench.case.seed % 3 == 0 and rung.name == "f16" else original(bench, rung)

    monkeypatch.setattr(strata, "out_of_range", every_third)
    found = assessed("pooler")
    assert {(a.stratum.rung, a.cases_skipped) for a in found if a.cases + a.cases_skipped == FEWEST_CASES} >= {
        ("f32", 0),
        ("f16", 6),
    }
    assert not any(a.skipped for a in found)


@pytest.mark.parametrize(("fault", "verdicts"), [(False, {True}), (True, {False})])
def test_a_stratum_mostly_out_of_range_is_skipped_unless_a_case_lies_beyond(
    fault: bool, verdicts: set[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strata, "out_of_range", lambda bench, rung: "planted" if bench.case.seed % 4 else "")
    if fault:
        _broken_tanh(monkeypatch)
    found = assessed("pooler")
    assert {a.passed for a in found} == verdicts
    assert all(bool(a.skipped) != fault for a in found)
    assert all("most cases are out of range" in a.skipped for a in found) != fault


def test_a_length_class_whose_families_are_not_drawn_is_said_to_be_skipped() -> None:
    (pair,) = select(["mlp"])
    sizes = (replace(pair.strata[0], families=("tone",)), *pair.strata[1:])
    plan = StrataPlan(replace(pair, strata=sizes), [CANONICAL], ["f32"], ("normal",), 0)
    left_out = [a for a in assess_pair(plan) if a.stratum.length_class == sizes[0].name]
    assert [a.skipped for a in left_out] == ["of its families tone this budget draws none"]


def test_the_same_case_has_the_same_ratio_whatever_was_examined_before() -> None:
    """References are filled again for every case: nothing of the former one may remain."""
    (pair,) = select(["layer"])
    case = Case.make("layer", pair.strata[0].structure, seed=5, ladder=FINE_LADDER)
    used = Modules(pair, replace(case, seed=4), CANONICAL)
    for rung in (RUNGS["f32"], RUNGS["f64"]):
        used.reference(rung), used.port(CANONICAL, rung)
    used.redraw(case)
    old, new = (Bench(pair, case, CANONICAL, modules=m) for m in (used, Modules(pair, case, CANONICAL)))
    assert accuracy(old, CANONICAL, RUNGS["f32"], 3.0) == accuracy(new, CANONICAL, RUNGS["f32"], 3.0)
    for name, tensor in new.truth.items():
        assert tensor.values.tobytes() == old.truth[name].values.tobytes()


def _rounded(x: mx.array, bits: int) -> mx.array:
    """Round float32 to `bits` significant bits."""
    factor = mx.array(2.0 ** (24 - bits) + 1, dtype=x.dtype)
    scaled = x * factor
    return scaled - (scaled - x)


def _coarse_linear(patch: pytest.MonkeyPatch) -> None:
    original = ops.Ops.linear

    def linear(self: ops.Ops, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        return original(self, _rounded(x, 21) if x.dtype == mx.float32 else x, weight, bias)

    patch.setattr(ops.Ops, "linear", linear)


def _coarse_norm(patch: pytest.MonkeyPatch) -> None:
    original = norm.LayerNorm.__call__

    def call(self: norm.LayerNorm, x: mx.array) -> mx.array:
        y: mx.array = original(self, x)
        return _rounded(y, 20) if x.dtype == mx.float32 else y

    patch.setattr(norm.LayerNorm, "__call__", call)


def _coarse_weights(patch: pytest.MonkeyPatch) -> None:
    """Every weight rounded to 21 bits on its way into the port: sixteen-bit weights are untouched by that."""
    original = weights.load

    def load(model: Any, state: Any) -> Any:
        return original(model, {name: mx.array(round_to_digits(np.array(array), 21)) for name, array in state.items()})

    def round_to_digits(array: Any, digits: int) -> Any:
        fraction, exponent = np.frexp(array.astype(np.float64))
        return np.ldexp(np.rint(np.ldexp(fraction, digits)), exponent - digits)

    patch.setattr(weights, "load", load)


@pytest.mark.parametrize(
    ("plant", "component"),
    [(_coarse_linear, "pooler"), (_coarse_norm, "embeddings"), (_coarse_weights, "mlm_head")],
)
def test_a_port_that_drops_its_last_bits_passes_the_absolute_gate_and_not_this_one(
    plant: Callable[[pytest.MonkeyPatch], None], component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    plan = Plan(select([component]), [CANONICAL], ("f32",), "quick", 0)
    results = execute(plan, Results({"seed": 0}))
    assert results.verdict == "fail"
    assert all(row.verdict == "pass" for row in results.rows), "the absolute gate has room for this"
    (failure,) = results.failures
    assert "bits" in failure.reason
    assert failure.rerun == f"parity run {component} --profile canonical --rung f32 --budget quick --seed 0"


def _broken_tanh(patch: pytest.MonkeyPatch) -> None:
    def broken(self: ops.Ops, x: mx.array) -> mx.array:
        raise ValueError("planted")

    patch.setattr(ops.Ops, "tanh", broken)


def test_a_port_that_raises_is_inferior_and_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken_tanh(monkeypatch)
    assert not any(a.passed for a in assessed("pooler"))


def test_named_cases_bring_no_strata() -> None:
    (pair,) = select(["pooler"])
    case = Plan([pair], [CANONICAL], ("f32",), "quick", 0)
    from parity.run import plan_cases

    named = Plan([pair], [CANONICAL], ("f32",), "quick", 0, cases=plan_cases(case, pair)[:1])
    assert execute(named, Results({"seed": 0})).assessments == []


def test_profiles_of_one_meaning_share_their_cases() -> None:
    (pair,) = select(["mlp"])
    profiles = [load_profile(name) for name in ("canonical", "torch_like")]
    found = list(assess_pair(StrataPlan(pair, profiles, ["f32"], ("normal",), 0)))
    assert {a.stratum.profile for a in found} == {"canonical", "torch_like"}
    assert len({a.worst_case for a in found if a.stratum.length_class == "glu"}) <= 2


def test_the_margins_are_those_of_the_table() -> None:
    assert constant("margin") == 1.0
    assert constant("margin_beyond") == 2.0
    assert BUDGETS["standard"].families == tuple(STRATUM_FAMILIES)


# Calibration ----------------------------------------------------------------------------------------------------


def test_a_right_port_raises_no_alarm_and_its_odds_are_stated() -> None:
    calibration = Calibration([calibrate_seed(select(["pooler", "mlp"]), [CANONICAL], seed) for seed in (0, 1)])
    assert calibration.alarms == []
    assert 0 <= calibration.probability < 1e-4
    assert all(summary.runs == 2 for summary in calibration.strata())
    assert all(run.tensors > 0 for run in calibration.runs)


def test_a_wrong_port_is_counted_as_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    _coarse_linear(monkeypatch)
    found = calibrate_seed(select(["pooler"]), [CANONICAL], 3)
    assert found.alarms
    assert all("seed 3" in alarm for alarm in found.alarms)


# Refinement -----------------------------------------------------------------------------------------------------


def _scaled_screening(factor: float, patch: pytest.MonkeyPatch) -> list[int]:
    """Let eight draws predict `factor` times too much; return the numbers of draws that were asked for."""
    original = Bench.noise
    asked: list[int] = []

    def noise(self: Bench, rung: Rung, draws: int = SCREENING_DRAWS) -> Any:
        asked.append(draws)
        found = original(self, rung, draws)
        scale = factor if draws == SCREENING_DRAWS else 1.0
        return {name: Noise(each.rms * scale, each.maximum * scale) for name, each in found.items()}

    patch.setattr(Bench, "noise", noise)
    return asked


def _filter_bench() -> Bench:
    (pair,) = select(["hyena_filter"])
    return Bench(pair, corpus_cases(pair, 0)[0], CANONICAL)


def test_a_right_port_whose_screening_was_unlucky_is_judged_by_more_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _scaled_screening(0.02, monkeypatch)
    judgements = examine(_filter_bench(), CANONICAL, RUNGS["f32"]).judgements
    assert all(judgement.passed for judgement in judgements.values())
    assert set(asked) == {SCREENING_DRAWS, REFINED_DRAWS}


def test_far_from_the_line_nothing_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _scaled_screening(1.0, monkeypatch)
    examine(_filter_bench(), CANONICAL, RUNGS["f32"])
    assert set(asked) == {SCREENING_DRAWS}
