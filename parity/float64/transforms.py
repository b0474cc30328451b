"""Fourier transforms in float64: MLX's own return complex64.

Every transform is a dense one of about sqrt(n) points, twice, with a twiddle between (Cooley and Tukey), or, where the
larger factor of n is long, a convolution with a chirp (Bluestein). The factors are computed by NumPy from reduced
integers; the error stays within 12 u of the norm for the lengths that the tests draw.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np

from parity.float64.spectrum import Float64Spectrum, spectrum_of, wide

DENSE_END: Final = 1024
"""Longest dense transform: its two matrices take 16 MiB, and beyond that a chirp is faster."""

Pair = tuple[mx.array, mx.array]


@functools.lru_cache(maxsize=64)
def _fourier_matrix(rows: int, columns: int, period: int) -> tuple[Any, Any]:
    """cos and sin of 2 pi j k / period, for j < rows, k < columns; the product j k is reduced exactly first."""
    angle = np.outer(np.arange(rows), np.arange(columns)) % period * (2 * math.pi / period)
    return np.cos(angle), np.sin(angle)


@functools.lru_cache(maxsize=16)
def _chirp(n: int) -> tuple[Any, Any]:
    """cos and sin of pi j^2 / n, for j < n; j^2 is reduced modulo 2 n first."""
    angle = np.arange(n, dtype=np.int64) ** 2 % (2 * n) * (math.pi / n)
    return np.cos(angle), np.sin(angle)


def _float64(*constants: Any) -> tuple[mx.array, ...]:
    return tuple(mx.array(constant, dtype=mx.float64) for constant in constants)


def _constants(rows: int, columns: int, period: int) -> tuple[mx.array, ...]:
    return _float64(*_fourier_matrix(rows, columns, period))


def _split(n: int) -> tuple[int, int]:
    """Return factors of n, the smaller first, as close to its square root as there are."""
    small = next(f for f in range(math.isqrt(n), 0, -1) if n % f == 0)
    return small, n // small


def _dft(real: mx.array, imag: mx.array, sign: int) -> Pair:
    """Complex transform sum_j x[j] exp(sign 2 pi i j k / n) of the last axis, as two dense ones and a twiddle.

    j = j1 n2 + j2, k = k1 + k2 n1: transform over j1, multiply by exp(sign 2 pi i j2 k1 / n), transform over j2.

    Source: Cooley and Tukey, Math. Comp. 19 (1965) 297.
    """
    n = real.shape[-1]
    n1, n2 = _split(n)
    if n2 > DENSE_END:
        return _bluestein(real, imag, sign)
    shape = (*real.shape[:-1], n1, n2)
    cos1, sin1 = _constants(n1, n1, n1)
    real, imag = real.reshape(shape), imag.reshape(shape)
    real, imag = cos1 @ real - sign * (sin1 @ imag), cos1 @ imag + sign * (sin1 @ real)
    twiddle_cos, twiddle_sin = _constants(n1, n2, n)
    real, imag = (
        real * twiddle_cos - sign * imag * twiddle_sin,
        imag * twiddle_cos + sign * real * twiddle_sin,
    )
    cos2, sin2 = _constants(n2, n2, n2)
    real, imag = real @ cos2 - sign * (imag @ sin2), imag @ cos2 + sign * (real @ sin2)
    flat = (*real.shape[:-2], n)
    return real.swapaxes(-1, -2).reshape(flat), imag.swapaxes(-1, -2).reshape(flat)


def _times(x: Pair, y: Pair) -> Pair:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _bluestein(real: mx.array, imag: mx.array, sign: int) -> Pair:
    """The same by j k = (j^2 + k^2 - (k - j)^2) / 2: a convolution with a chirp, at a power of two.

    Source: Bluestein, IEEE Trans. Audio Electroacoust. 18 (1970) 451.
    """
    n = real.shape[-1]
    length = 1 << (2 * n - 2).bit_length()
    cos, sin = _chirp(n)
    chirp = _float64(cos, sign * sin)
    wrapped = np.zeros((2, length))
    for part, values in zip(wrapped, (cos, -sign * sin), strict=True):
        part[:n], part[length - n + 1 :] = values, values[:0:-1]
    kernel_real, kernel_imag = _float64(*wrapped)
    kernel = _dft(kernel_real, kernel_imag, sign=-1)
    padded = [(0, 0)] * (real.ndim - 1) + [(0, length - n)]
    given = _times((real, imag), (chirp[0], chirp[1]))
    product = _times(_dft(mx.pad(given[0], padded), mx.pad(given[1], padded), sign=-1), kernel)
    back = _dft(*product, sign=1)
    return _times((back[0][..., :n] / length, back[1][..., :n] / length), (chirp[0], chirp[1]))


def _forward_scale(n: int, norm: str) -> float:
    return {"backward": 1.0, "ortho": 1 / math.sqrt(n), "forward": 1 / n}[norm]


def _inverse_scale(n: int, norm: str) -> float:
    return {"backward": 1 / n, "ortho": 1 / math.sqrt(n), "forward": 1.0}[norm]


def _resized(x: mx.array, n: int) -> mx.array:
    """The last axis zero-padded or cut to n."""
    x = x[..., :n]
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])])


def _complex(a: Any, n: int | None, axis: int, scale: float | None, norm: str, sign: int) -> Float64Spectrum:
    given = spectrum_of(a).swapaxes(axis, -1)
    n = given.shape[-1] if n is None else n
    real, imag = _dft(_resized(given.real, n), _resized(given.imag, n), sign)
    scale = (_forward_scale if sign < 0 else _inverse_scale)(n, norm) if scale is None else scale
    return Float64Spectrum(real * scale, imag * scale).swapaxes(axis, -1)


def fft(a: Any, n: int | None = None, axis: int = -1, norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.fft`: X[k] = sum_j x[j] exp(-2 pi i j k / n) along `axis`, zero-padded or cut to n."""
    return _complex(a, n, axis, None, norm, sign=-1)


