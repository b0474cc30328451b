"""The array type of the package and the checks that every metric makes on its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from parity.spec.arrays import Array

Index = tuple[int, ...]
"""One element's multi-index; `()` for a 0-d array."""


def as_array(values: npt.ArrayLike) -> Array:
    """Carry real values in float64, without a copy where they are already.

    Args:
        values: array of any shape.

    Returns:
        The same values, any shape, float64.
    """
    return np.asarray(values, dtype=np.float64)


def paired(actual: npt.ArrayLike, expected: npt.ArrayLike, name: str = "expected") -> tuple[Array, Array]:
    """Carry two tensors in float64 and refuse to broadcast one against the other.

    Args:
        actual: array of any shape.
        expected: array of the same shape.
        name: what the message calls the second tensor.

    Returns:
        Both as float64 arrays of one shape.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = as_array(actual), as_array(expected)
    if first.shape != second.shape:
        raise ValueError(
            f"actual has shape {first.shape} but {name} has shape {second.shape}; metrics never broadcast, "
            "so both must be equal: compare the shapes first"
        )
    return first, second


def first_index(mask: npt.NDArray[np.bool_]) -> Index | None:
    """Find the first true element in row-major order.

    Args:
        mask: bool array of any shape.

    Returns:
        Its multi-index, or None where no element is true.
    """
    if not mask.any():
        return None
    return unravel(int(np.argmax(mask)), mask.shape)


def unravel(flat: int, shape: tuple[int, ...]) -> Index:
    """Turn a row-major position into a multi-index of plain integers.

    Args:
        flat: position in the flattened array.
        shape: shape of the array.

    Returns:
        The multi-index, one entry per axis.
    """
    index: tuple[Any, ...] = np.unravel_index(flat, shape)
    return tuple(int(axis) for axis in index)
