"""What the primitives under M2-BERT make of NaN, infinities, zeros, subnormals and overflow, on either side.

A question is a primitive and a few inputs; the answer of a side is the class of each result. Where the two sides differ
by nature, `KNOWN` says so, with the reason; whatever else differs is news.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from torch.nn import functional

import mlx_impl
import reference_torch
from mlx_impl.ops import Ops
from parity.backends.convert import mlx_from_numpy, numpy_from_mlx, numpy_from_torch, torch_from_numpy
from parity.backends.mlx_float64 import float64_ops
from parity.metrics.classes import number_classes
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS, Rung, RungName
from parity.spec.profile import CANONICAL

EXTREME_RUNGS: Final[tuple[RungName, ...]] = ("f64", "f32")
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Primitive:
    """One method of `Ops` and its torch counterpart, each from its operands in order."""

    name: str
    reference: Callable[..., torch.Tensor]
    port: Callable[..., mx.array]


@dataclass(frozen=True)
class Question:
    """A primitive asked at one rung.

    Args:
        primitive: Name of the primitive.
        what: The inputs in words.
        operands: Their values at a rung; a number above its range becomes infinite on the way in.
    """

    primitive: str
    what: str
    operands: Callable[[Rung], tuple[Array, ...]]


@dataclass(frozen=True)
class Answer:
    """The values of both sides at one rung, their classes, and the known reason why these differ."""

    question: Question
    rung: RungName
    reference: Array
    port: Array
    why: str = ""

    @property
    def classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Classes of the reference's and of the port's results."""
        rung = RUNGS[self.rung]
        return number_classes(self.reference, rung), number_classes(self.port, rung)

    @property
    def status(self) -> str:
        """`same`, `known` or `new`: whether the classes agree, differ for a known reason, or differ without one."""
        reference, port = self.classes
        return "same" if reference == port else "known" if self.why else "new"


# Primitives ----------------------------------------------------------------------------------------------------


def _layer_norm(ops: Ops, x: mx.array) -> mx.array:
    d = x.shape[-1]
    return ops.layer_norm(x, mx.ones((d,), dtype=x.dtype), mx.zeros((d,), dtype=x.dtype), 1e-12)


def _two_pass(ops: Ops, x: mx.array) -> mx.array:
    d = x.shape[-1]
    return ops.two_pass_layer_norm(x, mx.ones((d,), dtype=x.dtype), mx.zeros((d,), dtype=x.dtype), 1e-12)


def _torch_layer_norm(x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-12)


def _short_convolution(x: torch.Tensor) -> torch.Tensor:
    weight = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=x.dtype)
    return functional.conv1d(x[:, None], weight, torch.zeros(1, dtype=x.dtype), padding=2)[:, 0, : x.shape[-1]]


def _port_short_convolution(ops: Ops, x: mx.array) -> mx.array:
    weight = mx.array([1.0, 2.0, 4.0]).astype(x.dtype).reshape(1, 3, 1)
    y = ops.depthwise_conv(x[..., None], weight, mx.zeros((1,), dtype=x.dtype), 2)
    return y[:, : x.shape[-1], 0]


def _long_convolution(u: torch.Tensor) -> torch.Tensor:
    kernel = torch.arange(1, u.shape[-1] + 1, dtype=u.dtype)[None]
    return reference_torch.fftconv(u[:, None], kernel, torch.ones(1, dtype=u.dtype))[:, 0]


def _port_long_convolution(ops: Ops, u: mx.array) -> mx.array:
    kernel = mx.arange(1, u.shape[-1] + 1).astype(u.dtype)[None]
    y = mlx_impl.fftconv(u[:, None], kernel, mx.ones((1,), dtype=u.dtype), None, CANONICAL, ops)
    return y[:, 0]


def primitives(ops: Ops) -> dict[str, Primitive]:
    """Return every primitive that rounds, over one set of the port's operations."""

    def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x, approximate="tanh")

    listed = (
        Primitive("sin", torch.sin, ops.sin),
        Primitive("exp", torch.exp, ops.exp),
        Primitive("tanh", torch.tanh, ops.tanh),
        Primitive("erf", torch.erf, ops.erf),
        Primitive("gelu_erf", functional.gelu, ops.gelu_erf),
        Primitive("gelu_tanh", tanh_gelu, ops.gelu_tanh),
        Primitive("softmax", lambda x: torch.softmax(x, 1), lambda x: ops.softmax(x, 1)),
        Primitive("layer_norm", _torch_layer_norm, lambda x: _layer_norm(ops, x)),
        Primitive("two_pass_layer_norm", _torch_layer_norm, lambda x: _two_pass(ops, x)),
        Primitive("linear", functional.linear, lambda x, w: ops.linear(x, w, None)),
        Primitive("matmul", lambda x, y: x @ y, ops.matmul),
        Primitive(
            "blockdiag",
            lambda x, w: torch.einsum("...kp,kqp->...kq", x[:, None], w[None]),
            lambda x, w: ops.blockdiag(x[:, None], w[None]),
        ),
        Primitive("depthwise_conv", _short_convolution, lambda x: _port_short_convolution(ops, x)),
        Primitive("fftconv", _long_convolution, lambda u: _port_long_convolution(ops, u)),
    )
    return {primitive.name: primitive for primitive in listed}


