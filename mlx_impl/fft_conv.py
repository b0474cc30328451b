"""Long convolution by the fast Fourier transform, with a skip term and an optional reverse kernel."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
from mlx import nn

from mlx_impl.activations import Gelu
from mlx_impl.ops import Ops, Spectrum
from mlx_impl.precision import widen
from parity.spec.profile import CANONICAL, HyperProfile


def fft_length(l: int) -> int:
    """Transform length for l positions: 2l, so that the zero half makes the convolution linear, not circular."""
    return 2 * l


def skip_term(u: mx.array, D: mx.array) -> mx.array:
    """The skip u * D, u (b, d, l), D (1, d, 1): D multiplies the input, it is no additive bias."""
    return u * D


def fftconv(
    u: mx.array,
    k: mx.array,
    D: mx.array,
    k_rev: mx.array | None = None,
    profile: HyperProfile = CANONICAL,
    ops: Ops | None = None,
) -> mx.array:
    """Convolve along positions and add the skip term: y = irfft(rfft(u, n) rfft(k, n), n)[..., :l] + u * D, n = 2l.

    With `k_rev`, in `time`: k2 = pad(k, (0, l)) + pad(flip(k_rev), (l, 0)), so that k_rev[0] acts at lag -1; in
    `freq`: rfft(k) + conj(rfft(k_rev)), so that k_rev[0] acts at lag 0. `avg` halves the combined kernel.
    Inputs of sixteen bits are widened to float32 and the result is rounded back to u's dtype.

    Channels do not meet, so `ops.budget_bytes` may have them computed some at a time: each batch is evaluated before
    the next begins, and the bits do not depend on it. Evaluation cannot happen inside `mx.compile` or `mx.vmap`.

    Args:
        u: (b, d, l).
        k: (d, l), or (d, 2l) for a kernel that already holds both directions.
        D: (d,) or (1, d, 1).
        k_rev: (d, l), or None.
        profile: Its `bidir_space` and `bidir_combine` say how the two kernels meet.
        ops: Primitives, and how much memory the transforms may take.

    Returns:
        (b, d, l) in u's dtype.

    Raises:
        ValueError: A kernel is longer than it may be.

    Source: bert/src/mm/hyena_utils.py, `fftconv_ref` (freq) and `HyenaFilter.forward` (time).
    """
    ops = ops or Ops(profile)
    l = u.shape[-1]
    u_wide, k, D = widen(u), widen(k), widen(D).reshape(1, -1, 1)
    _check_lengths(l, k, k_rev)
    k_rev = None if k_rev is None else widen(k_rev)
    channels = u.shape[1]
    step = channels_at_once(u.shape[0], l, u_wide.itemsize, ops.budget_bytes)
    if step is None or step >= channels:
        return _convolved(u_wide, k, D, k_rev, profile, ops).astype(u.dtype)
    parts = []
    for start in range(0, channels, step):
        cut = slice(start, start + step)
        rev = None if k_rev is None else k_rev[cut]
        parts.append(_convolved(u_wide[:, cut], k[cut], D[:, cut], rev, profile, ops).astype(u.dtype))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=1)


BUFFERS: Final = 4
"""Buffers of n numbers that a row of a transform needs: padded, spectrum, product, inverse; a kernel's as many."""


def channels_at_once(b: int, l: int, itemsize: int, budget_bytes: int | None) -> int | None:
    """Return how many channels of (b, d, l) are transformed at once under a budget, at least 1; None without one.

    A channel takes b + 1 rows, the inputs and the kernel, of `BUFFERS` times n = 2l numbers.

    Example:
        >>> channels_at_once(1, 32768, 4, 2**28)
        128
    """
    if budget_bytes is None:
        return None
    return max(1, budget_bytes // ((b + 1) * BUFFERS * fft_length(l) * itemsize))


def _convolved(
    u: mx.array, k: mx.array, D: mx.array, k_rev: mx.array | None, profile: HyperProfile, ops: Ops
) -> mx.array:
    """Convolve u (b, d, l) with kernels (d, l) of its own precision, and add the skip term."""
    l = u.shape[-1]
    n = fft_length(l)
    scales = ops.fft_scales
    k_f = ops.rfft(k, n, scales.kernel) if k_rev is None else _both_directions(k, k_rev, n, profile, ops)
    product = ops.spectrum_product(ops.rfft(u, n, scales.signal), k_f)
    return ops.irfft(product, n, scales.inverse)[..., :l] + skip_term(u, D)


def _both_directions(k: mx.array, k_rev: mx.array, n: int, profile: HyperProfile, ops: Ops) -> Spectrum:
    """Spectrum (d, n/2 + 1) of the combined kernel, under the kernel's share of the factor 1/n."""
    scale = 0.5 if profile.bidir_combine == "avg" else 1.0
    norm = ops.fft_scales.kernel
    if profile.bidir_space == "time":
        l = k.shape[-1]
        k2 = mx.pad(k, [(0, 0), (0, l)]) + mx.pad(k_rev[..., ::-1], [(0, 0), (l, 0)])
        return ops.rfft(k2 * scale, n, norm)
    both = ops.spectrum_sum(ops.rfft(k, n, norm), ops.spectrum_conjugate(ops.rfft(k_rev, n, norm)))
    return ops.spectrum_scale(both, scale)


def _check_lengths(l: int, k: mx.array, k_rev: mx.array | None) -> None:
    allowed = (l, 2 * l) if k_rev is None else (l,)
    if k.shape[-1] not in allowed:
        raise ValueError(
            f"kernel has {k.shape[-1]} taps; for {l} positions it must have {' or '.join(map(str, allowed))}"
        )
    if k_rev is not None and k_rev.shape[-1] != l:
        raise ValueError(f"reverse kernel has {k_rev.shape[-1]} taps; for {l} positions it must have {l}")


class FFTConv(nn.Module):
    """`fftconv` with its kernels as parameters `k` (d, l), `k_rev` (d, l) if `bidirectional`, and skip `D` (d,).

    `gelu` applies the exact unit to the sum.
    """

    at_least_float32 = True

    def __init__(
        self,
        d_model: int,
        seq_len: int,
        bidirectional: bool = False,
        gelu: bool = False,
        profile: HyperProfile = CANONICAL,
        ops: Ops | None = None,
    ) -> None:
        super().__init__()
        self.profile, self.ops = profile, ops or Ops(profile)
        self.k = mx.random.normal((d_model, seq_len))
        self.k_rev = mx.random.normal((d_model, seq_len)) if bidirectional else None
        self.D = mx.random.normal((d_model,))
        self.act = Gelu(profile, self.ops) if gelu else None

    def __call__(self, u: mx.array) -> mx.array:
        """Map u (b, d, l) to (b, d, l)."""
        y = fftconv(widen(u), self.k, self.D, self.k_rev, self.profile, self.ops)
        return (y if self.act is None else self.act(y)).astype(u.dtype)
