"""What an error looks like: which simple operation on the right answer gives the wrong one.

Each hypothesis predicts the port's output from the reference's; it is named if it explains nearly all of the residual,
the simplest first. What none explains is called so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from parity.spec.arrays import Array
from parity.tolerance import constant


def residual_signature(port: Array, reference: Array, inputs: Mapping[str, Array] | None = None) -> str:
    """Say what the difference of two arrays of one shape looks like; empty where they are equal.

    Args:
        port: What the port made.
        reference: What it should have made, same shape.
        inputs: What both were given, by path: a missing or repeated term is looked for among those of the same shape.
    """
    if port.shape != reference.shape:
        return f"shape {port.shape} instead of {reference.shape}"
    if not (np.isfinite(port).all() and np.isfinite(reference).all()):
        return "NaN or infinity"
    residual = port - reference
    size = float(np.linalg.norm(residual))
    if size == 0:
        return ""
    for words, prediction in _hypotheses(port, reference, inputs or {}):
        if float(np.linalg.norm(port - prediction)) <= constant("signature") * size:
            return words
    return _places(residual, size)


def _hypotheses(port: Array, reference: Array, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    yield "zeros", np.zeros_like(port)
    constant = float((port - reference).mean())
    yield f"shifted by the constant {constant:.4g}", reference + constant
    square = float(np.vdot(reference, reference))
    if square > 0:
        factor = float(np.vdot(reference, port)) / square
        yield f"scaled by {factor:.6g}", factor * reference
    for path, values in inputs.items():
        if values.shape == port.shape and float(np.vdot(values, values)) > 0:
            beta = float(np.vdot(values, port - reference) / np.vdot(values, values))
            yield (
                f"{beta:+.4g} times its input {path} ({'missing' if beta < 0 else 'added'} term)",
                reference + beta * values,
            )
    for axis, length in enumerate(port.shape):
        yield from _along(axis, length, reference)
        yield from _permuted(axis, length, port, reference)
    if port.size <= _SORTED and np.array_equal(np.sort(port, axis=None), np.sort(reference, axis=None)):
        yield "a permutation of its elements", port


_SORTED: Final = 2**20
"""Elements up to which a permutation is looked for."""

_SHIFTS: Final = 4
"""Positions by which a shift is looked for."""


def _along(axis: int, length: int, reference: Array) -> Iterator[tuple[str, Array]]:
    yield f"reversed along axis {axis}", np.flip(reference, axis)
    for shift in (s for n in range(1, min(_SHIFTS, length - 1) + 1) for s in (n, -n)):
        rolled = np.roll(reference, shift, axis)
        yield f"shifted by {shift} along axis {axis}, wrapped around", rolled
        cut = rolled.copy()
        edge: list[slice] = [slice(None)] * reference.ndim
        edge[axis] = slice(0, shift) if shift > 0 else slice(shift, None)
        cut[tuple(edge)] = 0
        yield f"shifted by {shift} along axis {axis}", cut


def _permuted(axis: int, length: int, port: Array, reference: Array) -> Iterator[tuple[str, Array]]:
    """Slices along an axis that stand elsewhere: each of the port's is looked for among the reference's."""
    if not 1 < length <= _SLICES:
        return
    left = np.moveaxis(port, axis, 0).reshape(length, -1)
    right = np.moveaxis(reference, axis, 0).reshape(length, -1)
    distances = np.linalg.norm(left[:, None] - right[None], axis=-1)
    order = distances.argmin(1)
    if len(set(order.tolist())) == length and (order != np.arange(length)).any():
        yield f"axis {axis} permuted: {_short(order.tolist())}", np.take(reference, order, axis)


_SLICES: Final = 256
"""Slices of an axis up to which a permutation of them is looked for."""


def _short(order: list[int]) -> str:
    shown = ", ".join(map(str, order[:8]))
    return f"{shown}, ..." if len(order) > 8 else shown


def _places(residual: Array, size: float) -> str:
    """Name the part of an axis that holds all of the error, if there is a small one."""
    for axis, length in enumerate(residual.shape):
        if length < 2:
            continue
        others = tuple(i for i in range(residual.ndim) if i != axis)
        norms = np.sqrt(np.sum(np.square(residual), axis=others))
        where = np.flatnonzero(norms > constant("signature") * size / np.sqrt(length))
        if 0 < where.size <= length // 2:
            return f"confined to {_range(where.tolist())} of axis {axis} ({length} long)"
    return "of no simple form"


def _range(indices: list[int]) -> str:
    if indices == list(range(indices[0], indices[-1] + 1)):
        return f"{indices[0]}..{indices[-1]}" if len(indices) > 1 else f"index {indices[0]}"
    return f"{len(indices)} places"
