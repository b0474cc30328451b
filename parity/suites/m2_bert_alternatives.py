"""What porters of M2-BERT get wrong: every semantic knob of the specification set to another value.

Each alternative changes how the float64 reference computes, its source untouched: by a profile's knob, by an edit of a
copy of the module, or by letting a name of the reference stand for something else while it runs. Formulas are written
from the specification's own, with the one change that the name says.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from einops import rearrange
from torch.nn import functional

from parity.attribution import Alternative, Investigation, Probe, explain_failure, explanation, replaced
from parity.cases import FINE_LADDER, FULL_LADDER, Case
from parity.pairs import Pair, ParameterRule, Structure
from parity.spec.arrays import Array
from parity.spec.precision import Rung, RungName
from parity.spec.profile import CANONICAL, HyperProfile
from parity.suites.m2_bert import PUBLISHED
from reference_torch import activations, blockdiag, embeddings, fft_conv, heads, hyena, mixer, mlp, model, norm
from reference_torch.blockdiag import BlockdiagLinear
from reference_torch.hyena import HyenaFilter, PositionalEmbedding
from reference_torch.mixer import MonarchMixer

T = torch.Tensor
Context = AbstractContextManager[object]

MODELS: Final = frozenset({"masked_lm", "sequence_classification"})
LAYERS: Final = frozenset({"layer", "encoder"}) | MODELS
MIXERS: Final = frozenset({"monarch_mixer"}) | LAYERS
FILTERS: Final = frozenset({"hyena_filter"}) | MIXERS
CONVOLUTIONS: Final = frozenset({"fftconv"}) | FILTERS
MLPS: Final = frozenset({"mlp"}) | LAYERS
NORMS: Final = frozenset({"mlp", "embeddings", "mlm_head"}) | MIXERS
UNITS: Final = frozenset({"fftconv", "mlm_head", "attention_pooler"}) | MLPS
BLOCKS: Final = frozenset({"blockdiag_linear"}) | MLPS
BUFFERS: Final = frozenset({"hyena_buffers"}) | FILTERS
ATTENTION: Final = frozenset({"attention_pooler", "sequence_classification"})
POOLERS: Final = frozenset({"pooler", "sequence_classification"})


def _profile(name: str, says: str, components: frozenset[str], **knobs: Any) -> Alternative:
    return Alternative(name, says, components, profile=knobs)


def _patch(name: str, says: str, components: frozenset[str], *changes: tuple[Any, str, Any]) -> Alternative:
    return Alternative(name, says, components, patch=lambda: replaced(*changes))


def _edit(name: str, says: str, components: frozenset[str], edit: Callable[[Any, Structure], object]) -> Alternative:
    return Alternative(name, says, components, edit=edit)


def _parts(module: Any, kind: type[Any]) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, kind)]


def _zeroed(pattern: str) -> Callable[[Any, Structure], object]:
    """Edit that sets to zero every parameter whose name ends with `pattern`."""

    def edit(module: Any, _structure: Structure) -> None:
        for name, tensor in module.named_parameters():
            if f".{name}".endswith(f".{pattern}"):
                tensor.zero_()

    return edit


# GELU ----------------------------------------------------------------------------------------------------------


def _unit(name: str, says: str, function: Callable[[T], T]) -> Alternative:
    def forward(_self: Any, x: T) -> T:
        return function(x)

    return _patch(name, says, UNITS, (activations.Gelu, "forward", forward))


GELUS: Final = (
    _profile("gelu=tanh", "GELU by its tanh approximation", UNITS, gelu_mode="tanh"),
    _profile("gelu=erf", "GELU exact", UNITS, gelu_mode="erf"),
    _unit("gelu=sigmoid", "x * sigmoid(1.702 x) for GELU", lambda x: x * torch.sigmoid(1.702 * x)),
    _unit("gelu=silu", "x * sigmoid(x) for GELU", functional.silu),
    _unit("gelu=relu", "max(x, 0) for GELU", functional.relu),
    _unit("gelu=missing", "no unit at all", lambda x: x),
)

# LayerNorm -----------------------------------------------------------------------------------------------------


def _norm(name: str, says: str, formula: Callable[[Any, T], T]) -> Alternative:
    """Alternative whose LayerNorm is `formula(layer, x)`, before weight and bias."""

    def forward(self: Any, x: T) -> T:
        return formula(self, x) * self.weight + self.bias

    return _patch(name, says, NORMS, (norm.LayerNorm, "forward", forward))


def _centred(x: T) -> T:
    return x - x.mean(-1, keepdim=True)


def _variance(x: T) -> T:
    return x.var(-1, correction=0, keepdim=True)


def _outside(eps: float) -> Callable[[Any, T], T]:
    return lambda _layer, x: _centred(x) / (_variance(x).sqrt() + eps)


def _without_affine(keep: str) -> Callable[[Any, T], T]:
    def forward(self: Any, x: T) -> T:
        plain = functional.layer_norm(x, self.normalized_shape, eps=self.eps)
        return plain if keep == "none" else plain * self.weight

    return forward


LAYER_NORMS: Final = (
    _profile("layer_norm.eps=1e-5", "epsilon 1e-5, MLX's default, in every LayerNorm", NORMS, layer_norm_eps=1e-5),
    _profile("layer_norm.eps=1e-6", "epsilon 1e-6 in every LayerNorm", NORMS, layer_norm_eps=1e-6),
    _profile("layer_norm.eps=1e-12", "epsilon 1e-12 in every LayerNorm", NORMS, layer_norm_eps=1e-12),
    _norm("layer_norm.eps=1e-5 outside", "(x - mean) / (deviation + 1e-5)", _outside(1e-5)),
    _norm("layer_norm.eps=1e-12 outside", "(x - mean) / (deviation + 1e-12)", _outside(1e-12)),
    _norm(
        "layer_norm.ddof=1",
        "variance divided by d - 1",
        lambda layer, x: _centred(x) / (x.var(-1, correction=1, keepdim=True) + layer.eps).sqrt(),
    ),
    _norm(
        "layer_norm=rms",
        "RMSNorm: the mean is not taken off",
        lambda layer, x: x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt(),
    ),
    _norm(
        "layer_norm.mean=in variance alone",
        "the mean is taken off in the variance, not in the numerator",
        lambda layer, x: x / (_variance(x) + layer.eps).sqrt(),
    ),
    _patch(
        "layer_norm.affine=missing",
        "weight and bias of LayerNorm not applied",
        NORMS,
        (norm.LayerNorm, "forward", _without_affine("none")),
    ),
    _patch(
        "layer_norm.bias=missing",
        "bias of LayerNorm not applied",
        NORMS,
        (norm.LayerNorm, "forward", _without_affine("weight")),
    ),
)

# Long convolution ----------------------------------------------------------------------------------------------

Convolution = Callable[[T, T, T, T | None, HyperProfile], T]
_fftconv: Final[Convolution] = fft_conv.fftconv
"""The reference's own, bound before anything stands in its place."""


