"""Long convolution by the fast Fourier transform, with a skip term and an optional reverse kernel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch.activations import Gelu
from reference_torch.precision import widen


def fftconv(
    u: torch.Tensor,
    k: torch.Tensor,
    D: torch.Tensor,
    k_rev: torch.Tensor | None = None,
    profile: HyperProfile = CANONICAL,
) -> torch.Tensor:
    """Convolve along positions and add the skip term: y = irfft(rfft(u, n) rfft(k, n), n)[..., :l] + u * D, n = 2l.

    With `k_rev`, in `time`: k2 = pad(k, (0, l)) + pad(flip(k_rev), (l, 0)), so that k_rev[0] acts at lag -1; in
    `freq`: rfft(k) + conj(rfft(k_rev)), so that k_rev[0] acts at lag 0. `avg` halves the combined kernel.
    Inputs of sixteen bits are widened to float32 and the result is rounded back to u's dtype.

    Args:
        u: (b, d, l).
        k: (d, l), or (d, 2l) for a kernel that already holds both directions.
        D: (d,) or (1, d, 1).
        k_rev: (d, l), or None.
        profile: Its `bidir_space` and `bidir_combine` say how the two kernels meet.

    Returns:
        (b, d, l) in u's dtype.

    Raises:
        ValueError: A kernel is longer than it may be.

    Source: bert/src/mm/hyena_utils.py, `fftconv_ref` (freq) and `HyenaFilter.forward` (time).
    """
    l = u.shape[-1]
    n = 2 * l
    u_wide, k, D = widen(u), widen(k), widen(D).reshape(1, -1, 1)
    _check_lengths(l, k, k_rev)
    k_f = torch.fft.rfft(k, n=n) / n if k_rev is None else _both_directions(k, widen(k_rev), n, profile)
    y = torch.fft.irfft(torch.fft.rfft(u_wide, n=n) * k_f, n=n, norm="forward")[..., :l]
    return (y + u_wide * D).to(u.dtype)


def _both_directions(k: torch.Tensor, k_rev: torch.Tensor, n: int, profile: HyperProfile) -> torch.Tensor:
    """Spectrum (d, n/2 + 1) of the combined kernel, divided by n."""
    scale = 0.5 if profile.bidir_combine == "avg" else 1.0
    if profile.bidir_space == "time":
        half = n // 2
        k2 = functional.pad(k, (0, half)) + functional.pad(k_rev.flip(-1), (half, 0))
        return torch.fft.rfft(k2 * scale, n=n) / n
    return (torch.fft.rfft(k, n=n) + torch.fft.rfft(k_rev, n=n).conj()) * scale / n


def _check_lengths(l: int, k: torch.Tensor, k_rev: torch.Tensor | None) -> None:
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
    k_rev: nn.Parameter | None

    def __init__(
        self,
        d_model: int,
        seq_len: int,
        bidirectional: bool = False,
        gelu: bool = False,
        profile: HyperProfile = CANONICAL,
    ) -> None:
        super().__init__()
        self.profile = profile
        self.k = nn.Parameter(torch.randn(d_model, seq_len))
        self.register_parameter("k_rev", nn.Parameter(torch.randn(d_model, seq_len)) if bidirectional else None)
        self.D = nn.Parameter(torch.randn(d_model))
        self.act = Gelu(profile) if gelu else None

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Map u (b, d, l) to (b, d, l)."""
        y = fftconv(widen(u), self.k, self.D, self.k_rev, self.profile)
        return (y if self.act is None else self.act(y)).to(u.dtype)
