"""Special values: NaN, infinities, zeros and subnormal numbers have to stand where they are expected.

This comparison comes before any norm: norms are taken over finite values and would not see a misplaced NaN.

Source: numerics.md, section 1, "special values".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import Index, first_index, paired
from parity.spec.arrays import Array
from parity.spec.precision import Rung

BLOCK: Final = 1 << 15
"""Numbers that are looked at together: they stay in the first or second cache."""


@dataclass(frozen=True)
class SpecialValues:
    """Mismatches by class: elements where exactly one of `actual` and `expected` belongs to the class.

    Attributes:
        nan: NaN on one side only.
        inf: infinite on either side and not the same infinity on both.
        zero: zero of either sign on one side only.
        negative_zero: -0.0 on one side only.
        subnormal: 0 < |x| < 2**emin on one side only.
        nan_index: first mismatch of `nan` in row-major order.
        inf_index: first mismatch of `inf` in row-major order.
    """

    nan: int = 0
    inf: int = 0
    zero: int = 0
    negative_zero: int = 0
    subnormal: int = 0
    nan_index: Index | None = None
    inf_index: Index | None = None

    @property
    def fatal(self) -> bool:
        """Whether a NaN or an infinity is misplaced; flushing to zero may change the other classes."""
        return self.nan > 0 or self.inf > 0


def compare_special(actual: npt.ArrayLike, expected: npt.ArrayLike, rung: Rung) -> SpecialValues:
    """Count the special values that do not stand where they should.

    Args:
        actual: values of the format carried in float64, any shape.
        expected: the same, same shape.
        rung: the format; it says which numbers are subnormal.

    Returns:
        The mismatches by class.

    Raises:
        ValueError: the shapes differ.

    Source: numerics.md, section 1, "special values".
    """
    left, right = paired(actual, expected)
    if _all_normal(left, rung) and _all_normal(right, rung):
        return SpecialValues()
    nan = np.asarray(np.isnan(left) != np.isnan(right))
    inf = np.asarray((np.isinf(left) | np.isinf(right)) & (left != right))
    left_zero, right_zero = left == 0, right == 0
    return SpecialValues(
        nan=int(np.count_nonzero(nan)),
        inf=int(np.count_nonzero(inf)),
        zero=int(np.count_nonzero(left_zero != right_zero)),
        negative_zero=int(np.count_nonzero((left_zero & np.signbit(left)) != (right_zero & np.signbit(right)))),
        subnormal=int(np.count_nonzero(_is_subnormal(left, left_zero, rung) != _is_subnormal(right, right_zero, rung))),
        nan_index=first_index(nan),
        inf_index=first_index(inf),
    )


def _all_normal(values: Array, rung: Rung) -> bool:
    """Whether all numbers are normal and finite, by blocks: of a large tensor there is no second one of its size."""
    flat = values.reshape(-1)
    size = np.empty(min(flat.size, BLOCK))
    for start in range(0, flat.size, BLOCK):
        block = np.abs(flat[start : start + BLOCK], out=size[: min(BLOCK, flat.size - start)])
        # A NaN is the least and the largest of its block, and neither comparison holds.
        if not (block.min() >= rung.tiny and block.max() < np.inf):
            return False
    return True


def _is_subnormal(values: Array, is_zero: npt.NDArray[np.bool_], rung: Rung) -> npt.NDArray[np.bool_]:
    """Say where 0 < |x| < 2**emin."""
    return np.asarray((np.abs(values) < rung.tiny) & ~is_zero)
