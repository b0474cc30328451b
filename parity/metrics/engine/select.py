"""Order statistics of values that are never stored: from a histogram, the values of one bin, or finer histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from parity.metrics.engine.parts import BIN_SHIFT, Histogram, Kept

SHARES: Final = (50, 99)
"""Percentages whose quantiles are sought: median and 99 % quantile."""
_FINER_BITS: Final = 16

_Bits = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """The value of that rank among those of one bin, in ascending order from 0; so many are its lower edge."""

    bin: int
    rank: int
    count: int
    edges: int

    def at_edge(self) -> float | None:
        """Return the value where it is known to be the lower edge of the bin."""
        return value_of(self.bin << BIN_SHIFT) if self.rank < self.edges else None


def targets(histogram: Histogram) -> tuple[Target, ...]:
    """Find the bins of the quantiles: the value that at least that share of all does not exceed."""
    below = np.cumsum(histogram.bins)
    total = int(below[-1])
    found = []
    for share in SHARES:
        # ceil(n*p/100) - 1 in integers, which no rounding of p/100 can shift.
        rank = -(-share * total // 100) - 1
        at = int(np.searchsorted(below, rank, side="right"))
        count = int(histogram.bins[at])
        found.append(Target(histogram.bin(at), rank - int(below[at]) + count, count, int(histogram.edges[at])))
    return tuple(found)


def settle(target: Target, index: int, kept: Sequence[Kept]) -> float | None:
    """Rank what the workers kept of a target's bin; None where it is not all there and not all one value."""
    states = [part.states[index] for part in kept]
    least, most = min(int(state[1]) for state in states), max(int(state[2]) for state in states)
    if least == most:
        return value_of(least)
    if any(int(state[0]) > part.values.shape[1] for state, part in zip(states, kept, strict=True)):
        return None
    values = np.concatenate([part.values[index, : int(state[0])] for state, part in zip(states, kept, strict=True)])
    return float(np.partition(values, target.rank)[target.rank])


def narrow(target: Target, ranked: Callable[[], Iterable[_Bits]]) -> float:
    """Find a target by finer and finer histograms of all values.

    Args:
        target: What to find.
        ranked: Goes through the bits of all values anew, in pieces.
    """
    low, shift, rank = target.bin << BIN_SHIFT, BIN_SHIFT, target.rank
    while shift:
        finer = max(0, shift - _FINER_BITS)
        counts = np.zeros(1 << (shift - finer), np.int64)
        for bits in ranked():
            inside = bits[bits >> shift == low >> shift]
            counts += np.bincount((inside - low) >> finer, minlength=counts.size)
        below = np.cumsum(counts)
        at = int(np.searchsorted(below, rank, side="right"))
        low, shift, rank = low + (at << finer), finer, rank - int(below[at]) + int(counts[at])
    return value_of(low)


def value_of(bits: int) -> float:
    """Return the float64 of these bits."""
    return float(np.array([bits], np.int64).view(np.float64)[0])
