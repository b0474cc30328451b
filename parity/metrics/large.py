"""Errors of tensors of any size: of large ones by the compiled kernels, where there are any, with the same bits."""

from __future__ import annotations

import functools
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import paired
from parity.metrics.engine import measure_error
from parity.metrics.error import ErrorMetrics, measure
from parity.spec.arrays import Array
from parity.spec.precision import Rung

LARGE: Final = 1 << 18
"""Elements from which loading the compiler pays."""

Choice = Literal["auto", "plain", "numpy", "compiled"]


def error_of(actual: npt.ArrayLike, truth: npt.ArrayLike, rung: Rung, kernels: Choice = "auto") -> ErrorMetrics:
    """Measure a computed tensor against its truth, by whatever is fastest; every bit is that of `measure`.

    Values that are no numbers of the format, as those of a tensor that was put together, are measured by `measure`.

    Args:
        actual: values of the format carried in float64, any shape.
        truth: float64 truth, same shape.
        rung: the format of `actual`.
        kernels: "plain" is `measure`, "numpy" and "compiled" are kernels of `measure_error`; "auto" takes the compiled
            ones for large tensors where numba is installed.

    Raises:
        ValueError: the shapes differ.
        ModuleNotFoundError: Compiled kernels are asked for without numba.
    """
    left, right = paired(actual, truth, "truth")
    if kernels == "auto":
        kernels = "compiled" if left.size >= LARGE and _has_compiler() else "plain"
    held = None if kernels == "plain" else _in_format(left, rung)
    if held is None or kernels == "plain":
        return measure(left, right, rung)
    return measure_error(held, right, kernels=kernels)


@functools.cache
def _has_compiler() -> bool:
    """Whether numba is there and can be imported: one that NumPy has outgrown is as good as none."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def _in_format(values: Array, rung: Rung) -> npt.NDArray[Any] | None:
    """Return the values in the format itself, None if one of them is no number of it."""
    if rung.name == "f64":
        return values
    with np.errstate(over="ignore"):
        held = values.astype(_dtype(rung))
    if np.array_equal(held, values):
        return held
    return held if bool(((held == values) | np.isnan(values)).all()) else None


def _dtype(rung: Rung) -> np.dtype[Any]:
    if rung.dtype == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(rung.dtype)
