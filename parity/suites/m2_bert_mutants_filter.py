"""Mutants of the Hyena filter: its sines, its position table, its modulation, and how it is first built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import numpy as np

from mlx_impl import hyena
from mlx_impl.hyena import ExponentialModulation, FilterMlp, HyenaFilter, PositionalEmbedding, Sin
from mlx_impl.ops import Ops
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    MLX_HABIT,
    PORT,
    SPECIFICATION,
    Patch,
    built,
    call,
    function,
    loaded,
    measured,
    method,
    mutants_of,
    not_loaded,
)

# Sines -----------------------------------------------------------------------------------------------------------


def _sine(argument: Callable[[Any, mx.array], mx.array]) -> Patch:
    return call(Sin, lambda self, _original, x: self.ops.sin(argument(self, x)))


def _fresh(sine: Sin) -> Sin:
    """Another Sin as it was built, which no weights reach."""
    return Sin(sine.freq.shape[-1], float(sine.freq[0, 0]), sine.w_mod, sine.ops)


def _own_sines(self: Any, original: Any, layers: list[Any], owns: bool) -> None:
    """Every place but the first of the forward network has a Sin of its own, as it was built."""
    original(layers, owns)
    apart = tuple(_fresh(e) if isinstance(e, Sin) and place > 1 else e for place, e in enumerate(layers))
    object.__setattr__(self, "_sequence", apart)


def _own_reverse_sine(
    original: Any, emb_dim: int, order: int, d_model: int, inner: int, act: Sin, owns: bool, ops: Any
) -> FilterMlp:
    return original(emb_dim, order, d_model, inner, act if owns else _fresh(act), owns, ops)


def _sequence(change: Callable[[list[Any]], list[Any]]) -> Patch:
    """A filter's layers run in the order `change(layers)`."""

    def run(self: Any, _original: Any, z: mx.array) -> mx.array:
        for layer in change(list(self._sequence)):
            z = layer(z)
        return z

    return call(FilterMlp, run)


SINES: Final = "implicit_filter.1"
NETWORKS: Final = ("implicit_filter*",)
_SINES: Final = mutants_of(
    "hyena_filter",
    "arithmetic",
    (
        "sin-freq-twice",
        "frequencies applied twice",
        measured("8b"),
        SINES,
        _sine(lambda s, x: s.w_mod * s.freq * s.freq * x),
    ),
    ("sin-freq-ignored", "sin(x) without frequencies", measured("8b"), SINES, _sine(lambda s, x: s.w_mod * x)),
    (
        "sin-freq-of-first-feature",
        "one frequency for all features",
        PORT,
        SINES,
        _sine(lambda s, x: s.w_mod * s.freq[:, :1] * x),
    ),
    ("sin-w-mod-ignored", "the fixed factor w_mod left out", SPECIFICATION, SINES, _sine(lambda s, x: s.freq * x)),
    (
        "sin-is-cosine",
        "a quarter of a turn early",
        SPECIFICATION,
        SINES,
        _sine(lambda s, x: s.w_mod * s.freq * x + math.pi / 2),
    ),
)
_NETWORKS: Final = mutants_of(
    "hyena_filter",
    "wiring",
    (
        "sin-unshared",
        "every Sin but the first keeps the frequencies it was built with",
        measured("8"),
        SINES,
        method(FilterMlp, "__init__", _own_sines),
    ),
    (
        "sin-unshared-in-reverse",
        "the reverse network has a Sin of its own, never loaded",
        measured("8"),
        ("implicit_filter.1", "implicit_filter_rev.1"),
        function("_filter_mlp", _own_reverse_sine, hyena),
    ),
    (
        "network-without-inner-layers",
        "the inner linear layers left out",
        SPECIFICATION,
        NETWORKS,
        _sequence(lambda layers: [*layers[:2], layers[-1]] if len(layers) > 1 else layers),
    ),
    (
        "network-last-inner-layer-twice",
        "one inner layer in all inner places",
        SPECIFICATION,
        NETWORKS,
        _sequence(
            lambda layers: [layers[2] if 2 <= p < len(layers) - 1 and p % 2 == 0 else e for p, e in enumerate(layers)]
        ),
    ),
    (
        "network-ends-with-sine",
        "a Sin behind the last inner layer more, as a tanh of an output",
        SPECIFICATION,
        NETWORKS,
        _sequence(lambda layers: layers if len(layers) == 1 else [*layers[:-1], layers[1], layers[-1]]),
    ),
    (
        "reverse-network-is-forward",
        "the reverse kernel by the forward network",
        measured("18"),
        ("implicit_filter*", ""),
        method(HyenaFilter, "filter_rev", lambda self, _original, L: self.filter(L)),
    ),
    (
        "reverse-kernel-not-modulated",
        "no modulation of the reverse kernel",
        measured("15b"),
        ("modulation", ""),
        method(HyenaFilter, "filter_rev", lambda self, _original, L: self.implicit_filter_rev(self.pos_emb(L)[0])),
    ),
    (
        "skip-in-spite-of-no-bias",
        "bias=False ignored: D not multiplied by 0",
        SPECIFICATION,
        "",
        built(HyenaFilter, lambda self: setattr(self, "use_bias", True)),
    ),
    (
        "normalisation-ignored",
        "the kernel not divided by its channels' sum",
        SPECIFICATION,
        "",
        built(HyenaFilter, lambda self: setattr(self, "normalized", False)),
    ),
    (
        "normalisation-with-epsilon",
        "1e-8 added to that sum",
        PORT,
        "",
        method(Ops, "sum", lambda _self, original, x, **named: original(x, **named) + 1e-8),
        {"unseen_at_f32": "1e-8 of sums near 1 is a sixth of a rounding"},
    ),
    (
        "normalisation-over-positions",
        "divided by the sum over positions",
        SPECIFICATION,
        "",
        method(Ops, "sum", lambda _self, original, x, axis, keepdims: original(x, axis=1, keepdims=keepdims)),
    ),
    (
        "normalisation-euclidean",
        "divided by the Euclidean norm over channels",
        SPECIFICATION,
        "",
        method(Ops, "sum", lambda _self, original, x, **named: mx.sqrt(original(mx.square(x), **named))),
    ),
    (
        "kernel-from-last-positions",
        "the last L rows of the position table",
        measured("10"),
        "pos_emb",
        call(PositionalEmbedding, lambda self, _original, L: (self.z[:, -L:], self.t[:, -L:])),
    ),
)

