"""Real Fourier transforms in double-float32, of any length, and the arithmetic of their spectra.

An even length n is a complex transform of n / 2 points (even samples the real part, odd ones the imaginary part) and
one step more. Complex transforms are Stockham's, by radices 4, 2 and small odd primes; a length with a larger prime is
a convolution with a chirp (Bluestein) at a power of two. Roots of unity come from the host, reduced to the first octant
by integers, in two float32 parts. Rows are scaled by powers of two, exactly; the exponents go along with the spectrum.

Complex double-floats are two float32 arrays (2, rows, points): parts hi and lo, each with the real and the imaginary
part along axis 0. The relative error of a convolution of noise in the L2 norm is 2^-45.5 or
less up to 32,768 positions, the worst lengths being those with large primes.

Derivatives are the same transforms: the adjoint of a real transform is an inverse one of half the inner bins.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import mlx.core as mx

from mlx_impl.kernels.derivatives import with_vjp
from mlx_impl.kernels.double_float import (
    DoubleFloat,
    Factor,
    each,
    factor,
    from_float64,
    multiply,
    normwise_add,
    rounded,
    row_exponent,
    scaled,
    summed_to,
    total,
    widened,
)
from mlx_impl.kernels.roots import root

ODD_RADICES: Final = (3, 5, 7, 11, 13)
"""A stage of radix r costs r complex products an element; beyond these a chirp is cheaper."""

TABLES: Final = 128
"""Tables kept: a transform of 65,536 points has 16."""


@dataclass(frozen=True, eq=False)
class DoubleSpectrum:
    """Half spectra (..., bins) of real rows, (hi + lo) 2^exponent.

    Args:
        hi, lo: (2, ..., bins), real and imaginary part along axis 0.
        exponent: (..., 1), int32.
    """

    hi: mx.array
    lo: mx.array
    exponent: mx.array

    @property
    def pair(self) -> DoubleFloat:
        """hi and lo."""
        return self.hi, self.lo

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the complex array."""
        return tuple(self.hi.shape[1:])


# --- transforms: what a convolution calls ---------------------------------------------------------------------


def rfft(x: mx.array, n: int, norm: str) -> DoubleSpectrum:
    """Half spectrum (..., n // 2 + 1) of float32 x (..., l), zero-padded or cut to n.

    Args:
        x: float32.
        n: Length of the transform.
        norm: `backward` puts no factor here, `ortho` 1 / sqrt(n), `forward` 1 / n.
    """
    exponent = row_exponent(x)
    pair = _forward(n)(*widened(_resized(scaled(x, -exponent), n)))
    return DoubleSpectrum(*_times_real(pair, _share(norm, {"forward": 1, "ortho": 2}, n)), exponent)


def irfft(spectrum: DoubleSpectrum, n: int, norm: str) -> mx.array:
    """Real rows (..., n) of a half spectrum, rounded once; see `irfft_parts`."""
    (hi, lo), exponent = irfft_parts(spectrum, n, norm)
    return scaled(rounded(hi, lo), exponent)


