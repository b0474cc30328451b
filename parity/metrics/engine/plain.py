"""The passes over one block by NumPy: any finite values, by the functions of the whole-array form.

A block is a node of NumPy's tree of sums, so that `sum` over it adds in the order of the whole.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from parity.metrics.engine.parts import ABOVE_EDGE, BIN_SHIFT, Counts, Kept, bits_of
from parity.metrics.ulp import finite_ulp_error, round_to_spacing, ulp, ulp_distance
from parity.spec.arrays import Array
from parity.spec.precision import Rung

_LARGEST: Final = float(np.finfo(np.float64).max)


def errors(actual: Array, truth: Array) -> Array:
    """Form e = actual - T of finite values; beyond float64's range it is float64's largest number."""
    with np.errstate(over="ignore"):
        return np.asarray(np.clip(actual - truth, -_LARGEST, _LARGEST))


def channel_max(actual: Array, truth: Array, start: int, every: int, count: int, most: Array) -> None:
    """Raise `most`, one entry a channel, to max|e| over the finite pairs of a block at flat position `start`."""
    finite = np.isfinite(actual) & np.isfinite(truth)
    channel = (np.flatnonzero(finite) + start) // every % count
    np.maximum.at(most, channel, np.abs(errors(actual[finite], truth[finite])))


def largest(actual: Array, truth: Array) -> tuple[float, float]:
    """Return max|e| and max|T| of a block."""
    return float(np.abs(errors(actual, truth)).max()), float(np.abs(truth).max())


def first_pass(
    actual: Array, truth: Array, rung: Rung, scales: tuple[float, float], sums: Array, extremes: Array, counts: Counts
) -> None:
    """Reduce a block of finite values, and count it: a row of `Blocks`, its sums in units of the scales."""
    in_ulps, steps, correct = _measures(actual, truth, rung)
    in_bits = bits_of(in_ulps)
    np.add.at(counts.ulp_bins, (in_bits >> BIN_SHIFT) * 2 + ((in_bits & ABOVE_EDGE) != 0), 1)
    np.add.at(counts.step_bins, bits_of(steps) >> BIN_SHIFT, 1)
    counts.correct += correct
    error = errors(actual, truth)
    unit = error / scales[0]
    sums[:] = unit.sum(), np.square(unit).sum(), np.square(truth / scales[1]).sum()
    extremes[:] = error.max(), error.min(), in_ulps.max(), steps.max()
    counts.sizes[1, 0] = max(counts.sizes[1, 0], bits_of(np.abs(truth)).max())


def second_pass(
    actual: Array, truth: Array, rung: Rung, scale: float, mean: float, wanted: npt.NDArray[np.int64], kept: Kept
) -> float:
    """Sum (e/scale - mean)**2 over a block, and keep the values whose bins are wanted."""
    in_ulps, steps, _ = _measures(actual, truth, rung)
    for target, bin_ in enumerate(wanted):
        if bin_ < 0:
            continue
        values = in_ulps if target < wanted.size // 2 else steps
        _keep(values[bits_of(values) >> BIN_SHIFT == bin_], target, kept)
    return float(np.square(errors(actual, truth) / scale - mean).sum())


def ranked(actual: Array, truth: Array, rung: Rung, of_steps: bool) -> npt.NDArray[np.int64]:
    """Return the bits of the errors in ulps, or of the steps: in the order of the values, none being negative."""
    in_ulps, steps, _ = _measures(actual, truth, rung)
    return bits_of(steps if of_steps else in_ulps)


def _keep(values: Array, target: int, kept: Kept) -> None:
    if not values.size:
        return
    state, bits = kept.states[target], bits_of(values)
    room = max(0, kept.values.shape[1] - int(state[0]))
    kept.values[target, int(state[0]) : int(state[0]) + room][: values.size] = values[:room]
    state[0] += values.size
    state[1], state[2] = min(state[1], bits.min()), max(state[2], bits.max())


def _measures(actual: Array, truth: Array, rung: Rung) -> tuple[Array, Array, int]:
    """Return errors in ulps, steps from the rounded truth, and how many are correctly rounded."""
    with np.errstate(over="ignore", under="ignore"):
        spacing = ulp(truth, rung)
        in_ulps = finite_ulp_error(actual, truth, spacing)
        rounded = round_to_spacing(truth, spacing, rung)
    return in_ulps, ulp_distance(actual, rounded, rung), int(np.count_nonzero(actual == rounded))
