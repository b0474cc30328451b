"""Predicted errors of large tensors are those of small ones, from runs that are not kept."""

from __future__ import annotations

import weakref

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.backends import shifts
from parity.backends.shifts import LARGE, Noise, Shifts, noise_of
from parity.spec.precision import RUNGS, RungName

SHAPE = (LARGE // 64 + 5, 64)
Values = npt.NDArray[np.float64]


def drawn(seed: int, scale: float = 1.0, runs: int = 3) -> tuple[Values, list[Values]]:
    """Return a truth and runs that lie about `scale` from it, each by another amount."""
    generator = np.random.Generator(np.random.Philox(seed))
    truth = generator.standard_normal(SHAPE)
    return truth, [truth + scale * (1 + run) * generator.uniform(-1, 1, SHAPE) for run in range(runs)]


def kept(runs: list[Values], truth: Values, rung: RungName, monkeypatch: pytest.MonkeyPatch) -> Noise:
    """Measure all runs together, as those of a small tensor."""
    with monkeypatch.context() as changed:
        changed.setattr(shifts, "LARGE", truth.size + 1)
        return noise_of(runs, truth, RUNGS[rung])


@pytest.mark.parametrize("rung", ["f64", "f32"])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e-200])
def test_a_run_that_is_forgotten_counts_as_one_that_is_kept(
    rung: RungName, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, runs = drawn(1, scale)
    if scale < 1e-100:
        runs, truth = [run - truth for run in runs], np.zeros(SHAPE)
    found, expected = noise_of(runs, truth, RUNGS[rung]), kept(runs, truth, rung, monkeypatch)
    assert found.maximum == expected.maximum
    assert found.rms == pytest.approx(expected.rms, rel=1e-13)


def test_a_run_that_is_left_out_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, runs = drawn(2)
    expected = kept(runs, truth, "f32", monkeypatch)
    assert noise_of(runs[:-1], truth, RUNGS["f32"]).maximum < expected.maximum
    assert noise_of(runs[1:], truth, RUNGS["f32"]).rms > 1.1 * expected.rms


def test_of_a_large_tensor_no_run_is_kept() -> None:
    truth, runs = drawn(3, runs=1)
    collected = Shifts(truth, RUNGS["f32"])
    collected.add(runs[0])
    alive = weakref.ref(runs.pop())
    assert alive() is None
    assert collected.noise().rms > 0


@given(axis=st.integers(0, 1))
def test_the_order_of_axes_in_memory_plays_no_part(axis: int) -> None:
    truth, runs = drawn(4, runs=1)
    laid = [np.ascontiguousarray(run.T).T if axis else run for run in runs]
    assert noise_of(laid, truth, RUNGS["f32"]) == noise_of(runs, truth, RUNGS["f32"])


def test_what_does_not_move_has_no_error() -> None:
    truth, _ = drawn(5)
    assert noise_of([truth.copy()], truth, RUNGS["f32"]) == Noise(0.0, 0.0)


def test_a_truth_that_is_not_finite_is_left_out() -> None:
    truth, runs = drawn(6, runs=2)
    expected = noise_of(runs, truth, RUNGS["f32"])
    truth[0, 0] = np.inf
    runs[0][0, 0] = np.nan
    found = noise_of(runs, truth, RUNGS["f32"])
    assert found.rms == pytest.approx(expected.rms, rel=1e-5)


def test_a_run_that_leaves_the_range_is_no_small_error() -> None:
    truth, runs = drawn(7, runs=2)
    runs[1][3, 3] = np.nan
    found = noise_of(runs, truth, RUNGS["f32"])
    assert np.isnan(found.maximum)
