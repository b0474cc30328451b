"""What the survey asks of MLX: operations, their inputs, and the same in long double or by SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import scipy.special

Numbers = Any
"""An array of float64, long double or one of the complex types: a truth is differentiated by a complex step."""

ROWS, COLUMNS = 6, 8


@dataclass(frozen=True)
class Operation:
    """One operation on trial.

    Attributes:
        name: As MLX calls it.
        family: Which part of the table it belongs to.
        run: The operation on MLX arrays.
        truth: The same on NumPy arrays, of long double where NumPy has the function.
        draw: Inputs from a generator.
        gradient: Whether its gradient is on trial too; its truth must then be analytic, and take complex arrays.
    """

    name: str
    family: str
    run: Callable[..., Any]
    truth: Callable[..., Numbers]
    draw: Callable[[np.random.Generator], tuple[Numbers, ...]]
    gradient: bool = False


Draw = Callable[[np.random.Generator], tuple[Numbers, ...]]


def _normal(*shapes: tuple[int, ...]) -> Draw:
    wanted = shapes or ((ROWS, COLUMNS),)
    return lambda generator: tuple(generator.standard_normal(shape) for shape in wanted)


def _between(low: float, high: float, *shapes: tuple[int, ...]) -> Draw:
    wanted = shapes or ((ROWS, COLUMNS),)
    return lambda generator: tuple(generator.uniform(low, high, shape) for shape in wanted)


def _definite(*more: tuple[int, ...]) -> Draw:
    """A well-conditioned symmetric matrix, and more arrays."""

    def draw(generator: np.random.Generator) -> tuple[Numbers, ...]:
        m = generator.standard_normal((ROWS, ROWS))
        return (m @ m.T + 6 * np.eye(ROWS), *(generator.standard_normal(shape) for shape in more))

    return draw


def _double(function: Callable[..., Numbers]) -> Callable[..., Numbers]:
    """Call a function that knows no long double."""

    def call(*arrays: Numbers) -> Numbers:
        return function(*(a.astype(np.complex128 if np.iscomplexobj(a) else np.float64) for a in arrays))

    return call


def _sigmoid(x: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Numbers) -> Numbers:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def _softplus(x: Numbers) -> Numbers:
    return np.log(1 + np.exp(x))


def _layer_norm(x: Numbers) -> Numbers:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.longdouble(1e-5))


def _rms_norm(x: Numbers) -> Numbers:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.longdouble(1e-5))


def _attention(q: Numbers, k: Numbers, v: Numbers) -> Numbers:
    return _softmax(q @ k.swapaxes(-1, -2) / 2) @ v


def _rope(x: Numbers) -> Numbers:
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[-2])[:, None] * np.longdouble(10000.0) ** (-np.arange(half) / np.longdouble(half))
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


def _convolution(x: Numbers, w: Numbers) -> Numbers:
    """Sum over the taps of any number of spatial axes: x (n, *space, c), w (o, *taps, c)."""
    taps = w.shape[1:-1]
    sizes = [length - tap + 1 for length, tap in zip(x.shape[1:-1], taps, strict=True)]
    return sum(
        x[(slice(None), *(slice(o, o + size) for o, size in zip(offset, sizes, strict=True)))]
        @ w[(slice(None), *offset)].T
        for offset in np.ndindex(*taps)
    )


def _transposed_convolution(x: Numbers, w: Numbers) -> Numbers:
    wide = np.pad(x, [(0, 0), (w.shape[1] - 1,) * 2, (0, 0)])
    return _convolution(wide, w[:, ::-1])


def _elu(x: Numbers, alpha: float = 1.0) -> Numbers:
    return np.where(x.real > 0, x, alpha * (np.exp(x) - 1))


def _running(x: Numbers) -> Numbers:
    return np.log(np.cumsum(np.exp(x), axis=-1))


def _gelu(x: Numbers) -> Numbers:
    return x * (1 + _double(scipy.special.erf)(x / np.sqrt(np.longdouble(2)))) / 2


def _gelu_tanh(x: Numbers) -> Numbers:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2


def _last(function: Callable[..., Numbers]) -> Callable[..., Numbers]:
    return lambda x: function(x, axis=-1)


def _analytic() -> list[Operation]:
    """Elementwise functions of which the derivative is on trial too."""
    unit, positive = _between(-0.9, 0.9), _between(0.2, 4.0)
    table: list[tuple[str, Callable[..., Numbers], Draw]] = [
        ("sin", np.sin, _normal()),
        ("cos", np.cos, _normal()),
        ("tan", np.tan, _between(-1.2, 1.2)),
        ("sinh", np.sinh, _normal()),
        ("cosh", np.cosh, _normal()),
        ("tanh", np.tanh, _normal()),
        ("arcsin", np.arcsin, unit),
        ("arccos", np.arccos, unit),
        ("arctan", np.arctan, _normal()),
        ("arcsinh", np.arcsinh, _normal()),
        ("arccosh", np.arccosh, _between(1.2, 4.0)),
        ("arctanh", np.arctanh, unit),
        ("exp", np.exp, _normal()),
        ("expm1", np.expm1, _normal()),
        ("log", np.log, positive),
        ("log2", lambda x: np.log(x) / np.log(np.longdouble(2)), positive),
        ("log10", lambda x: np.log(x) / np.log(np.longdouble(10)), positive),
        ("log1p", np.log1p, positive),
        ("sqrt", np.sqrt, positive),
        ("rsqrt", lambda x: 1 / np.sqrt(x), positive),
        ("square", lambda x: x * x, _normal()),
        ("reciprocal", lambda x: 1 / x, positive),
        ("sigmoid", _sigmoid, _normal()),
        ("erf", _double(scipy.special.erf), _normal()),
        ("negative", lambda x: -x, _normal()),
    ]
    pairs: list[tuple[str, Callable[..., Numbers], Draw]] = [
        ("add", lambda x, y: x + y, _normal((6, 8), (6, 8))),
        ("subtract", lambda x, y: x - y, _normal((6, 8), (6, 8))),
        ("multiply", lambda x, y: x * y, _normal((6, 8), (6, 8))),
        ("divide", lambda x, y: x / y, _between(0.2, 4.0, (6, 8), (6, 8))),
        ("power", lambda x, y: np.exp(y * np.log(x)), _between(0.2, 4.0, (6, 8), (6, 8))),
        ("logaddexp", lambda x, y: np.log(np.exp(x) + np.exp(y)), _normal((6, 8), (6, 8))),
        ("arctan2", lambda x, y: np.arctan(x / y), _between(0.2, 4.0, (6, 8), (6, 8))),
    ]
    return [Operation(name, "elementwise", _named(name), truth, draw, True) for name, truth, draw in table + pairs]


def _named(place: str) -> Callable[..., Any]:
    """Call what stands under a name of `mlx.core` now, the context's form included."""
    *path, name = place.split(".")

    def call(*arrays: mx.array) -> Any:
        module: Any = mx
        for part in path:
            module = getattr(module, part)
        return getattr(module, name)(*arrays)

    return call


