"""Arrays, truths and errors that the tests of float64 share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import mpmath
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
U: Final = 2.0**-53


def stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def mlx(values: npt.ArrayLike) -> mx.array:
    return mx.array(np.array(values, dtype=np.float64, order="C"), dtype=mx.float64)


def numpy(array: Any) -> Any:
    """Values of an array, or of the pair that stands for a complex one."""
    if not isinstance(array, mx.array):
        return numpy(array.real) + 1j * numpy(array.imag)
    assert array.dtype == mx.float64
    return np.array(array, dtype=np.float64)


def truths(function: Callable[[Any], Any], x: Array) -> Array:
    """`function` of mpmath at every element, to 40 digits and then rounded."""
    with mpmath.workdps(40):
        return np.array([float(function(mpmath.mpf(float(value)))) for value in x.ravel()]).reshape(x.shape)


def relative(actual: Any, truth: Any) -> float:
    """Relative L2 error."""
    actual, truth = np.asarray(actual), np.asarray(truth)
    assert actual.shape == truth.shape
    return float(np.linalg.norm((actual - truth).ravel()) / np.linalg.norm(truth.ravel()))
