"""Transforms as block-diagonal products: any length, float32 and float64, halves of real rows, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
import scipy.fft
from convolution_truth import NORMS, normal, true_convolution
from hypothesis import given, settings

from mlx_impl import fftconv
from mlx_impl.kernels import monarch_fft
from mlx_impl.kernels.monarch_fft import DENSE_END, PASS, PRIME_END, chirp_length, irfft, plan, rfft
from mlx_impl.kernels.pairs import PairSpectrum
from mlx_impl.kernels.roots import root, roots, table
from mlx_impl.ops import Ops
from parity.backends.mlx_float64 import Float64Library, float64_ops
from parity.spec.profile import CANONICAL, HyperProfile

MONARCH: Final = CANONICAL.replace(fft_impl="monarch")
LENGTHS: Final = (1, 2, 3, 5, 7, 16, 31, 61, 64, 67, 100, 127, 254, 509, 1000, 1024)
SIZES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 34, 61, 64, 67, 127, 128, 143, 194, 254, 1009)
F64_BOUND: Final = 4e-15
U32, U64 = 2.0**-24, 2.0**-53


@pytest.fixture(autouse=True)
def _cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


@pytest.fixture
def _own_tables() -> Iterator[None]:
    """Tables made under a planted fault are forgotten again."""
    caches = [value for value in vars(monarch_fft).values() if hasattr(value, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def wide(x: Any) -> mx.array:
    return mx.array(np.asarray(x, dtype=np.float64), dtype=mx.float64)


def longs(x: mx.array) -> Any:
    return np.array(x.astype(mx.float64)).astype(np.longdouble)


def complex_of(spectrum: PairSpectrum) -> Any:
    return longs(spectrum.real) + 1j * longs(spectrum.imag)


def distance(found: Any, truth: Any) -> float:
    return float(np.linalg.norm((found - truth).ravel()) / np.linalg.norm(truth.ravel()))


def largest_prime(n: int) -> int:
    factor = next((f for f in range(2, math.isqrt(n) + 1) if n % f == 0), n)
    return n if factor == n else max(factor, largest_prime(n // factor))


def convolution_constant(u: Any, k: Any, profile: HyperProfile) -> float:
    """C of the float32 convolution of u (1, d, l) and k (d, l), pooled over channels."""
    l = u.shape[-1]
    y = fftconv(mx.array(u), mx.array(k), mx.zeros((len(k),)), profile=profile)
    a, b = (x.astype(np.longdouble) for x in (u, k))
    product: Any = np.multiply(*(scipy.fft.rfft(x, 2 * l) for x in (a, b)))
    full = scipy.fft.irfft(product, 2 * l)
    scale = np.sqrt((np.sum(a**2, -1) * np.sum(b**2, -1) + np.sum(full**2, -1)) / (2 * l))
    rms = np.sqrt(np.mean((longs(y) - full[..., :l]) ** 2, -1)) / scale
    return float(np.sqrt(np.mean(rms**2))) / (U32 * math.sqrt(math.log2(2 * l)))


def allowed(l: int) -> float:
    return 0.80 * math.exp(6 / math.sqrt(max(l, 16))) * (2.3 if largest_prime(2 * l) > 7 else 1.0)


def worst(l: int, profile: HyperProfile = MONARCH) -> float:
    return max(
        convolution_constant(normal(1, 1, 8, l), normal(2, 8, l), profile.replace(fft_norm=norm)) for norm in NORMS
    )


def float64_error(l: int, norm: str = "forward") -> float:
    u, k = (normal(seed, *shape).astype(np.float64) for seed, shape in ((1, (1, 4, l)), (2, (4, l))))
    ops = float64_ops(MONARCH.replace(fft_norm=norm))
    y = fftconv(wide(u), wide(k), wide(np.zeros(4)), ops=ops)
    return distance(longs(y), true_convolution(u, k))


# --- accuracy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l", LENGTHS)
def test_a_float32_convolution_is_as_good_as_a_fast_transform_s(l: int) -> None:
    assert worst(l) <= allowed(l)


@pytest.mark.parametrize("l", [8192, 32768])
def test_a_long_one_too(l: int) -> None:
    assert convolution_constant(normal(1, 1, 2, l), normal(2, 2, l), MONARCH) <= allowed(l)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("l", [*LENGTHS, 4096])
def test_a_float64_convolution_keeps_float64(l: int, norm: str) -> None:
    assert float64_error(l, norm) <= F64_BOUND


@pytest.mark.parametrize(("dtype", "bound"), [(mx.float64, F64_BOUND), (mx.float32, 8 * U32)], ids=["f64", "f32"])
@pytest.mark.parametrize("n", SIZES)
def test_a_transform_of_any_length_and_its_inverse(n: int, dtype: mx.Dtype, bound: float) -> None:
    x = normal(3, 2, 3, n)
    spectrum = rfft(mx.array(x).astype(dtype), n, "backward")
    assert (spectrum.shape, spectrum.dtype) == ((2, 3, n // 2 + 1), dtype)
    assert distance(complex_of(spectrum), scipy.fft.rfft(x.astype(np.longdouble))) <= bound
    back = irfft(spectrum, n, "backward")
    assert back.dtype == dtype
    assert distance(longs(back), x.astype(np.longdouble)) <= bound


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float64], ids=str)
def test_bins_that_mirror_themselves_are_exactly_real(n: int, dtype: mx.Dtype) -> None:
    imag = np.array(rfft(mx.array(normal(4, 3, n)).astype(dtype), n, "backward").imag)
    assert np.abs(imag[:, 0]).max() == 0
    assert n % 2 or np.abs(imag[:, -1]).max() == 0


@pytest.mark.parametrize("n", [1, 2, 6, 7, 34, 128, 254])
def test_their_imaginary_part_is_not_read(n: int) -> None:
    spectrum = rfft(wide(normal(3, 2, n)), n, "backward")
    ends = np.zeros(n // 2 + 1)
    ends[0] = 5.0
    ends[-1] = 5.0 if n % 2 == 0 or n == 1 else 0.0
    changed = PairSpectrum(spectrum.real, spectrum.imag + wide(ends))
    assert mx.array_equal(irfft(spectrum, n, "backward"), irfft(changed, n, "backward"))


@pytest.mark.parametrize(("wanted", "given"), [(10, 8), (8, 10), (9, 4)])
def test_rows_and_bins_are_cut_or_padded_as_in_mlx(wanted: int, given: int) -> None:
    x = normal(4, 2, given)
    spectrum = rfft(wide(x), wanted, "backward")
    assert distance(complex_of(spectrum), np.fft.rfft(x.astype(np.float64), wanted)) <= 1e-15
    found = irfft(rfft(wide(x), given, "backward"), wanted, "backward")
    assert distance(longs(found), np.fft.irfft(np.fft.rfft(x.astype(np.float64)), wanted)) <= 1e-15


@pytest.mark.parametrize("norm", ["forward", "backward", "ortho"])
@pytest.mark.parametrize("n", [6, 7])
def test_the_factor_of_every_norm_is_that_of_mlx(norm: str, n: int) -> None:
    x = normal(5, 2, n)
    assert distance(complex_of(rfft(wide(x), n, norm)), np.fft.rfft(x.astype(np.float64), norm=norm)) <= 1e-15
    half = np.fft.rfft(x.astype(np.float64))
    found = irfft(PairSpectrum(wide(half.real), wide(half.imag)), n, norm)
    assert distance(longs(found), np.fft.irfft(half, n, norm=norm)) <= 1e-15


@given(n=st.integers(1, 400), rows=st.integers(1, 3), seed=st.integers(0, 2**20))
@settings(max_examples=60)
def test_whatever_the_length_the_way_there_and_back_is_the_identity(n: int, rows: int, seed: int) -> None:
    x = normal(seed, rows, n).astype(np.float64)
    spectrum = rfft(wide(x), n, "ortho")
    assert distance(complex_of(spectrum), scipy.fft.rfft(x.astype(np.longdouble), norm="ortho")) <= F64_BOUND
    assert distance(longs(irfft(spectrum, n, "ortho")), x) <= F64_BOUND


# --- how it is computed ---------------------------------------------------------------------------------------


def leaves(n: int) -> list[int]:
    """Sizes of the blocks into which n is cut; a chirp stands for itself."""
    first = plan(n).first
    return [n] if first in (0, n) else [*leaves(first), *leaves(n // first)]


@pytest.mark.parametrize("n", [*range(1, 200), 1000, 2018, 65498, 65536])
def test_a_plan_multiplies_up_to_the_length_in_small_blocks(n: int) -> None:
    found = leaves(n)
    assert math.prod(found) == n
    for block in found:
        prime = largest_prime(block) == block
        assert plan(block).first == (0 if block > PRIME_END else block)
        assert prime or block <= DENSE_END


@pytest.mark.parametrize("n", [512, 4096, 65536])
def test_of_plans_that_cost_the_same_it_is_the_smallest_first_factor(n: int) -> None:
    costs = {f: n // f * plan(f).cost + f * plan(n // f).cost + PASS * n for f in range(2, n // 2 + 1) if n % f == 0}
    least = min(costs.values())
    assert plan(n) == (least, min(f for f, cost in costs.items() if cost == least))


@pytest.mark.parametrize("n", [67, 127, 1009])
def test_a_chirp_has_room_for_both_its_ends(n: int) -> None:
    assert chirp_length(n) >= 2 * n - 1
    assert chirp_length(n).bit_count() == 1


def test_float64_is_computed_by_its_own_algorithm_and_not_by_the_library_s() -> None:
    class Refusing(Float64Library):
        def rfft(self, *_given: Any, **_named: Any) -> Any:
            raise AssertionError("the library was asked")

        irfft = rfft

    u, k = wide(normal(1, 1, 4, 12)), wide(normal(2, 4, 12))
    y = fftconv(u, k, wide(np.zeros(4)), ops=Ops(MONARCH, Refusing()))
    assert distance(longs(y), true_convolution(np.array(u), np.array(k))) <= F64_BOUND
    with pytest.raises(AssertionError, match="was asked"):
        fftconv(u, k, wide(np.zeros(4)), ops=Ops(CANONICAL, Refusing()))


def test_tables_are_the_host_s_rounded_once() -> None:
    values = [math.cos(i) for i in range(50)]
    np.testing.assert_array_equal(np.array(table(values, (50,), mx.float32)), np.array(values, dtype=np.float32))
    np.testing.assert_array_equal(np.array(table(values, (50,), mx.float64)), np.array(values))
    assert [root(k, 8) for k in (0, 2, 4, 6)] == [(1, 0), (0, 1), (-1, 0), (0, -1)]
    at = roots(360)
    assert all(at[k] == (at[-k][0], -at[-k][1]) for k in range(1, 180) if k % 45)


@pytest.mark.parametrize("l", [5, 12, 67])
def test_strict_kernels_give_a_row_the_same_bits_in_every_batch(l: int) -> None:
    ops = Ops(MONARCH.replace(strict_kernels=True))
    u, k, D = mx.array(normal(1, 5, 6, l)), mx.array(normal(2, 6, l)), mx.array(normal(3, 6))
    whole = fftconv(u, k, D, ops=ops)
    for row in range(5):
        assert mx.array_equal(fftconv(u[row : row + 1], k, D, ops=ops)[0], whole[row])


def test_products_in_tf32_are_obeyed() -> None:
    assert worst(64, MONARCH.replace(matmul_precision="tf32")) > 100 * allowed(64)


def test_the_product_of_spectra_can_be_extended() -> None:
    assert worst(64, MONARCH.replace(ep_freqmul=True)) <= allowed(64)
    plain, extended = (
        fftconv(mx.array(normal(1, 1, 4, 64)), mx.array(normal(2, 4, 64)), mx.zeros((4,)), profile=profile)
        for profile in (MONARCH, MONARCH.replace(ep_freqmul=True))
    )
    assert not mx.array_equal(plain, extended)


# --- faults that must be seen ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("_own_tables")
@pytest.mark.parametrize("l", [64, 127])
def test_tables_of_float32_in_float64_are_seen(l: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(values: list[float], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return table(values, shape, mx.float32).astype(dtype)

    monkeypatch.setattr(monarch_fft, "table", coarse)
    assert float64_error(l) > 1000 * F64_BOUND


@pytest.mark.usefixtures("_own_tables")
def test_twiddles_of_fewer_digits_are_seen_at_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(values: list[float], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return table([round(value * 2**20) / 2**20 for value in values], shape, dtype)

    monkeypatch.setattr(monarch_fft, "table", rounded)
    assert worst(1024) > allowed(1024)


@pytest.mark.parametrize("n", [64, 254])
def test_a_twiddle_turned_the_other_way_is_seen(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = monarch_fft._twiddled
    monkeypatch.setattr(monarch_fft, "_twiddled", lambda x, n, rest, sign: original(x, n, rest, -sign))
    x = normal(3, 2, n)
    truth = scipy.fft.rfft(x.astype(np.longdouble))
    assert distance(complex_of(rfft(wide(x), n, "backward")), truth) > 0.1


def test_a_nyquist_that_is_left_as_it_comes_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monarch_fft, "_own_mirror", lambda n: mx.zeros((n // 2 + 1,), dtype=mx.bool_))
    imag = np.array(rfft(mx.array(normal(4, 3, 34)), 34, "backward").imag)
    assert np.abs(imag[:, -1]).max() > 0