def _plain() -> list[Operation]:
    """Elementwise functions without a derivative worth a row."""
    table: list[tuple[str, Callable[..., Numbers], Draw]] = [
        ("erfinv", _double(scipy.special.erfinv), _between(-0.9, 0.9)),
        ("abs", np.abs, _normal()),
        ("degrees", np.degrees, _normal()),
        ("radians", np.radians, _normal()),
        ("floor", np.floor, _between(-9, 9)),
        ("ceil", np.ceil, _between(-9, 9)),
        ("round", np.round, _between(-9, 9)),
        ("sign", np.sign, _normal()),
        ("maximum", np.maximum, _normal((6, 8), (6, 8))),
        ("minimum", np.minimum, _normal((6, 8), (6, 8))),
        ("remainder", np.remainder, _between(0.2, 4.0, (6, 8), (6, 8))),
        ("floor_divide", np.floor_divide, _between(0.2, 4.0, (6, 8), (6, 8))),
    ]
    return [Operation(name, "elementwise", _named(name), truth, draw) for name, truth, draw in table]


def _reductions() -> list[Operation]:
    def along(name: str) -> Callable[[mx.array], Any]:
        return lambda x: getattr(mx, name)(x, axis=-1)

    table: list[tuple[str, Callable[..., Numbers], bool]] = [
        ("sum", lambda x: x.sum(-1), True),
        ("mean", lambda x: x.mean(-1), True),
        ("var", lambda x: ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1), True),
        ("std", lambda x: np.sqrt(((x - x.mean(-1, keepdims=True)) ** 2).mean(-1)), True),
        ("prod", lambda x: x.prod(-1), True),
        ("cumsum", _last(np.cumsum), True),
        ("cumprod", _last(np.cumprod), True),
        ("logsumexp", lambda x: np.log(np.exp(x).sum(-1)), True),
        ("logcumsumexp", _running, True),
        ("softmax", _softmax, True),
        ("max", _last(np.max), False),
        ("min", _last(np.min), False),
        ("median", _last(np.median), False),
        ("sort", _last(np.sort), False),
    ]
    draw = _between(0.5, 2.0)
    rows = [Operation(name, "reduction", along(name), truth, draw, smooth) for name, truth, smooth in table]
    rows.append(
        Operation("softmax, precise", "reduction", lambda x: mx.softmax(x, axis=-1, precise=True), _softmax, draw)
    )
    rows.append(Operation("array.exp", "method", lambda x: x.exp(), np.exp, draw))
    running = Operation("array.logcumsumexp", "method", lambda x: x.logcumsumexp(axis=-1), _running, draw)
    return [*rows, running]


