"""Elementwise functions in float64, each with a derivative in float64.

MLX computes sin, cos, exp, sigmoid, erf, erfinv and logaddexp of a float64 array to float32 accuracy on the CPU. Of
tan, log2 and log10 only the derivative is lost, since MLX takes it from its own cosine and from float32 constants: a
survey of results alone would not have found those three. u is the unit roundoff 2^-53 of float64.

Source: ml-explore/mlx#4158, #3047; `parity env --survey` measures it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.special

# MLX's own, by reference: under the context the names in mlx.core lead back here.
_TAN: Final = mx.tan
_LOG2: Final = mx.log2
_LOG10: Final = mx.log10

ERF_END: Final = 6.0
"""1 - erf(6) is 2e-17, below the float64 roundoff of 1."""

ERF_SPLIT: Final = 1.0
"""Below it erf is x times a series in x^2, and keeps its relative accuracy at 0; above, 1 minus a tail."""

ERF_TERMS: Final = 20
"""Chebyshev terms of erf(x)/x in x^2 on [0, 1]: the coefficients are below 1e-17 from the 14th on."""

TAIL_TERMS: Final = 40
"""Chebyshev terms of exp(y^2) erfc(y) in (y - 4) / (y + 4): the coefficients are below 1e-17 from the 34th on."""

TAIL_CENTRE: Final = 4.0
"""Where the map of [0, inf) to [-1, 1) has its zero."""

MISSING_E: Final = 1.4456468917292502e-16
"""e minus the float64 nearest to it, by mpmath: what a power of that float lacks."""

EXPONENT_END: Final = 760.0
"""Beyond it exp is 0 or infinity in float64 whatever is corrected."""

ERFINV_STEPS: Final = 3
"""Halley steps from a start of relative error 2e-3: 1e-8 after one, below u after two, one to spare in the tail."""


Elementwise = Callable[[mx.array], mx.array]


def _array(value: object) -> mx.array:
    """Narrow what a custom function returns, which MLX's stubs call an object."""
    return cast(mx.array, value)


def _differentiable(function: Elementwise, slope: Elementwise) -> Elementwise:
    """Return `function` with its derivative given; MLX would take one from its own float32 functions."""
    custom = mx.custom_function(function)

    def pull(primals: mx.array, cotangents: mx.array, outputs: mx.array) -> mx.array:  # noqa: ARG001
        return cotangents * slope(primals)

    def push(primals: mx.array, tangents: mx.array) -> mx.array:
        return tangents * slope(primals)

    custom.vjp(pull)
    custom.jvp(push)

    def call(x: mx.array) -> mx.array:
        return _array(custom(x))

    return call


def _chebyshev(function: Callable[[Any], Any], terms: int) -> tuple[float, ...]:
    """Coefficients of a function on [-1, 1], by the cosine transform of its values at the nodes of the first kind."""
    nodes = np.cos(np.pi * (np.arange(terms) + 0.5) / terms)
    coefficients = scipy.fft.dct(np.asarray(function(nodes), dtype=np.float64), type=2) / terms
    coefficients[0] /= 2
    return tuple(float(c) for c in coefficients)


def _clenshaw(coefficients: tuple[float, ...], t: mx.array) -> mx.array:
    """Sum of c_k T_k(t). Source: Clenshaw, Math. Comp. 9 (1955) 118."""
    newer, older = mx.zeros_like(t), mx.zeros_like(t)
    for coefficient in coefficients[:0:-1]:
        newer, older = 2 * t * newer - older + coefficient, newer
    return t * newer - older + coefficients[0]


@functools.cache
def _erf_coefficients() -> tuple[float, ...]:
    def quotient(t: npt.NDArray[np.float64]) -> Any:
        x = np.sqrt((t + 1) / 2) * ERF_SPLIT
        return scipy.special.erf(x) / x

    return _chebyshev(quotient, ERF_TERMS)


@functools.cache
def _tail_coefficients() -> tuple[float, ...]:
    return _chebyshev(lambda t: scipy.special.erfcx(TAIL_CENTRE * (1 + t) / (1 - t)), TAIL_TERMS)


def _exp(x: mx.array) -> mx.array:
    """Exponential as a power of e, which MLX computes in float64, times 1 + x (e - fl(e)) / e; within 2 u."""
    power = mx.power(mx.full(x.shape, math.e, dtype=mx.float64), x)
    return power + power * (mx.clip(x, -EXPONENT_END, EXPONENT_END) * (MISSING_E / math.e))


def _sin(x: mx.array) -> mx.array:
    """Sine by the half-angle tangent, sin x = 2t / (1 + t^2), t = tan(x/2): MLX keeps float64 in tan."""
    t = _TAN(x / 2)
    return 2 * t / (1 + t * t)


def _cos(x: mx.array) -> mx.array:
    """Cosine by the half-angle tangent, cos x = (1 - t^2) / (1 + t^2), t = tan(x/2)."""
    t = _TAN(x / 2)
    return (1 - t * t) / (1 + t * t)


# Functions of our own around MLX's: a custom function that held MLX's own would look like a leak to the context.
def _tan(x: mx.array) -> mx.array:
    return _TAN(x)


def _log2(x: mx.array) -> mx.array:
    return _LOG2(x)


