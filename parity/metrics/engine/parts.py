"""What the kernels of a block give, and the constants that they share."""

from __future__ import annotations

from collections.abc import Sequence
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
ABOVE_EDGE: Final = (1 << BIN_SHIFT) - 1
"""The bits of a float64 that are all 0 where it is the lower edge of its bin."""
COPIES: Final = 4
"""Copies of a histogram that take turns: raising one number twice in a row makes a processor wait."""
KEPT: Final = 1 << 19
"""Values of one bin that are kept to be ranked: 4 MiB. A fuller bin is cut finer first."""
COMMON: Final = 1 << 12
"""Distances of float32 below it have a counter each."""
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


def bin_of(value: float) -> int:
    """Return the bin of a number that is not negative."""
    return int(bits_of(np.array([value]))[0]) >> BIN_SHIFT


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
    """What one worker counts: both histograms, how many are correctly rounded, and the range of |e| and of |T|.

    A histogram is its copies, one after the other; that of ulps has two entries a bin, of its lower edge and of what
    lies above. `sizes` holds for each the bits of the largest and those of the least that is not 0, less one. `common`
    counts pairs of float32 whose error in ulps and whose distance are that whole number.
    """

    ulp_bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(COPIES * BINS * 2, np.int64))
    step_bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(COPIES * BINS, np.int64))
    sizes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.array([[0, 2**64 - 1]] * 2, np.uint64))
    correct: int = 0
    common: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(COMMON, np.int64))


class Window(NamedTuple):
    """The bins that can be occupied: that of 0, and [first, stop)."""

    first: int = 1
    stop: int = BINS

    def cut(self, counts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """Add arrays of copies that have an entry, or a row, a bin."""
        total = np.zeros((1 + self.stop - self.first, *counts[0].shape[1:]), np.int64)
        for part in counts:
            for copy in np.split(part, len(part) // BINS):
                total[0] += copy[0]
                total[1:] += copy[self.first : self.stop]
        return total


@dataclass(frozen=True)
class Histogram:
    """Values by bin of a window, and how many of each bin are known to be its lower edge."""

    window: Window
    bins: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]

    def bin(self, at: int) -> int:
        """Return the bin of an entry."""
        return self.window.first + at - 1 if at else 0

    def between(self, edges: Sequence[float]) -> tuple[int, ...]:
        """Count the values below, between and from positive edges that open a bin each, in ascending order."""
        below = np.concatenate(([0], np.cumsum(self.bins)))
        starts = np.clip((bits_of(np.array(edges)) >> BIN_SHIFT) - self.window.first + 1, 1, self.bins.size)
        return tuple(int(count) for count in np.diff(below[starts], prepend=0, append=below[-1]))


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


SINGLE_ULPS: Final = Window(bin_of(0.5), bin_of(2.0**278) + 1)
"""Errors of float32 in ulps of a float32 truth: e is 0, or at least half a spacing of T, and below 2**129."""
SINGLE_STEPS: Final = Window(bin_of(1.0), bin_of(2.0**32) + 1)
"""Distances of float32 numbers: of two positions below 2**31."""