def _convolution(name: str, says: str, function: Convolution, components: frozenset[str] = CONVOLUTIONS) -> Alternative:
    def fftconv(u: T, k: T, D: T, k_rev: T | None = None, profile: HyperProfile = CANONICAL) -> T:
        return function(u, k, D, k_rev, profile)

    return _patch(name, says, components, (fft_conv, "fftconv", fftconv), (hyena, "fftconv", fftconv))


def _spectrum(k: T, k_rev: T | None, n: int, profile: HyperProfile) -> T:
    """Spectrum of the combined kernel at length n, without the factor 1/n."""
    if k_rev is None:
        return torch.fft.rfft(k, n=n)
    scale = 0.5 if profile.bidir_combine == "avg" else 1.0
    if profile.bidir_space == "freq":
        return scale * (torch.fft.rfft(k, n=n) + torch.fft.rfft(k_rev, n=n).conj())
    l = k.shape[-1]
    return scale * torch.fft.rfft(functional.pad(k, (0, l)) + functional.pad(k_rev.flip(-1), (l, 0)), n=n)


def _whole(u: T, k: T, k_rev: T | None, profile: HyperProfile) -> T:
    """All 2l samples of the convolution of u (b, d, l)."""
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * _spectrum(k, k_rev, n, profile), n=n)


def _skip(u: T, D: T) -> T:
    return u * D.reshape(1, -1, 1)


def _cropped(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
    l = u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u) * _spectrum(k, k_rev, l, profile), n=l) + _skip(u, D)


