"""The Hyena filter: a long kernel made by a small network of sines from the position, and its convolution."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
from einops import rearrange
from mlx import nn
from mlx.utils import tree_flatten

from mlx_impl.fft_conv import fftconv
from mlx_impl.linear import Linear
from mlx_impl.ops import Ops
from mlx_impl.precision import widen
from parity.spec.profile import CANONICAL, HyperProfile


class Sin(nn.Module):
    """y = sin(w_mod * freq * x) with one trained frequency per feature.

    Args:
        dim: Features; x is (..., dim), `freq` (1, dim) starts at w.
        w: Initial frequency.
        w_mod: Fixed factor.
        ops: Primitives.

    Source: bert/src/mm/hyena_utils.py, `Sin`.
    """

    def __init__(self, dim: int, w: float = 10, w_mod: float = 1, ops: Ops | None = None) -> None:
        super().__init__()
        self.ops = ops or Ops()
        self.w_mod = w_mod
        self.freq = mx.full((1, dim), float(w))

    def __call__(self, x: mx.array) -> mx.array:
        """Apply to x (..., dim)."""
        return self.ops.sin(self.w_mod * self.freq * x)


class PositionalEmbedding(nn.Module):
    """Complex exponentials of the position: columns t, then cosines, then minus sines, of B = (emb_dim - 1) / 2 bands.

    t = linspace(0, 1, L); f = linspace(1e-4, B - 1, B); w = 2 pi arange(L) / L; z = [t, Re e, Im e], e = exp(-i f w).
    `z` (1, L, emb_dim) is a parameter, `t` (1, L, 1) a frozen buffer: both belong to the checkpoint.

    Source: bert/src/mm/hyena_utils.py, `PositionalEmbedding`.
    """

    def __init__(self, emb_dim: int, seq_len: int) -> None:
        super().__init__()
        bands = (emb_dim - 1) // 2
        t = mx.linspace(0, 1, seq_len)[None, :, None]
        w = 2 * math.pi * mx.arange(seq_len, dtype=mx.float32)[None, :, None] / seq_len
        f = mx.linspace(1e-4, bands - 1, bands)[None, None]
        self.z = mx.concatenate([t, mx.cos(f * w), -mx.sin(f * w)], axis=-1)
        self.t = t
        self.freeze(keys=["t"])

    def __call__(self, L: int) -> tuple[mx.array, mx.array]:
        """Return the first L rows of z (1, L, emb_dim) and t (1, L, 1)."""
        return self.z[:, :L], self.t[:, :L]


class ExponentialModulation(nn.Module):
    """h * (exp(-t |deltas|) + shift): each channel decays at its own rate.

    `deltas` (1, 1, d) = linspace(log(target) / slow_decay_pct, log(target) / fast_decay_pct, d), frozen.

    Source: bert/src/mm/hyena_utils.py, `ExponentialModulation`.
    """

    def __init__(
        self,
        d_model: int,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        ops: Ops | None = None,
    ) -> None:
        super().__init__()
        self.ops = ops or Ops()
        self.shift = shift
        slow, fast = math.log(target) / slow_decay_pct, math.log(target) / fast_decay_pct
        self.deltas = mx.linspace(slow, fast, d_model)[None, None]
        self.freeze(keys=["deltas"])

    def __call__(self, t: mx.array, x: mx.array) -> mx.array:
        """Modulate x (1, L, d) by the positions t (1, L, 1)."""
        return x * (self.ops.exp(-t * mx.abs(self.deltas)) + self.shift)


class FilterMlp(nn.Module):
    """The layers of an implicit filter in order: Linear, Sin, Linear, ...; `layers[i]` is the checkpoint's number i.

    The `Sin` object is shared by all its places. It is a child of this module at its first place and only where
    `owns_act`; every other place holds an empty module that is never called, so that the numbers stay those of the
    checkpoint and every parameter is stored once.
    """

    def __init__(self, layers: list[nn.Module], owns_act: bool) -> None:
        super().__init__()
        object.__setattr__(self, "_sequence", tuple(layers))
        self.layers = [
            nn.Module() if isinstance(layer, Sin) and not (place == 1 and owns_act) else layer
            for place, layer in enumerate(layers)
        ]

    def __call__(self, z: mx.array) -> mx.array:
        """Map z (1, L, emb_dim) to h (1, L, d)."""
        for layer in self._sequence:
            z = layer(z)
        return z

    def act_places(self) -> Iterator[int]:
        """Places that hold the shared `Sin`, in order."""
        return (place for place, layer in enumerate(self._sequence) if isinstance(layer, Sin))


def _filter_mlp(
    emb_dim: int, order: int, d_model: int, num_inner_mlps: int, act: Sin, owns_act: bool, ops: Ops
) -> FilterMlp:
    """Linear, Sin, [Linear, Sin] x num_inner_mlps, Linear without bias; every Sin is the same object."""
    layers: list[nn.Module] = [Linear(emb_dim, order, ops=ops), act]
    for _ in range(num_inner_mlps):
        layers += [Linear(order, order, ops=ops), act]
    return FilterMlp([*layers, Linear(order, d_model, bias=False, ops=ops)], owns_act)


@dataclass(frozen=True)
class HeldKernels:
    """Kernels (d, L) of a filter, the reverse one None where there is none, and the arrays that they were made of."""

    L: int
    made_of: tuple[mx.array, ...]
    kernels: tuple[mx.array, mx.array | None]

    def fit(self, L: int, arrays: tuple[mx.array, ...]) -> bool:
        """Whether they are those of L positions and of these very arrays."""
        return L == self.L and len(arrays) == len(self.made_of) and all(map(operator.is_, arrays, self.made_of))


class HyenaFilter(nn.Module):
    """Implicit long filter of d_model channels with modulation, and the convolution with it.

    Args:
        d_model: Channels d.
        emb_dim: Columns of the position embedding, odd and at least 3.
        order: Width of the network.
        seq_len: Longest input; a shorter one takes the first rows of the embedding.
        w, w_mod: Frequencies of `Sin`, one object shared by all its places, both directions included.
        bias: False multiplies the skip weight `bias` (d,) by 0.
        num_inner_mlps: Inner linear layers.
        linear_mixer: The forward network is a single Linear(emb_dim, d) without bias.
        modulate: Apply `modulation`.
        normalized: Divide by the sum of absolute values over channels, without epsilon.
        bidirectional: A second network makes the reverse kernel.
        fast_decay_pct, slow_decay_pct, target, shift: See `ExponentialModulation`.
        profile: How the kernels of both directions are combined.
        ops: Primitives.

    Raises:
        ValueError: emb_dim is even or below 3.

    Source: bert/src/mm/hyena_utils.py, `HyenaFilter`.
    """

    at_least_float32 = True
    _held: HeldKernels | None = None

    def __init__(
        self,
        d_model: int,
        emb_dim: int = 3,
        order: int = 16,
        seq_len: int = 1024,
        w: float = 1,
        w_mod: float = 1,
        bias: bool = True,
        num_inner_mlps: int = 2,
        linear_mixer: bool = False,
        modulate: bool = True,
        normalized: bool = False,
        bidirectional: bool = False,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        profile: HyperProfile = CANONICAL,
        ops: Ops | None = None,
    ) -> None:
        super().__init__()
        if emb_dim % 2 == 0 or emb_dim < 3:
            raise ValueError(f"emb_dim must be odd and at least 3 (time, cosines, sines); got {emb_dim}")
        ops = ops or Ops(profile)
        self.ops, self.profile = ops, profile
        self.seq_len, self.use_bias = seq_len, bias
        self.modulate, self.normalized, self.bidirectional = modulate, normalized, bidirectional
        self.bias = mx.random.normal((d_model,))
        self.pos_emb = PositionalEmbedding(emb_dim, seq_len)
        act = Sin(order, w, w_mod, ops)
        if linear_mixer:
            self.implicit_filter = FilterMlp([Linear(emb_dim, d_model, bias=False, ops=ops)], owns_act=False)
        else:
            self.implicit_filter = _filter_mlp(emb_dim, order, d_model, num_inner_mlps, act, True, ops)
        if bidirectional:
            self.implicit_filter_rev = _filter_mlp(emb_dim, order, d_model, num_inner_mlps, act, linear_mixer, ops)
        self.modulation = ExponentialModulation(d_model, fast_decay_pct, slow_decay_pct, target, shift, ops)

    def filter(self, L: int) -> mx.array:
        """Return the forward kernel (1, L, d)."""
        return self._kernel(self.implicit_filter, L)

    def filter_rev(self, L: int) -> mx.array:
        """Return the reverse kernel (1, L, d)."""
        return self._kernel(self.implicit_filter_rev, L)

    def __call__(self, x: mx.array) -> mx.array:
        """Convolve x (b, d, L) with the filter; returns (b, d, L) in x's dtype.

        Raises:
            ValueError: L is longer than `seq_len`.
        """
        k, k_rev = self.kernels(x.shape[-1])
        D = self.bias if self.use_bias else 0 * self.bias
        return fftconv(widen(x), k, D, k_rev, self.profile, self.ops).astype(x.dtype)

    def kernels(self, L: int) -> tuple[mx.array, mx.array | None]:
        """Return the forward kernel (d, L), and the reverse one or None: those held, if they fit, or made now.

        Raises:
            ValueError: L is longer than `seq_len`.
        """
        if self._held is not None and self._held.fit(L, self._arrays()):
            return self._held.kernels
        k = rearrange(self.filter(L), "1 l d -> d l")
        return k, rearrange(self.filter_rev(L), "1 l d -> d l") if self.bidirectional else None

    def hold(self, L: int) -> None:
        """Make the kernels of L positions now, for every call on L positions to come: they do not depend on its input.

        They take 4 d L bytes a direction until `release` or the next `hold`. A call after a parameter was exchanged
        makes its own, and so does one that MLX differentiates by them; an assignment into a part of an array goes
        unnoticed.

        Raises:
            ValueError: L is longer than `seq_len`.
        """
        self.release()
        kernels = self.kernels(L)
        mx.eval(kernels)
        object.__setattr__(self, "_held", HeldKernels(L, self._arrays(), kernels))

    def release(self) -> None:
        """Forget the kernels that are held."""
        object.__setattr__(self, "_held", None)

    def ties(self) -> dict[str, str]:
        """Names under which the checkpoint repeats the shared frequency, each with the name that stores it."""
        networks = ["implicit_filter", "implicit_filter_rev"] if self.bidirectional else ["implicit_filter"]
        places = [f"{name}.layers.{place}.freq" for name in networks for place in self[name].act_places()]
        return dict.fromkeys(places[1:], places[0]) if places else {}

    def _arrays(self) -> tuple[mx.array, ...]:
        leaves = cast(list[tuple[str, mx.array]], tree_flatten(self.parameters()))
        return tuple(array for _, array in leaves)

    def _kernel(self, network: FilterMlp, L: int) -> mx.array:
        if self.seq_len < L:
            raise ValueError(f"{L} positions, but this filter was built for seq_len = {self.seq_len}")
        z, t = self.pos_emb(L)
        h = network(z)
        if self.modulate:
            h = self.modulation(t, h)
        if self.normalized:
            h = h / self.ops.sum(mx.abs(h), axis=-1, keepdims=True)
        return h
