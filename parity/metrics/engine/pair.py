"""What is measured of a pair of tensors, and the plain NumPy form that says what each number means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import as_array, paired
from parity.metrics.error import ErrorMetrics, measure
from parity.metrics.special import SpecialValues, compare_special
from parity.metrics.ulp import round_to, ulp_distance
from parity.spec.arrays import Array
from parity.spec.precision import BY_DTYPE, Rung

STEP_EDGES: Final = tuple(2.0**exponent for exponent in range(13))
"""Inner edges of a histogram of ULP distances: none, one, [2, 4), ..., [2048, 4096), 4096 and more."""


@dataclass(frozen=True)
class StepMetrics:
    """ULP distances: steps from the computed number to the truth rounded to the format, over finite pairs.

    Attributes:
        p50: Lower median.
        p99: Smallest distance that at least 99 % of the elements do not exceed.
        largest: Largest distance; infinity where the rounded truth is infinite.
        counts: Elements between the `STEP_EDGES`; empty where there are no elements.
    """

    p50: float = 0.0
    p99: float = 0.0
    largest: float = 0.0
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class PairMetrics:
    """Everything that is measured of a computed tensor against its truth.

    Attributes:
        error: As `measure` gives it.
        special: As `compare_special` gives it.
        steps: ULP distances.
        channel_max: max|e| of each channel over its finite pairs, 0 where it has none; empty without a channel axis.
    """

    error: ErrorMetrics
    special: SpecialValues
    steps: StepMetrics
    channel_max: tuple[float, ...] = ()


def rung_of(actual: npt.NDArray[Any]) -> Rung:
    """Return the format that a tensor's dtype says.

    Raises:
        ValueError: It is none of float64, float32, bfloat16, float16.
    """
    if actual.dtype.name not in BY_DTYPE:
        raise ValueError(
            f"actual has dtype {actual.dtype.name}; allowed: {', '.join(BY_DTYPE)}: cast it, or compare integers by "
            "compare_exact"
        )
    return BY_DTYPE[actual.dtype.name]


def channels(shape: tuple[int, ...], axis: int | None) -> tuple[int, int]:
    """Return the number of channels, 0 for no axis, and the elements from one to the next.

    Raises:
        ValueError: The shape has no such axis.
    """
    if axis is None:
        return 0, 1
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"channel axis {axis} of shape {shape}; allowed: {-len(shape)} to {len(shape) - 1}, or None")
    axis %= len(shape)
    return shape[axis], int(np.prod(shape[axis + 1 :], dtype=np.int64))


def measure_pair_plain(
    actual: npt.NDArray[Any], truth: npt.NDArray[Any], channel_axis: int | None = None
) -> PairMetrics:
    """Measure with whole-array NumPy in float64: the meaning of every number, and the oracle of `measure_pair`.

    Args:
        actual: float64, float32, bfloat16 or float16, any shape.
        truth: reals of the same shape, any of these dtypes.
        channel_axis: the axis of `channel_max`.

    Raises:
        ValueError: The shapes differ, the dtype is no format, or there is no such axis.
    """
    rung = rung_of(actual)
    computed, exact = paired(as_array(actual), as_array(truth), "truth")
    count, _ = channels(computed.shape, channel_axis)
    finite = np.isfinite(computed) & np.isfinite(exact)
    return PairMetrics(
        error=measure(computed, exact, rung),
        special=compare_special(computed, exact, rung),
        steps=_steps(computed[finite], exact[finite], rung),
        channel_max=() if channel_axis is None else _channel_max(computed, exact, finite, channel_axis, count),
    )


def _steps(computed: Array, exact: Array, rung: Rung) -> StepMetrics:
    if computed.size == 0:
        return StepMetrics()
    steps = np.sort(ulp_distance(computed, round_to(exact, rung), rung))
    counts = np.bincount(np.searchsorted(STEP_EDGES, steps, side="right"), minlength=len(STEP_EDGES) + 1)
    middle, high = (-(-share * steps.size // 100) - 1 for share in (50, 99))
    return StepMetrics(
        float(steps[middle]), float(steps[high]), float(steps[-1]), tuple(int(count) for count in counts)
    )


def _channel_max(
    computed: Array, exact: Array, finite: npt.NDArray[np.bool_], axis: int, count: int
) -> tuple[float, ...]:
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.minimum(np.abs(np.where(finite, computed - exact, 0.0)), np.finfo(np.float64).max)
    others = tuple(other for other in range(error.ndim) if other != axis % error.ndim)
    largest = error.max(axis=others, initial=0.0) if others else error
    return tuple(float(value) for value in np.reshape(largest, count))