def _log10(x: mx.array) -> mx.array:
    return _LOG10(x)


def _sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)), or exp(x) / (1 + exp(x)) for x < 0, so that neither overflows; within 5 u."""
    tail = exp64(-mx.abs(x))
    return mx.where(x >= 0, mx.ones_like(tail), tail) / (1 + tail)


def _erfc_positive(x: mx.array) -> mx.array:
    """erfc of x >= 0 to a relative error of (2 x^2 + 8) u, as exp(-x^2) times its smooth factor."""
    t = (x - TAIL_CENTRE) / (x + TAIL_CENTRE)
    return _exp(-x * x) * _clenshaw(_tail_coefficients(), t)


def _erf(x: mx.array) -> mx.array:
    """Error function to a relative error of 8 u: x times a series in x^2 up to 1, 1 - erfc above, odd beyond 0."""
    radius = mx.minimum(mx.abs(x), ERF_END)
    inner = mx.minimum(radius, ERF_SPLIT)
    near = _clenshaw(_erf_coefficients(), 2 * inner * inner / ERF_SPLIT**2 - 1)
    far = 1 - _erfc_positive(mx.maximum(radius, ERF_SPLIT))
    return mx.where(radius <= ERF_SPLIT, mx.clip(x, -ERF_SPLIT, ERF_SPLIT) * near, mx.sign(x) * far)


def _gauss(x: mx.array) -> mx.array:
    """The derivative of erf, 2 / sqrt(pi) exp(-x^2)."""
    return (2 / math.sqrt(math.pi)) * exp64(-x * x)


def _erfinv(x: mx.array) -> mx.array:
    """Inverse error function by Halley's iteration on erf, on erfc beyond |x| = 1/2 (1 - |x| is exact there).

    Start: Winitzki, "A handy approximation for the error function and its inverse" (2008).
    """
    radius = mx.abs(x)
    rest = 1 - radius
    logarithm = mx.log(rest * (1 + radius))
    half = 2 / (math.pi * 0.147) + logarithm / 2
    y = mx.sqrt(mx.sqrt(half * half - logarithm / 0.147) - half)
    for _ in range(ERFINV_STEPS):
        excess = mx.where(radius < 0.5, _erf(y) - radius, rest - _erfc_positive(y))
        newton = excess / ((2 / math.sqrt(math.pi)) * _exp(-y * y))
        y = y - newton / (1 + y * newton)
    y = mx.where(radius == 1, mx.full(x.shape, math.inf, dtype=mx.float64), y)
    return mx.where(radius == 0, x, mx.sign(x) * y)


def _exp_slope(x: mx.array) -> mx.array:
    return exp64(x)


def _sin_slope(x: mx.array) -> mx.array:
    return cos64(x)


exp64: Elementwise = _differentiable(_exp, _exp_slope)
sin64: Elementwise = _differentiable(_sin, _sin_slope)
cos64: Elementwise = _differentiable(_cos, lambda x: -sin64(x))
sigmoid64: Elementwise = _differentiable(_sigmoid, lambda x: sigmoid64(x) * sigmoid64(-x))
erf64: Elementwise = _differentiable(_erf, _gauss)
erfinv64: Elementwise = _differentiable(_erfinv, lambda x: 1 / _gauss(erfinv64(x)))
tan64: Elementwise = _differentiable(_tan, lambda x: 1 + mx.square(tan64(x)))
log2_64: Elementwise = _differentiable(_log2, lambda x: 1 / (x * math.log(2)))
log10_64: Elementwise = _differentiable(_log10, lambda x: 1 / (x * math.log(10)))


@mx.custom_function
def _logaddexp(x: mx.array, y: mx.array) -> mx.array:
    """max + log1p(exp(-|x - y|)); of two equal numbers, infinities among them, x + log 2."""
    far = mx.maximum(x, y) + mx.log1p(_exp(-mx.abs(x - y)))
    return mx.where(x == y, x + math.log(2), far)


def _share(x: mx.array, y: mx.array) -> mx.array:
    """exp(x) / (exp(x) + exp(y)); a half where they are equal, infinities among them."""
    return mx.where(x == y, mx.full(x.shape, 0.5, dtype=mx.float64), sigmoid64(x - y))


@_logaddexp.vjp
def _logaddexp_vjp(
    primals: tuple[mx.array, mx.array],
    cotangents: mx.array,
    outputs: mx.array,  # noqa: ARG001
) -> tuple[mx.array, mx.array]:
    x, y = primals
    return cotangents * _share(x, y), cotangents * _share(y, x)


@_logaddexp.jvp
def _logaddexp_jvp(primals: tuple[mx.array, mx.array], tangents: tuple[mx.array | None, mx.array | None]) -> mx.array:
    x, y = primals
    pushed = mx.zeros_like(x)
    for tangent, share in zip(tangents, (_share(x, y), _share(y, x)), strict=True):
        if tangent is not None:  # an argument that does not vary
            pushed = pushed + tangent * share
    return pushed


def logaddexp64(x: mx.array, y: mx.array) -> mx.array:
    """log(exp(x) + exp(y)) of two float64 arrays that broadcast together; absolute error within 4 u (1 + |max|)."""
    x, y = mx.broadcast_arrays(x, y)
    return _array(_logaddexp(x, y))
