"""Measures how many bits of a result are right, whatever its dtype promises.

MLX's float64 sin, exp, erf and convolution on the CPU carry float32 accuracy in float64 arrays, its
transforms answer complex64, and float32 products may run in TF32 on hardware with matrix units. A dtype tells
none of this; a measurement against exact arithmetic tells all of it.

Source: https://github.com/ml-explore/mlx/issues/4158, https://github.com/ml-explore/mlx/issues/3047.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import mpmath
import numpy as np

from parity.environment.frameworks import Framework, Values, mlx_framework, torch_framework
from parity.environment.problems import OPERATIONS, Problem, pose
from parity.environment.warmup import warm_up
from parity.spec.devices import ON_CPU, Devices
from parity.spec.precision import BY_DTYPE

# A correct operation loses the few bits of its own roundings (up to 3). The smallest loss to be told from
# them is float32 run as TF32, 24 - 11 = 13 bits; half of that parts the two. Halves have nowhere to fall.
_SUSPICIOUS_LOSS: Final = 6.0
# TF32 has float16's digits with float32's exponents, so the digits alone cannot tell the two.
_TF32_DIGITS: Final = 11

LooksLike = Literal["float64", "float32", "tf32", "float16", "bfloat16"]


@dataclass(frozen=True)
class ProbeRow:
    """One measurement.

    Attributes:
        framework: 'torch' or 'mlx'.
        operation: a name in `OPERATIONS`.
        dtype: dtype of the operands.
        bits: effective mantissa bits (see `measure_bits`), None where the framework refuses.
        result_dtype: dtype that the framework returned, None where it refuses.
        note: why `bits` is missing or cannot be trusted, else ''.
    """

    framework: str
    operation: str
    dtype: str
    bits: float | None
    result_dtype: str | None
    note: str = ""

    @property
    def looks_like(self) -> LooksLike | None:
        """Format whose digits lie nearest to the bits; 11 digits are TF32 unless the operands are halves."""
        if self.bits is None:
            return None
        eleven: LooksLike = "float16" if BY_DTYPE[self.dtype].is_half else "tf32"
        classes: dict[int, LooksLike] = {53: "float64", 24: "float32", _TF32_DIGITS: eleven, 8: "bfloat16"}
        bits = self.bits
        return classes[min(classes, key=lambda digits: abs(digits - bits))]

    @property
    def suspicious(self) -> bool:
        """Whether the bits fall more than 6 below the digits of the operands' own format."""
        return self.bits is not None and self.bits < BY_DTYPE[self.dtype].digits - _SUSPICIOUS_LOSS

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and both judgements as JSON knows them."""
        return {**asdict(self), "looks_like": self.looks_like, "suspicious": self.suspicious}


def measure_bits(frameworks: Sequence[Framework] | None = None, devices: Devices = ON_CPU) -> list[ProbeRow]:
    """Measure every operation of every framework in every format.

    With result y, exact answer t and scale s (defined in `problems.pose`), rows r and columns c:

        E    = max over r of sqrt(mean over c of (|y_rc - t_rc| / s_rc)**2)
        bits = min(digits, -log2 E), and at least 0

    `digits` are those of the operands' format (53, 24, 11, 8), so a correctly rounded result reaches the cap.
    The mean over a row is steady; the maximum over rows keeps one bad row from hiding among good ones.

    Args:
        frameworks: what to measure; torch and MLX on `devices` by default.
        devices: where they run.

    Returns:
        One row per framework, operation and dtype, in that order of nesting. The inputs are fixed, so the
        rows are a function of the machine alone.
    """
    warm_up()
    parties = frameworks or (torch_framework(devices.reference), mlx_framework(devices.port))
    problems = {(operation, dtype): pose(operation, dtype) for operation in OPERATIONS for dtype in BY_DTYPE}
    return [
        _measure(framework, operation, dtype, problem)
        for framework in parties
        for (operation, dtype), problem in problems.items()
    ]


def _measure(framework: Framework, operation: str, dtype: str, problem: Problem) -> ProbeRow:
    try:
        values, result_dtype = framework.run(framework.operations[operation], dtype, problem.operands)
    except (RuntimeError, TypeError, ValueError) as refusal:  # NotImplementedError is a RuntimeError
        return ProbeRow(framework.name, operation, dtype, None, None, f"unsupported: {_first_line(refusal)}")
    if not np.isfinite(values).all():
        return ProbeRow(framework.name, operation, dtype, 0.0, result_dtype, "the result is not finite")
    bits = effective_bits(values, problem, BY_DTYPE[dtype].digits)
    return ProbeRow(framework.name, operation, dtype, bits, result_dtype)


def _first_line(refusal: Exception) -> str:
    lines = str(refusal).splitlines() or [type(refusal).__name__]
    # A kernel that fails to compile names its source; the reader's folders are nobody's business.
    return re.sub(r"(?<![\w.])/(?:[^\s/:]+/)+", "", lines[0])


def effective_bits(values: Values, problem: Problem, digits: int) -> float:
    """Compute min(digits, -log2 E), at least 0, with E as in `measure_bits`.

    Args:
        values: finite results, in the shape of the truth up to axes of length 1.
        problem: the exact answer and its scale.
        digits: significant bits of the operands' format.

    Raises:
        ValueError: the results do not have as many elements as the truth.
    """
    # The subtraction is exact arithmetic: rounding the truth to float64 first would hide the last bit of
    # float64.
    errors = [mpmath.fabs(mpmath.fsub(y, t, exact=True)) for y, t in _pairs(values, problem)]
    relative = np.array(errors, dtype=np.float64).reshape(problem.truth.shape) / problem.scale
    worst = float(np.sqrt(np.mean(relative**2, axis=-1)).max())
    return float(digits) if worst == 0.0 else max(0.0, min(float(digits), -math.log2(worst)))


def _pairs(values: Values, problem: Problem) -> list[tuple[Any, Any]]:
    return list(zip(values.ravel().tolist(), problem.truth.ravel().tolist(), strict=True))