def irfft_parts(spectrum: DoubleSpectrum, n: int, norm: str) -> tuple[DoubleFloat, mx.array]:
    """Real rows (..., n) of a half spectrum before they are rounded, and the exponent of two they are still to get.

    As in MLX, the spectrum is cut or zero-padded to n // 2 + 1 bins, and the imaginary part of bins that are their own
    mirror image is not read.

    Args:
        spectrum: Of n // 2 + 1 bins.
        n: Length of the rows.
        norm: `backward` puts the factor 1 / n here, `ortho` 1 / sqrt(n), `forward` none.
    """
    hi, lo = (_resized(part, n // 2 + 1) for part in spectrum.pair)
    pair = _times_real(_backward(n)(hi, lo), _share(norm, {"backward": 1, "ortho": 2}, n))
    return pair, spectrum.exponent


def product(x: DoubleSpectrum, y: DoubleSpectrum) -> DoubleSpectrum:
    """Elementwise complex product."""
    return DoubleSpectrum(*_complex_product(x.hi, x.lo, y.hi, y.lo), x.exponent + y.exponent)


def rounded_product(x: DoubleSpectrum, y: DoubleSpectrum) -> DoubleSpectrum:
    """Elementwise complex product in float32, of factors rounded to float32."""
    (a, b), (c, d) = (rounded(*z.pair) for z in (x, y))
    return DoubleSpectrum(*widened(mx.stack([a * c - b * d, a * d + b * c])), x.exponent + y.exponent)


def product_of_rounded(x: mx.array, y: mx.array) -> mx.array:
    """Elementwise product of complex64 arrays in double-float32, its parts rounded once."""
    whole = product(_from_complex(x), _from_complex(y))
    real, imag = scaled(rounded(*whole.pair), whole.exponent)
    return real + 1j * imag


def added(x: DoubleSpectrum, y: DoubleSpectrum) -> DoubleSpectrum:
    """Elementwise sum, under the larger exponent."""
    exponent = mx.maximum(x.exponent, y.exponent)
    a, b = (each(partial(scaled, exponent=z.exponent - exponent), z.pair) for z in (x, y))
    return DoubleSpectrum(*_sum(*a, *b), exponent)


def conjugate(x: DoubleSpectrum) -> DoubleSpectrum:
    """Complex conjugate, exactly."""
    signs = mx.array([1.0, -1.0]).reshape(2, *[1] * (x.hi.ndim - 1))
    return DoubleSpectrum(x.hi * signs, x.lo * signs, x.exponent)


def times(x: DoubleSpectrum, number: float) -> DoubleSpectrum:
    """Product with a real number."""
    return DoubleSpectrum(*_times_real(x.pair, number), x.exponent)


def _from_complex(z: mx.array) -> DoubleSpectrum:
    parts = mx.stack([mx.real(z), mx.imag(z)])
    exponent = mx.max(row_exponent(parts), axis=0)
    return DoubleSpectrum(*widened(scaled(parts, -exponent)), exponent)


def _share(norm: str, roots: dict[str, int], n: int) -> float:
    """The part of 1 / n that a transform takes under `norm`: its square root, all of it or none."""
    return n ** (-1 / roots[norm]) if norm in roots else 1.0


def _resized(x: mx.array, n: int) -> mx.array:
    """The last axis zero-padded or cut to n."""
    x = x[..., :n]
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])])


# --- with their derivatives -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=TABLES)
def _forward(n: int) -> Callable[[mx.array, mx.array], DoubleFloat]:
    """X[k] = sum_j x[j] exp(-2 pi i j k / n) of rows (..., n), as (2, ..., n // 2 + 1)."""

    def forward(hi: mx.array, lo: mx.array) -> DoubleFloat:
        rows = (hi.reshape(-1, n), lo.reshape(-1, n))
        spectrum = _from_halves(rows) if n % 2 == 0 else _half(_dft(each(_as_complex, rows), -1))
        return _unfolded(spectrum, (2, *hi.shape[:-1], -1))

    def vjp(primals: Any, cotangents: DoubleFloat, outputs: Any) -> DoubleFloat:  # noqa: ARG001
        weights = 1 / _weights(n)
        return _backward(n)(cotangents[0] * weights, cotangents[1] * weights)

    return with_vjp(forward, vjp)


