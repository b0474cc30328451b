"""A pair of tensors, read block by block in row-major order; nothing of full size is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parity.metrics.engine.tree import blocks

_Values = npt.NDArray[Any]

_SIXTEEN_BITS: Final = ("bfloat16", "float16")


class TensorPair:
    """Reads a computed tensor and its truth side by side, float32 where that holds the values and float64 elsewhere.

    Args:
        actual: Reals of any shape.
        truth: Reals of the same shape.
        limit: Elements of one of its `reads` at most.

    Raises:
        ValueError: The shapes differ.
    """

    def __init__(self, actual: _Values, truth: _Values, limit: int) -> None:
        if actual.shape != truth.shape:
            raise ValueError(
                f"actual has shape {actual.shape} but truth has shape {truth.shape}; metrics never broadcast, so both "
                "must be equal: compare the shapes first"
            )
        self.shape, self.size = actual.shape, actual.size
        self.reads = blocks(self.size, limit)
        self._flat = tuple(_flat(tensor) for tensor in (actual, truth))
        self._before: npt.NDArray[np.int64] | None = None

    def raw(self, start: int, stop: int) -> tuple[_Values, _Values]:
        """Return elements [start, stop) of both, as they stand."""
        actual, truth = (_carried(flat[start:stop]) for flat in self._flat)
        return actual, truth

    def leave_out(self, finite: Sequence[int]) -> None:
        """Say how many elements of each of `reads` are finite on both sides: `finite_pairs` counts only these."""
        self._before = np.concatenate(([0], np.cumsum(finite, dtype=np.int64)))

    def finite_pairs(self, start: int, stop: int) -> tuple[_Values, _Values]:
        """Return the elements that are numbers [start, stop) of those finite on both sides."""
        if self._before is None:
            return self.raw(start, stop)
        if start == stop:
            return self.raw(0, 0)
        parts = [(actual[chosen], truth[chosen]) for actual, truth, chosen, _ in self._parts(self._before, start, stop)]
        return np.concatenate([actual for actual, _ in parts]), np.concatenate([truth for _, truth in parts])

    def position(self, rank: int) -> int:
        """Return the row-major position of the element that is number `rank` of those finite on both sides."""
        if self._before is None:
            return rank
        ((_, _, chosen, start),) = self._parts(self._before, rank, rank + 1)
        return start + int(chosen[0])

    def _parts(
        self, before: npt.NDArray[np.int64], start: int, stop: int
    ) -> list[tuple[_Values, _Values, npt.NDArray[np.intp], int]]:
        first = int(np.searchsorted(before, start, side="right")) - 1
        last = int(np.searchsorted(before, stop, side="left"))
        parts = []
        for read in range(first, last):
            begin = self.reads[read].start
            actual, truth = self.raw(begin, self.reads[read].stop)
            chosen = np.flatnonzero(np.isfinite(actual) & np.isfinite(truth))
            skip = int(before[read])
            parts.append((actual, truth, chosen[max(0, start - skip) : stop - skip], begin))
        return parts


def is_single(tensor: _Values) -> bool:
    """Say whether a `TensorPair` reads this as float32."""
    return _carried(tensor[:0] if tensor.ndim else tensor).dtype == np.float32


def _flat(tensor: _Values) -> Any:
    """See a tensor as a line: a view where its memory is one, an iterator, which copies slices, elsewhere."""
    if tensor.flags.c_contiguous and tensor.dtype.isnative and tensor.flags.aligned:
        return tensor.reshape(-1)
    return tensor.flat


def _carried(values: _Values) -> _Values:
    """Widen what is neither float32 nor float64: sixteen-bit reals fit into float32, the rest is carried in float64."""
    if values.dtype in (np.float32, np.float64) and values.dtype.isnative:
        return values
    return values.astype(np.float32 if values.dtype.name in _SIXTEEN_BITS else np.float64)
