"""Mutants of the long convolution, the short one and the mixer around both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx

from mlx_impl import fft_conv, mixer
from mlx_impl.model import BertLayer
from mlx_impl.ops import FFT_SCALES, Ops
from parity.attribution import replaced
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    PORT,
    SPECIFICATION,
    Patch,
    both_directions,
    built,
    call,
    centred,
    convolution,
    convolution_input,
    function,
    given,
    measured,
    mutants_of,
    op,
    second,
    skip,
    split,
    variance,
    wired,
)

# The long convolution: u (b, d, l), kernels (d, l), D (d,) -------------------------------------------------------


def _length(change: Callable[[int], int]) -> Patch:
    return function("fft_length", lambda _original, l: change(l), fft_conv)


def _inverse(factor: Callable[[int], float]) -> Patch:
    """The inverse transform of length n is `factor(n)` times too large."""
    return op("irfft", lambda _self, original, spectrum, n, norm: original(spectrum, n, norm) * factor(n))


def _samples(change: Callable[[mx.array, int], mx.array]) -> Patch:
    """Of the n samples of the convolution others are kept: `change(y, l)`."""
    return op("irfft", lambda _self, original, spectrum, n, norm: change(original(spectrum, n, norm), n // 2))


def _bins(change: Callable[[mx.array], mx.array]) -> Patch:
    """The product of the spectra is multiplied by `change(ones)`."""

    def product(_self: Any, original: Any, x: Any, y: Any) -> Any:
        return original(x, y) * change(mx.ones((x.shape[-1],)))

    return op("spectrum_product", product)


def _power_of_two(_original: Any, u: Any, k: Any, D: Any, k_rev: Any, _profile: Any, ops: Any) -> mx.array:
    """Both spectra averaged, at the next power of two, without padding."""
    l, scales = u.shape[-1], ops.fft_scales
    n = max(2, 1 << (l - 1).bit_length())
    kernel = ops.rfft(k, n, scales.kernel)
    if k_rev is not None:
        kernel = ops.spectrum_scale(ops.spectrum_sum(kernel, ops.rfft(k_rev, n, scales.kernel)), 0.5)
    y = ops.irfft(ops.spectrum_product(ops.rfft(u, n, scales.signal), kernel), n, scales.inverse)
    return y[..., :l] + u * D.reshape(1, -1, 1)


def _summed(change: Callable[[mx.array, mx.array], mx.array]) -> Patch:
    """The combined kernel, of l or 2l samples, is `change(k, k_rev)`."""
    return both_directions(
        lambda _original, k, k_rev, n, _profile, ops: ops.rfft(change(k, k_rev), n, ops.fft_scales.kernel)
    )


def _two_sided(k: mx.array, k_rev: mx.array, last: int) -> mx.array:
    """k from lag 0, k_rev flipped, its first sample at position `last` of 2l."""
    l = k.shape[-1]
    padded = mx.concatenate([mx.zeros_like(k_rev), k_rev[..., ::-1]], axis=-1)
    return mx.pad(k, [(0, 0), (0, l)]) + mx.roll(padded, last + 1, -1)


REVERSE: Final = "the reverse kernel"
_LONG: Final = mutants_of(
    "fftconv",
    "kernel",
    (
        "skip-added",
        "D added to the convolution, not times u",
        measured("1"),
        "",
        skip(lambda u, D: mx.zeros_like(u) + D),
    ),
    ("skip-missing", "no skip term", measured("1b"), "", skip(lambda u, _D: mx.zeros_like(u))),
    ("skip-of-first-channel", "channel 0's D for all channels", measured("1b"), "", skip(lambda u, D: u * D[:, :1])),
    ("skip-rectified", "u rectified before D", "laws of the harness", "", skip(lambda u, D: mx.maximum(u, 0) * D)),
    ("skip-of-one-plus-d", "u + u D, a residual beside the skip", PORT, "", skip(lambda u, D: u + u * D)),
    (
        "kernel-reversed",
        "the forward kernel reversed in time",
        measured("2"),
        "",
        convolution_input(lambda u, k, D, k_rev: (u, k[..., ::-1], D, k_rev)),
    ),
    (
        "kernel-correlated",
        "the kernel's spectrum conjugated: correlation for convolution",
        measured("2"),
        "",
        op("spectrum_product", lambda self, original, x, y: original(x, self.spectrum_conjugate(y))),
    ),
    (
        "kernel-one-sample-late",
        "the forward kernel's first sample at lag 1",
        measured("4b"),
        "",
        convolution_input(lambda u, k, D, k_rev: (u, mx.roll(k, 1, -1), D, k_rev)),
    ),
    (
        "reverse-at-lag-0",
        f"{REVERSE}'s conjugate spectrum, its first sample at lag 0 and not at -1",
        measured("3"),
        "",
        both_directions(
            lambda original, k, k_rev, n, p, ops: original(k, k_rev, n, p.replace(bidir_space="freq"), ops)
        ),
    ),
    (
        "reverse-not-conjugated",
        f"{REVERSE}'s spectrum added as it is: both act on the past",
        measured("3"),
        "",
        _summed(lambda k, k_rev: k + k_rev),
    ),
    (
        "reverse-folded-into-causal-half",
        f"{REVERSE} flipped and added to the first l samples",
        PORT,
        "",
        _summed(lambda k, k_rev: k + k_rev[..., ::-1]),
    ),
    (
        "reverse-at-lag-2",
        f"{REVERSE}'s first sample at lag -2",
        measured("3"),
        "",
        _summed(lambda k, k_rev: _two_sided(k, k_rev, -2)),
    ),
    (
        "reverse-not-flipped",
        f"{REVERSE} padded, not flipped",
        measured("3"),
        "",
        convolution_input(lambda u, k, D, k_rev: (u, k, D, given(lambda r: r[..., ::-1], k_rev))),
    ),
    (
        "reverse-missing",
        f"{REVERSE} left out: causal although bidirectional",
        PORT,
        "",
        convolution_input(lambda u, k, D, _k_rev: (u, k, D, None)),
    ),
    (
        "reverse-is-forward",
        "the forward kernel in both directions",
        measured("18"),
        "",
        convolution_input(lambda u, k, D, k_rev: (u, k, D, given(lambda _r: k, k_rev))),
    ),
    (
        "directions-exchanged",
        "forward and reverse kernels exchanged",
        measured("18"),
        "",
        convolution_input(lambda u, k, D, k_rev: (u, k, D, None) if k_rev is None else (u, k_rev, D, k)),
    ),
    ("fft-length-l", "transforms of length l: circular", measured("4"), "", _length(lambda l: l)),
    (
        "fft-power-of-two",
        "both spectra averaged at the next power of two, without padding",
        PORT,
        "",
        convolution(_power_of_two),
    ),
    ("fft-scale-missing", "no factor 1/n", measured("5"), "", _inverse(float)),
    ("fft-scale-twice", "the factor 1/n twice", measured("5"), "", _inverse(lambda n: 1 / n)),
    ("fft-scale-of-l", "1/l for 1/2l", measured("5"), "", _inverse(lambda _n: 2.0)),
    ("fft-scale-orthonormal", "1/sqrt n for 1/n", measured("5"), "", _inverse(lambda n: n**0.5)),
    (
        "fft-output-tail",
        "the last l of the 2l samples",
        measured("4"),
        "",
        _samples(lambda y, l: mx.roll(y, -l, -1)),
    ),
    (
        "fft-output-late",
        "samples 1 to l for 0 to l - 1",
        measured("13"),
        "",
        _samples(lambda y, _l: mx.roll(y, -1, -1)),
    ),
    (
        "fft-nyquist-dropped",
        "the last bin of the half spectrum lost",
        measured("21"),
        "",
        _bins(lambda ones: mx.where(mx.arange(ones.size) == ones.size - 1, 0, ones)),
    ),
    (
        "fft-mean-dropped",
        "bin 0 lost",
        measured("21"),
        "",
        _bins(lambda ones: mx.where(mx.arange(ones.size) == 0, 0, ones)),
    ),
    (
        "gelu-before-skip",
        "the skip term added behind the unit",
        SPECIFICATION,
        "act",
        call(
            fft_conv.FFTConv,
            lambda self, original, u: (
                original(u)
                if self.act is None
                else self.act(
                    fft_conv.fftconv(u, self.k, 0 * self.D, self.k_rev, self.profile, self.ops),
                )
                + u * self.D[:, None]
            ),
        ),
    ),
)
_ODD_LENGTH: Final = mutants_of(
    "fftconv",
    "kernel",
    ("fft-length-2l-1", "transforms of length 2l - 1", measured("4b"), "", _length(lambda l: 2 * l - 1)),
)
_PROFILE: Final = mutants_of(
    "fftconv",
    "profile",
    (
        "kernels-averaged",
        "the combined kernel halved, another profile's meaning",
        PORT,
        "",
        both_directions(
            lambda original, k, k_rev, n, p, ops: original(k, k_rev, n, p.replace(bidir_combine="avg"), ops)
        ),
    ),
    (
        "average-ignored",
        "kernels summed where the profile says average",
        "profile knob bidir_combine",
        "",
        both_directions(
            lambda original, k, k_rev, n, p, ops: original(k, k_rev, n, p.replace(bidir_combine="sum"), ops)
        ),
        {"knobs": {"bidir_combine": "avg"}},
    ),
    (
        "space-ignored",
        "kernels met in time where the profile says frequency",
        "profile knob bidir_space",
        "",
        both_directions(
            lambda original, k, k_rev, n, p, ops: original(k, k_rev, n, p.replace(bidir_space="time"), ops)
        ),
        {"knobs": {"bidir_space": "freq"}},
    ),
    (
        "average-of-forward-alone",
        "only the forward kernel halved where the profile says average",
        "profile knob bidir_combine",
        "",
        both_directions(lambda original, k, k_rev, n, p, ops: original(k, 2 * k_rev, n, p, ops)),
        {"knobs": {"bidir_combine": "avg"}},
    ),
    (
        "average-halves-skip",
        "the skip term halved with the kernels",
        "profile knob bidir_combine",
        "",
        convolution_input(lambda u, k, D, k_rev: (u, k, D if k_rev is None else D / 2, k_rev)),
        {"knobs": {"bidir_combine": "avg"}},
    ),
)

# The short convolution and the mixer -----------------------------------------------------------------------------


def _short(change: Callable[[mx.array, mx.array, mx.array], tuple[mx.array, mx.array, mx.array]]) -> Patch:
    """The short convolution gets `change(x, weight, bias)`, x (b, l, c), weight (c, 3, 1)."""
    return op(
        "depthwise_conv",
        lambda _self, original, x, weight, bias, padding: original(*change(x, weight, bias), padding),
    )


def _padded(shift: int) -> Patch:
    """The short convolution is `shift` samples early."""
    return op(
        "depthwise_conv",
        lambda _self, original, x, weight, bias, padding: original(x, weight, bias, padding)[:, shift:],
    )


def _wrapped(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    taps = (weight[:, tap, 0] * mx.roll(x, 2 - tap, 1) for tap in range(3))
    return sum(taps, start=bias)


_SHORT: Final = mutants_of(
    "monarch_mixer",
    "kernel",
    ("short-centred", "padding 1 on both sides: it looks one sample ahead", measured("13"), "short_filter", _padded(1)),
    ("short-tail", "the last l samples for the first", measured("13"), "short_filter", _padded(2)),
    (
        "short-taps-flipped",
        "a true convolution: the taps reversed",
        measured("13"),
        "short_filter",
        _short(lambda x, weight, bias: (x, weight[:, ::-1], bias)),
    ),
    (
        "short-bias-dropped",
        "its bias left out",
        measured("13b"),
        "short_filter",
        _short(lambda x, weight, bias: (x, weight, 0 * bias)),
    ),
    (
        "short-circular",
        "circular for padded",
        measured("13"),
        "short_filter",
        op("depthwise_conv", lambda _self, _original, x, weight, bias, _padding: _wrapped(x, weight, bias)),
    ),
    (
        "short-two-taps",
        "the oldest tap left out",
        measured("13"),
        "short_filter",
        _short(lambda x, weight, bias: (x, weight * mx.array([0.0, 1.0, 1.0])[:, None], bias)),
    ),
    (
        "short-one-filter",
        "channel 0's taps for all channels",
        PORT,
        "short_filter",
        _short(lambda x, weight, bias: (x, mx.broadcast_to(weight[:1], weight.shape), bias)),
    ),
)


def _first_filter_twice(self: Any, u: mx.array, x1: mx.array, x2: mx.array, v: mx.array) -> mx.array:
    return self.filter_fn(v * x1) * x2 + (0 if self.filter_fn2 is None else self.filter_fn(u))


def _after_gate(self: Any, u: mx.array, x1: mx.array, x2: mx.array, v: mx.array) -> mx.array:
    return (self.filter_fn(v * x1) + second(self, u)) * x2


def _without_norm_in_residual(self: Any, _original: Any, u: mx.array) -> mx.array:
    raw, u = u, u if self.layernorm is None else self.layernorm(u)
    x1, x2, v = mx.split(self.short_filter(self.in_linear(u).swapaxes(1, 2)), 3, axis=1)
    y = self.filter_fn(v * x1) * x2 + second(self, raw.swapaxes(1, 2))
    return self.out_linear(y.swapaxes(1, 2))


def _epsilon_of_model(self: Any) -> None:
    if self.layernorm is not None:
        self.layernorm.eps = 1e-12


def _without_norm(self: Any, original: Any, u: mx.array) -> mx.array:
    own, self.layernorm = self.layernorm, None
    try:
        return original(u)
    finally:
        self.layernorm = own


def _skip_of_first(self: Any, u: mx.array, x1: mx.array, x2: mx.array, v: mx.array) -> mx.array:
    y = second(self, u)
    own = 0 if self.filter_fn2 is None else u * (self.filter_fn.bias - self.filter_fn2.bias)[:, None]
    return self.filter_fn(v * x1) * x2 + y + own


_MIXER: Final = mutants_of(
    "monarch_mixer",
    "wiring",
    (
        "gates-x2-first",
        "x2, x1, v: the gates exchanged",
        measured("14"),
        ("filter_fn", ""),
        split(mixer, lambda p: [p[1], p[0], p[2]]),
    ),
    (
        "gates-v-last-gate",
        "x1, v, x2: value and last gate exchanged",
        measured("14"),
        ("filter_fn", ""),
        split(mixer, lambda p: [p[0], p[2], p[1]]),
    ),
    (
        "gates-interleaved",
        "every third channel for a contiguous third",
        measured("14"),
        "filter_fn",
        split(mixer, lambda p: [mx.concatenate(p, axis=1)[:, part::3] for part in range(3)]),
    ),
    (
        "gate-before-convolution",
        "v x1 x2 convolved, nothing gated behind",
        SPECIFICATION,
        "filter_fn",
        wired(lambda self, u, x1, x2, v: self.filter_fn(v * x1 * x2) + second(self, u)),
    ),
    (
        "first-gate-missing",
        "v convolved without x1",
        SPECIFICATION,
        "filter_fn",
        wired(lambda self, u, _x1, x2, v: self.filter_fn(v) * x2 + second(self, u)),
    ),
    (
        "residual-missing",
        "no second long convolution",
        measured("16"),
        ("filter_fn2", "filter_fn2.*", "out_linear"),
        wired(lambda self, _u, x1, x2, v: self.filter_fn(v * x1) * x2),
    ),
    (
        "residual-on-v",
        "the second convolution of v for u",
        measured("16"),
        "filter_fn2",
        wired(lambda self, _u, x1, x2, v: self.filter_fn(v * x1) * x2 + second(self, v)),
    ),
    (
        "residual-skip-of-first-filter",
        "the second convolution with filter_fn's D",
        measured("16"),
        ("filter_fn2", "out_linear"),
        wired(_skip_of_first),
    ),
    ("residual-gated", "the second convolution gated by x2 as well", measured("16"), "out_linear", wired(_after_gate)),
    (
        "residual-by-first-filter",
        "the second convolution by filter_fn",
        measured("16"),
        ("filter_fn", "filter_fn.*", "filter_fn2", "filter_fn2.*"),
        wired(_first_filter_twice),
    ),
    (
        "residual-of-raw-input",
        "the second convolution of the input before its LayerNorm",
        SPECIFICATION,
        "filter_fn2",
        call(mixer.MonarchMixer, _without_norm_in_residual),
    ),
    (
        "mixer-norm-ignored",
        "no LayerNorm before the mixer in spite of hyena_training_additions",
        SPECIFICATION,
        ("layernorm", "in_linear"),
        call(mixer.MonarchMixer, _without_norm),
    ),
    (
        "mixer-norm-eps",
        "that LayerNorm with the model's epsilon, not 1e-5",
        SPECIFICATION,
        "layernorm",
        built(mixer.MonarchMixer, _epsilon_of_model),
    ),
)
_MIXER_PROFILE: Final = mutants_of(
    "monarch_mixer",
    "profile",
    (
        "profile-not-handed-to-filters",
        "the filters of a mixer under the canonical profile",
        "profile knob bidir_combine",
        "filter_fn",
        function(
            "HyenaFilter",
            lambda original, *sizes, profile, **named: original(*sizes, **named),
            mixer,
        ),
        {"knobs": {"bidir_combine": "avg"}},
    ),
)


def _normalised_around(self: Any, _original: Any, x: mx.array) -> mx.array:
    """Residual and LayerNorm around the mixer, as around BERT's attention; the norm as it is first built."""
    y = self.attention(x) + x
    return self.mlp(centred(y) * mx.rsqrt(variance(y) + 1e-12))