# Positions -------------------------------------------------------------------------------------------------------


def _table(length: int, columns: int, first: float = 1e-4, periods: float | None = None) -> np.ndarray[Any, Any]:
    """Position table (1, length, columns) of angles f w, w = 2 pi arange / periods, f from `first`."""
    bands = (columns - 1) // 2
    angle = np.linspace(first, bands - 1, bands) * 2 * math.pi * np.arange(length)[:, None] / (periods or length)
    return np.concatenate([np.linspace(0, 1, length)[:, None], np.cos(angle), -np.sin(angle)], axis=1)[None]


def _position(change: Callable[[mx.array], mx.array]) -> Patch:
    """The table's rows become `change(z)`."""

    def rows(_self: Any, original: Any, L: int) -> tuple[mx.array, mx.array]:
        z, t = original(L)
        return change(z), t

    return call(PositionalEmbedding, rows)


def _shifted_table(**other: Any) -> Patch:
    """The trained table is off by what the table of another formula is off at the start."""

    def rows(self: Any, original: Any, L: int) -> tuple[mx.array, mx.array]:
        z, t = original(L)
        length, columns = self.z.shape[1:]
        named = {name: value(length) if callable(value) else value for name, value in other.items()}
        off = _table(length, columns, **named) - _table(length, columns)
        return z + mx.array(off[:, :L], dtype=z.dtype), t

    return call(PositionalEmbedding, rows)


def _recomputed(_self: Any, original: Any, L: int) -> tuple[mx.array, mx.array]:
    z, t = original(L)
    table = mx.array(_table(L, z.shape[-1]), dtype=z.dtype)
    return table, table[..., :1].astype(t.dtype)


