"""Which operations of the MLX installed keep the accuracy of their dtype, measured against truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np

from parity.float64.context import float64_forms
from parity.float64.problems import OPERATIONS, Numbers, Operation
from parity.float64.spectrum import Float64Spectrum
from parity.spec.precision import BY_DTYPE
from parity.tolerance import CONSTANTS

DTYPES: Final = {"float64": mx.float64, "bfloat16": mx.bfloat16, "float16": mx.float16}
STEP: Final = 2.0**-200
"""A complex step: its square vanishes beside any number, and nothing is subtracted."""


@dataclass(frozen=True)
class SurveyRow:
    """One measurement.

    Attributes:
        operation: As MLX calls it; the gradient of it is a row of its own.
        family: Which part of the table it belongs to.
        dtype: dtype of the operands.
        arithmetic: 'MLX' as installed, or 'context' inside `float64_forms()`.
        result_dtype: dtype of the result; 'float64 pair' for real and imaginary part; None where MLX refuses.
        error: Relative L2 error from truth, in units of the dtype's roundoff u; None where MLX refuses.
        note: Why there is no error, else ''.
    """

    operation: str
    family: str
    dtype: str
    arithmetic: str
    result_dtype: str | None
    error: float | None
    note: str = ""

    @property
    def bits(self) -> float | None:
        """Significant bits that are right: digits - log2(error), between 0 and the digits of the dtype."""
        if self.error is None:
            return None
        digits = BY_DTYPE[self.dtype].digits
        return float(digits) if self.error == 0 else max(0.0, min(digits, digits - math.log2(self.error)))

    @property
    def keeps(self) -> bool:
        """Whether the result has the dtype, and an error within the roundings of a correct operation."""
        limit = CONSTANTS["survey_half" if BY_DTYPE[self.dtype].is_half else "survey_float64"].value
        named = self.result_dtype in (self.dtype, f"{self.dtype} pair")
        return named and self.error is not None and self.error <= limit

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and both judgements as JSON knows them."""
        return {**asdict(self), "bits": self.bits, "keeps": self.keeps}


def survey(operations: Sequence[Operation] = OPERATIONS) -> list[SurveyRow]:
    """Measure every operation in float64, bfloat16 and float16, and in float64 inside the context.

    The inputs are drawn with a fixed seed and rounded to the dtype first, so the truth is that of the very operands.

    Args:
        operations: What to measure.

    Returns:
        A row for every operation, and one for its gradient where that is on trial, in every arithmetic.
    """
    with mx.stream(mx.cpu):
        rows = [row for operation in operations for dtype in DTYPES for row in _measured(operation, dtype, "MLX")]
    with float64_forms():
        return rows + [row for operation in operations for row in _measured(operation, "float64", "context")]


def _measured(operation: Operation, dtype: str, arithmetic: str) -> list[SurveyRow]:
    generator = np.random.Generator(np.random.Philox(1))
    given = [mx.array(values, dtype=mx.float64).astype(DTYPES[dtype]) for values in operation.draw(generator)]
    exact = [np.array(array.astype(mx.float64), dtype=np.longdouble) for array in given]
    truth = operation.truth(*exact)
    rows = [_row(operation, operation.name, dtype, arithmetic, lambda: operation.run(*given), truth)]
    if operation.gradient:
        w = np.round(generator.uniform(0.5, 1.5, np.shape(truth)) * 64) / 64  # exact in every dtype
        weights = mx.array(w, dtype=mx.float64).astype(DTYPES[dtype])

        def gradient() -> Any:
            def loss(*arrays: mx.array) -> mx.array:
                return mx.sum(operation.run(*arrays) * weights)

            return mx.grad(loss, argnums=tuple(range(len(given))))(*given)

        slopes = gradient_of(operation.truth, exact, w)
        rows.append(_row(operation, f"{operation.name}, gradient", dtype, arithmetic, gradient, slopes))
    return rows


def gradient_of(function: Callable[..., Numbers], arrays: Sequence[Numbers], weights: Numbers) -> Numbers:
    """Gradient of sum(function(x) weights) by complex steps: Im f(x + i h e_j) / h, every x raveled, one after another.

    Source: Squire and Trapp, SIAM Review 40 (1998) 110.
    """
    slopes = []
    for place, array in enumerate(arrays):
        for index in np.ndindex(array.shape):
            moved = [np.array(other, dtype=np.clongdouble) for other in arrays]
            moved[place][index] += 1j * STEP
            slopes.append(np.sum(np.imag(function(*moved)) * weights) / STEP)
    return np.array(slopes)


def _row(
    operation: Operation, name: str, dtype: str, arithmetic: str, run: Callable[[], Any], truth: Numbers
) -> SurveyRow:
    try:
        values, result_dtype = _numpy(run())
    except (RuntimeError, TypeError, ValueError) as refusal:
        note = (str(refusal).splitlines() or [type(refusal).__name__])[0]
        return SurveyRow(name, operation.family, dtype, arithmetic, None, None, note)
    truth = np.asarray(truth).reshape(values.shape)
    error = float(np.linalg.norm((values - truth).astype(np.complex128)) / np.linalg.norm(truth.astype(np.complex128)))
    return SurveyRow(name, operation.family, dtype, arithmetic, result_dtype, error * 2.0 ** BY_DTYPE[dtype].digits)


def _numpy(result: Any) -> tuple[Numbers, str]:
    """Values in long double, and the name of the dtype; several arrays are raveled one after another."""
    if isinstance(result, Float64Spectrum):
        return _numpy(result.real)[0] + 1j * _numpy(result.imag)[0], "float64 pair"
    if isinstance(result, list | tuple):
        parts = [_numpy(part) for part in result]
        return np.concatenate([values.ravel() for values, _ in parts]), parts[0][1]
    name = str(result.dtype).rpartition(".")[2]
    if name == "complex64":
        return np.array(result).astype(np.clongdouble), name
    return np.array(result.astype(mx.float64)).astype(np.longdouble), name
