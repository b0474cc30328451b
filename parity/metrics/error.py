"""Error of a computed tensor against its float64 truth, and the ratio of two such errors.

Source: numerics.md, sections 1 (metrics) and 3.1 (ratio).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import Index, as_array, paired, unravel
from parity.metrics.ulp import finite_ulp_error, round_to, round_to_spacing, ulp, ulp_counts
from parity.spec.arrays import Array
from parity.spec.precision import Rung

_F64_MAXIMUM: Final = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class ErrorMetrics:
    """Statistics of e = actual - T over the elements where both are finite; all 0 where there are none.

    Attributes:
        count: elements compared, n. Zero compares nothing: it is the caller's part to fail it.
        max_abs: max|e|.
        max_abs_index: where max|e| stands, the first in row-major order; `()` for 0-d and for no elements.
        rms: sqrt(mean(e**2)).
        truth_rms: sqrt(mean(T**2)).
        truth_max: max|T|.
        rel_l2: ||e|| / ||T||; 0 where e is 0, infinity where only T is.
        ulp_p50: median of |e|/ulp(T), the lower one where n is even.
        ulp_p99: smallest |e|/ulp(T) that at least 99 % of the elements do not exceed.
        ulp_max: max of |e|/ulp(T); dominated by values near 0, so not a gate.
        bias: mean(e) / (rms(T)*u); signed infinity where T is 0 and mean(e) is not.
        bias_z: mean(e) / (sd/sqrt(n)), sd with n - 1; 0 where sd is 0.
        correctly_rounded: share of elements that equal T rounded to the format; -0 equals +0.
        ulp_counts: elements by octave of |e|/ulp(T), as `ulp_counts` bins them; empty where there are no elements.
    """

    count: int = 0
    max_abs: float = 0.0
    max_abs_index: Index = ()
    rms: float = 0.0
    truth_rms: float = 0.0
    truth_max: float = 0.0
    rel_l2: float = 0.0
    ulp_p50: float = 0.0
    ulp_p99: float = 0.0
    ulp_max: float = 0.0
    bias: float = 0.0
    bias_z: float = 0.0
    correctly_rounded: float = 0.0
    ulp_counts: tuple[int, ...] = ()

    @property
    def l2(self) -> float:
        """||e||, the error that `error_ratio` compares."""
        return self.rms * math.sqrt(self.count)

    @property
    def numbers(self) -> tuple[float, ...]:
        """All of it in one row: count, axes, index, what is no integer in the order of the attributes, ulp counts."""
        index = self.max_abs_index
        reals = (getattr(self, name) for name in _REALS)
        return tuple(map(float, (self.count, len(index), *index, *reals, *self.ulp_counts)))

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> ErrorMetrics:
        """Return the statistics whose `numbers` these are."""
        count, axes = int(numbers[0]), int(numbers[1])
        reals, rest = 2 + axes, 2 + axes + len(_REALS)
        return cls(
            count=count,
            max_abs_index=tuple(map(int, numbers[2:reals])),
            ulp_counts=tuple(map(int, numbers[rest:])),
            **dict(zip(_REALS, numbers[reals:rest], strict=True)),
        )


_REALS: Final = tuple(it.name for it in fields(ErrorMetrics) if it.type == "float")


def measure(actual: npt.ArrayLike, truth: npt.ArrayLike, rung: Rung) -> ErrorMetrics:
    """Measure a computed tensor against its truth.

    Only elements where both are finite count: `compare_special` judges the others. An error beyond the range
    of float64 counts as float64's largest number.

    Args:
        actual: values of the format carried in float64, any shape.
        truth: float64 truth T, same shape.
        rung: the format of `actual`.

    Returns:
        The statistics, none of them NaN.

    Raises:
        ValueError: the shapes differ.

    Source: numerics.md, section 1.
    """
    left, right = paired(actual, truth, "truth")
    computed, exact, positions = _finite_pairs(left, right)
    if computed.size == 0:
        return ErrorMetrics()
    with np.errstate(over="ignore", under="ignore"):
        error = computed - exact
        signed = _signed(error)
        scaled_truth = _scaled(exact, float(np.abs(exact).max()))
        spacing = ulp(exact, rung)
        in_ulps = finite_ulp_error(computed, exact, spacing)
        ulp_p50, ulp_p99, ulp_max = _quantiles(in_ulps)
        correct = np.count_nonzero(computed == round_to_spacing(exact, spacing, rung))
    flat = signed.position if positions is None else int(positions[signed.position])
    return ErrorMetrics(
        count=computed.size,
        max_abs=signed.norm.largest,
        max_abs_index=unravel(flat, left.shape),
        rms=signed.norm.rms,
        truth_rms=scaled_truth.rms,
        truth_max=scaled_truth.largest,
        rel_l2=signed.norm.over(scaled_truth),
        ulp_p50=ulp_p50,
        ulp_p99=ulp_p99,
        ulp_max=ulp_max,
        bias=scaled_bias(signed, scaled_truth, rung),
        bias_z=signed.z,
        correctly_rounded=int(correct) / computed.size,
        ulp_counts=ulp_counts(in_ulps),
    )


def quantisation_error(truth: npt.ArrayLike, rung: Rung) -> float:
    """Error that no computation in the format can avoid on average: that of rounding the truth.

    q = ||RN(T) - T|| over the elements whose T and RN(T) are finite.

    Args:
        truth: float64 truth T, any shape.
        rung: the format.

    Returns:
        q, 0 where the truth holds only numbers of the format.

    Source: numerics.md, section 3.1.
    """
    exact = as_array(truth)
    rounded, exact, _ = _finite_pairs(round_to(exact, rung), exact)
    if exact.size == 0:
        return 0.0
    error = rounded - exact
    return _scaled(error, float(np.abs(error).max())).rms * math.sqrt(error.size)


def error_ratio(port: float, reference: float, quantisation: float) -> float:
    """How many times larger the port's error is than the reference's.

    max(e_port, q) / max(e_ref, q). The floor q keeps the ratio at 1 where both are as good as correctly
    rounded.

    Args:
        port: e_port = ||port - T||, `ErrorMetrics.l2`.
        reference: e_ref = ||reference - T||, in the same norm over the same elements.
        quantisation: q = ||RN(T) - T||, `quantisation_error`.

    Returns:
        The ratio; 1 where all three are 0, infinity where only the port errs or its error is infinite.

    Raises:
        ValueError: an argument is negative or NaN.

    Source: numerics.md, section 3.1.
    """
    for name, value in (("port", port), ("reference", reference), ("quantisation", quantisation)):
        if not value >= 0.0:
            raise ValueError(f"{name} error is {value}; a norm is 0 or more: pass ErrorMetrics.l2")
    if math.isinf(port):
        return math.inf
    above, below = max(port, quantisation), max(reference, quantisation)
    if below == 0.0:
        return 1.0 if above == 0.0 else math.inf
    return above / below


class Norm(NamedTuple):
    """A Euclidean norm as scale * root; scale is a power of two that keeps squares in float64's range."""

    size: int
    largest: float
    scale: float
    root: float

    @property
    def rms(self) -> float:
        """Norm over sqrt(n)."""
        return self.scale * (self.root / math.sqrt(self.size))

    def over(self, other: Norm) -> float:
        """Ratio of two norms, formed without either of them; 0/0 is 0, x/0 is infinity."""
        if self.largest == 0.0:
            return 0.0
        if other.largest == 0.0:
            return math.inf
        return self.root / other.root * (self.scale / other.scale)


