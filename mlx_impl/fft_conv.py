"""Long convolution by the fast Fourier transform, with a skip term and an optional reverse kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import mlx.core as mx
from mlx import nn

from mlx_impl.activations import Gelu
from mlx_impl.kernels.fused_convolution import FusedConvolution
from mlx_impl.kernels.long_convolution import OVERLAPPING, LongConvolution, Phases, on_streams
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
    if ops.profile.fft_impl not in ("native", "fused"):
        kernels = (k,) if k_rev is None else (k, k_rev)
        y = _own_convolution(u_wide, k, k_rev is None, profile, ops)(u_wide, *kernels)
        return (y + skip_term(u_wide, D)).astype(u.dtype)
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
    return None if budget_bytes is None else _channels_within(budget_bytes, b, l, itemsize, BUFFERS)


def _channels_within(budget_bytes: int, b: int, l: int, itemsize: int, buffers: int) -> int:
    return max(1, budget_bytes // ((b + 1) * buffers * fft_length(l) * itemsize))


OWN_BUDGET_BYTES: Final = 2**24
"""What the transforms of a convolution by another `fft_impl` than `native` hold at once where no budget is given."""

OWN_BUFFERS: Final = {"channel_batched": 6, "streamed": 12, "monarch": 32}
"""Buffers of n numbers that a row of them needs, adjoint included: `reports/kernels.md`, column peak."""

LEAST_BATCHES: Final = 4
"""Batches into which the first two cut the channels however short the rows are: three phases overlap, one follows."""

INVERSE_OF_KERNEL: Final = {"forward": "backward", "backward": "backward", "ortho": "forward"}
"""`norm` of the inverse transform behind two transforms of signals, by `fft_norm`: one factor 1/n over the three."""


def _own_convolution(u: mx.array, k: mx.array, one_way: bool, profile: HyperProfile, ops: Ops) -> LongConvolution:
    """The convolution by `fft_impl`, with a derivative of its own; u (b, d, l) and k (d, m) say how large it is."""
    b, channels, l = u.shape
    impl, n, scales = ops.profile.fft_impl, fft_length(l), ops.fft_scales
    scale = 0.5 if profile.bidir_combine == "avg" else 1.0

    def kernel(k: mx.array, k_rev: mx.array | None = None) -> Spectrum:
        return _kernel_spectrum(k, k_rev, n, profile, ops)

    def taps(z: mx.array) -> tuple[mx.array, ...]:
        if one_way:
            return (z[..., : k.shape[-1]],)
        late = z[..., l:][..., ::-1]
        lag_0 = [z[..., :1], late[..., : l - 1]]
        return scale * z[..., :l], scale * (late if profile.bidir_space == "time" else mx.concatenate(lag_0, axis=-1))

    phases = Phases(
        signal=lambda x: ops.rfft(x, n, scales.signal),
        kernel=kernel,
        product=ops.spectrum_product,
        conjugate=ops.spectrum_conjugate,
        total=ops.spectrum_total,
        inverse=lambda x: ops.irfft(x, n, scales.inverse),
        kernel_inverse=lambda x: ops.irfft(x, n, INVERSE_OF_KERNEL[ops.profile.fft_norm]),
        taps=taps,
    )
    step = _channels_within(ops.budget_bytes or OWN_BUDGET_BYTES, b, l, u.itemsize, OWN_BUFFERS[impl])
    if impl != "monarch":
        step = min(step, max(1, channels // LEAST_BATCHES))
    if impl == "streamed":
        return LongConvolution(on_streams(phases), step, OVERLAPPING)
    return LongConvolution(phases, step, eager=ops.budget_bytes is not None)


def _convolved(
    u: mx.array, k: mx.array, D: mx.array, k_rev: mx.array | None, profile: HyperProfile, ops: Ops
) -> mx.array:
    """Convolve u (b, d, l) with kernels (d, l) of its own precision, and add the skip term."""
    l = u.shape[-1]
    n = fft_length(l)
    scales = ops.fft_scales
    if ops.profile.fft_impl == "fused" and u.dtype == mx.float32:
        return _fused(u, k, D, k_rev, profile, ops)
    product = ops.spectrum_product(ops.rfft(u, n, scales.signal), _kernel_spectrum(k, k_rev, n, profile, ops))
    return ops.irfft(product, n, scales.inverse)[..., :l] + skip_term(u, D)


FUSED_SCALES: Final[dict[str, Callable[[int], tuple[float, float]]]] = {
    "forward": lambda n: (1 / n, 1.0),
    "backward": lambda n: (1.0, 1 / n),
    "ortho": lambda n: (n**-0.5, n**-0.5),
}
"""Factors of the kernel's spectrum and of the result, whose product is 1/n, by `fft_norm`."""


def _fused(u: mx.array, k: mx.array, D: mx.array, k_rev: mx.array | None, profile: HyperProfile, ops: Ops) -> mx.array:
    """One kernel of the device for all of it; a kernel (d, 2l) is one of either direction."""
    l = u.shape[-1]
    kernels = (k,) if k_rev is None else (k, k_rev)
    both_ways = k.shape[-1] == 2 * l
    if both_ways:
        kernels = (k[:, :l], k[:, l:][:, ::-1])
    convolve = FusedConvolution(
        reverse=None if len(kernels) == 1 else 0 if not both_ways and profile.bidir_space == "freq" else -1,
        half=k_rev is not None and profile.bidir_combine == "avg",
        scales=FUSED_SCALES[ops.profile.fft_norm],
        double=ops.profile.ep_fft,
    )
    return convolve(u, kernels, D.reshape(-1))


def _kernel_spectrum(k: mx.array, k_rev: mx.array | None, n: int, profile: HyperProfile, ops: Ops) -> Spectrum:
    return ops.rfft(k, n, ops.fft_scales.kernel) if k_rev is None else _both_directions(k, k_rev, n, profile, ops)


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
