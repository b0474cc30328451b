"""Proof that a device computes double-float arithmetic: every float32 operation rounds once, to nearest, by itself.

Four things break it, and none of them shows in a result of float32: sums reordered, a rounding that is not to nearest,
a product and a sum fused into one rounding, numbers below 2^-126 flushed to zero. Each is asked for with numbers whose
exact answer the host knows, once a device and process: as MLX runs one operation after the other, and as it compiles
several into one, since whoever uses the port may compile it.
"""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx

from mlx_impl.kernels.double_float import two_product, two_sum
from parity.errors import InexactArithmeticError

NUMBERS: Final = 1024
"""Of every question; a product fused with a sum is wrong in most of them."""

SPREAD: Final = 20
"""Exponents of the numbers, either way."""

Runner = Callable[[Callable[..., Any], tuple[mx.array, ...]], Any]
"""Computes a function of float32 arrays; what it returns has `tolist`."""


def eager(function: Callable[..., Any], operands: tuple[mx.array, ...]) -> Any:
    """One kernel an operation."""
    return function(*operands)


def compiled(function: Callable[..., Any], operands: tuple[mx.array, ...]) -> Any:
    """Several operations in one kernel."""
    return mx.compile(function)(*operands)


def require_exact() -> None:
    """Refuse to go on where the default device does not compute double-float arithmetic.

    Raises:
        InexactArithmeticError: One of the answers is wrong; the message says which, and how the device was asked.
    """
    _require_exact_device(str(mx.default_device()))


@functools.cache
def _require_exact_device(device: str) -> None:
    for way, run in (("eagerly", eager), ("compiled", compiled)):
        found = problems(run)
        if found:
            raise InexactArithmeticError(
                f"double-float arithmetic is not exact on {device}, {way}: {'; '.join(found)}; choose a profile "
                "without ep_freqmul, ep_depthwise and ep_fft, or the CPU"
            )


def problems(run: Runner) -> list[str]:
    """Return what `run` does to float32 that double-float arithmetic cannot bear; nothing, if it is exact."""
    questions = {
        "a sum and its error are not the exact sum (reordered, or not rounded to nearest)": _sums_hold,
        "a product and its error are not the exact product (fused, or not rounded to nearest)": _products_hold,
        "a product is fused with the sum that follows it (contraction)": _products_stay_apart,
        "numbers below 2^-126 are flushed to zero": _subnormals_stay,
    }
    return [words for words, holds in questions.items() if not holds(run)]


def _sums_hold(run: Runner) -> bool:
    a, b = _numbers(1), _numbers(2)
    s, e = run(two_sum, (mx.array(a), mx.array(b)))
    return _all_cancel(a, b, s, e)


def _products_hold(run: Runner) -> bool:
    a, b = _numbers(1), _numbers(2)
    p, e = run(two_product, (mx.array(a), mx.array(b)))
    exact = [x * y for x, y in zip(a, b, strict=True)]  # 48 bits: exact in double precision
    return _all_cancel(exact, [0.0] * NUMBERS, p, e)


def _products_stay_apart(run: Runner) -> bool:
    a, b, c = _numbers(1), _numbers(2), _numbers(3)
    s, e = run(lambda x, y, z: two_sum(x * y, z), (mx.array(a), mx.array(b), mx.array(c)))
    return _all_cancel([_float32(x * y) for x, y in zip(a, b, strict=True)], c, s, e)


def _subnormals_stay(run: Runner) -> bool:
    powers = [2.0**-exponent for exponent in range(100, 126)]
    (back,) = run(lambda x, down, up: (x * down * up,), (mx.array(powers), mx.array(2.0**-23), mx.array(2.0**23)))
    return bool(back.tolist() == powers)


def _all_cancel(a: list[float], b: list[float], s: Any, e: Any) -> bool:
    """Whether a + b - s - e is exactly zero in every place."""
    return all(math.fsum((w, x, -y, -z)) == 0 for w, x, y, z in zip(a, b, s.tolist(), e.tolist(), strict=True))


def _numbers(seed: int) -> list[float]:
    draw = random.Random(seed)
    return [_float32(math.ldexp(draw.uniform(-1, 1), draw.randint(-SPREAD, SPREAD))) for _ in range(NUMBERS)]


def _float32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])
