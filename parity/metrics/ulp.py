"""Units in the last place: the spacing of a format, errors counted in it, and rounding to it.

Two measures that are easily confused live here. `ulp_error` is real-valued and compares with a float64 truth;
`ulp_distance` is an integer and counts the format's numbers between two of its own.

Source: numerics.md, section 1; Muller et al., "Handbook of Floating-Point Arithmetic", for
Goldberg's definition of ulp(x) extended to all reals.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import as_array, paired
from parity.spec.arrays import Array
from parity.spec.precision import Rung

_F64_DIGITS: Final = 53
_F64_EMIN: Final = -1022
_EXPONENT_BITS: Final = np.int64(0x7FF0_0000_0000_0000)
_LARGEST_BINADE: Final = 2.0**1023
_F64_FRACTION: Final = 52
_F64_BIAS: Final = 1023

ULP_EDGES: Final = tuple(2.0**exponent for exponent in range(-4, 13))
"""Inner edges of a histogram of errors in ulps: octaves from 1/16 to 4096; 1/2 is where correct rounding ends."""


def ulp(truth: npt.ArrayLike, rung: Rung) -> Array:
    """Spacing of the format at the magnitude of a real number.

    ulp(T) = 2**(max(floor(log2|T|), emin) - digits + 1), hence the format's quantum at zero and below
    2**emin. Every step is exact. At a power of two this is the spacing above it, twice the spacing below.

    Args:
        truth: reals carried in float64, any shape; they need not be numbers of the format.
        rung: the format.

    Returns:
        The spacing, same shape; infinity where the truth is infinite or NaN.

    Source: numerics.md, section 1, "ULP (real, vs truth)".
    """
    return np.asarray(np.maximum(_binade(as_array(truth)), rung.tiny) * 2.0 ** (1 - rung.digits))


def ulp_error(actual: npt.ArrayLike, truth: npt.ArrayLike, rung: Rung) -> Array:
    """Real-valued error in units of the truth's last place.

    |actual - T| / ulp(T). Equal infinities and two NaNs agree (0); any other non-finite pair is infinitely
    wrong.

    Args:
        actual: values of the format, any shape.
        truth: float64 truth T, same shape.
        rung: the format of `actual`.

    Returns:
        The error, same shape, never NaN.

    Raises:
        ValueError: the shapes differ.

    Source: numerics.md, section 1, "ULP (real, vs truth)".
    """
    left, right = paired(actual, truth, "truth")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        error = finite_ulp_error(left, right, ulp(right, rung))
    return _judge_non_finite(error, left, right)


def finite_ulp_error(actual: Array, truth: Array, spacing: Array) -> Array:
    """Error in units of a spacing that is known already, for finite values.

    |actual/q - T/q|, q a power of two, so that both quotients are exact and no difference can overflow first.

    Args:
        actual: finite values, any shape.
        truth: finite float64 truth T, same shape.
        spacing: q = ulp(T), same shape.

    Returns:
        The error, same shape. The caller silences overflow: a quotient may leave the range of float64.
    """
    return np.asarray(np.abs(actual / spacing - truth / spacing))


def ulp_counts(errors: Array) -> tuple[int, ...]:
    """Count errors by octave: [0, 1/16), [1/16, 1/8), ..., [2048, 4096), [4096, infinity].

    The octave is read off the exponent bits, so that a power of two falls into the bin that it opens.

    Args:
        errors: |e|/ulp(T), any shape, not negative, not NaN; infinity falls into the last bin.

    Returns:
        len(ULP_EDGES) + 1 counts.
    """
    low, high = math.frexp(ULP_EDGES[0])[1] - 2, math.frexp(ULP_EDGES[-1])[1] - 1
    octaves = (np.ascontiguousarray(errors).view(np.int64).ravel() >> _F64_FRACTION) - _F64_BIAS
    counts = np.bincount(np.clip(octaves, low, high) - low, minlength=len(ULP_EDGES) + 1)
    return tuple(counts.tolist())


def ordered(values: npt.ArrayLike, rung: Rung) -> npt.NDArray[np.int64]:
    """Number the format's values in their order: both zeros are 0, neighbours differ by one.

    n(x) = sign(x) * (|x|/quantum below 2**emin, else the bits of exponent and fraction), and infinity follows
    the largest finite number.

    Args:
        values: values of the format carried in float64, any shape.
        rung: the format.

    Returns:
        The positions, same shape, int64. NaN has no place in the order and takes that of +infinity:
        `ulp_distance` looks at NaN first.

    Raises:
        ValueError: a value is not a number of the format.

    Source: numerics.md, section 1, `ordered`; here by arithmetic, as bfloat16 is carried in float64.
    """
    array = as_array(values)
    _require_representable(array, rung)
    magnitude = np.abs(array)
    # fmin, unlike minimum, does not hand NaN on to the cast, which would warn.
    below_normal = (np.fmin(magnitude, rung.tiny) / rung.quantum).astype(np.int64)
    position = np.where(magnitude < rung.tiny, below_normal, _normal_position(magnitude, rung))
    position = np.minimum(position, _normal_position(np.asarray(rung.maximum), rung) + 1)
    return np.asarray(np.where(array < 0, -position, position))


def ulp_distance(actual: npt.ArrayLike, expected: npt.ArrayLike, rung: Rung) -> Array:
    """Count the steps from one number of the format to another.

    |n(actual) - n(expected)| with n = `ordered`. Two NaNs and equal infinities are 0 apart; NaN and a number,
    an infinity and anything else are infinitely far apart, so that an overflow cannot pass as one step.

    Args:
        actual: values of the format carried in float64, any shape.
        expected: the same, same shape.
        rung: the format of both.

    Returns:
        The distance, same shape. The integer is exact; as float64 it is rounded above 2**53.

    Raises:
        ValueError: the shapes differ, or a value is not a number of the format.

    Source: numerics.md, section 1, `ulp_dist`.
    """
    left, right = paired(actual, expected)
    first, second = ordered(left, rung), ordered(right, rung)
    # The difference of two int64 may need 64 bits; modulo 2**64 larger minus smaller is exact as uint64.
    with np.errstate(over="ignore"):
        steps = np.maximum(first, second).view(np.uint64) - np.minimum(first, second).view(np.uint64)
    return _judge_non_finite(np.asarray(steps, dtype=np.float64), left, right)


def round_to(values: npt.ArrayLike, rung: Rung) -> Array:
    """Round reals to the nearest number of the format, ties to even.

    RN(x) = rint(x/q)*q with q = ulp(x): one rounding only. A cast that goes through float32 rounds twice.

    Args:
        values: reals carried in float64, any shape.
        rung: the format.

    Returns:
        Numbers of the format carried in float64, same shape: gradual underflow, overflow to infinity, the
        signs of zeros and infinities kept, NaN for NaN.

    Source: IEEE 754-2019, section 4.3.1, roundTiesToEven.
    """
    array = as_array(values)
    # A finite spacing lets infinities and NaN pass through the arithmetic unchanged.
    spacing = np.minimum(ulp(array, rung), _LARGEST_BINADE)
    return round_to_spacing(array, spacing, rung)


def round_to_spacing(values: Array, spacing: Array, rung: Rung) -> Array:
    """Round as `round_to` does, with a spacing that is known already.

    Args:
        values: reals carried in float64, any shape.
        spacing: ulp(values), same shape, finite.
        rung: the format.

    Returns:
        Numbers of the format carried in float64, same shape.
    """
    with np.errstate(over="ignore"):
        rounded = np.rint(values / spacing) * spacing
    overflowed = np.abs(rounded) > rung.maximum
    if overflowed.any():
        rounded = np.where(overflowed, np.copysign(np.inf, rounded), rounded)
    return np.asarray(rounded)


def _binade(values: Array) -> Array:
    """Keep only the exponent: 2**floor(log2|x|), 0 for float64's subnormals, infinity where not finite."""
    exponent = np.bitwise_and(values.view(np.int64), _EXPONENT_BITS)
    return np.asarray(exponent).view(np.float64)


