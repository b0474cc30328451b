"""Mutants of the transfer of weights, of profiles and of precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import mlx.core as mx
import numpy as np

from mlx_impl import hyena, weights
from mlx_impl.activations import Gelu
from mlx_impl.heads import Decoder, PredictionTransform
from mlx_impl.hyena import FilterMlp
from mlx_impl.model import BertForMaskedLM
from mlx_impl.norm import LayerNorm
from mlx_impl.ops import round_to_tf32
from parity.attribution import replaced
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    PORT,
    TORCH_HABIT,
    Patch,
    built,
    call,
    convolution_input,
    exchanged,
    function,
    gelu,
    given,
    loaded,
    measured,
    method,
    mutants_of,
    not_loaded,
    op,
    state,
    through,
)

# Weights ---------------------------------------------------------------------------------------------------------


def _turned(pattern: str) -> Patch:
    """Square matrices of these names transposed on load."""
    return loaded(pattern, lambda x: x.swapaxes(-1, -2) if x.ndim == 2 and x.shape[0] == x.shape[1] else x)


def _table_before_last(arrays: dict[str, mx.array], initial: Mapping[str, mx.array]) -> None:
    """Tensors are handed out in alphabetical order of the port's names: equal shapes go wrong."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name in arrays:
        by_shape.setdefault(arrays[name].shape, []).append(name)
    taken = dict(arrays)
    for names in by_shape.values():
        for name, other in zip(sorted(names), sorted(names, key=lambda n: n[::-1]), strict=True):
            arrays[name] = taken[other]
    assert arrays.keys() == initial.keys()