def _algebra() -> list[Operation]:
    def product(x: Numbers, y: Numbers) -> Numbers:
        return x @ y

    matrices = _between(0.2, 1.0, (6, 8), (8, 5))
    rows = [
        Operation("matmul", "linear algebra", mx.matmul, product, matrices, True),
        Operation("einsum", "linear algebra", lambda x, y: mx.einsum("ij,jk->ik", x, y), product, matrices, True),
        Operation("tensordot", "linear algebra", lambda x, y: mx.tensordot(x, y, axes=1), product, matrices, True),
        Operation(
            "addmm",
            "linear algebra",
            mx.addmm,
            lambda c, x, y: c + x @ y,
            _between(0.2, 1.0, (6, 5), (6, 8), (8, 5)),
            True,
        ),
        Operation(
            "gather_mm",
            "linear algebra",
            lambda x, w: mx.gather_mm(x, w, rhs_indices=mx.array([[2], [0]])),
            lambda x, w: x @ w[[[2], [0]]],
            _between(0.2, 1.0, (1, 2, 6), (3, 6, 5)),
            True,
        ),
        Operation(
            "linalg.norm", "linear algebra", _named("linalg.norm"), lambda x: np.sqrt((x * x).sum()), _normal(), True
        ),
    ]
    table: list[tuple[str, Callable[..., Any], Callable[..., Numbers], Draw]] = [
        ("inv", mx.linalg.inv, np.linalg.inv, _definite()),
        ("pinv", mx.linalg.pinv, np.linalg.pinv, _definite()),
        ("solve", mx.linalg.solve, np.linalg.solve, _definite((ROWS, 2))),
        ("cholesky", mx.linalg.cholesky, np.linalg.cholesky, _definite()),
        ("det", _named("linalg.det"), np.linalg.det, _definite()),
        ("slogdet", lambda a: mx.linalg.slogdet(a)[1], lambda a: np.linalg.slogdet(a)[1], _definite()),
        ("qr", lambda a: mx.abs(mx.linalg.qr(a)[1]), lambda a: np.abs(np.linalg.qr(a)[1]), _definite()),
        ("svd", lambda a: mx.linalg.svd(a)[1], lambda a: np.linalg.svd(a)[1], _definite()),
        ("eigvalsh", mx.linalg.eigvalsh, np.linalg.eigvalsh, _definite()),
        (
            "eigvals",
            lambda a: mx.sort(mx.real(mx.linalg.eigvals(a))),
            lambda a: np.sort(np.linalg.eigvals(a).real),
            lambda _: (np.diag(np.arange(1.0, ROWS + 1)) + np.triu(np.full((ROWS, ROWS), 0.1), 1),),
        ),
    ]
    return rows + [
        Operation(f"linalg.{name}", "linear algebra", run, _double(truth), draw) for name, run, truth, draw in table
    ]