# Questions -----------------------------------------------------------------------------------------------------


def _fixed(*values: float) -> Callable[[Rung], tuple[Array, ...]]:
    return lambda rung: (np.array([values]),)


def _of_rung(make: Callable[[Rung], list[float]]) -> Callable[[Rung], tuple[Array, ...]]:
    return lambda rung: (np.array([make(rung)]),)


def _product(row: Callable[[Rung], list[float]], column: list[float]) -> Callable[[Rung], tuple[Array, ...]]:
    return lambda rung: (np.array([row(rung)]), np.array([column]))


def _column(row: Callable[[Rung], list[float]], column: list[float]) -> Callable[[Rung], tuple[Array, ...]]:
    return lambda rung: (np.array([row(rung)]), np.array([column]).T)


def _subnormals(rung: Rung) -> list[float]:
    return [rung.quantum, -rung.quantum, rung.tiny / 4, -rung.tiny / 4, rung.tiny]


def _largest(rung: Rung) -> list[float]:
    return [rung.maximum, -rung.maximum]


def _exp_end(rung: Rung) -> list[float]:
    """Below the smallest subnormal's logarithm, among subnormals, and on both sides of overflow."""
    return [-750.0, -740.0, 709.0, 710.0] if rung.name == "f64" else [-104.0, -103.0, -90.0, 88.0, 88.5, 88.75]


ELEMENTWISE: Final = ("sin", "exp", "tanh", "erf", "gelu_erf", "gelu_tanh")
ROWS: Final = ("layer_norm", "two_pass_layer_norm")
PRODUCTS: Final[Mapping[str, Callable[..., Callable[[Rung], tuple[Array, ...]]]]] = {
    "linear": _product,
    "blockdiag": _product,
    "matmul": _column,
}

QUESTIONS: Final[tuple[Question, ...]] = (
    *(
        question
        for name in ELEMENTWISE
        for question in (
            Question(name, "NaN", _fixed(NAN)),
            Question(name, "inf", _fixed(INF)),
            Question(name, "-inf", _fixed(-INF)),
            Question(name, "0, -0", _fixed(0.0, -0.0)),
            Question(name, "subnormals", _of_rung(_subnormals)),
            Question(name, "largest, -largest", _of_rung(_largest)),
        )
    ),
    Question("exp", "both ends of the range", _of_rung(_exp_end)),
    Question("gelu_erf", "inf among numbers", _fixed(INF, *[1.0] * 15)),
    Question("gelu_tanh", "inf among numbers", _fixed(INF, *[1.0] * 15)),
    Question("sin", "huge arguments", _fixed(1e4, 1e7, 1e10, 1e20, 1e38)),
    Question("softmax", "-inf among numbers", _fixed(-INF, 0.0, 1.0)),
    Question("softmax", "all -inf", _fixed(-INF, -INF, -INF)),
    Question("softmax", "inf among numbers", _fixed(INF, 0.0, 1.0)),
    Question("softmax", "NaN among numbers", _fixed(NAN, 0.0, 1.0)),
    Question("softmax", "largest twice", _of_rung(lambda rung: [rung.maximum, rung.maximum, 0.0])),
    Question("softmax", "weights below the range", _of_rung(lambda rung: [0.0, *_exp_end(rung)[:3]])),
    *(
        question
        for name in ROWS
        for question in (
            Question(name, "constant 3", _fixed(3.0, 3.0, 3.0, 3.0)),
            Question(name, "zeros", _fixed(0.0, 0.0, 0.0, 0.0)),
            Question(name, "squares overflow", _of_rung(lambda rung: _row(2.0 ** (0.75 * _emax(rung))))),
            Question(name, "sums overflow", _of_rung(lambda rung: [rung.maximum] * 3 + [-rung.maximum])),
            Question(name, "squares underflow", _of_rung(lambda rung: _row(2.0 ** (0.75 * rung.emin)))),
            Question(name, "one inf", _fixed(INF, 0.0, 1.0, 2.0)),
            Question(name, "one NaN", _fixed(NAN, 0.0, 1.0, 2.0)),
        )
    ),
    *(
        question
        for name, shape in PRODUCTS.items()
        for question in (
            Question(name, "product overflows", shape(lambda rung: [rung.maximum], [4.0])),
            Question(name, "product overflows downwards", shape(lambda rung: [rung.maximum], [-4.0])),
            Question(name, "product of subnormals", shape(_subnormals, [1.0, 0.0, 0.0, 0.0, 0.0])),
            Question(name, "inf * 0", shape(lambda rung: [INF, 1.0], [0.0, 1.0])),
            Question(name, "inf - inf", shape(lambda rung: [INF, INF], [1.0, -1.0])),
            Question(name, "one NaN", shape(lambda rung: [NAN, 1.0], [1.0, 1.0])),
        )
    ),
    *(
        question
        for name in ("depthwise_conv", "fftconv")
        for question in (
            Question(name, "one inf", _fixed(1.0, 0.0, INF, 0.0, 1.0, 0.0, 0.0, 0.0)),
            Question(name, "one NaN", _fixed(1.0, 0.0, NAN, 0.0, 1.0, 0.0, 0.0, 0.0)),
            Question(name, "largest", _of_rung(lambda rung: [0.0, 0.0, rung.maximum, 0.0, 0.0, 0.0, 0.0, 0.0])),
            Question(name, "zeros", _fixed(*[0.0] * 8)),
        )
    ),
)
"""Every question, in the order of the primitives."""


