"""Mutants of gradients, of training and of special values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx

from mlx_impl import hyena
from mlx_impl.embeddings import BertEmbeddings
from mlx_impl.heads import Decoder
from mlx_impl.hyena import FilterMlp, PositionalEmbedding, Sin
from mlx_impl.linear import Embedding
from mlx_impl.model import BertForMaskedLM
from mlx_impl.norm import LayerNorm
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    MLX_HABIT,
    PORT,
    SPECIFICATION,
    TORCH_HABIT,
    Patch,
    call,
    convolution,
    convolution_vjp,
    function,
    gated,
    gelu,
    given,
    measured,
    method,
    mutants_of,
    op,
    op_vjp,
    second,
    wired,
)

# Gradients: the values are right ---------------------------------------------------------------------------------


def _frozen(attribute: str) -> Callable[..., Any]:
    """A call that reads one parameter without a gradient."""

    def forward(self: Any, original: Any, *args: Any) -> Any:
        own = self[attribute]
        self[attribute] = mx.stop_gradient(own)
        try:
            return original(*args)
        finally:
            self[attribute] = own

    return forward


def _mean_kept(right: list[mx.array], primals: list[mx.array]) -> list[mx.array]:
    """The gradient of a LayerNorm without the term of the mean."""
    x, weight = right[0], primals[1]
    return [x + mx.mean(x * weight + 1, axis=-1, keepdims=True), *right[1:]]


def _reverse_kernel_cut(original: Any, u: Any, k: Any, D: Any, k_rev: Any, *rest: Any) -> Any:
    return original(u, k, D, given(mx.stop_gradient, k_rev), *rest)


def _cut_gate(self: Any, u: mx.array, x1: mx.array, x2: mx.array, v: mx.array) -> mx.array:
    return self.filter_fn(v * x1) * mx.stop_gradient(x2) + second(self, u)


def _cut_residual(self: Any, u: mx.array, x1: mx.array, x2: mx.array, v: mx.array) -> mx.array:
    return self.filter_fn(v * x1) * x2 + second(self, mx.stop_gradient(u))


def _own_sine(
    original: Any, emb_dim: int, order: int, d_model: int, inner: int, act: Sin, _owns: bool, ops: Any
) -> FilterMlp:
    return original(emb_dim, order, d_model, inner, Sin(order, 1, act.w_mod, ops), True, ops)


def _copied(self: Any, _original: Any, table: Embedding) -> None:
    self.weight = mx.array(table.weight)


def _tied_without_gradient(self: Any, original: Any, x: mx.array) -> mx.array:
    return original(x) if self._table is None else self.ops.linear(x, mx.stop_gradient(self._table.weight), self.bias)


def _padding_trained(self: Any, _original: Any, ids: mx.array) -> mx.array:
    return self.weight[ids]


def _first_only(right: list[mx.array], _primals: list[mx.array]) -> list[mx.array]:
    return [right[0], *(mx.zeros_like(g) for g in right[1:])]


_SEEN: Final = {"seen_by": "gradients"}
_GRADIENTS: Final = (
    *mutants_of(
        "mlp",
        "gradient",
        (
            "gelu-gradient-of-tanh",
            "the exact unit with the tanh form's derivative",
            PORT,
            "act",
            op(
                "gelu_erf",
                lambda self, original, x: (
                    mx.stop_gradient(original(x)) + self.gelu_tanh(x) - mx.stop_gradient(self.gelu_tanh(x))
                ),
            ),
        ),
        (
            "gelu-gradient-scaled",
            "the unit's derivative a thousandth too large",
            "planted in the tests of blame",
            "act",
            op_vjp("gelu_erf", 1, lambda right, _primals: [g * 1.001 for g in right]),
        ),
        (
            "gelu-gradient-is-gate",
            "Phi(x) alone, without x phi(x)",
            SPECIFICATION,
            "act",
            gelu(lambda ops, x: x * mx.stop_gradient(1 + ops.erf(x / math.sqrt(2))) / 2),
        ),
        (
            "norm-gradient-with-mean",
            "the mean left in the norm's gradient",
            "planted in the tests of blame",
            "layernorm",
            op_vjp("layer_norm", 3, _mean_kept),
        ),
        (
            "norm-gradient-of-constant-variance",
            "the deviation held fixed",
            SPECIFICATION,
            "layernorm",
            call(
                LayerNorm,
                lambda self, _original, x: (
                    (x - mx.mean(x, axis=-1, keepdims=True))
                    * mx.stop_gradient(mx.rsqrt(mx.var(x, axis=-1, keepdims=True) + self.eps))
                    * self.weight
                    + self.bias
                ),
            ),
        ),
        (
            "gate-without-gradient",
            "no gradient through the gate",
            "planted in the tests of blame",
            "",
            gated(lambda self, g, v, x: self.layernorm(self.wo(mx.stop_gradient(self.act(g)) * v) + x)),
        ),
        (
            "mlp-residual-without-gradient",
            "no gradient through the residual",
            SPECIFICATION,
            "",
            gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) * v) + mx.stop_gradient(x))),
        ),
        **_SEEN,
    ),
    *mutants_of(
        "monarch_mixer",
        "gradient",
        (
            "short-gradient-shifted",
            "the short convolution's gradient one sample late",
            "planted in the tests of blame",
            "short_filter",
            op_vjp("depthwise_conv", 3, lambda right, _primals: [mx.roll(right[0], 1, 1), *right[1:]]),
        ),
        (
            "short-gradient-taps-flipped",
            "the taps' gradient reversed",
            measured("13"),
            "short_filter",
            op_vjp("depthwise_conv", 3, lambda right, _primals: [right[0], right[1][:, ::-1], right[2]]),
        ),
        (
            "short-weight-without-gradient",
            "the taps a constant",
            PORT,
            "short_filter",
            op_vjp("depthwise_conv", 3, _first_only),
        ),
        ("last-gate-without-gradient", "no gradient through x2", SPECIFICATION, "", wired(_cut_gate)),
        (
            "residual-without-gradient",
            "no gradient through the second convolution's input",
            "planted in the tests of blame",
            "",
            wired(_cut_residual),
        ),
        **_SEEN,
    ),
    *mutants_of(
        "hyena_filter",
        "gradient",
        (
            "sine-gradient-without-frequency",
            "cos alone, without the inner derivative",
            SPECIFICATION,
            "implicit_filter.1",
            call(
                Sin,
                lambda self, original, x: mx.stop_gradient(original(x)) + (y := self.ops.sin(x)) - mx.stop_gradient(y),
            ),
        ),
        (
            "sine-gradient-negated",
            "-cos for cos",
            SPECIFICATION,
            "implicit_filter.1",
            op_vjp("sin", 1, lambda right, _primals: [-g for g in right]),
        ),
        ("freq-frozen", "frequencies a constant", PORT, "implicit_filter.1", call(Sin, _frozen("freq"))),
        (
            "positions-frozen",
            "the position table a constant, though it is trained",
            SPECIFICATION,
            "pos_emb",
            call(PositionalEmbedding, _frozen("z")),
        ),
        (
            "skip-weight-frozen",
            "D a constant",
            PORT,
            "",
            convolution_vjp(lambda right, _primals: [right[0], right[1], mx.zeros_like(right[2]), right[3]]),
        ),
        (
            "convolution-gradient-reversed",
            "the input's gradient by convolution, not by correlation",
            SPECIFICATION,
            "",
            convolution_vjp(lambda right, _primals: [right[0][..., ::-1], *right[1:]]),
        ),
        (
            "kernel-gradient-late",
            "the kernel's gradient one lag late",
            SPECIFICATION,
            "",
            convolution_vjp(lambda right, _primals: [right[0], mx.roll(right[1], 1, -1), *right[2:]]),
        ),
        (
            "reverse-network-frozen",
            "no gradient through the reverse kernel",
            PORT,
            "",
            convolution(_reverse_kernel_cut),
        ),
        (
            "sin-untied",
            "forward and reverse networks with a Sin each, filled alike",
            PORT,
            ("implicit_filter.1", "implicit_filter_rev"),
            function("_filter_mlp", _own_sine, hyena),
        ),
        **_SEEN,
    ),
    *mutants_of(
        "embeddings",
        "gradient",
        (
            "padding-row-trained",
            "the padding row passes gradients on",
            TORCH_HABIT,
            "word_embeddings",
            call(Embedding, _padding_trained),
        ),
        **_SEEN,
    ),
    *mutants_of(
        "masked_lm",
        "gradient",
        (
            "decoder-copied",
            "the decoder with a copy of the table, filled alike",
            PORT,
            ("cls.predictions.decoder", "*word_embeddings"),
            method(Decoder, "tie", _copied),
        ),
        (
            "decoder-without-gradient",
            "no gradient from the decoder to the table",
            PORT,
            ("cls.predictions.decoder",),
            call(Decoder, _tied_without_gradient),
        ),
        **_SEEN,
    ),
)

# Training --------------------------------------------------------------------------------------------------------


def _loss(change: Callable[..., mx.array]) -> Patch:
    """The loss becomes `change(self, log probabilities of the labels, labels)`, both (b, l)."""

    def loss(self: Any, _original: Any, logits: mx.array, labels: mx.array) -> mx.array:
        top = mx.max(logits, axis=-1, keepdims=True)
        log_sum = mx.log(mx.sum(self.ops.exp(logits - top), axis=-1)) + top[..., 0]
        own = mx.take_along_axis(logits, mx.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return change(self, own - log_sum, labels)

    return method(BertForMaskedLM, "loss", loss)


def _mean_of(kept: Callable[[mx.array], mx.array]) -> Callable[..., mx.array]:
    def mean(_self: Any, scores: mx.array, labels: mx.array) -> mx.array:
        weight = kept(labels).astype(scores.dtype)
        return -mx.sum(scores * weight) / mx.sum(weight)

    return mean


def _row_means(_self: Any, scores: mx.array, labels: mx.array) -> mx.array:
    weight = (labels > 0).astype(scores.dtype)
    return -mx.mean(mx.sum(scores * weight, axis=1) / mx.maximum(mx.sum(weight, axis=1), 1))


def _dropped(share: float) -> Callable[..., mx.array]:
    """Dropout as in training, with the mask of a fixed seed."""

    def forward(self: Any, g: mx.array, v: mx.array, x: mx.array) -> mx.array:
        h = self.wo(self.act(g) * v)
        kept = mx.random.uniform(shape=h.shape, key=mx.random.key(1)) >= share
        return self.layernorm(mx.where(kept, h / (1 - share), 0) + x)

    return forward


_TRAINING: Final = (
    *mutants_of(
        "masked_lm",
        "training",
        (
            "loss-counts-ignored",
            "every position counts",
            SPECIFICATION,
            "",
            _loss(_mean_of(mx.ones_like)),
        ),
        (
            "loss-ignores-minus-100-alone",
            "label 0 counts",
            TORCH_HABIT,
            "",
            _loss(_mean_of(lambda labels: labels != -100)),
        ),
        (
            "loss-divided-by-all",
            "the sum divided by all positions",
            SPECIFICATION,
            "",
            _loss(lambda _self, scores, labels: -mx.mean(scores * (labels > 0))),
        ),
        (
            "loss-summed",
            "the sum, not divided",
            SPECIFICATION,
            "",
            _loss(lambda _self, scores, labels: -mx.sum(scores * (labels > 0))),
        ),
        ("loss-mean-of-rows", "the mean of each row's mean", PORT, "", _loss(_row_means)),
        (
            "loss-negated",
            "log likelihood for its negative",
            PORT,
            "",
            _loss(lambda self, scores, labels: -_mean_of(lambda found: found > 0)(self, scores, labels)),
        ),
        (
            "loss-of-next-token",
            "labels one position early, as in a causal model",
            PORT,
            "",
            method(
                BertForMaskedLM,
                "loss",
                lambda _self, original, logits, labels: original(logits, mx.roll(labels, -1, 1)),
            ),
        ),
        (
            "loss-binary-digits",
            "log2 for log",
            SPECIFICATION,
            "",
            method(
                BertForMaskedLM, "loss", lambda _self, original, logits, labels: original(logits, labels) / math.log(2)
            ),
        ),
    ),
    *mutants_of(
        "mlp",
        "training",
        ("dropout-active", "dropout of a tenth in evaluation", SPECIFICATION, "layernorm", gated(_dropped(0.1))),
        (
            "dropout-scaled",
            "nothing dropped, divided by 0.9 all the same",
            SPECIFICATION,
            "layernorm",
            gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) * v) / 0.9 + x)),
        ),
    ),
    *mutants_of(
        "embeddings",
        "training",
        (
            "embedding-dropout-scaled",
            "embeddings times 0.9 in evaluation, dropout of old",
            TORCH_HABIT,
            "",
            call(BertEmbeddings, lambda _self, original, *args: original(*args) * 0.9),
        ),
    ),
)

# Special values --------------------------------------------------------------------------------------------------


def _tanh_by_exp(self: Any, _original: Any, x: mx.array) -> mx.array:
    e = self.exp(2 * x)
    return (e - 1) / (e + 1)


def _softmax_without_largest(self: Any, _original: Any, x: mx.array, axis: int) -> mx.array:
    e = self.exp(x)
    return e / mx.sum(e, axis=axis, keepdims=True)


_EXTREMES: Final = {"seen_by": "extremes"}
_SPECIAL: Final = (
    *mutants_of(
        "pooler",
        "special",
        (
            "tanh-overflows",
            "(e^2x - 1) / (e^2x + 1): NaN for large x",
            measured("23"),
            "tanh",
            op("tanh", _tanh_by_exp),
            _EXTREMES,
        ),
        (
            "tanh-clipped",
            "the argument of tanh within 5",
            measured("23"),
            "",
            op("tanh", lambda _self, original, x: original(mx.clip(x, -5, 5))),
        ),
        (
            "tanh-of-nan-zero",
            "NaN made 0 before tanh",
            MLX_HABIT,
            "tanh",
            op("tanh", lambda _self, original, x: original(mx.where(mx.isnan(x), 0, x))),
            _EXTREMES,
        ),
    ),
    *mutants_of(
        "attention_pooler",
        "special",
        (
            "softmax-without-largest",
            "exponentials of the scores themselves",
            measured("23"),
            ("dense1", "dense3"),
            op("softmax", _softmax_without_largest),
        ),
        (
            "softmax-of-nan-zero",
            "NaN made 0 before the softmax",
            MLX_HABIT,
            "softmax",
            op("softmax", lambda _self, original, x, axis: original(mx.where(mx.isnan(x), 0, x), axis=axis)),
            _EXTREMES,
        ),
    ),
    *mutants_of(
        "mlp",
        "special",
        (
            "erf-by-clip",
            "the argument of erf within 3",
            MLX_HABIT,
            "act",
            op("erf", lambda _self, original, x: original(mx.clip(x, -3, 3))),
        ),
        (
            "gelu-of-nan-zero",
            "NaN made 0 by the unit",
            MLX_HABIT,
            "gelu_erf",
            op("gelu_erf", lambda _self, original, x: mx.where(mx.isnan(x), 0, original(x))),
            _EXTREMES,
        ),
        (
            "gelu-of-infinity-nan",
            "x / 2 + x erf(x / sqrt 2) / 2: NaN at minus infinity, +0 at -0",
            SPECIFICATION,
            "gelu_erf",
            op("gelu_erf", lambda self, _original, x: x * 0.5 + x * self.erf(x / math.sqrt(2)) * 0.5),
            _EXTREMES,
        ),
        (
            "norm-of-infinity-zero",
            "infinities made 0 before the norm",
            MLX_HABIT,
            "layer_norm",
            op("layer_norm", lambda _self, original, x, *rest: original(mx.where(mx.isinf(x), 0, x), *rest)),
            _EXTREMES,
        ),
    ),
)

# Equivalent ------------------------------------------------------------------------------------------------------

_EQUIVALENT: Final = (
    *mutants_of(
        "masked_lm",
        "training",
        (
            "loss-without-stop",
            "the largest logit subtracted with its gradient",
            TORCH_HABIT,
            (),
            _loss(_mean_of(lambda labels: labels > 0)),
        ),
        equivalent="what is subtracted is added again, and its gradients cancel",
    ),
)

TRAINING_MUTANTS: Final[tuple[Mutant, ...]] = (
    *_GRADIENTS,
    *_TRAINING,
    *_SPECIAL,
    *_EQUIVALENT,
)
