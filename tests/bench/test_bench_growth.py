"""Exponents of planted times, and the bound on the layer's."""

from __future__ import annotations

import math

import pytest
from bench_pieces import LENGTHS, a_report, times

from parity.bench.growth import STEPS, exponent, growths
from parity.errors import ConfigError
from parity.suites.m2_bert_bench import TIMED


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_a_planted_power_is_found(power: float) -> None:
    assert exponent({length: 3e-6 * length**power for length in LENGTHS}) == pytest.approx(power, abs=1e-12)


def test_a_planted_quadratic_layer_misses_its_bound() -> None:
    report = a_report(*times("layer", lambda length: 1e-9 * length**2))
    (growth,), (verdict,) = report.growths(), report.verdicts()
    assert growth.measured == pytest.approx(2)
    assert not verdict.held
    assert verdict.measured == pytest.approx(2 - growth.expected[1])
    assert "MISSED: exponent of the layer" in verdict.line()
    assert f"missed by {verdict.measured - 0.1:.3g}" in verdict.line()


def test_a_layer_that_follows_theory_holds_it() -> None:
    report = a_report(*times("layer", lambda length: 1e-8 * length * math.log2(2 * length)))
    (growth,), (verdict,) = report.growths(), report.verdicts()
    assert growth.excess == pytest.approx(0, abs=1e-12)
    assert growth.expected == (pytest.approx(1), pytest.approx(1.108, abs=1e-3))
    assert verdict.held


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1.0])
def test_whatever_weighs_more_in_a_layer_it_follows_theory(share: float) -> None:
    (growth,) = a_report(*times("layer", lambda length: 1e-7 * length * (1 + share * math.log2(2 * length)))).growths()
    assert growth.excess == pytest.approx(0, abs=1e-12)


def test_a_layer_that_grows_too_little_misses_it_as_well() -> None:
    (verdict,) = a_report(*times("layer", lambda length: 1e-5 * length**0.5)).verdicts()
    assert not verdict.held


def test_a_linear_component_has_the_exponent_one() -> None:
    (growth,) = a_report(*times("mlp", lambda length: 1e-8 * length)).growths()
    assert (growth.measured, growth.expected) == (pytest.approx(1), (pytest.approx(1),) * 2)


def test_the_bound_is_about_the_whole_range_and_fits_need_three_lengths() -> None:
    short = a_report(*times("layer", lambda length: 1e-9 * length**2, LENGTHS[:-1]))
    assert short.growths()
    assert not short.verdicts()
    assert not a_report(*times("layer", float, LENGTHS[:2])).growths()


def test_lengths_below_the_range_are_left_out() -> None:
    cells = [*times("mlp", lambda length: 1e-8 * length), *times("mlp", lambda _: 1.0, (128, 256, 512))]
    (growth,) = growths(cells, {"mlp": ("L",)})
    assert growth.measured == pytest.approx(1)


def test_an_exponent_needs_two_lengths_and_positive_times() -> None:
    for values in ({1024: 1.0}, {1024: 1.0, 2048: 0.0}):
        with pytest.raises(ConfigError, match="positive values"):
            exponent(values)


def test_every_theory_is_one_that_is_counted() -> None:
    assert {steps for timed in TIMED.values() for steps in timed.theory} <= STEPS.keys()
