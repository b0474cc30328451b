"""Mutants of units, norms, block-diagonal products and MLPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
from einops import rearrange

from mlx_impl import blockdiag, mlp
from mlx_impl.blockdiag import BlockdiagLinear
from mlx_impl.mlp import Mlp
from mlx_impl.norm import LayerNorm
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    MLX_HABIT,
    PORT,
    SPECIFICATION,
    TORCH_HABIT,
    Patch,
    built,
    call,
    centred,
    core,
    function,
    gated,
    gelu,
    measured,
    mutants_of,
    normalised,
    split,
    unit,
    variance,
)

# Units and norms -------------------------------------------------------------------------------------------------


def _sigmoid_of(slope: float) -> Patch:
    return gelu(lambda ops, x: x / (1 + ops.exp(-slope * x)))


_UNITS: Final = mutants_of(
    "mlp",
    "arithmetic",
    ("gelu-tanh", "the tanh approximation", measured("6"), "act", gelu(lambda ops, x: ops.gelu_tanh(x))),
    ("gelu-sigmoid", "x sigmoid(1.702 x), mlx.nn's gelu_fast_approx", measured("6"), "act", _sigmoid_of(1.702)),
    ("gelu-silu", "x sigmoid(x)", MLX_HABIT, "act", _sigmoid_of(1.0)),
    ("gelu-relu", "max(x, 0)", TORCH_HABIT, "act", gelu(lambda _ops, x: mx.maximum(x, 0))),
    (
        "gelu-root-two-rounded",
        "sqrt 2 as 1.41421",
        PORT,
        "act",
        gelu(lambda ops, x: x * (1 + ops.erf(x / 1.41421)) / 2),
    ),
    (
        "gelu-without-root-two",
        "erf(x) for erf(x / sqrt 2)",
        SPECIFICATION,
        "act",
        gelu(lambda ops, x: x * (1 + ops.erf(x)) / 2),
    ),
    (
        "gelu-zero-below-3",
        "0 below -3, where the table of another port ends",
        PORT,
        "act",
        unit(lambda _self, original, x: mx.where(x < -3, 0, original(x))),
    ),
)
_NORMS: Final = mutants_of(
    "mlp",
    "arithmetic",
    (
        "norm-eps-of-mlx",
        "epsilon 1e-5, mlx.nn's default",
        measured("7"),
        "layernorm",
        call(LayerNorm, lambda self, _original, x: self.ops.layer_norm(x, self.weight, self.bias, 1e-5)),
    ),
    (
        "norm-eps-outside-root",
        "1e-5 added to the deviation",
        measured("7b"),
        "layernorm",
        normalised(lambda _self, x: centred(x) / (mx.sqrt(variance(x)) + 1e-5)),
    ),
    (
        "norm-unbiased",
        "variance divided by d - 1",
        measured("7c"),
        "layernorm",
        normalised(lambda self, x: centred(x) * mx.rsqrt(mx.var(x, axis=-1, keepdims=True, ddof=1) + self.eps)),
    ),
    (
        "norm-rms",
        "RMSNorm: the mean not taken off",
        measured("7d"),
        "layernorm",
        normalised(lambda self, x: x * mx.rsqrt(mx.mean(mx.square(x), axis=-1, keepdims=True) + self.eps)),
    ),
    (
        "norm-mean-kept",
        "the mean taken off in the variance alone",
        measured("7d"),
        "layernorm",
        normalised(lambda self, x: x * mx.rsqrt(variance(x) + self.eps)),
    ),
    (
        "norm-without-affine",
        "weight and bias not applied",
        SPECIFICATION,
        "layernorm",
        call(LayerNorm, lambda self, _original, x: centred(x) * mx.rsqrt(variance(x) + self.eps)),
    ),
    (
        "norm-bias-dropped",
        "the bias not applied",
        SPECIFICATION,
        "layernorm",
        call(LayerNorm, lambda self, original, x: original(x) - self.bias),
    ),
    (
        "norm-weight-plus-one",
        "1 + weight for weight, as in Gemma",
        PORT,
        "layernorm",
        call(LayerNorm, lambda self, original, x: original(x) + (original(x) - self.bias) / self.weight),
    ),
    (
        "norm-over-positions",
        "mean and variance over positions as well",
        "laws of the harness",
        "layernorm",
        normalised(
            lambda self, x: (
                (x - mx.mean(x, axis=(-2, -1), keepdims=True))
                * mx.rsqrt(mx.var(x, axis=(-2, -1), keepdims=True) + self.eps)
            )
        ),
    ),
)


_NORM_OF_EMBEDDINGS: Final = mutants_of(
    "embeddings",
    "arithmetic",
    (
        "norm-variance-clipped",
        "the variance at least 1e-1",
        MLX_HABIT,
        "LayerNorm",
        normalised(lambda _self, x: centred(x) * mx.rsqrt(mx.maximum(variance(x), 0.1))),
    ),
)

# Block-diagonal products -----------------------------------------------------------------------------------------


def _multiply(change: Callable[..., mx.array]) -> Patch:
    """`blockdiag_multiply` becomes `change(original, x, weight, ops)`."""
    return function("blockdiag_multiply", change, blockdiag)


def _dealt_in(original: Any, x: mx.array, weight: mx.array, ops: Any) -> mx.array:
    k, _, p = weight.shape
    return original(x.reshape(*x.shape[:-1], p, k).swapaxes(-1, -2).reshape(x.shape), weight, ops)


def _dealt_out(original: Any, x: mx.array, weight: mx.array, ops: Any) -> mx.array:
    k, q, _ = weight.shape
    y = original(x, weight, ops)
    return y.reshape(*y.shape[:-1], k, q).swapaxes(-1, -2).reshape(y.shape)


def _turned(original: Any, x: mx.array, weight: mx.array, ops: Any) -> mx.array:
    square = weight.shape[-1] == weight.shape[-2]
    return original(x, weight.swapaxes(-1, -2) if square else weight, ops)


SHUFFLE: Final = "... (g c) -> ... (c g)"


def _padded_left(x: mx.array, width: Any) -> mx.array:
    return mx.pad(x, [tuple(reversed(pair)) for pair in width])


def _other_shuffle(original: Any, x: mx.array, pattern: str, **sizes: int) -> mx.array:
    return original(x, {SHUFFLE: "... (c g) -> ... (g c)"}.get(pattern, pattern), **sizes)


def _last_features(self: Any, original: Any, x: mx.array) -> mx.array:
    k, q, p = self.weight.shape
    if k * q == self.out_features or self.shuffle:
        return original(x)
    padded = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, k * p - self.in_features)])
    y = blockdiag.blockdiag_multiply(padded, self.weight, self.ops)[..., -self.out_features :]
    return y if self.bias is None else y + self.bias


_BLOCKS: Final = mutants_of(
    "blockdiag_linear",
    "wiring",
    ("blocks-in-interleaved", "input features dealt to the blocks in turn", measured("12b"), "", _multiply(_dealt_in)),
    ("blocks-out-interleaved", "output features of the blocks in turn", measured("12b"), "", _multiply(_dealt_out)),
    ("blocks-transposed", "square blocks transposed", measured("12"), "", _multiply(_turned)),
    (
        "blocks-first-alone",
        "block 0 for all blocks",
        PORT,
        "",
        _multiply(lambda original, x, weight, ops: original(x, mx.broadcast_to(weight[:1], weight.shape), ops)),
    ),
    (
        "blocks-padded-left",
        "zeros before the features, not behind them",
        SPECIFICATION,
        "",
        core(blockdiag, pad=_padded_left),
    ),
    (
        "blocks-cut-left",
        "the last out_features for the first",
        SPECIFICATION,
        "",
        call(BlockdiagLinear, _last_features),
    ),
    (
        "blocks-shuffle-ignored",
        "channels not regrouped",
        SPECIFICATION,
        "",
        built(BlockdiagLinear, lambda self: setattr(self, "shuffle", False)),
    ),
    (
        "blocks-shuffle-inverted",
        "channels regrouped the other way round",
        SPECIFICATION,
        "",
        function("rearrange", _other_shuffle, blockdiag),
    ),
    (
        "blocks-bias-twice",
        "the bias added twice",
        "laws of the harness",
        "",
        call(BlockdiagLinear, lambda self, original, x: original(x) if self.bias is None else original(x) + self.bias),
    ),
    (
        "blocks-bias-dropped",
        "the bias left out",
        SPECIFICATION,
        "",
        call(BlockdiagLinear, lambda self, original, x: original(x) if self.bias is None else original(x) - self.bias),
    ),
)


def _monarch(first: str, second: str) -> Patch:
    """The product of two factors with other patterns for what lies between them and behind them."""

    def multiply(_original: Any, x: mx.array, w1: mx.array, w2: mx.array, ops: Any) -> mx.array:
        l = w2.shape[0]
        o1 = rearrange(blockdiag.blockdiag_multiply(x, w1, ops), f"... ({first}) -> ... l r", l=l)
        return rearrange(ops.blockdiag(o1, w2), f"... l s -> ... ({second})")

    return function("monarch_multiply", multiply, blockdiag)


_MONARCH: Final = mutants_of(
    "monarch_multiply",
    "wiring",
    ("monarch-without-stride", "no stride permutation between the factors", SPECIFICATION, "", _monarch("l r", "s l")),
    (
        "monarch-without-last-stride",
        "no stride permutation behind the factors",
        SPECIFICATION,
        "",
        _monarch("r l", "l s"),
    ),
)

# MLPs ------------------------------------------------------------------------------------------------------------


def _by_block(self: Any, original: Any, x: mx.array) -> mx.array:
    """Gate and value split inside each block of the gated layer."""
    weight = self.gated_layers.weight
    if weight.ndim < 3 or weight.shape[1] % 2 or weight.shape[0] * weight.shape[1] != self.gated_layers.out_features:
        return original(x)
    y = self.gated_layers(x)
    gate, value = mx.split(y.reshape(*y.shape[:-1], weight.shape[0], -1), 2, axis=-1)
    flat = (*y.shape[:-1], y.shape[-1] // 2)
    return self.layernorm(self.wo(self.act(gate.reshape(flat)) * value.reshape(flat)) + x)


_MLPS: Final = mutants_of(
    "mlp",
    "wiring",
    ("glu-swapped", "gate and value exchanged", measured("17"), "act", split(mlp, lambda parts: parts[::-1])),
    (
        "glu-interleaved",
        "every second feature for a half",
        PORT,
        "act",
        split(mlp, lambda p: [mx.concatenate(p, axis=-1)[..., part::2] for part in range(2)]),
    ),
    ("glu-by-block", "gate and value split inside each block", SPECIFICATION, "act", call(mlp.GatedMlp, _by_block)),
    (
        "glu-unit-behind",
        "the unit on the product of gate and value",
        SPECIFICATION,
        "act",
        gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g * v)) + x)),
    ),
    (
        "glu-unit-on-both",
        "the unit on gate and value",
        SPECIFICATION,
        "wo",
        gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) * self.act(v)) + x)),
    ),
    (
        "glu-sum",
        "gate and value added",
        SPECIFICATION,
        "wo",
        gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) + v) + x)),
    ),
    (
        "mlp-residual-missing",
        "no residual",
        measured("19"),
        "layernorm",
        gated(lambda self, g, v, _x: self.layernorm(self.wo(self.act(g) * v))),
    ),
    (
        "mlp-residual-twice",
        "the residual twice",
        PORT,
        "layernorm",
        gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) * v) + 2 * x)),
    ),
    (
        "mlp-residual-behind-norm",
        "layernorm(h) + x for layernorm(h + x)",
        SPECIFICATION,
        "layernorm",
        gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) * v)) + x),
    ),
    (
        "mlp-norm-before",
        "the norm before the MLP, as in GPT",
        SPECIFICATION,
        ("gated_layers", "layernorm"),
        call(mlp.GatedMlp, lambda self, _original, x: x + self.wo(_product(self, self.layernorm(x)))),
    ),
    (
        "mlp-norm-missing",
        "no LayerNorm",
        SPECIFICATION,
        ("layernorm", ""),
        gated(lambda self, g, v, x: self.wo(self.act(g) * v) + x),
    ),
    (
        "wo-bias-dropped",
        "the bias of wo left out",
        measured("19"),
        "layernorm",
        gated(lambda self, g, v, x: self.layernorm(self.wo(self.act(g) * v) - self.wo.bias + x)),
    ),
    (
        "plain-mlp-unit-missing",
        "no unit in the plain MLP",
        SPECIFICATION,
        ("wo", "act"),
        call(Mlp, lambda self, _original, x: self.layernorm(self.wo(self.gated_layers(x)) + x)),
    ),
    (
        "plain-mlp-residual-missing",
        "no residual in the plain MLP",
        measured("19"),
        "layernorm",
        call(Mlp, lambda self, _original, x: self.layernorm(self.wo(self.act(self.gated_layers(x))))),
    ),
)


def _product(self: Any, x: mx.array) -> mx.array:
    gate, value = mx.split(self.gated_layers(x), 2, axis=-1)
    return self.act(gate) * value


# Equivalent ------------------------------------------------------------------------------------------------------

_EQUIVALENT: Final = (
    *mutants_of(
        "mlp",
        "wiring",
        (
            "mlp-residual-first",
            "x + wo(h) for wo(h) + x",
            SPECIFICATION,
            (),
            gated(lambda self, g, v, x: self.layernorm(x + self.wo(v * self.act(g)))),
        ),
        equivalent="sums and products of two commute, in floating point as well",
    ),
)

LAYER_MUTANTS: Final[tuple[Mutant, ...]] = (
    *_UNITS,
    *_NORMS,
    *_NORM_OF_EMBEDDINGS,
    *_BLOCKS,
    *_MONARCH,
    *_MLPS,
    *_EQUIVALENT,
)
