"""Convolutions in extended arithmetic, and how far a double-float lies from them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import scipy.fft

from mlx_impl.kernels import extended_fft
from mlx_impl.kernels.double_float import rounded, scaled

Long = npt.NDArray[np.longdouble]

NORMS: Final = {
    "forward": ("forward", "backward", "forward"),
    "backward": ("backward", "backward", "backward"),
    "ortho": ("backward", "ortho", "ortho"),
}
"""Of the kernel's transform, the signal's and the inverse one."""


class Measured(NamedTuple):
    """log2 of the relative L2 error before the final rounding, and the share of results rounded correctly."""

    bits: float
    correct: float


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Standard normal float32 numbers."""
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape).astype(np.float32)


def whole(hi: mx.array, lo: mx.array) -> Long:
    """hi + lo."""
    return np.array(hi).astype(np.longdouble) + np.array(lo).astype(np.longdouble)


def true_convolution(u: npt.NDArray[np.float32], k: npt.NDArray[np.float32]) -> Long:
    """Linear convolution of rows, cut to their length, through pocketfft's transforms of 80-bit numbers."""
    l = u.shape[-1]
    spectra = (scipy.fft.rfft(x.astype(np.longdouble), 2 * l) for x in (u, k))
    product: Any = np.multiply(*spectra)
    return np.asarray(scipy.fft.irfft(product, 2 * l))[..., :l]


def measure(u: npt.NDArray[np.float32], k: npt.NDArray[np.float32], norm: str = "forward") -> Measured:
    """Convolve rows through the double-float transforms, and compare."""
    l, (kernel, signal, inverse) = u.shape[-1], NORMS[norm]
    spectrum = extended_fft.rfft(mx.array(u), 2 * l, signal), extended_fft.rfft(mx.array(k), 2 * l, kernel)
    (hi, lo), exponent = extended_fft.irfft_parts(extended_fft.product(*spectrum), 2 * l, inverse)
    truth = true_convolution(u, k)
    found = np.ldexp(whole(hi, lo), np.array(exponent))[..., :l]
    y = np.array(scaled(rounded(hi, lo), exponent))[..., :l]
    return Measured(log2_distance(found, truth), float(np.mean(y == truth.astype(np.float32))))


def log2_distance(found: Long, truth: Long) -> float:
    """log2 of the relative L2 distance; -inf where there is none."""
    distance = np.sqrt(np.sum(np.square(found - truth)) / np.sum(np.square(truth)))
    return float(np.log2(distance)) if distance else -np.inf