_LAYER: Final = mutants_of(
    "layer",
    "wiring",
    (
        "layer-residual",
        "a residual around the mixer",
        PORT,
        "mlp.gated_layers",
        call(BertLayer, lambda self, _original, x: self.mlp(x + self.attention(x))),
    ),
    (
        "layer-residual-and-norm",
        "residual and LayerNorm around the mixer",
        PORT,
        "mlp.gated_layers",
        call(BertLayer, _normalised_around),
    ),
    (
        "layer-order",
        "state mixing before sequence mixing",
        SPECIFICATION,
        ("attention.in_linear", "attention.layernorm"),
        call(BertLayer, lambda self, _original, x: self.attention(self.mlp(x))),
    ),
    (
        "layer-mixer-skipped",
        "state mixing alone",
        SPECIFICATION,
        "attention*",
        call(BertLayer, lambda self, _original, x: self.mlp(x)),
    ),
)

# Equivalent ------------------------------------------------------------------------------------------------------


def _without_length(_self: Any, original: Any, spectrum: Any, _n: int, norm: str) -> Any:
    return original(spectrum, 2 * (spectrum.shape[-1] - 1), norm)


def _shorter_where_causal(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any, ops: Any) -> mx.array:
    if k_rev is not None:
        return original(u, k, D, k_rev, profile, ops)
    with replaced((fft_conv, "fft_length", lambda l: 2 * l - 1)):
        return original(u, k, D, k_rev, profile, ops)


