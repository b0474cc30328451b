"""Real Fourier transforms of any length in any dtype as Monarch products: two block-diagonal matrices and a twiddle.

Of n = n1 n2 points, with j = j1 n2 + j2 and k = k1 + n1 k2,

    X[k] = sum_j2 exp(-2 pi i j2 k2 / n2) exp(-2 pi i j2 k1 / n) sum_j1 exp(-2 pi i j1 k1 / n1) x[j],

a matrix of n2 equal blocks of n1 x n1, a diagonal one, and a matrix of n1 equal blocks of n2 x n2; between them axes
change places. A block is multiplied as it stands if it is small, and is itself such a product otherwise; one of a large
prime is a convolution with a chirp. `plan` finds the factors that cost least.

Of a real row only k1 <= n1 / 2 is computed in either direction, since the rest mirrors it, and only half spectra are
handed on. The imaginary part of bins that are their own mirror image is zero.

Tables are computed by the host in double precision and rounded once; everything else is computed in the dtype of the
input, float64 included, which lives on the CPU.

Source: Dao et al., arXiv 2204.00595; Cooley and Tukey, Math. Comp. 19 (1965) 297.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Final, NamedTuple

import mlx.core as mx

from mlx_impl.kernels.pairs import PairSpectrum
from mlx_impl.kernels.roots import TABLES, roots, table

Product = Callable[[mx.array, mx.array], mx.array]
"""Matrix product x (..., m, p) @ y (p, q)."""

DENSE_END: Final = 8
"""Largest block of several factors that is multiplied as it stands: a sum's error grows with the root of its terms."""

PRIME_END: Final = 64
"""Largest block of a prime that is: beyond, a chirp is cheaper."""

PASS: Final = 10
"""What a pass over the data costs beside the products of one element and one coefficient."""


def rfft(x: mx.array, n: int, norm: str, product: Product = mx.matmul) -> PairSpectrum:
    """Half spectrum (..., n // 2 + 1) of real x (..., l), zero-padded or cut to n.

    Args:
        x: float32 or float64.
        n: Length of the transform.
        norm: `backward` puts no factor here, `ortho` 1 / sqrt(n), `forward` 1 / n.
        product: Matrix product of float arrays.
    """
    real, imag = _forward(_resized(x, n), product)
    own = _own_mirror(n)
    return PairSpectrum(_scaled(real, norm, "forward", n), _scaled(mx.where(own, 0, imag), norm, "forward", n))