class Signed(NamedTuple):
    """Reductions of the signed error: `position` of its largest magnitude, `mean` in units of norm.scale."""

    norm: Norm
    position: int
    mean: float
    z: float


def _finite_pairs(left: Array, right: Array) -> tuple[Array, Array, npt.NDArray[np.intp] | None]:
    """Flatten to the elements where both are finite; their positions, None where these are all elements."""
    computed, exact = left.ravel(), right.ravel()
    finite = np.isfinite(computed) & np.isfinite(exact)
    if finite.all():
        return computed, exact, None
    return computed[finite], exact[finite], np.flatnonzero(finite)


def _signed(error: Array) -> Signed:
    """Reduce the flat, non-empty error e to its norm, largest magnitude, mean and z score."""
    high, low = int(error.argmax()), int(error.argmin())
    above, below = float(error[high]), float(error[low])
    largest = max(above, -below)
    if math.isinf(largest):
        return _signed(np.clip(error, -_F64_MAXIMUM, _F64_MAXIMUM))
    position = min(where for where, value in ((high, above), (low, -below)) if value == largest)
    scale = power_of_two(largest)
    unit = error / scale
    mean = float(unit.sum()) / unit.size
    squares = float(np.square(unit).sum())
    norm = Norm(unit.size, largest, scale, math.sqrt(squares))
    # One value throughout has no spread, which the rounding of its mean would hide.
    z = 0.0 if above == below else z_score(unit.size, mean, squares, lambda: float(np.square(unit - mean).sum()))
    return Signed(norm, position, mean, z)


def _scaled(values: Array, largest: float) -> Norm:
    """Norm of flat, non-empty, finite values whose largest magnitude is known."""
    scale = power_of_two(largest)
    return Norm(values.size, largest, scale, math.sqrt(float(np.square(values / scale).sum())))


def power_of_two(largest: float) -> float:
    """Scale by which division is exact: 2**floor(log2(x)), 1 for 0."""
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0.0 else 1.0


def z_score(count: int, mean: float, squares: float, about: Callable[[], float]) -> float:
    """mean / (sd/sqrt(n)) of values that are not all equal, hence two or more.

    Squares about the mean are sum(x**2) - n*mean**2 where at least half of the former is left, so that the difference
    loses no more than one bit; where the mean outweighs the spread they are summed anew.

    Args:
        count: n.
        mean: Of the values.
        squares: sum(x**2).
        about: Returns sum((x - mean)**2).
    """
    spread = squares - count * mean * mean
    if spread < squares / 2:
        spread = about()
    return mean / math.sqrt(spread / (count - 1) / count)


def scaled_bias(signed: Signed, truth: Norm, rung: Rung) -> float:
    """mean(e) / (rms(T)*u)."""
    if signed.mean == 0.0:
        return 0.0
    if truth.largest == 0.0:
        return math.copysign(math.inf, signed.mean)
    root = truth.root / math.sqrt(truth.size)
    return signed.mean / root * (signed.norm.scale / truth.scale) / rung.u


def _quantiles(values: Array) -> tuple[float, float, float]:
    """Median, 99 % quantile and maximum: values that occur, as interpolation with infinity would be NaN."""
    count = values.size
    # ceil(n*p/100) - 1 in integers, which no rounding of p/100 can shift.
    middle, high = -(-50 * count // 100) - 1, -(-99 * count // 100) - 1
    ranked = np.partition(values, (middle, high, count - 1))
    return float(ranked[middle]), float(ranked[high]), float(ranked[count - 1])