_EQUIVALENT: Final = (
    *mutants_of(
        "monarch_mixer",
        "wiring",
        (
            "gates-v-and-x1-exchanged",
            "v, x2, x1: value and first gate exchanged",
            measured("14"),
            (),
            split(mixer, lambda p: p[::-1]),
        ),
        equivalent="v * x1 commutes, and nothing else reads either",
    ),
    *mutants_of(
        "fftconv",
        "kernel",
        (
            "inverse-without-length",
            "the inverse transform's length left to its default",
            measured("21"),
            (),
            op("irfft", _without_length),
        ),
        equivalent="the default is twice the bins less one, and n = 2l is even",
    ),
    *mutants_of(
        "fftconv",
        "kernel",
        (
            "one-over-n-moved",
            "the factor 1/n on the inverse, not on the kernel",
            measured("5"),
            (),
            lambda: replaced((Ops, "fft_scales", property(lambda _self: FFT_SCALES["backward"]))),
        ),
        equivalent="once over the three transforms wherever it stands",
    ),
    *mutants_of(
        "fftconv",
        "kernel",
        (
            "causal-at-2l-1",
            "transforms of length 2l - 1 where there is no reverse kernel",
            measured("4b"),
            (),
            convolution(_shorter_where_causal),
        ),
        equivalent="a causal kernel of l samples reaches lag l - 1 at most, which 2l - 1 samples hold without wrapping",
    ),
)

CONVOLUTION_MUTANTS: Final[tuple[Mutant, ...]] = (
    *_LONG,
    *_ODD_LENGTH,
    *_PROFILE,
    *_SHORT,
    *_MIXER,
    *_MIXER_PROFILE,
    *_LAYER,
    *_EQUIVALENT,
)