def ifft(a: Any, n: int | None = None, axis: int = -1, norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.ifft`: x[j] = 1/n sum_k X[k] exp(2 pi i j k / n) along `axis`."""
    return _complex(a, n, axis, None, norm, sign=1)


def rfft(a: Any, n: int | None = None, axis: int = -1, norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.rfft`: half spectrum (..., n/2 + 1) of a real array along `axis`, zero-padded or cut to n."""
    x = wide(a).swapaxes(axis, -1)
    n = x.shape[-1] if n is None else n
    padded = _resized(x, n)
    real, imag = _dft(padded, mx.zeros_like(padded), sign=-1)
    kept, scale = n // 2 + 1, _forward_scale(n, norm)
    return Float64Spectrum(real[..., :kept] * scale, imag[..., :kept] * scale).swapaxes(axis, -1)


def irfft(a: Any, n: int | None = None, axis: int = -1, norm: str = "backward") -> mx.array:
    """`mx.fft.irfft`: y[j] = Re sum_k w_k X[k] exp(2 pi i j k / n) / n, w_k = 1 at DC and Nyquist, else 2.

    As in MLX, the half spectrum is cut or zero-padded to n // 2 + 1 bins first.
    """
    spectrum = spectrum_of(a).swapaxes(axis, -1)
    n = 2 * (spectrum.shape[-1] - 1) if n is None else n
    wanted = n // 2 + 1
    real, imag = spectrum.real[..., :wanted], spectrum.imag[..., :wanted]
    bins = real.shape[-1]
    weight = np.full(bins, 2.0)
    weight[0] = 1.0
    if n % 2 == 0 and bins == wanted:
        weight[-1] = 1.0
    weights = mx.array(weight * _inverse_scale(n, norm), dtype=mx.float64)
    pad = [(0, 0)] * (real.ndim - 1) + [(0, n - bins)]
    return _dft(mx.pad(real * weights, pad), mx.pad(imag * weights, pad), sign=1)[0].swapaxes(axis, -1)


def _places(a: Any, s: Sequence[int] | None, axes: Sequence[int] | None) -> list[tuple[int, int | None]]:
    """Axes beside their lengths; as in NumPy, the last axes if only lengths are given, and all if neither is."""
    if axes is None:
        axes = range(a.ndim) if s is None else range(a.ndim - len(s), a.ndim)
    return list(zip(axes, [None] * len(axes) if s is None else s, strict=True))


def fftn(a: Any, s: Any = None, axes: Any = None, norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.fftn`: `fft` along every one of `axes`."""
    for axis, n in _places(a, s, axes):
        a = fft(a, n, axis, norm)
    return spectrum_of(a)


def ifftn(a: Any, s: Any = None, axes: Any = None, norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.ifftn`: `ifft` along every one of `axes`."""
    for axis, n in _places(a, s, axes):
        a = ifft(a, n, axis, norm)
    return spectrum_of(a)


def rfftn(a: Any, s: Any = None, axes: Any = None, norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.rfftn`: `rfft` along the last of `axes`, `fft` along the others."""
    *others, (axis, n) = _places(a, s, axes)
    spectrum = rfft(a, n, axis, norm)
    for other, length in others:
        spectrum = fft(spectrum, length, other, norm)
    return spectrum


def irfftn(a: Any, s: Any = None, axes: Any = None, norm: str = "backward") -> mx.array:
    """`mx.fft.irfftn`: `ifft` along all but the last of `axes`, then `irfft` along that one."""
    *others, (axis, n) = _places(a, s, axes)
    for other, length in others:
        a = ifft(a, length, other, norm)
    return irfft(a, n, axis, norm)


def fft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.fft2`: `fftn` over two axes."""
    return fftn(a, s, axes, norm)


def ifft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.ifft2`: `ifftn` over two axes."""
    return ifftn(a, s, axes, norm)


def rfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str = "backward") -> Float64Spectrum:
    """`mx.fft.rfft2`: `rfftn` over two axes."""
    return rfftn(a, s, axes, norm)


def irfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str = "backward") -> mx.array:
    """`mx.fft.irfft2`: `irfftn` over two axes."""
    return irfftn(a, s, axes, norm)