def _fused() -> list[Operation]:
    heads = (2, 3, 5, 4)
    return [
        Operation(
            "fast.layer_norm", "fast", lambda x: mx.fast.layer_norm(x, None, None, 1e-5), _layer_norm, _normal(), True
        ),
        Operation("fast.rms_norm", "fast", lambda x: mx.fast.rms_norm(x, None, 1e-5), _rms_norm, _normal(), True),
        Operation(
            "fast.scaled_dot_product_attention",
            "fast",
            lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5),
            _attention,
            _between(0.2, 1.0, heads, heads, heads),
            True,
        ),
        Operation(
            "fast.rope",
            "fast",
            lambda x: mx.fast.rope(x, 4, traditional=False, base=10000.0, scale=1.0, offset=0),
            _rope,
            _normal((1, 2, 5, 4)),
            True,
        ),
        Operation(
            "fast.cross_entropy",
            "fast",
            lambda x: mx.fast.cross_entropy(x, mx.array([1] * ROWS)),
            lambda x: np.log(np.exp(x).sum(-1)) - x[:, 1],
            _normal(),
            True,
        ),
    ]


def _convolutions() -> list[Operation]:
    return [
        Operation(
            "conv1d", "convolution", _named("conv1d"), _convolution, _between(0.2, 1.0, (2, 7, 3), (4, 3, 3)), True
        ),
        Operation(
            "conv2d",
            "convolution",
            _named("conv2d"),
            _convolution,
            _between(0.2, 1.0, (1, 5, 4, 2), (3, 2, 3, 2)),
            True,
        ),
        Operation(
            "conv3d",
            "convolution",
            _named("conv3d"),
            _convolution,
            _between(0.2, 1.0, (1, 3, 4, 3, 2), (2, 2, 2, 2, 2)),
        ),
        Operation(
            "conv_transpose1d",
            "convolution",
            _named("conv_transpose1d"),
            _transposed_convolution,
            _between(0.2, 1.0, (2, 7, 3), (4, 3, 3)),
            True,
        ),
        Operation("convolve", "convolution", _named("convolve"), np.convolve, _between(0.2, 1.0, (9,), (4,))),
    ]


def _transforms() -> list[Operation]:
    return [
        Operation(f"fft.{name}", "transform", _named(f"fft.{name}"), _double(getattr(np.fft, name)), _normal())
        for name in ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "rfftn", "irfftn")
    ]


def _activations() -> list[Operation]:
    table: list[tuple[str, Callable[..., Numbers]]] = [
        ("sigmoid", _sigmoid),
        ("relu", lambda x: np.where(x.real > 0, x, 0)),
        ("leaky_relu", lambda x: np.where(x.real > 0, x, 0.01 * x)),
        ("log_softmax", lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
        ("softmax", _softmax),
        ("softmin", lambda x: _softmax(-x)),
        ("elu", _elu),
        ("celu", _elu),
        ("selu", lambda x: _elu(x, 1.67326) * 1.0507),
        ("softplus", _softplus),
        ("softsign", lambda x: x / (1 + np.where(x.real > 0, x, -x))),
        ("silu", lambda x: x * _sigmoid(x)),
        ("log_sigmoid", lambda x: -_softplus(-x)),
        ("gelu", _gelu),
        ("gelu_approx", _gelu_tanh),
        ("gelu_fast_approx", lambda x: x * _sigmoid(1.702 * x)),
        ("glu", lambda x: x[..., : COLUMNS // 2] * _sigmoid(x[..., COLUMNS // 2 :])),
        ("mish", lambda x: x * np.tanh(_softplus(x))),
        ("hardswish", lambda x: x * np.clip(x.real + 3, 0, 6) / 6),
        ("tanh", np.tanh),
    ]
    kinked = ("hardswish",)
    return [
        Operation(f"nn.{name}", "activation", getattr(nn, name), truth, _normal(), name not in kinked)
        for name, truth in table
    ]


OPERATIONS: Final[tuple[Operation, ...]] = (
    *_analytic(),
    *_plain(),
    *_reductions(),
    *_algebra(),
    *_fused(),
    *_convolutions(),
    *_transforms(),
    *_activations(),
)
"""Everything that the survey asks; random numbers, shapes and indices are no arithmetic."""