def _columns(order: Callable[[int], list[int]]) -> Patch:
    return _position(lambda z: z[..., mx.array([0, *(1 + place for place in order((z.shape[-1] - 1) // 2))])])


def _signed(bands: int, columns: int) -> mx.array:
    return mx.array([1.0] * (1 + bands) + [-1.0] * (columns - 1 - bands))


_POSITIONS: Final = mutants_of(
    "hyena_filter",
    "arithmetic",
    (
        "positions-interleaved",
        "cosine and sine of each band side by side",
        measured("9"),
        "pos_emb",
        _columns(lambda b: [band + part * b for band in range(b) for part in range(2)]),
    ),
    (
        "positions-bands-by-modulo",
        "column j is of band j modulo the bands, cosine where j is even",
        PORT,
        "pos_emb",
        _columns(lambda b: [j % b + (j % 2) * b for j in range(2 * b)]),
    ),
    (
        "positions-sines-first",
        "imaginary parts before real ones",
        measured("9"),
        "pos_emb",
        _columns(lambda b: [*range(b, 2 * b), *range(b)]),
    ),
    (
        "positions-sign",
        "exp(+i f w): the sines' sign",
        measured("9b"),
        "pos_emb",
        _position(lambda z: z * _signed((z.shape[-1] - 1) // 2, z.shape[-1])),
    ),
    ("positions-first-band-zero", "bands from 0, not from 1e-4", measured("9c"), "pos_emb", _shifted_table(first=0.0)),
    (
        "positions-last-angle-whole",
        "angles by L - 1, not by L",
        measured("9d"),
        "pos_emb",
        _shifted_table(periods=lambda length: max(1, length - 1)),
    ),
    (
        "positions-pi-rounded",
        "pi as 3.1415770, computed in float32",
        PORT,
        "pos_emb",
        _shifted_table(periods=lambda length: length * math.pi / 3.1415770),
    ),
    (
        "positions-of-current-length",
        "the table recomputed for the input's length",
        measured("10"),
        "pos_emb",
        call(PositionalEmbedding, _recomputed),
    ),
    (
        "positions-late",
        "rows 1 to L for 0 to L - 1",
        measured("9d"),
        "pos_emb",
        _position(lambda z: mx.roll(z, -1, 1)),
    ),
    (
        "time-in-samples",
        "t of row i is i, not i / (L - 1)",
        SPECIFICATION,
        "pos_emb",
        call(PositionalEmbedding, lambda self, original, L: (original(L)[0], original(L)[1] * (self.t.shape[1] - 1))),
    ),
    (
        "time-from-trained-column",
        "the modulation's t from column 0 of z, which is trained",
        SPECIFICATION,
        "pos_emb",
        call(PositionalEmbedding, lambda _self, original, L: (original(L)[0], original(L)[0][..., :1])),
    ),
)
_LOADED: Final = mutants_of(
    "hyena_filter",
    "weights",
    ("positions-not-loaded", "z recomputed on load, not read", SPECIFICATION, "pos_emb", not_loaded(r"pos_emb\.z$")),
    ("freq-not-loaded", "frequencies keep their initial value", measured("8"), SINES, not_loaded(r"freq$")),
    (
        "deltas-not-loaded",
        "decay rates keep their initial value",
        measured("15b"),
        "modulation",
        not_loaded(r"deltas$"),
    ),
    (
        "deltas-reversed",
        "decay rates in the opposite order",
        measured("15b"),
        "modulation",
        loaded(r"deltas$", lambda x: x[..., ::-1]),
    ),
    ("skip-weight-not-loaded", "D keeps its initial value", SPECIFICATION, "", not_loaded(r"^bias$")),
)

# Modulation ------------------------------------------------------------------------------------------------------


def _modulated(factor: Callable[[Any, mx.array], mx.array]) -> Patch:
    return call(ExponentialModulation, lambda self, _original, t, x: x * factor(self, t))


_MODULATION: Final = mutants_of(
    "hyena_filter",
    "arithmetic",
    (
        "modulation-signed",
        "deltas without their absolute value: growth for decay",
        measured("15"),
        "modulation",
        _modulated(lambda self, t: self.ops.exp(-t * self.deltas) + self.shift),
    ),
    (
        "modulation-missing",
        "the kernel not modulated",
        measured("15b"),
        "modulation",
        _modulated(lambda _self, t: mx.ones_like(t)),
    ),
    (
        "modulation-in-spite-of-modulate-off",
        "modulate=False ignored",
        SPECIFICATION,
        ("modulation", ""),
        built(HyenaFilter, lambda self: setattr(self, "modulate", True)),
    ),
    (
        "modulation-shift-ignored",
        "the shift left out",
        SPECIFICATION,
        "modulation",
        _modulated(lambda self, t: self.ops.exp(-t * mx.abs(self.deltas))),
    ),
    (
        "modulation-shift-inside",
        "the shift added to the exponent",
        SPECIFICATION,
        "modulation",
        _modulated(lambda self, t: self.ops.exp(-t * mx.abs(self.deltas) + self.shift)),
    ),
    (
        "modulation-base-two",
        "2 for e",
        SPECIFICATION,
        "modulation",
        _modulated(lambda self, t: self.ops.exp(-t * mx.abs(self.deltas) * math.log(2)) + self.shift),
    ),
    (
        "modulation-one-rate",
        "channel 0's rate for all channels",
        PORT,
        "modulation",
        _modulated(lambda self, t: self.ops.exp(-t * mx.abs(self.deltas[..., :1])) + self.shift),
    ),
)

# Freshly built buffers, float32 in both frameworks ---------------------------------------------------------------


def _buffer(table: Callable[[int, int], Any]) -> Patch:
    """z as built is `table(length, columns)`."""

    def edit(self: Any) -> None:
        self.z = mx.array(table(*self.z.shape[1:]), dtype=mx.float32)

    return built(PositionalEmbedding, edit)


def _interleaved(length: int, columns: int) -> Any:
    bands = (columns - 1) // 2
    return _table(length, columns)[..., [0, *(1 + b + part * bands for b in range(bands) for part in range(2))]]


def _deltas(change: Callable[[mx.array], mx.array]) -> Patch:
    def edit(self: Any) -> None:
        self.deltas = change(self.deltas)

    return built(ExponentialModulation, edit)


_BUFFERS: Final = mutants_of(
    "hyena_buffers",
    "arithmetic",
    (
        "built-positions-pi-rounded",
        "pi as 3.1415770",
        PORT,
        "",
        _buffer(lambda l, e: _table(l, e, periods=l * math.pi / 3.1415770)),
    ),
    (
        "built-positions-first-band-zero",
        "bands from 0, not from 1e-4",
        measured("9c"),
        "",
        _buffer(lambda l, e: _table(l, e, first=0.0)),
    ),
    (
        "built-positions-last-angle-whole",
        "angles by L - 1, not by L",
        measured("9d"),
        "",
        _buffer(lambda l, e: _table(l, e, periods=max(1, l - 1))),
    ),
    (
        "built-positions-interleaved",
        "cosine and sine of each band side by side",
        measured("9"),
        "",
        _buffer(_interleaved),
    ),
    (
        "built-time-by-length",
        "t = i / L, not i / (L - 1)",
        SPECIFICATION,
        "",
        built(
            PositionalEmbedding,
            lambda self: setattr(self, "t", mx.arange(self.t.shape[1])[None, :, None] / self.t.shape[1]),
        ),
    ),
    ("built-deltas-reversed", "fast and slow decay exchanged", measured("15b"), "", _deltas(lambda x: x[..., ::-1])),
    ("built-deltas-absolute", "deltas stored without their sign", measured("15"), "", _deltas(mx.abs)),
    ("built-deltas-decadic", "log10 for log", SPECIFICATION, "", _deltas(lambda x: x / math.log(10))),
    (
        "built-freq-ten",
        "frequencies start at 10, not at w",
        SPECIFICATION,
        "",
        built(Sin, lambda self: setattr(self, "freq", mx.full(self.freq.shape, 10.0))),
    ),
)

# Equivalent ------------------------------------------------------------------------------------------------------

_EQUIVALENT: Final = (
    *mutants_of(
        "hyena_filter",
        "arithmetic",
        (
            "modulation-clipped-at-0",
            "the exponent of the modulation clipped at 0",
            MLX_HABIT,
            (),
            _modulated(lambda self, t: self.ops.exp(mx.minimum(-t * mx.abs(self.deltas), 0)) + self.shift),
        ),
        equivalent="t is not negative, so -t |deltas| never exceeds 0",
    ),
    *mutants_of(
        "hyena_filter",
        "wiring",
        (
            "network-sine-negated-twice",
            "-sin(-w_mod freq x) for sin(w_mod freq x)",
            SPECIFICATION,
            (),
            call(Sin, lambda self, _original, x: -self.ops.sin(-(self.w_mod * self.freq * x))),
        ),
        equivalent="the sine is odd",
    ),
)

FILTER_MUTANTS: Final[tuple[Mutant, ...]] = (
    *_SINES,
    *_NETWORKS,
    *_POSITIONS,
    *_LOADED,
    *_MODULATION,
    *_BUFFERS,
    *_EQUIVALENT,
)