@functools.lru_cache(maxsize=TABLES)
def _backward(n: int) -> Callable[[mx.array, mx.array], DoubleFloat]:
    """x[j] = Re sum_k w[k] X[k] exp(2 pi i j k / n), w from `_weights`, of (2, ..., n // 2 + 1), as rows (..., n)."""

    def backward(hi: mx.array, lo: mx.array) -> DoubleFloat:
        bins = (hi.reshape(2, -1, n // 2 + 1) * _read(n), lo.reshape(2, -1, n // 2 + 1) * _read(n))
        rows = _to_halves(bins) if n % 2 == 0 else _real(_dft(_mirrored(bins, n), 1))
        return _unfolded(rows, (*hi.shape[1:-1], n))

    def vjp(primals: Any, cotangents: DoubleFloat, outputs: Any) -> DoubleFloat:  # noqa: ARG001
        hi, lo = _forward(n)(*cotangents)
        return hi * _weights(n), lo * _weights(n)

    return with_vjp(backward, vjp)


def _product(x: mx.array, x_lo: mx.array, y: mx.array, y_lo: mx.array) -> DoubleFloat:
    """Complex product of (2, ...) with (2, ...), broadcast."""
    ndim = max(x.ndim, y.ndim) - 1
    by = _complex_factor((_lifted(y, ndim), _lifted(y_lo, ndim)))
    return _times_factor((_lifted(x, ndim), _lifted(x_lo, ndim)), by)


def _product_vjp(primals: Any, cotangents: DoubleFloat, outputs: Any) -> tuple[mx.array, ...]:  # noqa: ARG001
    """G conj(y) and G conj(x), summed over what was broadcast."""
    found: list[mx.array] = []
    for own, other in ((primals[:2], primals[2:]), (primals[2:], primals[:2])):
        signs = mx.array([1.0, -1.0]).reshape(2, *[1] * (other[0].ndim - 1))
        gradient = _complex_product(*cotangents, other[0] * signs, other[1] * signs)
        ndim = gradient[0].ndim - 1
        hi, lo = summed_to(gradient, _lifted(own[0], ndim).shape)
        found += [hi.reshape(own[0].shape), lo.reshape(own[0].shape)]
    return tuple(found)


_complex_product = with_vjp(_product, _product_vjp)


def _plus(x: mx.array, x_lo: mx.array, y: mx.array, y_lo: mx.array) -> DoubleFloat:
    """Sum of two double-floats of one shape."""
    return normwise_add((x, x_lo), (y, y_lo))


def _plus_vjp(primals: Any, cotangents: DoubleFloat, outputs: Any) -> tuple[mx.array, ...]:  # noqa: ARG001
    return (*cotangents, *cotangents)


_sum = with_vjp(_plus, _plus_vjp)


def _times_real(x: DoubleFloat, number: float) -> DoubleFloat:
    """Product with a number of the host; a power of two goes without an error."""
    if math.frexp(number)[0] == 0.5:
        return (x[0] * number, x[1] * number) if number != 1 else x
    return _multiplied(number)(*x)


@functools.lru_cache(maxsize=TABLES)
def _multiplied(number: float) -> Callable[[mx.array, mx.array], DoubleFloat]:
    def multiplied(hi: mx.array, lo: mx.array) -> DoubleFloat:
        return multiply((hi, lo), factor(from_float64([number], ())))

    def vjp(primals: Any, cotangents: DoubleFloat, outputs: Any) -> DoubleFloat:  # noqa: ARG001
        return _multiplied(number)(*cotangents)

    return with_vjp(multiplied, vjp)


@functools.lru_cache(maxsize=TABLES)
def _weights(n: int) -> mx.array:
    """How often each bin of a half spectrum stands in the whole one: 1 where it is its own mirror image, else 2."""
    inner = [2.0] * ((n - 1) // 2)
    return mx.array([1.0, *inner, 1.0] if n % 2 == 0 else [1.0, *inner])


@functools.lru_cache(maxsize=TABLES)
def _read(n: int) -> mx.array:
    """(2, 1, n // 2 + 1): 0 for the imaginary part of a bin that is its own mirror image, else 1."""
    weights = _weights(n)
    return mx.stack([mx.ones_like(weights), weights - 1])[:, None]


# --- real rows as complex ones of half the length ---------------------------------------------------------------


def _from_halves(rows: DoubleFloat) -> DoubleFloat:
    """Half spectra of rows of even length n from one complex transform of n / 2.

    z[j] = x[2j] + i x[2j+1]; X[k] = (Z[k] + conj Z[-k]) / 2 - i exp(-2 pi i k / n) (Z[k] - conj Z[-k]) / 2.
    """
    n = rows[0].shape[-1]
    hi, lo = _dft(_unfolded_halves(rows), -1)
    around = each(lambda part: mx.concatenate([part, part[..., :1]], axis=-1), (hi, lo))
    both, difference = _with_mirror(around)
    turned = _times_factor(difference, _turn(n, -1, n // 2 + 1))
    return normwise_add((both[0] * 0.5, both[1] * 0.5), turned)


def _to_halves(bins: DoubleFloat) -> DoubleFloat:
    """Rows of even length n: Z[k] = X[k] + conj X[-k] + i exp(2 pi i k / n) (X[k] - conj X[-k]), then as above."""
    half = bins[0].shape[-1] - 1
    both, difference = _with_mirror(bins)
    kept = [each(lambda part: part[..., :half], x) for x in (both, difference)]
    turned = _times_factor(kept[1], _turn(2 * half, 1, half))
    hi, lo = _dft(normwise_add(kept[0], turned), 1)
    return each(lambda part: part.transpose(1, 2, 0).reshape(-1, 2 * half), (hi, lo))


def _unfolded_halves(rows: DoubleFloat) -> DoubleFloat:
    half = rows[0].shape[-1] // 2
    return each(lambda part: part.reshape(-1, half, 2).transpose(2, 0, 1), rows)


def _with_mirror(x: Any) -> tuple[DoubleFloat, DoubleFloat]:
    """x[k] + conj x[-k] and x[k] - conj x[-k] for x (2, rows, bins), bins counted from either end."""
    hi, lo = x
    signs = mx.array([1.0, -1.0, -1.0, 1.0]).reshape(2, 2, 1, 1)
    found = normwise_add((hi[None], lo[None]), (hi[None, ..., ::-1] * signs, lo[None, ..., ::-1] * signs))
    return (found[0][0], found[1][0]), (found[0][1], found[1][1])


@functools.lru_cache(maxsize=TABLES)
def _turn(n: int, sign: int, bins: int) -> Factor:
    """-i exp(-2 pi i k / n) / 2 for the forward transform, i exp(2 pi i k / n) for the inverse one, k < bins."""
    quarter = mx.arange(bins) * 4 + n * (1 if sign > 0 else -1)  # in units of a turn by 1 / (4 n)
    hi, lo = _roots_at(4 * n, quarter if sign > 0 else quarter - 8 * mx.arange(bins))
    scale = 1.0 if sign > 0 else 0.5
    return _complex_factor((hi[:, None] * scale, lo[:, None] * scale))


def _as_complex(rows: mx.array) -> mx.array:
    return mx.stack([rows, mx.zeros_like(rows)])


def _half(spectrum: DoubleFloat) -> DoubleFloat:
    """The first half of whole spectra; what a chirp leaves of the imaginary part at 0 is an error, and goes."""
    n = spectrum[0].shape[-1]
    return each(lambda part: part[..., : n // 2 + 1] * _read(n), spectrum)


def _real(rows: DoubleFloat) -> DoubleFloat:
    return rows[0][0], rows[1][0]


def _mirrored(bins: DoubleFloat, n: int) -> DoubleFloat:
    """Whole spectra of an odd length from half ones."""
    signs = mx.array([1.0, -1.0]).reshape(2, 1, 1)
    inner = slice((n - 1) // 2, 0, -1)
    return each(lambda part: mx.concatenate([part, part[..., inner] * signs], axis=-1), bins)


def _unfolded(x: DoubleFloat, shape: tuple[int, ...]) -> DoubleFloat:
    return x[0].reshape(shape), x[1].reshape(shape)


# --- complex transforms -----------------------------------------------------------------------------------------


def _dft(x: DoubleFloat, sign: int) -> DoubleFloat:
    """sum_j x[j] exp(sign 2 pi i j k / n) over the last axis of (2, rows, n)."""
    n = x[0].shape[-1]
    radices = _radices(n)
    if radices is None:
        return _chirped(x, sign)
    stride, rest = 1, n
    for radix in radices:
        stage = _quarter_stage if radix == 4 else _half_stage if radix == 2 else _odd_stage
        rest //= radix
        x = stage(x, radix, rest, stride, sign)
        stride *= radix
    return x


@functools.lru_cache(maxsize=TABLES)
def _radices(n: int) -> tuple[int, ...] | None:
    """n as a product of radices; None if a prime of it has none."""
    found: list[int] = []
    for radix in (4, 2, *ODD_RADICES):
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return tuple(found) if n == 1 else None


def _half_stage(x: DoubleFloat, radix: int, rest: int, stride: int, sign: int) -> DoubleFloat:
    """Radix 2 of Stockham's transform: (2 j, rest, stride) -> (rest, 2 k, stride)."""
    rows = x[0].shape[1]
    hi, lo = _unfolded(x, (2, rows, radix, rest * stride))
    signs = mx.array([1.0, -1.0]).reshape(2, 1)
    y = normwise_add((hi[:, :, :1], lo[:, :, :1]), (hi[:, :, 1:] * signs, lo[:, :, 1:] * signs))
    return _twiddled(y, (2,), rest, stride, sign)


def _quarter_stage(x: DoubleFloat, radix: int, rest: int, stride: int, sign: int) -> DoubleFloat:  # noqa: ARG001
    """Radix 4 as twice 2: j = 2 j1 + j0, k = k0 + 2 k1; between them exp(sign 2 pi i / 4) at j0 = k0 = 1."""
    rows = x[0].shape[1]
    hi, lo = _unfolded(x, (2, rows, 2, 2 * rest * stride))
    signs = mx.array([1.0, -1.0]).reshape(2, 1)
    y = normwise_add((hi[:, :, :1], lo[:, :, :1]), (hi[:, :, 1:] * signs, lo[:, :, 1:] * signs))
    hi, lo = _unfolded(y, (2, rows, 2, 2, rest * stride))
    turned = each(lambda part: _quarter_turned(part[:, :, :, 1], sign), (hi, lo))
    y = normwise_add((hi[:, :, :, :1], lo[:, :, :, :1]), turned)
    return _twiddled(y, (2, 2), rest, stride, sign)


def _quarter_turned(x: mx.array, sign: int) -> mx.array:
    """+-x (2, rows, k0, points), turned by a quarter at k0 = 1: (2, rows, k0, k1, points)."""
    swapped = mx.concatenate([x[:, :, :1], x[::-1, :, 1:]], axis=2)
    turn = mx.array([1.0, -1.0, -sign, sign, 1.0, -1.0, sign, -sign]).reshape(2, 1, 2, 2, 1)
    return swapped[:, :, :, None] * turn


def _twiddled(x: DoubleFloat, digits: tuple[int, ...], rest: int, stride: int, sign: int) -> DoubleFloat:
    """Times exp(sign 2 pi i k m / (radix rest)), and the digits of k, last first, put behind m."""
    rows, radix = x[0].shape[1], math.prod(digits)
    if rest > 1:
        flat = _unfolded(x, (2, rows, radix * rest * stride))
        x = _times_factor(flat, _twiddles(digits, rest, stride, sign))
    places = range(2, 2 + len(digits))
    order = (0, 1, 2 + len(digits), *reversed(places), 3 + len(digits))
    hi, lo = (part.reshape(2, rows, *digits, rest, stride).transpose(order) for part in x)
    return _unfolded((hi, lo), (2, rows, radix * rest * stride))


@functools.lru_cache(maxsize=TABLES)
def _twiddles(digits: tuple[int, ...], rest: int, stride: int, sign: int) -> Factor:
    k = mx.arange(2)[:, None] + 2 * mx.arange(2) if len(digits) == 2 else mx.arange(digits[0])
    power = k.reshape(-1, 1, 1) * mx.arange(rest)[:, None] * mx.ones((stride,), dtype=mx.int32)
    hi, lo = _roots_at(math.prod(digits) * rest, sign * power.reshape(1, -1))
    return _complex_factor((hi, lo))


def _odd_stage(x: DoubleFloat, radix: int, rest: int, stride: int, sign: int) -> DoubleFloat:
    """Any small radix: all its products at once, the twiddles in them, and their sum by halves."""
    rows = x[0].shape[1]
    hi, lo = _unfolded(x, (2, rows, radix, rest, 1, stride))
    return _unfolded(total(_times_factor((hi, lo), _small_dft(radix, rest, sign)), 2, normwise_add), (2, rows, -1))


@functools.lru_cache(maxsize=TABLES)
def _small_dft(radix: int, rest: int, sign: int) -> Factor:
    """exp(sign 2 pi i (j k / radix + k m / (radix rest))) as (j, m, k, 1)."""
    j, k = mx.arange(radix).reshape(-1, 1, 1, 1), mx.arange(radix).reshape(1, 1, -1, 1)
    power = (j * rest + mx.arange(rest).reshape(1, -1, 1, 1)) * k
    hi, lo = _roots_at(radix * rest, sign * power)
    return _complex_factor((hi[:, None], lo[:, None]))


def _chirped(x: DoubleFloat, sign: int) -> DoubleFloat:
    """Any length by j k = (j^2 + k^2 - (k - j)^2) / 2: a convolution with a chirp.

    Source: Bluestein, IEEE Trans. Audio Electroacoust. 18 (1970) 451.
    """
    n = x[0].shape[-1]
    chirp, kernel = _chirp(n, sign)
    given = _times_factor(x, chirp)
    length = kernel.hi.shape[-1]
    spectrum = _dft((_resized(given[0], length), _resized(given[1], length)), -1)
    back = _dft(_times_factor(spectrum, kernel), 1)
    return _times_factor((back[0][..., :n], back[1][..., :n]), chirp)


@functools.lru_cache(maxsize=TABLES)
def _chirp(n: int, sign: int) -> tuple[Factor, Factor]:
    """exp(sign pi i j^2 / n), and the transform of its conjugate, wrapped, over the length of the transform."""
    length = 1 << (2 * n - 2).bit_length()
    hi, lo = (part[:, None] for part in _roots_at(2 * n, mx.array([sign * j * j % (2 * n) for j in range(n)])))
    signs = mx.array([1.0, -1.0]).reshape(2, 1, 1) / length
    gap = mx.zeros((2, 1, length - 2 * n + 1))
    wrapped = each(lambda part: mx.concatenate([part, gap, part[..., :0:-1]], axis=-1) * signs, (hi, lo))
    return _complex_factor((hi, lo)), _complex_factor(_dft(wrapped, -1))


# --- complex products and roots of unity ------------------------------------------------------------------------


def _complex_factor(y: DoubleFloat) -> Factor:
    """y (2, ...) as what each part of the other factor is multiplied by: (a, c, ...) with rows (re, im), (-im, re)."""
    hi, lo = (mx.stack([part, mx.stack([-part[1], part[0]])]) for part in y)
    return factor((hi, lo))


def _times_factor(x: DoubleFloat, y: Factor) -> DoubleFloat:
    """Complex product of x (2, ...) with a factor (2, 2, ...): what x_re gives, plus what x_im gives."""
    hi, lo = multiply((x[0][:, None], x[1][:, None]), y)
    return normwise_add((hi[0], lo[0]), (hi[1], lo[1]))


def _lifted(x: mx.array, ndim: int) -> mx.array:
    """x (2, ...) with axes of length 1 put after the first, up to `ndim` beside it."""
    return x.reshape(2, *[1] * (ndim + 1 - x.ndim), *x.shape[1:])


def _roots_at(n: int, power: mx.array) -> DoubleFloat:
    """exp(2 pi i power / n) as (2, *power.shape), powers reduced modulo n first."""
    hi, lo = _roots(n)
    place = power % n
    return hi[:, place], lo[:, place]


@functools.lru_cache(maxsize=TABLES)
def _roots(n: int) -> DoubleFloat:
    """cos and sin of 2 pi k / n, k < n, as (2, n)."""
    pairs = [root(k, n) for k in range(n)]
    return from_float64([cos for cos, _ in pairs] + [sin for _, sin in pairs], (2, n))