def _wrapped(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
    l = u.shape[-1]
    whole = _whole(u, k, k_rev, profile)
    return whole[..., :l] + whole[..., l:] + _skip(u, D)


def _tail(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
    return _whole(u, k, k_rev, profile)[..., u.shape[-1] :] + _skip(u, D)


def _correlated(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
    l, n = u.shape[-1], 2 * u.shape[-1]
    product = torch.fft.rfft(u, n=n) * _spectrum(k, k_rev, n, profile).conj()
    return torch.fft.irfft(product, n=n)[..., :l] + _skip(u, D)


def _scaled(factor: Callable[[int], float]) -> Convolution:
    def convolve(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
        return _fftconv(u, k, 0 * D, k_rev, profile) * factor(u.shape[-1]) + _skip(u, D)

    return convolve


def _added_skip(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
    return _fftconv(u, k, 0 * D, k_rev, profile) + D.reshape(1, -1, 1)


def _reverse(change: Callable[[T, T], T | None]) -> Convolution:
    """Convolution whose reverse kernel is `change(k, k_rev)`."""

    def convolve(u: T, k: T, D: T, k_rev: T | None, profile: HyperProfile) -> T:
        return _fftconv(u, k, D, None if k_rev is None else change(k, k_rev), profile)

    return convolve


REVERSED: Final = "the reverse kernel"
LONG_CONVOLUTIONS: Final = (
    _profile("bidir_space=freq", "k_rev[0] at lag 0: kernels met in spectra", CONVOLUTIONS, bidir_space="freq"),
    _profile("bidir_space=time", "k_rev[0] at lag -1: kernels met in time", CONVOLUTIONS, bidir_space="time"),
    _profile("bidir_combine=avg", "the combined kernel halved", CONVOLUTIONS, bidir_combine="avg"),
    _profile("bidir_combine=sum", "the combined kernel not halved", CONVOLUTIONS, bidir_combine="sum"),
    _convolution("reverse=missing", f"{REVERSED} left out: causal", _reverse(lambda _k, _k_rev: None)),
    _convolution("reverse=forward's", f"{REVERSED} is the forward one", _reverse(lambda k, _k_rev: k)),
    _convolution("reverse=not flipped", f"{REVERSED} not reversed in time", _reverse(lambda _k, k_rev: k_rev.flip(-1))),
    _convolution(
        "reverse=swapped",
        "forward and reverse kernels exchanged",
        lambda u, k, D, k_rev, profile: _fftconv(
            u, k if k_rev is None else k_rev, D, None if k_rev is None else k, profile
        ),
    ),
    _convolution(
        "kernel=reversed",
        "the forward kernel reversed in time",
        lambda u, k, D, k_rev, profile: _fftconv(u, k.flip(-1), D, k_rev, profile),
    ),
    _convolution("kernel=correlated", "the kernel's spectrum conjugated: correlation for convolution", _correlated),
    _convolution("fft.length=l", "transforms of length l: circular, the combined kernel cut", _cropped),
    _convolution("fft.length=l wrapped", "circular over l, nothing cut", _wrapped),
    _convolution("fft.output=tail", "the last l of the 2l samples", _tail),
    _convolution("fft.scale=missing", "no factor 1/n: the convolution 2l times too large", _scaled(lambda l: 2 * l)),
    _convolution("fft.scale=twice", "the factor 1/n twice", _scaled(lambda l: 1 / (2 * l))),
    _convolution("fft.scale=1/l", "1/l for 1/2l: the convolution twice too large", _scaled(lambda _l: 2)),
    _convolution("skip=+D", "D added to the convolution, not times u", _added_skip),
    _convolution(
        "skip=missing",
        "no skip term",
        lambda u, k, D, k_rev, profile: _fftconv(u, k, 0 * D, k_rev, profile),
    ),
    _convolution(
        "skip=D[0]",
        "channel 0's skip weight for all",
        lambda u, k, D, k_rev, profile: _fftconv(u, k, D.reshape(-1)[:1].expand(k.shape[0]), k_rev, profile),
    ),
)

# Hyena filter --------------------------------------------------------------------------------------------------


def _initial_frequency(structure: Structure) -> float:
    """Return w of a structure: `w` for a filter, `hyena_w` for what holds filters."""
    return float(structure.get("w", structure.get("hyena_w", 1 if "seq_len" in structure else 10)))


def _frequencies(module: Any, structure: Structure) -> None:
    for part in _parts(module, hyena.Sin):
        part.freq.fill_(_initial_frequency(structure))


def _unshared(direction: str, first: int) -> Callable[[Any, Structure], object]:
    """Edit that gives the places from `first` on, in one direction's network or both, a fresh Sin each."""

    def edit(module: Any, structure: Structure) -> None:
        for part in _parts(module, HyenaFilter):
            networks: list[Any] = [getattr(part, name, ()) for name in ("implicit_filter", "implicit_filter_rev")]
            for network in networks if direction == "both" else networks[1:]:
                places = [i for i, layer in enumerate(network) if isinstance(layer, hyena.Sin) and i >= first]
                for place in places:
                    old = network[place]
                    network[place] = hyena.Sin(old.freq.shape[-1], _initial_frequency(structure), old.w_mod).double()

    return edit


def _sine(name: str, says: str, argument: Callable[[Any, T], T]) -> Alternative:
    def forward(self: Any, x: T) -> T:
        return torch.sin(argument(self, x))

    return _patch(name, says, FILTERS, (hyena.Sin, "forward", forward))


SINES: Final = (
    _edit("sin.freq=initial", "trained frequencies not loaded", FILTERS, _frequencies),
    _edit(
        "sin.freq=unshared", "trained frequencies in the first Sin of a network alone", FILTERS, _unshared("both", 2)
    ),
    _edit(
        "sin.freq=unshared in reverse", "trained frequencies in the forward network alone", FILTERS, _unshared("rev", 0)
    ),
    _sine("sin.freq=squared", "frequencies applied twice", lambda sin, x: sin.w_mod * sin.freq * sin.freq * x),
    _sine("sin.freq=missing", "sin(x) without frequencies", lambda sin, x: sin.w_mod * x),
    _sine("sin.w_mod=missing", "the fixed factor w_mod left out", lambda sin, x: sin.freq * x),
)


def _table(
    rows: T, columns: int, first: float = 1e-4, periods: Callable[[int], int] = int, open_end: bool = False
) -> T:
    """Position table (1, L, e) for rows (1, L, ...): t, cosines, minus sines, of angle 2 pi arange / periods."""
    length, bands = rows.shape[1], (columns - 1) // 2
    place = torch.arange(length, dtype=torch.float64)[None, :, None]
    time = place / length if open_end else torch.linspace(0, 1, length, dtype=torch.float64)[None, :, None]
    angle = torch.linspace(first, bands - 1, bands, dtype=torch.float64) * 2 * math.pi * place / max(periods(length), 1)
    return torch.cat([time, torch.cos(angle), -torch.sin(angle)], dim=-1)


def _rebuilt(**changes: Any) -> Callable[[Any, Structure], object]:
    """Edit that computes every position table anew instead of loading it, `changes` made to its formula."""

    def edit(module: Any, _structure: Structure) -> None:
        for part in _parts(module, PositionalEmbedding):
            part.z.copy_(_table(part.z, part.z.shape[-1], **changes))

    return edit


def _columns(change: Callable[[T, T], T]) -> Callable[[Any, Structure], object]:
    """Edit of every position table: t stays, real and imaginary parts (1, L, B) become `change` of them."""

    def edit(module: Any, _structure: Structure) -> None:
        for part in _parts(module, PositionalEmbedding):
            real, imaginary = part.z[..., 1:].chunk(2, dim=-1)
            part.z.copy_(torch.cat([part.z[..., :1], change(real, imaginary)], dim=-1))

    return edit


def _open_time(module: Any, _structure: Structure) -> None:
    for part in _parts(module, PositionalEmbedding):
        time = torch.arange(part.t.shape[1], dtype=torch.float64)[None, :, None] / part.t.shape[1]
        part.t.copy_(time)
        part.z[..., :1].copy_(time)


def _current_length(self: Any, L: int) -> tuple[T, T]:
    table = _table(self.z[:, :L], self.z.shape[-1])
    return table, table[..., :1]


def _current_time(self: Any, L: int) -> tuple[T, T]:
    return self.z[:, :L], torch.linspace(0, 1, L, dtype=torch.float64)[None, :, None]


POSITIONS: Final = (
    _edit("positions=rebuilt", "position table computed anew, not loaded", BUFFERS, _rebuilt()),
    _edit("positions.f0=0", "table computed anew, first band 0 and not 1e-4", BUFFERS, _rebuilt(first=0.0)),
    _edit(
        "positions.angle=2pi i/(L-1)",
        "table computed anew, angles divided by L - 1 and not L",
        BUFFERS,
        _rebuilt(periods=lambda length: length - 1),
    ),
    _edit(
        "positions.bands=interleaved",
        "real and imaginary parts in turn, band by band",
        BUFFERS,
        _columns(lambda real, imaginary: torch.stack([real, imaginary], dim=-1).flatten(-2)),
    ),
    _edit(
        "positions=swapped",
        "imaginary parts before real ones",
        BUFFERS,
        _columns(lambda real, imaginary: torch.cat([imaginary, real], dim=-1)),
    ),
    _edit(
        "positions.sign=+",
        "exp(+i f w): imaginary parts with the other sign",
        BUFFERS,
        _columns(lambda real, imaginary: torch.cat([real, -imaginary], dim=-1)),
    ),
    _edit("positions.t=i/L", "time i / L and not i / (L - 1), in table and modulation", BUFFERS, _open_time),
    _patch(
        "positions=current length",
        "table and time computed for the input's length, not the filter's",
        FILTERS,
        (PositionalEmbedding, "forward", _current_length),
    ),
    _patch(
        "modulation.t=current length",
        "modulation stretched over the input's length, not the filter's",
        FILTERS,
        (PositionalEmbedding, "forward", _current_time),
    ),
)


def _modulation(name: str, says: str, formula: Callable[[Any, T, T], T]) -> Alternative:
    return _patch(name, says, FILTERS, (hyena.ExponentialModulation, "forward", formula))


def _fresh_deltas(module: Any, _structure: Structure) -> None:
    for part in _parts(module, hyena.ExponentialModulation):
        part.deltas.copy_(hyena.ExponentialModulation(part.deltas.shape[-1]).deltas)


def _decay(exponent: Callable[[Any, T], T], shift: Callable[[Any], float]) -> Callable[[Any, T, T], T]:
    return lambda self, t, x: x * (torch.exp(exponent(self, t)) + shift(self))


def _along_positions(self: Any, network: Any, L: int) -> T:
    z, t = self.pos_emb(L)
    h: T = network(z)
    h = self.modulation(t, h) if self.modulate else h
    return h / h.abs().sum(dim=1, keepdim=True) if self.normalized else h


def _norm_first(self: Any, network: Any, L: int) -> T:
    z, t = self.pos_emb(L)
    h: T = network(z)
    h = h / h.abs().sum(dim=-1, keepdim=True) if self.normalized else h
    return self.modulation(t, h) if self.modulate else h


def _not_normalized(module: Any, _structure: Structure) -> None:
    for part in _parts(module, HyenaFilter):
        part.normalized = False


MODULATIONS: Final = (
    _modulation("modulation=missing", "no exponential modulation", lambda _self, _t, x: x),
    _modulation(
        "modulation.deltas=signed",
        "exp(-t deltas), deltas negative: growth for decay",
        _decay(lambda self, t: -t * self.deltas, lambda self: self.shift),
    ),
    _modulation(
        "modulation.deltas=reversed",
        "fast and slow channels exchanged",
        _decay(lambda self, t: -t * self.deltas.abs().flip(-1), lambda self: self.shift),
    ),
    _modulation(
        "modulation.shift=0.05",
        "shift 0.05, the default of other Hyenas",
        _decay(lambda self, t: -t * self.deltas.abs(), lambda _self: 0.05),
    ),
    _modulation(
        "modulation.shift=missing",
        "shift left out",
        _decay(lambda self, t: -t * self.deltas.abs(), lambda _self: 0.0),
    ),
    _edit(
        "modulation.deltas=rebuilt",
        "deltas computed anew from the default constants, not loaded",
        BUFFERS,
        _fresh_deltas,
    ),
    _patch(
        "filter.normalized=over positions",
        "normalised along positions, not channels",
        FILTERS,
        (HyenaFilter, "_kernel", _along_positions),
    ),
    _patch(
        "filter.normalized=before modulation",
        "normalised before the modulation",
        FILTERS,
        (HyenaFilter, "_kernel", _norm_first),
    ),
    _edit("filter.normalized=missing", "not normalised", FILTERS, _not_normalized),
)

# Mixer ---------------------------------------------------------------------------------------------------------


def _short(name: str, says: str, formula: Callable[[Any, T], T]) -> Alternative:
    return _patch(name, says, MIXERS, (mixer.ShortConvolution, "forward", formula))


def _padded(left: int, right: int) -> Callable[[Any, T], T]:
    def forward(self: Any, x: T) -> T:
        return functional.conv1d(functional.pad(x, (left, right)), self.weight, self.bias, groups=x.shape[1])

    return forward


def _flipped_taps(self: Any, x: T) -> T:
    return functional.conv1d(functional.pad(x, (2, 0)), self.weight.flip(-1), self.bias, groups=x.shape[1])


SHORT_CONVOLUTIONS: Final = (
    _short("short_filter.padding=1", "one zero on either side: taps t-1, t, t+1", _padded(1, 1)),
    _short("short_filter.padding=right", "the last l of the padded samples: taps t, t+1, t+2", _padded(0, 2)),
    _short("short_filter.taps=flipped", "taps in the other order", _flipped_taps),
    _short("short_filter=missing", "no short convolution", lambda _self, x: x),
    _edit("short_filter.bias=missing", "bias of the short convolution left out", MIXERS, _zeroed("short_filter.bias")),
)

Step = Callable[[MonarchMixer, T, T, T, T], T]
"""Mixer, then x1, x2, v and u, all (b, d, l), to y (b, d, l): all between short convolution and `out_linear`."""


def _residual(self: MonarchMixer, u: T) -> T | float:
    return 0.0 if self.filter_fn2 is None else self.filter_fn2(u)


def _step(name: str, says: str, step: Step, interleaved: bool = False, normed: bool = True) -> Alternative:
    """Alternative of the mixer's middle; `interleaved` splits channels in turn, `normed` applies the leading norm."""

    def forward(self: MonarchMixer, u: T) -> T:
        if self.layernorm is not None and normed:
            u = self.layernorm(u)
        mixed = self.short_filter(rearrange(self.in_linear(u), "b l d -> b d l"))
        thirds = rearrange(mixed, "b (d three) l -> three b d l", three=3) if interleaved else mixed.chunk(3, dim=1)
        y = step(self, thirds[0], thirds[1], thirds[2], rearrange(u, "b l d -> b d l"))
        out: T = self.out_linear(rearrange(y, "b d l -> b l d"))
        return out

    return _patch(name, says, MIXERS, (MonarchMixer, "forward", forward))


def _plain_step(self: MonarchMixer, x1: T, x2: T, v: T, u: T) -> T:
    return self.filter_fn(v * x1) * x2 + _residual(self, u)


def _other_skip(self: MonarchMixer, x1: T, x2: T, v: T, u: T) -> T:
    y = self.filter_fn(v * x1) * x2
    if self.filter_fn2 is None:
        return y
    return y + self.filter_fn2(u) + u * (self.filter_fn.bias - self.filter_fn2.bias)[:, None]


def _only_with_residual(step: Step) -> Step:
    """Leave a mixer without second convolution as it is."""
    return lambda self, x1, x2, v, u: (_plain_step if self.filter_fn2 is None else step)(self, x1, x2, v, u)


def _residual_step(name: str, says: str, step: Step) -> Alternative:
    return _step(name, says, _only_with_residual(step))


def _transposed_when_square(pattern: str) -> Callable[[Any, Structure], object]:
    def edit(module: Any, _structure: Structure) -> None:
        for name, tensor in module.named_parameters():
            if f".{name}".endswith(f".{pattern}.weight") and tensor.shape[-1] == tensor.shape[-2]:
                tensor.copy_(tensor.swapaxes(-1, -2).clone())

    return edit


MIXER_STEPS: Final = (
    _step("gates=x2,x1,v", "split as x2, x1, v", lambda self, a, b, c, u: _plain_step(self, b, a, c, u)),
    _step("gates=x1,v,x2", "split as x1, v, x2", lambda self, a, b, c, u: _plain_step(self, a, c, b, u)),
    _step("gates=interleaved", "channels dealt to x1, x2, v in turn", _plain_step, interleaved=True),
    _step(
        "gates.first=missing",
        "v goes into the convolution without x1",
        lambda self, _x1, x2, v, u: self.filter_fn(v) * x2 + _residual(self, u),
    ),
    _step(
        "gates.last=missing",
        "the convolution not gated by x2",
        lambda self, x1, _x2, v, u: self.filter_fn(v * x1) + _residual(self, u),
    ),
    _residual_step(
        "gates.last=after residual",
        "x2 gates the residual convolution as well",
        lambda self, x1, x2, v, u: (self.filter_fn(v * x1) + _residual(self, u)) * x2,
    ),
    _residual_step(
        "residual=missing",
        "no residual long convolution",
        lambda self, x1, x2, v, _u: self.filter_fn(v * x1) * x2,
    ),
    _residual_step(
        "residual=on v",
        "the residual convolution takes v x1, not u",
        lambda self, x1, x2, v, _u: _plain_step(self, x1, x2, v, v * x1),
    ),
    _residual_step(
        "residual=filter_fn",
        "the residual convolution with the first filter",
        lambda self, x1, x2, v, u: self.filter_fn(v * x1) * x2 + self.filter_fn(u),
    ),
    _residual_step(
        "residual=plain",
        "u itself for the residual convolution",
        lambda self, x1, x2, v, u: self.filter_fn(v * x1) * x2 + u,
    ),
    _residual_step("residual.skip=filter_fn's D", "the residual convolution with the first filter's D", _other_skip),
    _step("mixer.norm=missing", "no LayerNorm before the mixer", _plain_step, normed=False),
    _edit("out_linear=transposed", "the output's matrix transposed", MIXERS, _transposed_when_square("out_linear")),
)

EQUIVALENT: Final = (
    _step("gates=v,x2,x1", "split as v, x2, x1", lambda self, a, b, c, u: _plain_step(self, c, b, a, u)),
)
"""Other words for the same computation: no port can be told from the reference by them."""

# State mixing --------------------------------------------------------------------------------------------------


def _gated(name: str, says: str, product: Callable[[Any, T], T]) -> Alternative:
    """Alternative of the gated MLP: h = product(mlp, gated_layers(x))."""

    def forward(self: Any, x: T) -> T:
        out: T = self.layernorm(self.wo(product(self, self.gated_layers(x))) + x)
        return out

    return _patch(name, says, MLPS, (mlp.GatedMlp, "forward", forward))


def _swapped_halves(self: Any, both: T) -> T:
    value, gate = both.chunk(2, dim=-1)
    return self.act(gate) * value


def _halves_in_turn(self: Any, both: T) -> T:
    return self.act(both[..., 0::2]) * both[..., 1::2]


def _halves_by_block(self: Any, both: T) -> T:
    """Gate and value side by side in every block; as they are where blocks cannot be halved."""
    blocks = getattr(self.gated_layers, "nblocks", 1)
    if both.shape[-1] % (2 * blocks):
        blocks = 1
    gate, value = rearrange(both, "... (k two c) -> two ... (k c)", k=blocks, two=2)
    return self.act(gate) * value


def _unit_on_product(self: Any, both: T) -> T:
    gate, value = both.chunk(2, dim=-1)
    return self.act(gate * value)


def _body(self: Any, x: T) -> T:
    """The MLP without residual and norm, gated or plain."""
    h = self.gated_layers(x)
    if isinstance(self, mlp.GatedMlp):
        gate, value = h.chunk(2, dim=-1)
        return self.wo(self.act(gate) * value)
    return self.wo(self.act(h))


def _either(name: str, says: str, formula: Callable[[Any, T], T]) -> Alternative:
    """Alternative of both MLPs."""

    def forward(self: Any, x: T) -> T:
        return formula(self, x)

    return _patch(name, says, MLPS, (mlp.GatedMlp, "forward", forward), (mlp.Mlp, "forward", forward))


def _block_product(x: T, weight: T, read: str, write: str, turned: bool) -> T:
    k, q, p = weight.shape
    matrices = weight.swapaxes(-1, -2) if turned and p == q else weight
    blocks = rearrange(x, f"... {read} -> ... k p", k=k)
    return rearrange(torch.einsum("...kp,kqp->...kq", blocks, matrices), f"... k q -> ... {write}")


def _blocks(name: str, says: str, read: str = "(k p)", write: str = "(k q)", turned: bool = False) -> Alternative:
    def multiply(x: T, weight: T) -> T:
        return _block_product(x, weight, read, write, turned)

    return _patch(name, says, BLOCKS, (blockdiag, "blockdiag_multiply", multiply))


def _other_shuffle(module: Any, _structure: Structure) -> None:
    for part in _parts(module, BlockdiagLinear):
        part.shuffle = not part.shuffle


def _monarch(name: str, says: str, middle: str, last: str) -> Alternative:
    def multiply(x: T, w1: T, w2: T) -> T:
        o1 = rearrange(blockdiag.blockdiag_multiply(x, w1), f"... {middle} -> ... l r", l=w2.shape[0])
        return rearrange(torch.einsum("...lr,lsr->...ls", o1, w2), f"... l s -> ... {last}")

    return _patch(name, says, frozenset({"monarch_multiply"}), (blockdiag, "monarch_multiply", multiply))


STATE_MIXING: Final = (
    _gated("glu=swapped", "gate and value halves exchanged", _swapped_halves),
    _gated("glu=in turn", "gate and value in every other feature", _halves_in_turn),
    _gated("glu=by block", "gate and value halves of every block", _halves_by_block),
    _gated("glu.unit=on product", "the unit after the product, not on the gate", _unit_on_product),
    _either("mlp.residual=missing", "no residual around the MLP", lambda self, x: self.layernorm(_body(self, x))),
    _either("mlp.norm=before", "x + mlp(norm(x)): the norm before", lambda self, x: x + _body(self, self.layernorm(x))),
    _either("mlp.norm=inside", "x + norm(mlp(x))", lambda self, x: x + self.layernorm(_body(self, x))),
    _either("mlp.norm=missing", "no LayerNorm after the MLP", lambda self, x: x + _body(self, x)),
    _edit("wo.bias=missing", "bias of the MLP's second layer left out", MLPS, _zeroed("wo.bias")),
    _blocks("blocks.in=interleaved", "in-features dealt to the blocks in turn", read="(p k)"),
    _blocks("blocks.out=interleaved", "out-features taken from the blocks in turn", write="(q k)"),
    _blocks("blocks=interleaved", "in- and out-features in turn", read="(p k)", write="(q k)"),
    _blocks("blocks=transposed", "square blocks transposed", turned=True),
    _edit("blocks.shuffle=other", "in-features regrouped where they should not be, or not", BLOCKS, _other_shuffle),
    _edit("blockdiag.bias=missing", "bias of the layer left out", frozenset({"blockdiag_linear"}), _zeroed("bias")),
    _monarch("monarch.first=unstrided", "no stride permutation between the factors", "(l r)", "(s l)"),
    _monarch("monarch.last=unstrided", "no stride permutation after the factors", "(r l)", "(l s)"),
)

# Layer, embeddings, heads --------------------------------------------------------------------------------------


def _layer_residual(self: Any, x: T) -> T:
    out: T = self.mlp(x + self.attention(x))
    return out


def _layer_reversed(self: Any, x: T) -> T:
    out: T = self.attention(self.mlp(x))
    return out


def _without_types(module: Any, _structure: Structure) -> None:
    for part in _parts(module, embeddings.BertEmbeddings):
        part.token_type_embeddings.weight.zero_()


def _shifted_positions(module: Any, _structure: Structure) -> None:
    for part in _parts(module, embeddings.BertEmbeddings):
        if part.position_embeddings is not None:
            part.position_embeddings.weight.copy_(part.position_embeddings.weight.roll(-1, 0))


def _other_pooling(module: Any, _structure: Structure) -> None:
    for part in _parts(module, heads.Pooler):
        part.pool_all = not part.pool_all


def _over_all(x: T, mask: T | None) -> T:
    return x.mean(dim=1) if mask is None else (x * mask.to(x.dtype)[..., None]).mean(dim=1)


def _attend(
    over: int, scale: Callable[[int], float], masking: Callable[[T, T], T] | None
) -> Callable[[Any, T, T | None], T]:
    def attend(self: Any, x: T, mask: T | None) -> T:
        q, k, v = self.Wqkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(-1, -2) * scale(x.shape[-1])
        if mask is not None and masking is not None:
            scores = masking(scores, mask.to(x.dtype))
        return functional.softmax(scores, dim=over) @ v

    return attend


def _attention(name: str, says: str, **changes: Any) -> Alternative:
    usual: dict[str, Any] = {
        "over": 1,
        "scale": lambda d: d**-0.5,
        "masking": lambda scores, mask: scores * mask[..., None],
    }
    return _patch(name, says, ATTENTION, (heads.AttentionPooler, "_attend", _attend(**{**usual, **changes})))


REST: Final = (
    _patch("layer.residual=added", "mlp(x + attention(x))", LAYERS, (model.BertLayer, "forward", _layer_residual)),
    _patch("layer.order=reversed", "attention(mlp(x))", LAYERS, (model.BertLayer, "forward", _layer_reversed)),
    _edit("embeddings.types=missing", "token types not added", frozenset({"embeddings"}) | MODELS, _without_types),
    _edit(
        "embeddings.positions=from 1",
        "positions counted from 1",
        frozenset({"embeddings"}) | MODELS,
        _shifted_positions,
    ),
    _edit("pooler=other", "first token for the mean, or the mean for the first token", POOLERS, _other_pooling),
    _patch(
        "pooler.mask=ignored",
        "mean over all positions, padding included",
        POOLERS,
        (heads, "_masked_mean", lambda x, _mask: x.mean(dim=1)),
    ),
    _patch(
        "pooler.count=all", "masked sum over the number of all positions", POOLERS, (heads, "_masked_mean", _over_all)
    ),
    _attention("attention.softmax=over s", "softmax over the last axis", over=-1),
    _attention("attention.scale=missing", "scores not divided by sqrt(d)", scale=lambda _d: 1.0),
    _attention("attention.mask=ignored", "mask not applied to the scores", masking=None),
    _attention(
        "attention.mask=-inf",
        "masked scores left out of the softmax",
        masking=lambda scores, mask: scores + (mask[..., None] - 1) * 1e9,
    ),
)

ALTERNATIVES: Final[tuple[Alternative, ...]] = (
    *GELUS,
    *LAYER_NORMS,
    *LONG_CONVOLUTIONS,
    *SINES,
    *POSITIONS,
    *MODULATIONS,
    *SHORT_CONVOLUTIONS,
    *MIXER_STEPS,
    *STATE_MIXING,
    *REST,
)
"""The whole library; names are unique."""

# Probes --------------------------------------------------------------------------------------------------------


def _power(exponent: int) -> ParameterRule:
    """Rule: N(0, 1/fan-in) for matrices, N(0, 0.3) for vectors, as the harness draws them, times 2**exponent."""

    def rule(fresh: Array, rng: Any) -> Array:
        spread = 0.3 if fresh.ndim < 2 else fresh.shape[-1] ** -0.5
        return rng.standard_normal(fresh.shape) * spread * 2.0**exponent

    return rule


def _as_built(fresh: Array, rng: Any) -> Array:  # noqa: ARG001
    return fresh


Rules = tuple[tuple[str, ParameterRule], ...]

PUBLISHED_TABLE: Final[Rules] = ((r"pos_emb\.z$", _as_built),)
"""A position table as built: a port that computes it anew is right but for what it changes in the formula."""

SMALL_ROWS: Final[Rules] = (
    (r"(out_linear|transform\.dense|(^|\.)wo)\.(weight|bias)$", _power(-7)),
    (r"_embeddings\.weight$", _power(-7)),
)
"""Rows of deviation 1e-2 and less before a LayerNorm: 1e-5 is no longer small beside their variance."""

LOUD_GATES: Final[Rules] = ((r"(gated_layers|dense1?|dense3)\.weight$", _power(2)),)
"""Arguments of GELU spread over +-4: its approximations differ most at +-2.7."""

MODEL_PROBES: Final[tuple[tuple[Structure, Rules], ...]] = (
    ({"L": 24, "long_conv_l_max": 32, "hidden_size": 24, "intermediate_size": 24, "hyena_emb_dim": 7}, PUBLISHED_TABLE),
    ({"L": 17, "long_conv_l_max": 17, "hidden_size": 24, "intermediate_size": 12, "hyena_w_mod": 2}, ()),
    ({"L": 31, "long_conv_l_max": 40, "hidden_size": 24, "intermediate_size": 24, "hyena_w": 1}, SMALL_ROWS),
    ({"L": 24, "long_conv_l_max": 24, "hidden_size": 24, "intermediate_size": 48, "hyena_w": 1}, LOUD_GATES),
    (
        {"L": 21, "long_conv_l_max": 32, "hidden_size": 20, "intermediate_size": 30, "hyena_training_additions": True},
        PUBLISHED_TABLE,
    ),
)
"""Shorter than the filter and as long as it, seven and five columns of positions, square blocks of each layer."""

COMPONENT_PROBES: Final[tuple[tuple[int, Rules], ...]] = ((0, PUBLISHED_TABLE), (-7, SMALL_ROWS), (0, LOUD_GATES))
"""Scale and rules under which a component other than a model answers for its first structure, beside its corpus."""

SMALLEST_BATCH: Final = 6
"""Rows enough for a head, whose outputs have no positions."""


def probes(pair: Pair, seed: int, ladder: tuple[RungName, ...] = FINE_LADDER) -> tuple[Probe, ...]:
    """Return the cases on which meanings of `pair` are told apart, every array from `seed` and exact on `ladder`."""
    chosen = _model_probes(pair) if pair.name in LAYERS else _component_probes(pair)
    return tuple(
        Probe(Case.make(pair.name, structure, scale=scale, seed=seed * 1_000_003 + place, ladder=ladder), rules)
        for place, (structure, scale, rules) in enumerate(chosen)
    )


def explain(pair: Pair, case: Case, profile: HyperProfile, rung: Rung) -> list[str]:
    """Return the lines that a report prints beside a failing case: what the port behaves as, and its nearest profile.

    The case may be blind (one position, three channels), so the probes of its component stand beside it.
    """
    return explain_failure(pair, _failure_probes(pair, case, rung), profile, rung, ALTERNATIVES)


def _failure_probes(pair: Pair, case: Case, rung: Rung) -> tuple[Probe, ...]:
    ladder = FULL_LADDER if rung.is_half else FINE_LADDER
    return Probe(case), *probes(pair, case.seed % 1000, ladder)


class KeptExplanations:
    """`explain` for one port after another: what the reference alone says of the last cases asked about is kept.

    Args:
        most: How many cases.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, Case, HyperProfile, RungName], Investigation] = OrderedDict()

    def __call__(self, pair: Pair, case: Case, profile: HyperProfile, rung: Rung) -> list[str]:
        """Return the lines of `explain`.

        Raises:
            UnattributableError: No probe is within the rung's range.
        """
        key = (pair.spelling, case, profile, rung.name)
        if key not in self._kept:
            asked = _failure_probes(pair, case, rung)
            self._kept[key] = Investigation(pair, asked, profile, rung, ALTERNATIVES)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return explanation(self._kept[key].attribute(), profile)


def _model_probes(pair: Pair) -> list[tuple[Structure, int, Rules]]:
    layers = 1 if pair.name == "layer" else 2
    more = {"batch": 2, **PUBLISHED, "num_hidden_layers": layers}
    return [
        ({**more, "max_position_embeddings": structure["long_conv_l_max"], **structure}, 0, rules)
        for structure, rules in MODEL_PROBES
    ]


def _component_probes(pair: Pair) -> list[tuple[Structure, int, Rules]]:
    corpus = [{**structure, **_more_rows(structure)} for structure in pair.corpus]
    return [
        *((structure, 0, ()) for structure in corpus),
        *((corpus[0], scale, rules) for scale, rules in COMPONENT_PROBES),
    ]


def _more_rows(structure: Structure) -> Structure:
    return {"batch": max(structure["batch"], SMALLEST_BATCH)} if "batch" in structure else {}