THIRDS: Final = r"in_linear\.(weight|bias)$"
_WEIGHTS: Final = (
    *mutants_of(
        "monarch_mixer",
        "weights",
        (
            "out-linear-transposed",
            "the square output projection transposed",
            measured("11"),
            "out_linear",
            _turned(r"out_linear\.weight$"),
        ),
        (
            "in-linear-thirds-rolled",
            "the thirds of the input projection in another order",
            measured("14"),
            "in_linear",
            loaded(THIRDS, lambda x: mx.roll(x, x.shape[0] // 3, 0)),
        ),
        (
            "in-linear-rows-interleaved",
            "its rows by channel, x1 x2 v side by side",
            measured("14"),
            "in_linear",
            loaded(THIRDS, lambda x: x.reshape(3, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)),
        ),
        (
            "in-linear-bias-not-loaded",
            "its bias keeps its initial value",
            PORT,
            "in_linear",
            not_loaded(r"in_linear\.bias$"),
        ),
        (
            "short-filter-channels-rolled",
            "the short convolution's channels one late",
            measured("13"),
            "short_filter",
            loaded(r"short_filter\.weight$", lambda x: mx.roll(x, 1, 0)),
        ),
        (
            "short-filter-reversed-on-load",
            "its taps reversed by the table",
            measured("13"),
            "short_filter",
            loaded(r"short_filter\.weight$", lambda x: x[:, ::-1]),
        ),
        (
            "filters-exchanged",
            "filter_fn and filter_fn2 exchanged",
            measured("16"),
            "filter_fn.*",
            exchanged("filter_fn.", "filter_fn2."),
        ),
        (
            "second-filter-is-first",
            "filter_fn's weights in filter_fn2 as well",
            measured("16"),
            "filter_fn2*",
            state(
                lambda arrays, _initial: arrays.update(
                    {
                        name: arrays[name.replace("filter_fn2.", "filter_fn.")]
                        for name in arrays
                        if "filter_fn2." in name
                    }
                )
            ),
        ),
        (
            "networks-exchanged",
            "forward and reverse networks exchanged",
            measured("18"),
            "filter_fn.implicit_filter*",
            exchanged("implicit_filter.", "implicit_filter_rev."),
        ),
        (
            "mixer-weights-in-sixteen-bits",
            "the checkpoint read as bfloat16",
            PORT,
            "*",
            loaded("", lambda x: through(mx.bfloat16, x)),
        ),
    ),
    *mutants_of(
        "blockdiag_linear",
        "weights",
        ("blocks-reversed", "blocks from the last to the first", PORT, "", loaded("weight$", lambda x: x[::-1])),
        (
            "blocks-read-by-column",
            "blocks read in the other order of axes",
            measured("12"),
            "",
            loaded("weight$", lambda x: x.swapaxes(-1, -2).reshape(x.shape)),
        ),
    ),
    *mutants_of(
        "mlp",
        "weights",
        (
            "norm-weight-and-bias-exchanged",
            "weight and bias of the LayerNorm exchanged",
            PORT,
            "layernorm",
            exchanged("layernorm.weight", "layernorm.bias"),
        ),
        (
            "norm-not-loaded",
            "gamma and beta under names that nobody reads",
            TORCH_HABIT,
            "layernorm",
            not_loaded("layernorm"),
        ),
        (
            "gated-halves-exchanged",
            "rows of the gated layer in the other order of halves",
            measured("17"),
            "gated_layers",
            loaded(
                r"gated_layers\.weight$",
                lambda x: mx.roll(x.reshape(-1, x.shape[-1]), x.size // x.shape[-1] // 2, 0).reshape(x.shape),
            ),
        ),
    ),
    *mutants_of(
        "embeddings",
        "weights",
        (
            "words-one-row-late",
            "the table's rows shifted by one",
            PORT,
            "word_embeddings",
            loaded(r"word_embeddings\.weight$", lambda x: mx.roll(x, 1, 0)),
        ),
        (
            "positions-one-row-late",
            "the table of positions shifted by one",
            PORT,
            "position_embeddings",
            loaded(r"position_embeddings\.weight$", lambda x: mx.roll(x, 1, 0)),
        ),
    ),
    *mutants_of(
        "encoder",
        "weights",
        (
            "layers-exchanged",
            "the weights of layers 0 and 1 exchanged",
            PORT,
            "layer.0*",
            exchanged("layer.0.", "layer.1."),
        ),
        (
            "layers-filled-with-first",
            "layer 0's weights in layer 1 as well",
            PORT,
            "layer.1*",
            state(
                lambda arrays, _initial: arrays.update(
                    {name: arrays[name.replace("layer.1.", "layer.0.")] for name in arrays if "layer.1." in name}
                )
            ),
        ),
        (
            "layer-not-loaded",
            "layer 1 keeps its initial weights",
            "loaders of style.md that print and go on",
            "layer.1*",
            not_loaded(r"layer\.1\."),
        ),
    ),
    *mutants_of(
        "pooler",
        "weights",
        ("pooler-dense-transposed", "the square dense layer transposed", measured("11"), "dense", _turned("dense")),
    ),
    *mutants_of(
        "attention_pooler",
        "weights",
        (
            "equal-shapes-confused",
            "tensors of one shape matched by the ends of their names",
            PORT,
            "*",
            state(_table_before_last),
        ),
    ),
    *mutants_of(
        "masked_lm",
        "weights",
        (
            "decoder-untied",
            "the decoder keeps the table with which it was built",
            PORT,
            "cls.predictions.decoder",
            method(
                Decoder, "tie", lambda self, _original, table: object.__setattr__(self, "_table", _Kept(table.weight))
            ),
        ),
    ),
)


class _Kept:
    """A table's rows as they are now, under the name under which a decoder reads them."""

    def __init__(self, weight: mx.array) -> None:
        self.weight = mx.array(weight)


# Profiles --------------------------------------------------------------------------------------------------------


def _canonical_norm(_self: Any, original: Any, dims: int, eps: float, _profile: Any = None, ops: Any = None) -> None:
    original(dims, eps, ops=ops)


_PROFILES: Final = (
    *mutants_of(
        "mlp",
        "profile",
        (
            "tanh-ignored",
            "the exact unit where the profile says tanh",
            "profile knob gelu_mode",
            "act",
            built(Gelu, lambda self: setattr(self, "approximate", "none")),
            {"knobs": {"gelu_mode": "tanh"}},
        ),
        (
            "tanh-constant-rounded",
            "0.0447 for 0.044715",
            PORT,
            "act",
            op("gelu_tanh", lambda self, _original, x: _tanh_gelu(self, x, 0.0447, math.pi)),
            {"knobs": {"gelu_mode": "tanh"}},
        ),
        (
            "tanh-pi-rounded",
            "pi as 3.14159",
            PORT,
            "act",
            op("gelu_tanh", lambda self, _original, x: _tanh_gelu(self, x, 0.044715, 3.14159)),
            {"knobs": {"gelu_mode": "tanh"}, "unseen_at_f32": "4e-7 of the slope: seven roundings of five factors"},
        ),
        (
            "eps-of-profile-ignored",
            "the model's epsilon where the profile names one",
            "profile knob layer_norm_eps",
            "layernorm",
            method(LayerNorm, "__init__", _canonical_norm),
            {"knobs": {"layer_norm_eps": 1e-3}},
        ),
        (
            "strict-norm-eps-ignored",
            "the strict LayerNorm with an epsilon of its own",
            "profile knob layer_norm_strict",
            "layernorm",
            op("two_pass_layer_norm", lambda _self, original, x, weight, bias, _eps: original(x, weight, bias, 1e-3)),
            {"knobs": {"layer_norm_strict": True}},
        ),
    ),
    *mutants_of(
        "mlm_head",
        "profile",
        (
            "eps-of-profile-ignored-in-head",
            "1e-12 in the head's norm where the profile names an epsilon",
            "profile knob layer_norm_eps",
            "*.LayerNorm",
            built(PredictionTransform, lambda self: setattr(self.LayerNorm, "eps", 1e-12)),
            {"knobs": {"layer_norm_eps": 1e-3}},
        ),
    ),
    *mutants_of(
        "fftconv",
        "profile",
        (
            "ortho-scaled-once",
            "1/sqrt n on the inverse alone where the profile says ortho",
            "profile knob fft_norm",
            "",
            op("rfft", lambda _self, original, x, n, _norm: original(x, n, "backward")),
            {"knobs": {"fft_norm": "ortho"}},
        ),
    ),
)


def _tanh_gelu(ops: Any, x: mx.array, cubic: float, pi: float) -> mx.array:
    return x * (1 + ops.tanh(math.sqrt(2 / pi) * (x + cubic * x * x * x))) / 2


# Precision -------------------------------------------------------------------------------------------------------


def _argument(name: str, dtype: mx.Dtype) -> Patch:
    """The first argument of a primitive goes through `dtype`."""
    return op(name, lambda _self, original, x, *rest, **named: original(through(dtype, x), *rest, **named))


def _tf32(_self: Any, original: Any, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """Factors of dense layers in TF32, as matrix units take them."""
    factors: Any = (round_to_tf32(a.astype(mx.float32)) for a in (x, weight))
    return original(*(factor.astype(x.dtype) for factor in factors), bias)


def _float32_loss(_self: Any, original: Any, logits: mx.array, labels: mx.array) -> mx.array:
    return original(through(mx.float32, logits), labels)


FINE: Final = {"unseen_at_f32": "float32 holds every number that float32 made"}
_DTYPES: Final = (
    *mutants_of(
        "mlp",
        "dtype",
        (
            "gelu-in-float32",
            "the unit computed in float32",
            measured("20"),
            "act",
            _argument("gelu_erf", mx.float32),
            FINE,
        ),
        (
            "gelu-constant-in-float32",
            "sqrt 2 as a float32 constant",
            measured("20"),
            "act",
            gelu(lambda ops, x: x * (1 + ops.erf(x / float(np.float32(math.sqrt(2))))) / 2),
            {"unseen_at_f32": "the constant is that of float32"},
        ),
        (
            "norm-in-float32",
            "the norm computed in float32",
            TORCH_HABIT,
            "layernorm",
            _argument("layer_norm", mx.float32),
            FINE,
        ),
        (
            "norm-in-bfloat16",
            "the norm's input in bfloat16",
            measured("20"),
            "layernorm",
            _argument("layer_norm", mx.bfloat16),
        ),
        (
            "blocks-in-bfloat16",
            "block products of bfloat16, as the original's fast path",
            PORT,
            ("gated_layers", "wo"),
            _argument("blockdiag", mx.bfloat16),
        ),
        (
            "blocks-in-float16",
            "float16 for bfloat16 in that path",
            PORT,
            ("gated_layers", "wo"),
            _argument("blockdiag", mx.float16),
        ),
    ),
    *mutants_of(
        "fftconv",
        "dtype",
        (
            "inverse-in-float32",
            "the convolution rounded to float32",
            measured("20"),
            "",
            op("irfft", lambda _self, original, *args: through(mx.float32, original(*args))),
            FINE,
        ),
        (
            "skip-weight-in-bfloat16",
            "D in bfloat16",
            measured("20"),
            "",
            convolution_input(lambda u, k, D, k_rev: (u, k, through(mx.bfloat16, D), k_rev)),
        ),
        (
            "kernel-in-float16",
            "the kernels in float16",
            measured("20"),
            "",
            convolution_input(
                lambda u, k, D, k_rev: (u, through(mx.float16, k), D, given(lambda r: through(mx.float16, r), k_rev))
            ),
        ),
    ),
    *mutants_of(
        "hyena_filter",
        "dtype",
        (
            "network-in-float32",
            "what the filter's network gives rounded to float32",
            measured("20"),
            "implicit_filter*",
            call(FilterMlp, lambda _self, original, z: through(mx.float32, original(z))),
            FINE,
        ),
        (
            "sine-argument-in-float32",
            "the sines' argument in float32",
            measured("20"),
            "implicit_filter.1",
            _argument("sin", mx.float32),
            FINE,
        ),
        (
            "modulation-in-float16",
            "the exponent of the modulation in float16",
            measured("20"),
            "modulation",
            _argument("exp", mx.float16),
        ),
        (
            "transform-in-float32",
            "the input of the transforms in float32",
            measured("20"),
            "",
            _argument("rfft", mx.float32),
            FINE,
        ),
        (
            "filter-kept-in-float32",
            "the kernels rounded to float32 before the convolution",
            measured("20"),
            "",
            function(
                "fftconv",
                lambda original, u, k, D, k_rev, *rest: original(
                    u, through(mx.float32, k), D, given(lambda r: through(mx.float32, r), k_rev), *rest
                ),
                hyena,
            ),
            FINE,
        ),
    ),
    *mutants_of(
        "monarch_mixer",
        "dtype",
        (
            "dense-in-tf32",
            "factors of dense layers in TF32",
            measured("20"),
            ("in_linear", "filter_fn.implicit_filter.*"),
            op("linear", _tf32),
        ),
        (
            "short-filter-in-bfloat16",
            "the short convolution of bfloat16",
            measured("20"),
            "short_filter",
            _argument("depthwise_conv", mx.bfloat16),
        ),
    ),
    *mutants_of(
        "attention_pooler",
        "dtype",
        (
            "softmax-in-float32",
            "the softmax computed in float32",
            TORCH_HABIT,
            "dense1",
            _argument("softmax", mx.float32),
            FINE,
        ),
    ),
    *mutants_of(
        "masked_lm",
        "dtype",
        (
            "loss-in-float32",
            "the loss of float32 logits",
            TORCH_HABIT,
            "",
            method(BertForMaskedLM, "loss", _float32_loss),
            FINE,
        ),
    ),
)

# Equivalent ------------------------------------------------------------------------------------------------------


def _reshaped() -> Any:
    """The axes of the short convolution's weight moved by a reshape."""
    moves = {pattern: lambda x: x.reshape(x.shape[0], x.shape[2], x.shape[1]) for pattern in weights.AXIS_MOVES}
    return replaced((weights, "AXIS_MOVES", moves))


_EQUIVALENT: Final = (
    *mutants_of(
        "monarch_mixer",
        "weights",
        ("short-filter-reshaped", "the axes of its weight moved by a reshape", measured("13"), (), _reshaped),
        equivalent="the axis that is moved past has length 1",
    ),
    *mutants_of(
        "mlp",
        "dtype",
        (
            "weights-in-float32",
            "weights in float32 at every finer rung",
            PORT,
            (),
            loaded("", lambda x: through(mx.float32, x)),
        ),
        equivalent="a case's weights are exact in float32",
    ),
)

STATE_MUTANTS: Final[tuple[Mutant, ...]] = (
    *_WEIGHTS,
    *_PROFILES,
    *_DTYPES,
    *_EQUIVALENT,
)
