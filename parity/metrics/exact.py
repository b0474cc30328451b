"""Integers and booleans against those that rounding allows, element by element; nothing is nearly right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.metrics.arrays import Index
from parity.spec.arrays import AnyArray


@dataclass(frozen=True)
class ExactMetrics:
    """One tensor of integers or booleans.

    Args:
        count: Its elements.
        equal, reference_equal: How many of the port's, and of the reference's at the rung, are the truth's.
        mismatched: How many of the port's are none of the values allowed.
        undecided: How many have several values allowed, so far as that was asked.
        open: How many of those may have any value.
        index: The first mismatched one, empty if there is none.
        got: What the port has there.
        allowed: What it may have there, in order.
    """

    count: int
    equal: int
    reference_equal: int
    mismatched: int
    undecided: int
    open: int
    index: Index = ()
    got: int = 0
    allowed: tuple[int, ...] = ()


def compare_exact(
    port: AnyArray, truth: AnyArray, reference: AnyArray, draws: Sequence[AnyArray], most: int
) -> ExactMetrics:
    """Compare the port's elements with the values that each may have.

    Args:
        port: Any shape.
        truth: The float64 reference's, of any shape: one of another shape allows nothing.
        reference: The reference's at the rung, likewise.
        draws: The perturbed reference's, likewise.
        most: An element with more values than that may have any.
    """
    seen = np.stack([array for array in (truth, reference, *draws) if array.shape == port.shape])
    values = np.sort(seen, axis=0)
    distinct = 1 + (values[1:] != values[:-1]).sum(axis=0)
    any_passes = (distinct > most) | (distinct == 2 if port.dtype == np.bool_ else False)
    wrong = ~(seen == port).any(axis=0) & ~any_passes
    found = ExactMetrics(
        count=port.size,
        equal=_equal(port, truth),
        reference_equal=_equal(reference, truth),
        mismatched=int(wrong.sum()),
        undecided=int((distinct > 1).sum()),
        open=int(any_passes.sum()),
    )
    if not found.mismatched:
        return found
    index = tuple(int(place) for place in np.argwhere(wrong)[0])
    allowed = tuple(np.unique(seen.reshape(len(seen), -1)[:, int(wrong.argmax())]).tolist())
    return replace(found, index=index, got=port[index].item(), allowed=allowed)


def _equal(array: AnyArray, truth: AnyArray) -> int:
    return int((array == truth).sum()) if array.shape == truth.shape else 0
