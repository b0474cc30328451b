"""Small problems whose answers are known to far more digits than any format under test.

Operands come from a fixed Philox stream and are rounded to the format under test, so that the truth belongs
to the very numbers that the framework gets. Truth is computed with mpmath at 50 decimal digits (169 bits): a
product of two float64 is exact there, and a sum of 32 of them errs by less than 2**-160 relative to sum
|x||w|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import mpmath
import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
ExactArray = NDArray[np.object_]

_DECIMAL_DIGITS: Final = 50
_SEED: Final = 20_240_611
# With 16 terms per sum oneDNN declines a product and torch takes MKL instead, which would hide the reduced
# precision that torch.set_float32_matmul_precision("medium") allows (seen with torch 2.13 and oneDNN 3.12).
_MATMUL_SHAPES: Final = ((32, 32), (32, 32))
_CONV_SHAPES: Final = ((1, 8, 34), (16, 8, 3))
_FFT_SHAPE: Final = (8, 64)
_UNARY_SHAPE: Final = (8, 64)
# sin, exp and erf have relative condition numbers of at most 1.5 for 1/4 <= |x| <= 3/2.
_UNARY_RANGE: Final = (0.25, 1.5)


@dataclass(frozen=True)
class Problem:
    """One operation with operands, answer and yardstick.

    Attributes:
        operands: float64 arrays that the format under test represents exactly; conv: (b c l), (o c k).
        truth: exact answer, rows x columns, mpmath numbers.
        scale: positive, broadcasts against `truth`: the error that means "all digits lost", see `pose`.
    """

    operands: tuple[Float64Array, ...]
    truth: ExactArray
    scale: Float64Array


def pose(operation: str, dtype: str) -> Problem:
    """Build the problem of one operation in one format.

    `scale`, so that rounding every operand to p digits costs an error of about scale * 2**-p:

    * matmul, conv: (|x||w|)_ij / sqrt(k), with k terms per sum. |x||w| is the componentwise condition;
      independent roundings of k terms grow as sqrt(k) and not as k, and without the root a longer sum would
      look more precise.
    * fft: ||y||_2 / sqrt(m) of each row of m outputs, so a row's rms relative to scale is ||e||/||y||.
    * sin, exp, erf: |y|.

    Args:
        operation: a name in `OPERATIONS`.
        dtype: 'float64', 'float32', 'bfloat16' or 'float16'.

    Raises:
        KeyError: the operation is unknown.
    """
    generator = np.random.Generator(np.random.Philox(_SEED))
    with mpmath.workdps(_DECIMAL_DIGITS):
        return _POSERS[operation](generator, dtype)


def _matmul(generator: np.random.Generator, dtype: str) -> Problem:
    x, w = (_rounded(generator.standard_normal(shape), dtype) for shape in _MATMUL_SHAPES)
    return Problem((x, w), _dot(x, w), _sum_scale(x, w))


def _conv(generator: np.random.Generator, dtype: str) -> Problem:
    x, w = (_rounded(generator.standard_normal(shape), dtype) for shape in _CONV_SHAPES)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], w.shape[-1], axis=-1)  # c l k
    rows = windows.transpose(1, 0, 2).reshape(windows.shape[1], -1)  # l (c k)
    columns = w.reshape(w.shape[0], -1).T  # (c k) o
    return Problem((x, w), _dot(rows, columns).T, _sum_scale(rows, columns).T)


def _fft(generator: np.random.Generator, dtype: str) -> Problem:
    x = _rounded(generator.standard_normal(_FFT_SHAPE), dtype)
    length = x.shape[-1]
    roots = [mpmath.expjpi(mpmath.mpf(-2 * power) / length) for power in range(length)]
    matrix = [[roots[n * k % length] for n in range(length)] for k in range(length // 2 + 1)]
    truth = np.array([[mpmath.fdot(zip(row, column, strict=True)) for column in matrix] for row in _exact(x)])
    norms = np.array([[float(mpmath.norm(list(row)))] for row in truth])
    return Problem((x,), truth, norms / np.sqrt(truth.shape[-1]))


def _unary(function: Callable[[Any], Any]) -> Callable[[np.random.Generator, str], Problem]:
    def posed(generator: np.random.Generator, dtype: str) -> Problem:
        magnitude = generator.uniform(*_UNARY_RANGE, _UNARY_SHAPE)
        x = _rounded(magnitude * generator.choice((-1.0, 1.0), _UNARY_SHAPE), dtype)
        truth = np.array([[function(value) for value in row] for row in _exact(x)])
        return Problem((x,), truth, np.abs(truth).astype(np.float64))

    return posed


_POSERS: Final[dict[str, Callable[[np.random.Generator, str], Problem]]] = {
    "matmul": _matmul,
    "conv": _conv,
    "fft": _fft,
    "sin": _unary(mpmath.sin),
    "exp": _unary(mpmath.exp),
    "erf": _unary(mpmath.erf),
}
OPERATIONS: Final = tuple(_POSERS)


def _rounded(x: Float64Array, dtype: str) -> Float64Array:
    """Round to nearest in `dtype`, returned as float64, which holds every value of the narrower formats."""
    storage = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return x.astype(storage).astype(np.float64)


def _exact(x: Float64Array) -> list[list[Any]]:
    return [[mpmath.mpf(value) for value in row] for row in x.tolist()]


def _dot(x: Float64Array, w: Float64Array) -> ExactArray:
    columns = _exact(w.T)
    return np.array([[mpmath.fdot(zip(row, column, strict=True)) for column in columns] for row in _exact(x)])


def _sum_scale(x: Float64Array, w: Float64Array) -> Float64Array:
    return np.asarray(np.abs(x) @ np.abs(w) / np.sqrt(x.shape[-1]))
