"""What the kernels of a block give, and the constants that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from parity.metrics.engine.tree import Block
from parity.spec.arrays import Array
from parity.spec.precision import Rung

BIN_SHIFT: Final = 46
"""Bits of a non-negative float64 below its bin's: 64 bins an octave, whole numbers below 128 one each."""
BINS: Final = 1 << (63 - BIN_SHIFT)
KEPT: Final = 1 << 19
"""Values of one bin that are kept to be ranked: 4 MiB. A fuller bin is cut finer first."""
TARGETS: Final = 4
"""Median and 99 % quantile of the errors in ulps, and of the steps."""

_F64_FRACTION: Final = 52
_F64_EMIN: Final = -1022
_F64_DIGITS: Final = 53


@dataclass
class Blocks:
    """What the first pass makes of each block of a tree.

    Attributes:
        nodes: The blocks.
        sums: Sums of e, e**2 and T**2 in units of a scale, shape (blocks, 3).
        extremes: Highest e, lowest e, highest error in ulps, highest step, shape (blocks, 4).
    """

    nodes: tuple[Block, ...]
    sums: Array
    extremes: Array

    @classmethod
    def empty(cls, nodes: tuple[Block, ...]) -> Blocks:
        """Make room for those blocks."""
        return cls(nodes, np.zeros((len(nodes), 3)), np.zeros((len(nodes), 4)))


class Form(NamedTuple):
    """A format in float64's bits: of 2**emin; its digits; 2**(digits-1); 2**(-1022-emin); 53 - digits."""

    tiny_bits: int
    digits: int
    grow: float
    shrink: float
    shift: int


def form_of(rung: Rung) -> Form:
    """Return the constants of a format."""
    return Form(
        (rung.emin - _F64_EMIN + 1) << _F64_FRACTION,
        rung.digits,
        2.0 ** (rung.digits - 1),
        2.0 ** (_F64_EMIN - rung.emin),
        _F64_DIGITS - rung.digits,
    )


@dataclass
class Counts:
    """What one worker counts: both histograms, how many numbers are correctly rounded, and the range of |e| and of |T|.

    `sizes` holds for each the bits of the largest and those of the least that is not 0, less one.
    """

    ulp_bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    step_bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sizes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.array([[0, 2**64 - 1]] * 2, np.uint64))
    correct: int = 0


@dataclass
class Kept:
    """What one worker keeps of the bins that are wanted: values, and of each target fill, least and largest bits."""

    values: Array
    states: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, room: int) -> Kept:
        """Make room for so many values of each target."""
        states = np.zeros((TARGETS, 3), np.int64)
        states[:, 1] = np.iinfo(np.int64).max
        return cls(np.empty((TARGETS, room)), states)


def bits_of(values: Array) -> npt.NDArray[Any]:
    """See float64 values as integers."""
    return np.ascontiguousarray(values).view(np.int64)
