"""NumPy to and from MLX; no other framework is imported."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from parity.spec.arrays import AnyArray, Array

MLX_DTYPES: Final = {
    "float64": mx.float64,
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,
}
_MLX_NAMES: Final = {str(dtype): name for name, dtype in MLX_DTYPES.items()}
_READ_BY_NUMPY: Final = (mx.float32, mx.float16)
"""Formats that NumPy widens in one pass over MLX's memory, in an eighth of the time of MLX's cast and a copy."""


def mlx_from_numpy(array: npt.NDArray[np.generic], dtype: str) -> mx.array:
    """Return `array` in MLX: booleans as they are, integers as int32, everything else in the dtype called `dtype`.

    A bare `mx.array` of a float64 array silently becomes float32, hence the explicit dtype.
    """
    if array.dtype == np.bool_:
        return mx.array(np.array(array))
    if np.issubdtype(array.dtype, np.integer):
        return mx.array(np.array(array, dtype=np.int32))
    if dtype == "float32":
        # NumPy's cast rounds as MLX's does, and says so where a number becomes infinite or stays NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            return mx.array(np.asarray(array, dtype=np.float64).astype(np.float32))
    # On the CPU, whatever the default device is: no GPU backend knows float64.
    exact = mx.array(np.array(array, dtype=np.float64), dtype=mx.float64)
    return exact.astype(MLX_DTYPES[dtype], stream=mx.cpu)


def numpy_from_mlx(array: mx.array) -> tuple[Array, str]:
    """Return the float64 values of `array` and the name of its own dtype."""
    exact = array if array.dtype in _READ_BY_NUMPY else array.astype(mx.float64, stream=mx.cpu)
    values = np.array(exact, dtype=np.float64)
    return values, _MLX_NAMES.get(str(array.dtype), str(array.dtype))


def is_exact(value: object) -> bool:
    """Whether `value` is an array of integers or booleans."""
    return isinstance(value, mx.array) and not mx.issubdtype(value.dtype, mx.inexact)


def exact_from_mlx(array: mx.array) -> AnyArray:
    """Return an array of integers or booleans as int64, modulo 2^64, or bool."""
    values = np.array(array)
    return values if values.dtype == np.bool_ else values.astype(np.int64)
