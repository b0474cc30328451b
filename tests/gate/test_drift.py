"""The statistics of the gate: false alarms and power, on what the FFT convolution really found, and on normal draws."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from gate_pieces import SEEDS, STRATA, bits_of
from scipy import stats

from parity.accuracy import LEVEL, Stratum
from parity.gate.drift import (
    Accepted,
    Drift,
    Sample,
    compared,
    group_drift,
    group_margin,
    pool,
    stratum_drift,
    stratum_margin,
    weights,
)
from parity.tolerance import constant

RATIOS = Path(__file__).parents[1] / "data" / "fftconv_ratios.csv"
GROUP = ("fftconv", "canonical", "f32")
TENTH = math.log2(1.1)


def measured(factor: str) -> dict[int, dict[Stratum, list[float]]]:
    """r of the FFT convolution's strata at f32, by seed, as measured with the port's error times `factor`.

    Where the file keeps the mean alone, it stands for each case: tests of one run depend on nothing else.
    """
    runs: dict[int, dict[Stratum, list[float]]] = defaultdict(dict)
    with RATIOS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["factor"] == factor:
                stratum = Stratum("fftconv", "canonical", "f32", row["length_class"], row["family"])
                runs[int(row["seed"])][stratum] = [float(value) for value in row["bits"].split()] or [
                    float(row["mean"])
                ] * int(row["cases"])
    return runs


def drifts_of(accepted: Accepted, sample: Sample) -> list[Drift]:
    found = [stratum_drift(accepted, each, sample[each.stratum]) for each in accepted.strata]
    return found + [group_drift(accepted, each, sample) for each in accepted.groups]


def test_two_hundred_runs_with_other_seeds_are_not_accused() -> None:
    clean = measured("1")
    accepted = pool([clean[seed] for seed in SEEDS])
    others = [seed for seed in clean if seed not in SEEDS]
    assert len(others) >= 200
    assert [seed for seed in others if any(drift.grew for drift in drifts_of(accepted, clean[seed]))] == []


def test_the_computed_probability_of_a_false_alarm_is_small() -> None:
    clean = measured("1")
    accepted = pool([clean[seed] for seed in SEEDS])
    values: dict[object, list[Drift]] = defaultdict(list)
    for seed in (seed for seed in clean if seed not in SEEDS):
        for drift in drifts_of(accepted, clean[seed]):
            values[drift.where].append(drift)
    alarm = 0.0
    for drifts in values.values():
        upper = np.array([drift.upper for drift in drifts])
        alarm += float(stats.norm.sf((drifts[0].margin - upper.mean()) / max(upper.std(ddof=1), 1e-6)))
    assert alarm < constant("drift_alarm")


def test_a_planted_drift_of_ten_per_cent_is_caught_on_the_standard_budget_in_every_run() -> None:
    clean, planted = measured("1"), measured("1.1")
    accepted = pool([clean[seed] for seed in SEEDS])
    others = [seed for seed in planted if seed not in SEEDS]
    assert len(others) >= 20
    for seed in others:
        (group,) = (drift for drift in drifts_of(accepted, planted[seed]) if drift.where == GROUP)
        assert group.grew, seed
        assert abs(group.drift - TENTH) < 4 * group.error


def test_the_standard_budget_resolves_ten_per_cent_in_four_runs_and_not_in_one() -> None:
    clean = measured("1")
    margins = []
    for seeds in (SEEDS, SEEDS[:1]):
        accepted = pool([clean[seed] for seed in seeds])
        (group,) = accepted.groups
        margins.append(group_margin(accepted, group))
    four, one = margins
    assert four < TENTH < one
    assert four >= constant("drift_floor")


def test_the_drift_between_runs_of_the_same_cases_is_the_drift_itself() -> None:
    clean, planted = measured("1"), measured("1.1")
    accepted = pool([clean[0]])
    (group,) = accepted.groups
    assert group_drift(accepted, group, planted[0]).drift == pytest.approx(TENTH, abs=0.005)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_false_alarm_of_a_group_is_as_stated_whatever_the_correlation(correlation: float) -> None:
    rng = np.random.Generator(np.random.Philox(7))
    strata = [Stratum("conv", "canonical", "f32", name, "normal") for name in "abcde"]

    def sample() -> dict[Stratum, list[float]]:
        common = rng.standard_normal(6)
        return {
            stratum: list(0.1 * (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * rng.standard_normal(6)))
            for stratum in strata
        }

    scores = []
    for _ in range(60):
        accepted = pool([sample() for _ in range(4)])
        (group,) = accepted.groups
        scores += [group_drift(accepted, group, sample()).significance for _ in range(20)]
    # A quarter of the variance is that of the baseline, which twenty runs share.
    assert np.std(scores) == pytest.approx(1.05, abs=0.15)


def test_a_drift_as_large_as_the_margin_passes_as_rarely_as_stated() -> None:
    rng = np.random.Generator(np.random.Philox(8))
    stratum = STRATA[0]
    passed = 0
    for _ in range(400):
        accepted = pool([{stratum: list(0.1 * rng.standard_normal(6))} for _ in range(4)])
        (baseline,) = accepted.strata
        margin = stratum_margin(accepted, baseline)
        passed += not stratum_drift(accepted, baseline, list(margin + 0.1 * rng.standard_normal(6))).grew
    # At a rate of LEVEL, five and more in 400 have a probability of 7e-5.
    assert passed < 5
    assert LEVEL == 1e-3


def test_an_improvement_is_seen_by_the_same_measure() -> None:
    accepted = pool([{s: bits_of(s, seed) for s in STRATA} for seed in SEEDS])
    found = drifts_of(accepted, {s: bits_of(s, 9, -1.0) for s in STRATA})
    assert any(drift.shrank for drift in found)
    assert not any(drift.grew for drift in found)


def test_an_infinite_ratio_is_a_drift_and_nothing_to_accept() -> None:
    sample = {STRATA[0]: bits_of(STRATA[0], 0)}
    accepted = pool([sample])
    broken = {STRATA[0]: [math.inf, *sample[STRATA[0]][1:]]}
    assert all(drift.grew for drift in drifts_of(accepted, broken))
    with pytest.raises(ValueError, match="infinite"):
        pool([broken])


def test_exact_strata_have_no_part_in_the_mean_of_the_group_and_are_judged_alone() -> None:
    samples = [{s: bits_of(s, seed) for s in STRATA if s.component == "conv"} for seed in SEEDS]
    accepted = pool(samples)
    assert [group.group[2] for group in accepted.groups] == ["f32"]
    (exact,) = (stratum for stratum in accepted.strata if stratum.exact)
    assert stratum_margin(accepted, exact) == constant("drift_floor")
    assert stratum_drift(accepted, exact, [0.1] * 6).grew
    assert not stratum_drift(accepted, exact, [0.01] * 6).grew


def test_no_stratum_rules_a_group_by_a_spread_that_is_small_by_luck() -> None:
    accepted = pool([{s: bits_of(s, seed) for s in STRATA[:3]} for seed in SEEDS])
    lucky = [*accepted.strata[:2], type(accepted.strata[0])(STRATA[2], 24, 6, 0.0, 0.011)]
    shares = weights(lucky)
    assert math.fsum(shares) == pytest.approx(1)
    assert max(shares) < 0.9


def test_a_case_that_was_not_compared_is_left_out_and_the_numbers_stay() -> None:
    sample = {STRATA[0]: [0.1, None, 0.3, 0.2], STRATA[1]: [0.2, 0.4, 0.1, 0.3]}
    accepted = pool([sample])
    assert compared(sample[STRATA[0]]) == [0.1, 0.3, 0.2]
    assert [stratum.cases for stratum in accepted.strata] == [3, 4]
    (group,) = accepted.groups
    assert group_drift(accepted, group, sample).drift == pytest.approx(0, abs=1e-12)
