"""The fit: what is in a residual is found, with an honest standard error, and what cannot be parted is said so."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from parity.attribution.projection import apart, project
from parity.spec.arrays import Array

ELEMENTS, DRAWS = 600, 16
SEEDS = st.integers(0, 2**32 - 1)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def white(rng: np.random.Generator) -> tuple[Array, Array]:
    return rng.standard_normal(ELEMENTS), rng.standard_normal((ELEMENTS, DRAWS))


@settings(max_examples=40)
@given(seed=SEEDS, columns=st.integers(1, 30), planted=st.integers(0, 29), scale=st.integers(-3, 20))
def test_the_planted_signature_has_beta_1_and_the_others_0(seed: int, columns: int, planted: int, scale: int) -> None:
    rng, planted = rng_of(seed), planted % columns
    signatures = rng.standard_normal((ELEMENTS, columns)) * 2.0 ** rng.integers(-3, 20, columns)
    signatures[:, planted] = rng.standard_normal(ELEMENTS) * 2.0**scale
    rounding, noise = white(rng)
    fit = project(signatures[:, planted] + rounding, signatures, noise)
    expected = np.zeros(columns)
    expected[planted] = 1.0
    assert (np.abs(fit.beta - expected) < 7 * fit.error).all()


@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_standard_error_covers_noise_along_one_direction(seed: int) -> None:
    rng = rng_of(seed)
    signature = rng.standard_normal((ELEMENTS, 1))
    direction = signature[:, 0] / np.linalg.norm(signature)
    noise = 100 * np.outer(direction, rng.standard_normal(DRAWS)) + rng.standard_normal((ELEMENTS, DRAWS))
    residual = 100 * direction * rng.standard_normal() + rng.standard_normal(ELEMENTS)
    fit = project(residual, signature, noise)
    blind = project(residual, signature, rng.standard_normal((ELEMENTS, DRAWS)))
    assert abs(fit.beta[0]) < 8 * fit.error[0]
    assert fit.error[0] > 20 * blind.error[0]


def test_a_signature_that_moves_nothing_has_no_error_to_speak_of() -> None:
    rng = rng_of(0)
    rounding, noise = white(rng)
    signatures = np.stack([rng.standard_normal(ELEMENTS), np.zeros(ELEMENTS), np.full(ELEMENTS, 1e-9)], axis=-1)
    fit = project(rounding, signatures, noise)
    assert np.isfinite(fit.error).tolist() == [True, False, False]
    assert fit.norm[1:].tolist() == [0.0, 0.0]
    assert fit.beta[1:].tolist() == [0.0, 0.0]


def test_collinear_signatures_form_a_group_and_leave_each_others_fit() -> None:
    rng = rng_of(1)
    rounding, noise = white(rng)
    first, other = 50 * rng.standard_normal(ELEMENTS), 50 * rng.standard_normal(ELEMENTS)
    signatures = np.stack([first, other, 2 * first], axis=-1)
    fit = project(first + rounding, signatures, noise)
    assert fit.groups[0] == fit.groups[2] != fit.groups[1]
    np.testing.assert_allclose(fit.beta, [1.0, 0.0, 0.5], atol=7 * fit.error.max())
    assert fit.error.max() < 0.02
    assert np.argmin(fit.distance) == 0


def test_a_signature_that_others_add_up_to_cannot_be_fitted_jointly() -> None:
    rng = rng_of(2)
    rounding, noise = white(rng)
    parts = 50 * rng.standard_normal((ELEMENTS, 2))
    fit = project(rounding, np.column_stack([parts, parts.sum(axis=1)]), noise)
    assert len(set(fit.groups)) == 3
    assert np.isinf(fit.error).all()
    assert (fit.alone_error < 0.02).all()


def test_more_signatures_than_elements_leave_nothing_to_say() -> None:
    rng = rng_of(3)
    fit = project(rng.standard_normal(5), rng.standard_normal((5, 9)), rng.standard_normal((5, DRAWS)))
    assert np.isinf(fit.error).all()


def test_no_signature_at_all_explains_nothing() -> None:
    rounding, noise = white(rng_of(4))
    fit = project(rounding, np.zeros((ELEMENTS, 0)), noise)
    assert fit.beta.shape == (0,)
    assert fit.explained == pytest.approx(0.0)


@pytest.mark.parametrize(("step", "parted"), [(1e-3, False), (1.0, True)])
def test_two_signatures_are_apart_when_their_difference_stands_above_the_noise(step: float, parted: bool) -> None:
    rng = rng_of(5)
    first = 50 * rng.standard_normal(ELEMENTS)
    signatures = np.stack([first, first + step * rng.standard_normal(ELEMENTS)], axis=-1)
    far = apart(signatures, rng.standard_normal((ELEMENTS, DRAWS)), 0)
    assert far[0] == 0.0
    assert (far[1] > 6) == parted


def test_noise_along_their_difference_keeps_two_signatures_together() -> None:
    rng = rng_of(6)
    first, difference = 50 * rng.standard_normal(ELEMENTS), rng.standard_normal(ELEMENTS)
    noise = 30 * np.outer(difference, rng.standard_normal(DRAWS))
    assert apart(np.stack([first, first + difference], axis=-1), noise, 0)[1] < 6