def _emax(rung: Rung) -> int:
    return 1 - rung.emin


def _row(size: float) -> list[float]:
    return [size, 2 * size, -size, 0.0]


_SINE_SIGN: Final = "MLX's float32 sin returns +0 for -0"
_SINE_SUBSTITUTE: Final = "the f64 substitute halves its argument, and half of the smallest subnormal is 0"
_ERF: Final = "MLX's erf is Abramowitz-Stegun 7.1.26, absolute error 8.5 u: nothing is left near 0, not even the sign"
_GELU_PRODUCT: Final = "the port multiplies by 1 + erf = 2 before it halves, as the formula is written: 2 x overflows"
_GELU_VECTOR: Final = "torch's oneDNN kernel (float32, four contiguous elements and more) gives NaN, its scalar one inf"
_EXP: Final = "MLX's float32 exp is 0 up to -87.68313 and inf above 88.0; the limits are -103.97 and 88.72"
_NORM: Final = "torch's kernel makes variance and rstd NaN once squares overflow; MLX's variance is inf, its result 0"
_TRANSFORM: Final = "beyond the range the f64 substitute's transform is NaN at every position, torch's at half of them"

KNOWN: Final[Mapping[tuple[str, str, RungName], str]] = {
    ("sin", "0, -0", "f32"): _SINE_SIGN,
    ("sin", "subnormals", "f64"): _SINE_SUBSTITUTE,
    ("erf", "0, -0", "f32"): _ERF,
    ("erf", "subnormals", "f32"): _ERF,
    ("gelu_erf", "largest, -largest", "f64"): _GELU_PRODUCT,
    ("gelu_tanh", "largest, -largest", "f64"): _GELU_PRODUCT,
    ("gelu_tanh", "largest, -largest", "f32"): _GELU_PRODUCT,
    ("gelu_erf", "inf among numbers", "f32"): _GELU_VECTOR,
    ("exp", "both ends of the range", "f32"): _EXP,
    ("softmax", "weights below the range", "f32"): _EXP,
    ("layer_norm", "squares overflow", "f64"): _NORM,
    ("layer_norm", "squares overflow", "f32"): _NORM,
    ("two_pass_layer_norm", "squares overflow", "f64"): _NORM,
    ("two_pass_layer_norm", "squares overflow", "f32"): _NORM,
    ("fftconv", "largest", "f64"): _TRANSFORM,
}
"""Why the two sides differ in a class, by primitive, question and rung; measured on the CPU of Linux x86-64."""


def ask(question: Question, rung: RungName) -> Answer:
    """Put a question to both sides at a rung."""
    held = RUNGS[rung]
    primitive = primitives(float64_ops() if rung == "f64" else Ops())[question.primitive]
    with np.errstate(over="ignore"):
        operands = question.operands(held)
    reference = primitive.reference(*(torch_from_numpy(operand, held.dtype) for operand in operands))
    with mx.stream(mx.cpu):
        port = primitive.port(*(mlx_from_numpy(operand, held.dtype) for operand in operands))
        answer: Any = numpy_from_mlx(port)[0]
    why = KNOWN.get((question.primitive, question.what, rung), "")
    return Answer(question, rung, numpy_from_torch(reference)[0], answer, why)
