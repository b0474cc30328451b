"""The seam: every numeric primitive that a profile or a rung may exchange.

Layers call the methods of `Ops` and nothing beneath them; a profile chooses among kernels there. `Ops` calls MLX's own
functions through a `Library`, one method for each, with MLX's names and arguments. Another arithmetic replaces the
library, function by function, and never a piece of the port: so what `Ops` passes on (an epsilon, a padding, an axis, a
norm) is judged at float64 too.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx

from mlx_impl.kernels import (
    extended_depthwise,
    extended_fft,
    fused_convolution,
    monarch_fft,
    ordered,
    shifted_taps,
)
from mlx_impl.kernels.blockdiag import BLOCKDIAG_KERNELS
from mlx_impl.kernels.canary import require_exact
from mlx_impl.kernels.extended_fft import DoubleSpectrum
from mlx_impl.kernels.pairs import PairSpectrum, pair_of
from mlx_impl.precision import widen
from parity.spec.profile import CANONICAL, HyperProfile, require_built

Spectrum = Any
"""What `rfft` returns, for the methods `spectrum_` of `Ops`: complex64 in MLX, two arrays elsewhere."""

TF32_DROPPED_BITS: Final = 13
"""float32 has 23 stored bits, TF32 keeps 10 of them."""


@dataclass(frozen=True)
class FftScales:
    """The `norm` of each transform of a convolution; over the three there is exactly one factor 1/n."""

    kernel: str
    signal: str
    inverse: str


FFT_SCALES: Final = {
    "forward": FftScales(kernel="forward", signal="backward", inverse="forward"),
    "backward": FftScales(kernel="backward", signal="backward", inverse="backward"),
    "ortho": FftScales(kernel="backward", signal="ortho", inverse="ortho"),
}


def require_device(profile: HyperProfile) -> None:
    """Refuse a profile that names a kernel which the default device does not run.

    Raises:
        NotImplementedYetError: `fft_impl` is `fused`, and the default device is of neither CUDA nor Metal.
    """
    if profile.fft_impl == "fused":
        fused_convolution.language()


class Library:
    """MLX's own functions of the same names; a subclass computes the same in another arithmetic."""

    def sin(self, x: mx.array) -> mx.array:
        """`mx.sin`."""
        return mx.sin(x)

    def exp(self, x: mx.array) -> mx.array:
        """`mx.exp`."""
        return mx.exp(x)

    def erf(self, x: mx.array) -> mx.array:
        """`mx.erf`."""
        return mx.erf(x)

    def softmax(self, x: mx.array, axis: int) -> mx.array:
        """`mx.softmax`."""
        return mx.softmax(x, axis=axis)

    def layer_norm(self, x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
        """`mx.fast.layer_norm`."""
        return mx.fast.layer_norm(x, weight, bias, eps)

    def conv1d(self, x: mx.array, weight: mx.array, padding: int, groups: int) -> mx.array:
        """`mx.conv1d`: x (b, l, c), weight (c, taps, c / groups); the same bits sooner where there is a way."""
        if x.size >= shifted_taps.LEAST and shifted_taps.has_its_bits(x, weight, padding, groups):
            return shifted_taps.full_convolution(x, weight)
        return mx.conv1d(x, weight, padding=padding, groups=groups)

    def rfft(self, x: mx.array, n: int, norm: str) -> Spectrum:
        """`mx.fft.rfft` over the last axis."""
        return mx.fft.rfft(x, n=n, norm=norm)

    def irfft(self, spectrum: Spectrum, n: int, norm: str) -> mx.array:
        """`mx.fft.irfft` over the last axis."""
        return mx.fft.irfft(spectrum, n=n, norm=norm)

    def conjugate(self, spectrum: Spectrum) -> Spectrum:
        """`mx.conjugate`."""
        return mx.conjugate(spectrum)


CUDA_READS: Final = 4
"""Numbers that a thread of MLX's CUDA kernel of LayerNorm reads at once."""


def library_gradient_errs(width: int) -> bool:
    """Whether the derivative of `mx.fast.layer_norm` by its input is wrong here for rows of `width` numbers.

    MLX 0.32.4's CUDA kernel errs by 3 % to 20 % where the width is above 4 and no multiple of it; the values, and the
    derivatives by weight and bias, are right. Source: `benchmarks/layer_norm_gradient.py`, reports/gpu_lane.md.
    """
    return width > CUDA_READS and width % CUDA_READS != 0 and mx.default_device() == mx.gpu and mx.cuda.is_available()


class Ops:
    """Primitives under one profile.

    Args:
        profile: Its numeric knobs choose among kernels.
        library: The arithmetic; MLX's own by default.
        budget_bytes: What the transforms of a long convolution may hold at once: as many channels as fit, at least one,
            are computed and evaluated before the next, with the same bits. None takes what `fft_impl` does by itself:
            all channels together, or its own batches.

    Raises:
        NotImplementedYetError: The profile names a kernel that does not exist yet.
        ValueError: The budget is below one byte.
    """

    def __init__(
        self, profile: HyperProfile = CANONICAL, library: Library | None = None, budget_bytes: int | None = None
    ) -> None:
        require_built(profile)
        if budget_bytes is not None and budget_bytes < 1:
            raise ValueError(f"budget_bytes must be at least 1, or None for no bound; got {budget_bytes}")
        self.profile = profile
        self.budget_bytes = budget_bytes
        self.library = library or Library()
        self._blockdiag = ordered.blockdiag if profile.strict_kernels else BLOCKDIAG_KERNELS[profile.blockdiag_impl]

    @property
    def fft_scales(self) -> FftScales:
        """Where the factor 1/n of a convolution's transforms sits."""
        return FFT_SCALES[self.profile.fft_norm]

    def matmul(self, x: mx.array, y: mx.array) -> mx.array:
        """Matrix product x (..., m, p) @ y (..., p, q)."""
        x, y = self._operand(x), self._operand(y)
        return ordered.matmul(x, y) if self.profile.strict_kernels else x @ y

    def linear(self, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        """x (..., p) @ weight (q, p).T + bias (q,)."""
        x, weight = self._operand(x), self._operand(weight)
        if self.profile.strict_kernels:
            return ordered.linear(x, weight, bias)
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)

    def blockdiag(self, x: mx.array, weight: mx.array) -> mx.array:
        """Blocks x (..., k, p) times weight (k, q, p) -> (..., k, q), by `blockdiag_impl` or `strict_kernels`."""
        return self._blockdiag(self._operand(x), self._operand(weight))

    def sin(self, x: mx.array) -> mx.array:
        """Elementwise sine."""
        return self.library.sin(x)

    def exp(self, x: mx.array) -> mx.array:
        """Elementwise exponential."""
        return self.library.exp(x)

    def tanh(self, x: mx.array) -> mx.array:
        """Elementwise hyperbolic tangent."""
        return mx.tanh(x)

    def erf(self, x: mx.array) -> mx.array:
        """Elementwise error function."""
        return self.library.erf(x)

    def softmax(self, x: mx.array, axis: int) -> mx.array:
        """exp(x - max) / sum(exp(x - max)) along `axis`."""
        if self.profile.strict_kernels:
            return ordered.softmax(x, axis, self.exp)
        return self.library.softmax(x, axis=axis)

    def sum(self, x: mx.array, axis: int, keepdims: bool = False) -> mx.array:
        """Sum along `axis`."""
        if self.profile.strict_kernels:
            return ordered.tree_sum(x, axis, keepdims)
        return mx.sum(x, axis=axis, keepdims=keepdims)

    def mean(self, x: mx.array, axis: int) -> mx.array:
        """Mean along `axis`."""
        if self.profile.strict_kernels:
            return ordered.tree_mean(x, axis)
        return mx.mean(x, axis=axis)

    def norm(self, x: mx.array) -> mx.array:
        """sqrt(sum(x^2)) over the last axis, which stays with length 1."""
        if self.profile.strict_kernels:
            return ordered.norm(x)
        return mx.linalg.norm(x, axis=-1, keepdims=True)

    def gelu_erf(self, x: mx.array) -> mx.array:
        """x * (1 + erf(x / sqrt 2)) / 2."""
        return x * (1 + self.erf(x / math.sqrt(2))) / 2

    def gelu_tanh(self, x: mx.array) -> mx.array:
        """x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2."""
        return x * (1 + self.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2

    def layer_norm(self, x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
        """LayerNorm over the last axis: the library's kernel, or two explicit passes with either strict knob.

        On CUDA two passes as well where the library's gradient would be wrong (`library_gradient_errs`).
        """
        if self.profile.strict_kernels:
            return ordered.layer_norm(x, weight, bias, eps)
        if self.profile.layer_norm_strict or library_gradient_errs(x.shape[-1]):
            return self.two_pass_layer_norm(x, weight, bias, eps)
        return self.library.layer_norm(x, weight, bias, eps)

    def two_pass_layer_norm(self, x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
        """Mean, then variance of the differences, then scale and shift; sixteen bits go through float32 as in torch."""
        wide = widen(x)
        centred = wide - mx.mean(wide, axis=-1, keepdims=True)
        variance = mx.mean(mx.square(centred), axis=-1, keepdims=True)
        return (centred * mx.rsqrt(variance + eps) * widen(weight) + widen(bias)).astype(x.dtype)

    def depthwise_conv(self, x: mx.array, weight: mx.array, bias: mx.array, padding: int) -> mx.array:
        """Depthwise convolution along positions: x (b, l, c), weight (c, taps, 1), bias (c,), zeros at both ends."""
        if self.profile.ep_depthwise and x.dtype != mx.float64:
            require_exact()
            return extended_depthwise.depthwise_conv(x, weight, bias, padding)
        if self.profile.strict_kernels:
            return ordered.depthwise_conv(x, weight, bias, padding)
        return self.library.conv1d(x, weight, padding=padding, groups=x.shape[-1]) + bias

    def rfft(self, x: mx.array, n: int, norm: str) -> Spectrum:
        """Transform real x (..., l), zero-padded to n, into its half spectrum (..., n/2 + 1)."""
        if self.profile.ep_fft and x.dtype == mx.float32:
            require_exact()
            return extended_fft.rfft(x, n, norm)
        if self.profile.fft_impl == "monarch":
            return monarch_fft.rfft(x, n, norm, self.matmul)
        if self.profile.strict_kernels and x.dtype == mx.float32:
            return ordered.by_sequence(lambda row: self.library.rfft(row, n=n, norm=norm), x)
        return self.library.rfft(x, n=n, norm=norm)

    def irfft(self, spectrum: Spectrum, n: int, norm: str) -> mx.array:
        """Transform a half spectrum back into a real signal (..., n)."""
        if isinstance(spectrum, DoubleSpectrum):
            return extended_fft.irfft(spectrum, n, norm)
        if isinstance(spectrum, PairSpectrum):
            return monarch_fft.irfft(spectrum, n, norm, self.matmul)
        if self.profile.strict_kernels and isinstance(spectrum, mx.array):
            return ordered.by_sequence(lambda row: self.library.irfft(row, n=n, norm=norm), spectrum)
        return self.library.irfft(spectrum, n=n, norm=norm)

    def spectrum_product(self, x: Spectrum, y: Spectrum) -> Spectrum:
        """Elementwise complex product."""
        if isinstance(x, DoubleSpectrum):
            return (extended_fft.product if self.profile.ep_freqmul else extended_fft.rounded_product)(x, y)
        if self.profile.ep_freqmul and isinstance(x, mx.array):
            require_exact()
            return extended_fft.product_of_rounded(x, y)
        if self.profile.ep_freqmul and isinstance(x, PairSpectrum) and x.dtype == mx.float32:
            require_exact()
            return pair_of(extended_fft.product_of_rounded(x.complex64(), y.complex64()))
        return x * y

    def spectrum_sum(self, x: Spectrum, y: Spectrum) -> Spectrum:
        """Elementwise complex sum."""
        return extended_fft.added(x, y) if isinstance(x, DoubleSpectrum) else x + y

    def spectrum_conjugate(self, x: Spectrum) -> Spectrum:
        """Elementwise complex conjugate."""
        if isinstance(x, DoubleSpectrum):
            return extended_fft.conjugate(x)
        return x.conj() if isinstance(x, PairSpectrum) else self.library.conjugate(x)

    def spectrum_total(self, x: Spectrum) -> Spectrum:
        """Sum over the first axis."""
        if isinstance(x, DoubleSpectrum):
            rows = (DoubleSpectrum(x.hi[:, i], x.lo[:, i], x.exponent[i]) for i in range(x.shape[0]))
            return functools.reduce(extended_fft.added, rows)
        return self.sum(x, axis=0) if isinstance(x, mx.array) else x.map(lambda part: self.sum(part, axis=0))

    def spectrum_scale(self, x: Spectrum, factor: float) -> Spectrum:
        """Product with a real number."""
        return extended_fft.times(x, factor) if isinstance(x, DoubleSpectrum) else x * factor

    def _operand(self, x: mx.array) -> mx.array:
        """Round a float32 factor of a matrix product to TF32, where the profile asks for it."""
        if self.profile.matmul_precision == "tf32" and x.dtype == mx.float32:
            return cast(mx.array, round_to_tf32(x))
        return x


@mx.custom_function
def round_to_tf32(x: mx.array) -> mx.array:
    """Round float32 to 10 stored bits, to nearest, ties to even; infinities and NaN pass through.

    Source: NVIDIA A100 whitepaper V1.0, "TensorFloat-32": 8 exponent bits and 10 mantissa bits.
    """
    bits = mx.view(x, mx.uint32)
    odd = (bits >> TF32_DROPPED_BITS) & 1
    rounded = bits + (odd + ((1 << (TF32_DROPPED_BITS - 1)) - 1))
    kept = mx.view((rounded >> TF32_DROPPED_BITS) << TF32_DROPPED_BITS, mx.float32)
    return mx.where(mx.isfinite(x), kept, x)


@round_to_tf32.vjp
def _round_to_tf32_vjp(primals: mx.array, cotangents: mx.array, outputs: mx.array) -> mx.array:  # noqa: ARG001
    """Rounding passes the cotangent on unchanged."""
    return cotangents
