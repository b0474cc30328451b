"""Other meanings, planted in the port by patches of its names, each with the alternative that must be named for it.

They are written on the port's side alone, from what porters do, and share no code with the library of alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_impl import blockdiag, fft_conv, hyena, mixer, mlp, model, norm, ops, weights

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class PlantedMeaning:
    """One meaning: the alternative's name, and how to plant it."""

    name: str
    plant: Callable[[Patch], None]


def _sigmoid_gelu(patch: Patch) -> None:
    patch.setattr(ops.Ops, "gelu_erf", lambda _self, x: x / (1 + mx.exp(-1.702 * x)))


def _tanh_gelu(patch: Patch) -> None:
    patch.setattr(ops.Ops, "gelu_erf", ops.Ops.gelu_tanh)


def _norm(formula: Callable[[Any, mx.array], mx.array]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        patch.setattr(norm.LayerNorm, "__call__", lambda self, x: formula(self, x) * self.weight + self.bias)

    return plant


def _centred(x: mx.array) -> mx.array:
    return x - mx.mean(x, axis=-1, keepdims=True)


def _large_epsilon(patch: Patch) -> None:
    patch.setattr(norm.LayerNorm, "__call__", lambda self, x: mx.fast.layer_norm(x, self.weight, self.bias, 1e-5))


def _convolution(change: Callable[..., mx.array]) -> Callable[[Patch], None]:
    """Plant `change(original, u, k, D, k_rev, profile, ops)` for the long convolution inside filters."""

    def plant(patch: Patch) -> None:
        original = fft_conv.fftconv
        patch.setattr(hyena, "fftconv", lambda *arguments: change(original, *arguments))

    return plant


def _with_profile(**knobs: Any) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        original = fft_conv._both_directions

        def both(k: mx.array, k_rev: mx.array, n: int, profile: Any, primitives: ops.Ops) -> Any:
            return original(k, k_rev, n, profile.replace(**knobs), primitives)

        patch.setattr(fft_conv, "_both_directions", both)

    return plant


def _added_skip(patch: Patch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, D: mx.broadcast_to(D, u.shape))


def _no_skip(patch: Patch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, _D: mx.zeros_like(u))


def _one_skip(patch: Patch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, D: u * D[:, :1])


def _circular(patch: Patch) -> None:
    patch.setattr(fft_conv, "fft_length", lambda l: l)


def _unscaled(patch: Patch) -> None:
    original = ops.Ops.irfft
    patch.setattr(ops.Ops, "irfft", lambda self, spectrum, n, norm: n * original(self, spectrum, n, norm))


def _centred_short_convolution(patch: Patch) -> None:
    patch.setattr(mixer.ShortConvolution, "padding", 1)


def _short(change: Callable[[Any, mx.array], tuple[mx.array, mx.array]]) -> Callable[[Patch], None]:
    """Plant a short convolution whose weight and bias are `change` of its own."""

    def plant(patch: Patch) -> None:
        original = ops.Ops.depthwise_conv

        def convolve(self: ops.Ops, x: mx.array, weight: mx.array, bias: mx.array, padding: int) -> mx.array:
            return original(self, x, *change(weight, bias), padding)

        patch.setattr(ops.Ops, "depthwise_conv", convolve)

    return plant


def _split(order: tuple[int, int, int]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        class Splitter:
            def __getattr__(self, name: str) -> Any:
                return getattr(mx, name)

            def split(self, x: mx.array, parts: int, axis: int) -> list[mx.array]:
                thirds = mx.split(x, parts, axis=axis)
                return [thirds[place] for place in order]

        patch.setattr(mixer, "mx", Splitter())

    return plant


def _mixer(change: Callable[[Any], None]) -> Callable[[Patch], None]:
    """Plant a mixer on whose parts `change` acts before it runs."""

    def plant(patch: Patch) -> None:
        original = mixer.MonarchMixer.__call__

        def call(self: Any, u: mx.array) -> mx.array:
            change(self)
            return original(self, u)

        patch.setattr(mixer.MonarchMixer, "__call__", call)

    return plant


def _no_residual(self: Any) -> None:
    self.filter_fn2 = None


def _first_skip(self: Any) -> None:
    if self.filter_fn2 is not None:
        self.filter_fn2.bias = self.filter_fn.bias


def _transposed_output(self: Any) -> None:
    if not hasattr(self, "_turned"):
        self.out_linear.weight = mx.contiguous(self.out_linear.weight.T)
        self._turned = True


def _swapped_glu(patch: Patch) -> None:
    class Splitter:
        def __getattr__(self, name: str) -> Any:
            return getattr(mx, name)

        def split(self, x: mx.array, parts: int, axis: int) -> list[mx.array]:
            return mx.split(x, parts, axis=axis)[::-1]

    patch.setattr(mlp, "mx", Splitter())


def _glu(formula: Callable[[Any, mx.array], mx.array]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(mlp.GatedMlp, "__call__", formula)


def _h(self: Any, x: mx.array) -> mx.array:
    gate, value = mx.split(self.gated_layers(x), 2, axis=-1)
    return self.act(gate) * value


def _without_output_bias(self: Any, x: mx.array) -> mx.array:
    h = _h(self, x)
    return self.layernorm(self.wo(h) - self.wo.bias + x)


def _blockdiag(call: Callable[[mx.array, mx.array, ops.Ops], mx.array]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(blockdiag, "blockdiag_multiply", call)


def _dealt_in(x: mx.array, weight: mx.array, primitives: ops.Ops) -> mx.array:
    k, q, p = weight.shape
    blocks = x.reshape(*x.shape[:-1], p, k).swapaxes(-1, -2)
    return primitives.blockdiag(blocks, weight).reshape(*x.shape[:-1], k * q)


def _dealt_out(x: mx.array, weight: mx.array, primitives: ops.Ops) -> mx.array:
    k, q, p = weight.shape
    y = primitives.blockdiag(x.reshape(*x.shape[:-1], k, p), weight)
    return y.swapaxes(-1, -2).reshape(*x.shape[:-1], k * q)


def _turned_blocks(x: mx.array, weight: mx.array, primitives: ops.Ops) -> mx.array:
    k, q, p = weight.shape
    matrices = mx.contiguous(weight.swapaxes(-1, -2)) if p == q else weight
    return primitives.blockdiag(x.reshape(*x.shape[:-1], k, p), matrices).reshape(*x.shape[:-1], k * q)


def _sine(argument: Callable[[Any, mx.array], mx.array]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(hyena.Sin, "__call__", lambda self, x: mx.sin(argument(self, x)))


def _unshared(patch: Patch) -> None:
    """Every Sin after the first of a network keeps the frequency it was built with, as if it were its own object."""
    original = hyena.Sin.__init__

    def build(self: Any, dim: int, w: float = 10, w_mod: float = 1, primitives: Any = None) -> None:
        original(self, dim, w, w_mod, primitives)
        object.__setattr__(self, "_w", w)

    def call(self: Any, z: mx.array) -> mx.array:
        for place, layer in enumerate(self._sequence):
            fresh = isinstance(layer, hyena.Sin) and place > 1
            z = mx.sin(layer.w_mod * layer._w * z) if fresh else layer(z)
        return z

    patch.setattr(hyena.Sin, "__init__", build)
    patch.setattr(hyena.FilterMlp, "__call__", call)


def _loaded(pattern: str, change: Callable[[mx.array], mx.array]) -> Callable[[Patch], None]:
    """Plant a loader that changes what it loads under names that end with `pattern`."""

    def plant(patch: Patch) -> None:
        original = weights.move_axes

        def move(name: str, tensor: mx.array) -> mx.array:
            moved = original(name, tensor)
            return change(moved) if name.endswith(pattern) else moved

        patch.setattr(weights, "move_axes", move)

    return plant


def _interleaved(z: mx.array) -> mx.array:
    bands = (z.shape[-1] - 1) // 2
    order = [0] + [1 + band + part * bands for band in range(bands) for part in range(2)]
    return z[..., mx.array(order)]


def _imaginary_first(z: mx.array) -> mx.array:
    bands = (z.shape[-1] - 1) // 2
    return mx.concatenate([z[..., :1], z[..., 1 + bands :], z[..., 1 : 1 + bands]], axis=-1)


def _plus_sign(z: mx.array) -> mx.array:
    bands = (z.shape[-1] - 1) // 2
    return mx.concatenate([z[..., : 1 + bands], -z[..., 1 + bands :]], axis=-1)


def _table(length: int, columns: int, first: float, periods: int) -> mx.array:
    bands = (columns - 1) // 2
    place = np.arange(length)[:, None]
    angle = np.linspace(first, bands - 1, bands) * 2 * math.pi * place / periods
    table = np.concatenate([np.linspace(0, 1, length)[:, None], np.cos(angle), -np.sin(angle)], axis=1)
    return mx.array(table[None].astype(np.float32))


def _zero_band(z: mx.array) -> mx.array:
    return _table(z.shape[1], z.shape[2], 0.0, z.shape[1])


def _short_angle(z: mx.array) -> mx.array:
    return _table(z.shape[1], z.shape[2], 1e-4, z.shape[1] - 1)


def _current_length(patch: Patch) -> None:
    def call(self: Any, L: int) -> tuple[mx.array, mx.array]:
        table = _table(L, self.z.shape[-1], 1e-4, L)
        return table, table[..., :1]

    patch.setattr(hyena.PositionalEmbedding, "__call__", call)


def _modulated(formula: Callable[[Any, mx.array, mx.array], mx.array]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(hyena.ExponentialModulation, "__call__", formula)


def _forward_twice(patch: Patch) -> None:
    patch.setattr(hyena.HyenaFilter, "filter_rev", hyena.HyenaFilter.filter)


PLANTED_MEANINGS = (
    PlantedMeaning("gelu=tanh", _tanh_gelu),
    PlantedMeaning("gelu=sigmoid", _sigmoid_gelu),
    PlantedMeaning("layer_norm.eps=1e-5", _large_epsilon),
    PlantedMeaning(
        "layer_norm.eps=1e-5 outside", _norm(lambda _self, x: _centred(x) / (mx.sqrt(mx.var(x, -1, True)) + 1e-5))
    ),
    PlantedMeaning(
        "layer_norm.ddof=1", _norm(lambda self, x: _centred(x) * mx.rsqrt(mx.var(x, -1, True, ddof=1) + self.eps))
    ),
    PlantedMeaning(
        "layer_norm=rms", _norm(lambda self, x: x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + self.eps))
    ),
    PlantedMeaning("bidir_space=freq", _with_profile(bidir_space="freq")),
    PlantedMeaning("bidir_combine=avg", _with_profile(bidir_combine="avg")),
    PlantedMeaning("reverse=forward's", _forward_twice),
    PlantedMeaning("reverse=missing", _convolution(lambda f, u, k, D, _k_rev, *rest: f(u, k, D, None, *rest))),
    PlantedMeaning(
        "reverse=not flipped", _convolution(lambda f, u, k, D, k_rev, *rest: f(u, k, D, k_rev[..., ::-1], *rest))
    ),
    PlantedMeaning(
        "kernel=reversed", _convolution(lambda f, u, k, D, k_rev, *rest: f(u, k[..., ::-1], D, k_rev, *rest))
    ),
    PlantedMeaning("fft.length=l", _circular),
    PlantedMeaning("fft.scale=missing", _unscaled),
    PlantedMeaning("skip=+D", _added_skip),
    PlantedMeaning("skip=missing", _no_skip),
    PlantedMeaning("skip=D[0]", _one_skip),
    PlantedMeaning("sin.freq=unshared", _unshared),
    PlantedMeaning("sin.freq=squared", _sine(lambda sin, x: sin.w_mod * sin.freq * sin.freq * x)),
    PlantedMeaning("sin.w_mod=missing", _sine(lambda sin, x: sin.freq * x)),
    PlantedMeaning("positions.bands=interleaved", _loaded("pos_emb.z", _interleaved)),
    PlantedMeaning("positions=swapped", _loaded("pos_emb.z", _imaginary_first)),
    PlantedMeaning("positions.sign=+", _loaded("pos_emb.z", _plus_sign)),
    PlantedMeaning("positions.f0=0", _loaded("pos_emb.z", _zero_band)),
    PlantedMeaning("positions.angle=2pi i/(L-1)", _loaded("pos_emb.z", _short_angle)),
    PlantedMeaning("positions=current length", _current_length),
    PlantedMeaning("modulation=missing", _modulated(lambda _self, _t, x: x)),
    PlantedMeaning("modulation.deltas=signed", _modulated(lambda self, t, x: x * mx.exp(-t * self.deltas))),
    PlantedMeaning("modulation.deltas=reversed", _loaded("deltas", lambda deltas: deltas[..., ::-1])),
    PlantedMeaning(
        "modulation.shift=0.05", _modulated(lambda self, t, x: x * (mx.exp(-t * mx.abs(self.deltas)) + 0.05))
    ),
    PlantedMeaning("short_filter.padding=1", _centred_short_convolution),
    PlantedMeaning("short_filter.taps=flipped", _short(lambda weight, bias: (weight[:, ::-1], bias))),
    PlantedMeaning("short_filter.bias=missing", _short(lambda weight, bias: (weight, 0 * bias))),
    PlantedMeaning("gates=x2,x1,v", _split((1, 0, 2))),
    PlantedMeaning("gates=x1,v,x2", _split((0, 2, 1))),
    PlantedMeaning("residual=missing", _mixer(_no_residual)),
    PlantedMeaning("residual.skip=filter_fn's D", _mixer(_first_skip)),
    PlantedMeaning("out_linear=transposed", _mixer(_transposed_output)),
    PlantedMeaning("glu=swapped", _swapped_glu),
    PlantedMeaning("mlp.residual=missing", _glu(lambda self, x: self.layernorm(self.wo(_h(self, x))))),
    PlantedMeaning("mlp.norm=before", _glu(lambda self, x: x + self.wo(_h(self, self.layernorm(x))))),
    PlantedMeaning("wo.bias=missing", _glu(_without_output_bias)),
    PlantedMeaning("blocks.in=interleaved", _blockdiag(_dealt_in)),
    PlantedMeaning("blocks.out=interleaved", _blockdiag(_dealt_out)),
    PlantedMeaning("blocks=transposed", _blockdiag(_turned_blocks)),
    PlantedMeaning(
        "layer.residual=added",
        lambda patch: patch.setattr(model.BertLayer, "__call__", lambda self, x: self.mlp(x + self.attention(x))),
    ),
)
"""Forty-six meanings, one at a time."""