def _normal_position(magnitude: Array, rung: Rung) -> npt.NDArray[np.int64]:
    """Position of |x| >= 2**emin: float64's bits less the fraction bits and binades that the format lacks."""
    bits = np.asarray(magnitude).view(np.int64) >> (_F64_DIGITS - rung.digits)
    return np.asarray(bits - ((rung.emin - _F64_EMIN) << (rung.digits - 1)))


def _require_representable(values: Array, rung: Rung) -> None:
    """Raise ValueError where a value would have to be rounded: its position would not be its own."""
    foreign = (round_to(values, rung) != values) & ~np.isnan(values)
    if foreign.any():
        raise ValueError(
            f"{int(np.count_nonzero(foreign))} of {values.size} values are not numbers of {rung.dtype}, "
            f"such as {float(values[foreign][0])!r}; only numbers of the format have a position in it: "
            "round_to them first, or use ulp_error against a float64 truth"
        )


def _judge_non_finite(measure: Array, left: Array, right: Array) -> Array:
    """Set pairs that are not both finite to 0 where they agree in value and sign, to infinity elsewhere."""
    finite = np.isfinite(left) & np.isfinite(right)
    if finite.all():
        return measure
    agree = (left == right) | (np.isnan(left) & np.isnan(right))
    return np.asarray(np.where(finite, measure, np.where(agree, 0.0, np.inf)))