def irfft(spectrum: PairSpectrum, n: int, norm: str, product: Product = mx.matmul) -> mx.array:
    """Real rows (..., n) of a half spectrum; the imaginary part of bins that are their own mirror image is not read.

    Args:
        spectrum: Cut or zero-padded to n // 2 + 1 bins first, as in MLX.
        n: Length of the rows.
        norm: `backward` puts the factor 1 / n here, `ortho` 1 / sqrt(n), `forward` none.
        product: Matrix product of float arrays.
    """
    real, imag = (_resized(part, n // 2 + 1) for part in (spectrum.real, spectrum.imag))
    imag = mx.where(_own_mirror(n), 0, imag)
    return _scaled(_backward(real, imag, n, product), norm, "backward", n)


CHIRP_PASSES: Final = 6
"""Passes that a chirp takes beside its two transforms."""


class Plan(NamedTuple):
    """How a transform of n points is computed: n1 is n for a dense block, 0 for a chirp, else the first factor."""

    cost: float
    first: int


@functools.cache
def plan(n: int) -> Plan:
    """The cheapest way to transform n points, in products of an element and a coefficient.

    Of equals it is the smallest first factor, for accuracy: of a real row, bins that mirror each other carry the same
    error, which adds up in the result, and of a small n1 fewer do. At 32,768 positions C is 0.79 then; with n1 near the
    root of n it is 0.87.

    Example:
        >>> [plan(n).first for n in (7, 64, 127, 254, 65536)]
        [7, 8, 0, 2, 4]
    """
    factors = [f for f in range(2, math.isqrt(n) + 1) if n % f == 0]
    if not factors and n > PRIME_END:
        return Plan(2 * plan(chirp_length(n)).cost + CHIRP_PASSES * PASS * n, 0)
    ways = [Plan(n // f * plan(f).cost + f * plan(n // f).cost + PASS * n, f) for f in factors]
    if not factors or n <= DENSE_END:
        ways.append(Plan(float(n * n), n))
    return min(ways)


def chirp_length(n: int) -> int:
    """The power of two at which a chirp of n points is convolved."""
    return 1 << (2 * n - 2).bit_length()


# --- real rows ------------------------------------------------------------------------------------------------

Parts = tuple[mx.array, mx.array]
"""Real and imaginary part, of one shape."""


def _forward(x: mx.array, product: Product) -> Parts:
    """The half spectrum (..., n // 2 + 1) of real rows (..., n)."""
    n = x.shape[-1]
    bins, first = n // 2 + 1, plan(n).first
    if first == n:
        y = product(x, _real_block(n, x.dtype))
        return y[..., :bins], y[..., bins:]
    if first == 0:
        real, imag = _chirped((x, mx.zeros_like(x)), -1, product)
        return real[..., :bins], imag[..., :bins]
    rest = n // first
    columns = x.reshape(*x.shape[:-1], first, rest).swapaxes(-1, -2)
    z = _twiddled(_forward(columns, product), n, rest, -1)
    real, imag = _dft((z[0].swapaxes(-1, -2), z[1].swapaxes(-1, -2)), -1, product)
    return _unfolded(real, n, 1), _unfolded(imag, n, -1)


def _unfolded(z: mx.array, n: int, sign: int) -> mx.array:
    """Bins k = k1 + n1 k2 up to n / 2 from those with k1 <= n1 / 2 as (..., k1, k2), the others their mirror images."""
    z = z.swapaxes(-1, -2)
    rest, half = z.shape[-2:]
    first = n // rest
    wanted = n // 2 // first + 1
    mirrored = z[..., rest - wanted :, 1 : first - half + 1][..., ::-1, ::-1]
    whole = mx.concatenate([z[..., :wanted, :], mirrored * sign], axis=-1)
    return whole.reshape(*z.shape[:-2], wanted * first)[..., : n // 2 + 1]


def _backward(real: mx.array, imag: mx.array, n: int, product: Product) -> mx.array:
    """sum_k X[k] exp(2 pi i j k / n) over a whole spectrum, of which the half (..., n // 2 + 1) is given."""
    first = plan(n).first
    if first == n:
        return product(mx.concatenate([real, imag], axis=-1), _inverse_block(n, real.dtype))
    real, imag = _mirrored(real, n, 1), _mirrored(imag, n, -1)
    if first == 0:
        return _chirped((real, imag), 1, product)[0]
    rest, half = n // first, first // 2 + 1
    parts = [part.reshape(*part.shape[:-1], rest, first)[..., :half].swapaxes(-1, -2) for part in (real, imag)]
    y = _dft((parts[0], parts[1]), 1, product)
    y = _twiddled((y[0].swapaxes(-1, -2), y[1].swapaxes(-1, -2)), n, rest, 1)
    rows = _backward(*y, first, product)
    return rows.swapaxes(-1, -2).reshape(*rows.shape[:-2], n)


def _mirrored(half: mx.array, n: int, sign: int) -> mx.array:
    """A whole spectrum (..., n) from its half: X[n - k] = conj X[k]."""
    inner = half[..., 1 : (n + 1) // 2][..., ::-1]
    return mx.concatenate([half, inner * sign], axis=-1)


# --- complex rows ---------------------------------------------------------------------------------------------


def _dft(x: Parts, sign: int, product: Product) -> Parts:
    """sum_j x[j] exp(sign 2 pi i j k / n) over the last axis."""
    n = x[0].shape[-1]
    if n == 1:
        return x
    first = plan(n).first
    if first == 0:
        return _chirped(x, sign, product)
    if first == n:
        block = _block(n, sign, x[0].dtype)
        by_real, by_imag = (product(part, block) for part in x)
        return by_real[..., :n] - by_imag[..., n:], by_real[..., n:] + by_imag[..., :n]
    rest = n // first
    columns = [part.reshape(*part.shape[:-1], first, rest).swapaxes(-1, -2) for part in x]
    y = _twiddled(_dft((columns[0], columns[1]), sign, product), n, rest, sign)
    y = _dft((y[0].swapaxes(-1, -2), y[1].swapaxes(-1, -2)), sign, product)
    real, imag = (part.swapaxes(-1, -2).reshape(*part.shape[:-2], n) for part in y)
    return real, imag


def _twiddled(x: Parts, n: int, rest: int, sign: int) -> Parts:
    """x (..., j2, k1) times exp(sign 2 pi i j2 k1 / n)."""
    return _times(x, _twiddles(n, rest, x[0].shape[-1], sign, x[0].dtype))


def _times(x: Parts, y: Parts) -> Parts:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _chirped(x: Parts, sign: int, product: Product) -> Parts:
    """Any length by j k = (j^2 + k^2 - (k - j)^2) / 2: a convolution with a chirp.

    Source: Bluestein, IEEE Trans. Audio Electroacoust. 18 (1970) 451.
    """
    n = x[0].shape[-1]
    chirp, kernel = _chirp(n, sign, x[0].dtype)
    real, imag = _times(x, chirp)
    length = chirp_length(n)
    spectrum = _dft((_resized(real, length), _resized(imag, length)), -1, product)
    back = _dft(_times(spectrum, kernel), 1, product)
    return _times((back[0][..., :n], back[1][..., :n]), chirp)


def _resized(x: mx.array, n: int) -> mx.array:
    """The last axis zero-padded or cut to n."""
    x = x[..., :n]
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])]) if x.shape[-1] < n else x


def _scaled(x: mx.array, norm: str, whole: str, n: int) -> mx.array:
    """x times this transform's share of 1 / n: all of it where `norm` is `whole`, its root under `ortho`."""
    return x * (1 / n if norm == whole else n**-0.5) if norm in (whole, "ortho") else x


# --- tables of the host ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=TABLES)
def _block(n: int, sign: int, dtype: mx.Dtype) -> mx.array:
    """(n, 2 n): cos and sign sin of 2 pi j k / n side by side."""
    at = roots(n)
    rows = [[at[j * k % n] for k in range(n)] for j in range(n)]
    return table([v for row in rows for v in [*(c for c, _ in row), *(sign * s for _, s in row)]], (n, 2 * n), dtype)


@functools.lru_cache(maxsize=TABLES)
def _real_block(n: int, dtype: mx.Dtype) -> mx.array:
    """(n, 2 bins): cos and -sin of 2 pi j k / n for k <= n / 2."""
    at, bins = roots(n), range(n // 2 + 1)
    rows = [[at[j * k % n] for k in bins] for j in range(n)]
    values = [v for row in rows for v in [*(c for c, _ in row), *(-s for _, s in row)]]
    return table(values, (n, 2 * len(bins)), dtype)


@functools.lru_cache(maxsize=TABLES)
def _inverse_block(n: int, dtype: mx.Dtype) -> mx.array:
    """(2 bins, n): w cos over -w sin of 2 pi j k / n, w = 1 for bins that are their own mirror image, else 2."""
    at, bins = roots(n), range(n // 2 + 1)
    weights = [1 if 2 * k % n == 0 else 2 for k in bins]
    cos = [w * at[j * k % n][0] for k, w in zip(bins, weights, strict=True) for j in range(n)]
    sin = [-w * at[j * k % n][1] for k, w in zip(bins, weights, strict=True) for j in range(n)]
    return table(cos + sin, (2 * len(bins), n), dtype)


@functools.lru_cache(maxsize=TABLES)
def _twiddles(n: int, rest: int, columns: int, sign: int, dtype: mx.Dtype) -> Parts:
    """exp(sign 2 pi i j2 k1 / n) for j2 < rest, k1 < columns."""
    at = roots(n)
    found = [at[j * k % n] for j in range(rest) for k in range(columns)]
    shape = (rest, columns)
    return table([c for c, _ in found], shape, dtype), table([sign * s for _, s in found], shape, dtype)


@functools.lru_cache(maxsize=TABLES)
def _chirp(n: int, sign: int, dtype: mx.Dtype) -> tuple[Parts, Parts]:
    """exp(sign pi i j^2 / n), and the transform of its conjugate, wrapped: computed in float64, rounded once."""
    at, length = roots(2 * n), chirp_length(n)
    found = [at[j * j % (2 * n)] for j in range(n)]
    cos, sin = [c for c, _ in found], [sign * s for _, s in found]
    gap = [0.0] * (length - 2 * n + 1)
    parts = [[*v, *gap, *v[:0:-1]] for v in (cos, [-s for s in sin])]
    with mx.stream(mx.cpu):
        wide = [table([value / length for value in part], (1, length), mx.float64) for part in parts]
        real, imag = (part.astype(dtype) for part in _dft((wide[0], wide[1]), -1, mx.matmul))
        mx.eval(real, imag)
    return (table(cos, (n,), dtype), table(sin, (n,), dtype)), (real, imag)


@functools.lru_cache(maxsize=TABLES)
def _own_mirror(n: int) -> mx.array:
    """Which bins of a half spectrum are their own mirror image."""
    with mx.stream(mx.cpu):
        found = mx.array([2 * k % n == 0 for k in range(n // 2 + 1)])
        mx.eval(found)
    return found
