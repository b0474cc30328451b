"""The knobs `ep_fft`, `ep_freqmul`, `ep_depthwise`: 45 bits and more, rounded correctly, alone and all at once."""

from __future__ import annotations

import itertools
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from convolution_truth import NORMS, log2_distance, measure, normal, true_convolution, whole

from mlx_impl import fftconv
from mlx_impl.kernels import double_float, extended_depthwise, extended_fft
from mlx_impl.ops import Ops
from parity.backends.mlx_float64 import float64_ops
from parity.spec.profile import CANONICAL, HyperProfile

LENGTHS: Final = (1, 2, 3, 7, 64, 100, 127, 1000, 1024, 4096)
TARGET: Final = -45.0
CORRECT: Final = 0.9999
FLAGS: Final = ("ep_fft", "ep_freqmul", "ep_depthwise")
COMBINATIONS: Final = [
    dict.fromkeys(chosen, True) for count in (1, 2, 3) for chosen in itertools.combinations(FLAGS, count)
]
EXTENDED: Final = CANONICAL.replace(**dict.fromkeys(FLAGS, True))
U: Final = 2.0**-24


def ids(flags: dict[str, bool]) -> str:
    return "+".join(flags)


# --- the transforms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("l", LENGTHS)
def test_a_convolution_keeps_45_bits_and_is_correctly_rounded(l: int, norm: str) -> None:
    found = measure(normal(1, 2, 4, l), normal(2, 4, l), norm)
    assert found.bits <= TARGET
    assert found.correct >= CORRECT


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 16, 17, 34, 35, 143, 194, 254])
def test_a_transform_of_any_length_and_its_inverse(n: int) -> None:
    x = normal(3, 3, n)
    spectrum = extended_fft.rfft(mx.array(x), n, "backward")
    real, imag = np.ldexp(whole(*spectrum.pair), np.array(spectrum.exponent))
    truth = np.fft.rfft(x.astype(np.float64))
    assert np.linalg.norm((real + 1j * imag - truth).astype(np.complex128)) <= 2.0**TARGET * np.linalg.norm(truth)
    assert np.abs(imag[:, 0]).max() == 0
    assert n % 2 or np.abs(imag[:, -1]).max() == 0
    np.testing.assert_array_equal(np.array(extended_fft.irfft(spectrum, n, "backward")), x)


@pytest.mark.parametrize("n", [6, 7])
def test_the_imaginary_part_of_a_bin_that_mirrors_itself_is_not_read(n: int) -> None:
    spectrum = extended_fft.rfft(mx.array(normal(3, 1, n)), n, "backward")
    ends = np.zeros((2, 1, n // 2 + 1), dtype=np.float32)
    ends[1, 0, 0] = 5.0
    ends[1, 0, -1] = 0.0 if n % 2 else 7.0
    changed = extended_fft.DoubleSpectrum(spectrum.hi + mx.array(ends), spectrum.lo, spectrum.exponent)
    before, after = (extended_fft.irfft(it, n, "backward") for it in (spectrum, changed))
    assert mx.array_equal(before, after)


@pytest.mark.parametrize(("wanted", "given"), [(10, 8), (8, 10)], ids=["padded", "cut"])
def test_bins_are_cut_or_padded_as_in_mlx(wanted: int, given: int) -> None:
    x = mx.array(normal(4, 2, given))
    found = extended_fft.irfft(extended_fft.rfft(x, given, "backward"), wanted, "backward")
    expected = np.fft.irfft(np.fft.rfft(np.array(x, dtype=np.float64)), wanted)
    np.testing.assert_array_equal(np.array(found), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("by_u", "by_k"),
    [(2.0**100, 2.0**-100), (2.0**-120, 2.0**60), (2.0**-140, 2.0**127), (2.0**120, 2.0**-10)],
    ids=["huge and tiny", "tiny and large", "subnormal and largest", "beyond the split"],
)
def test_powers_of_two_cost_nothing(by_u: float, by_k: float) -> None:
    u, k = (normal(seed, 2, 24).clip(-1, 1) for seed in (5, 6))
    u = (np.float32(by_u) * np.round(u * 64) / 64).astype(np.float32)  # few digits: exact where it is subnormal
    k = np.float32(by_k) * k
    y = np.array(convolved(Ops(EXTENDED), mx.array(u), mx.array(k)))
    truth = true_convolution(u, k)
    # Numbers of few digits make ties, of which the truth knows no side.
    half = np.spacing(np.abs(y)).astype(np.longdouble) / 2
    assert np.abs(y - truth).max() > 0
    assert (np.abs(y - truth) <= half * (1 + 1e-6)).all()


def test_what_is_not_finite_spoils_its_own_row_alone() -> None:
    u = normal(7, 3, 8)
    u[1, 3] = np.inf
    y = np.array(convolved(Ops(EXTENDED), mx.array(u), mx.array(normal(8, 3, 8))))
    assert np.isfinite(y).all(axis=1).tolist() == [True, False, True]


def convolved(ops: Ops, u: mx.array, k: mx.array) -> mx.array:
    l, scales = u.shape[-1], ops.fft_scales
    product = ops.spectrum_product(ops.rfft(u, 2 * l, scales.signal), ops.rfft(k, 2 * l, scales.kernel))
    return ops.irfft(product, 2 * l, scales.inverse)[..., :l]


# --- faults that the figures must show ------------------------------------------------------------------------


def test_a_twiddle_without_its_second_part_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = extended_fft._roots_at
    caches = (extended_fft._twiddles, extended_fft._turn)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(extended_fft, "_roots_at", lambda n, power: (exact(n, power)[0], exact(n, power)[1] * 0))
    assert measure(normal(1, 4, 64), normal(2, 4, 64)).bits > -30
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("name", ["normwise_add", "multiply"])
def test_arithmetic_that_loses_the_second_part_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = getattr(extended_fft, name)

    def dropped(*operands: Any) -> Any:
        hi, lo = exact(*operands)
        return hi, lo * 0

    monkeypatch.setattr(extended_fft, name, dropped)
    found = measure(normal(1, 4, 64), normal(2, 4, 64))
    assert found.bits > -30
    assert found.correct < CORRECT


# --- the knobs ------------------------------------------------------------------------------------------------


def error(profile: HyperProfile, l: int = 100) -> float:
    """log2 of the relative error of a convolution without its skip."""
    u, k = normal(1, 2, 4, l), normal(2, 4, l)
    y = np.array(convolved(Ops(profile), mx.array(u), mx.array(k))).astype(np.longdouble)
    return log2_distance(y, true_convolution(u, k))


@pytest.mark.parametrize("flags", COMBINATIONS, ids=ids)
def test_every_combination_of_knobs_convolves(flags: dict[str, bool]) -> None:
    found, native = error(CANONICAL.replace(**flags)), error(CANONICAL)
    if {"ep_fft", "ep_freqmul"} <= flags.keys():
        assert found <= -25  # one rounding: at most half a unit in the last place
    else:
        assert found <= native + 0.5


def test_each_knob_of_the_convolution_makes_it_more_accurate() -> None:
    native, product, transform = (error(CANONICAL.replace(**flags)) for flags in ({}, *COMBINATIONS[1::-1]))
    assert transform < native
    assert product < native


def test_the_product_of_spectra_alone_is_correctly_rounded() -> None:
    x, y = (normal(seed, 3, 500) + 1j * normal(seed + 1, 3, 500) for seed in (1, 3))
    found = np.array(Ops(CANONICAL.replace(ep_freqmul=True)).spectrum_product(mx.array(x), mx.array(y)))
    exact = x.astype(np.clongdouble) * y.astype(np.clongdouble)
    native = np.array(mx.array(x) * mx.array(y))
    for part in (np.real, np.imag):
        assert np.mean(part(found) == part(exact).astype(np.float32)) >= CORRECT
        assert np.mean(part(native) == part(exact).astype(np.float32)) < 0.9


@pytest.mark.parametrize("space", ["time", "freq"])
@pytest.mark.parametrize("combine", ["sum", "avg"])
@pytest.mark.parametrize("flags", COMBINATIONS, ids=ids)
def test_a_bidirectional_convolution_is_that_of_float64(flags: dict[str, bool], combine: str, space: str) -> None:
    plain = CANONICAL.replace(bidir_space=space, bidir_combine=combine)
    arrays = [normal(1, 2, 3, 10), normal(2, 3, 10), normal(3, 3), normal(4, 3, 10)]
    found = fftconv(*map(mx.array, arrays), profile=plain.replace(**flags))
    with mx.stream(mx.cpu):
        wide = [mx.array(array.astype(np.float64), dtype=mx.float64) for array in arrays]
        truth = np.array(fftconv(*wide, profile=plain, ops=float64_ops(plain)))
    assert np.linalg.norm(np.array(found) - truth) <= 8 * U * np.linalg.norm(truth)


@pytest.mark.parametrize("flags", COMBINATIONS, ids=ids)
def test_in_float64_the_knobs_change_no_bit(flags: dict[str, bool]) -> None:
    with mx.stream(mx.cpu):
        arrays = [mx.array(normal(*shape).astype(np.float64), dtype=mx.float64) for shape in ((1, 2, 3, 5), (2, 3, 5))]
        weight, bias = (mx.array(normal(3, *shape).astype(np.float64), dtype=mx.float64) for shape in ((5, 3, 1), (5,)))
        plain, changed = float64_ops(), float64_ops(CANONICAL.replace(**flags))
        assert mx.array_equal(convolved(plain, *arrays), convolved(changed, *arrays))
        short = [ops.depthwise_conv(arrays[0], weight, bias, 2) for ops in (plain, changed)]
        assert mx.array_equal(*short)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_sixteen_bits_are_rounded_once(dtype: mx.Dtype) -> None:
    u, k, D = (mx.array(normal(seed, *shape)).astype(dtype) for seed, shape in ((1, (2, 3, 9)), (2, (3, 9)), (3, (3,))))
    y = fftconv(u, k, D, profile=EXTENDED)
    assert y.dtype == dtype
    wide = fftconv(u.astype(mx.float32), k.astype(mx.float32), D.astype(mx.float32), profile=EXTENDED)
    assert mx.array_equal(y, wide.astype(dtype))


# --- the short convolution ------------------------------------------------------------------------------------


def short_truth(x: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> Any:
    wide = np.pad(x.astype(np.longdouble), [(0, 0), (2, 2), (0, 0)])
    taps, length = weight.shape[1], wide.shape[1] - weight.shape[1] + 1
    return sum(wide[:, i : i + length] * weight[:, i, 0] for i in range(taps)) + bias


@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**100])
@pytest.mark.parametrize("l", [1, 2, 7, 200])
def test_the_short_convolution_is_correctly_rounded(l: int, scale: float) -> None:
    x, weight, bias = normal(1, 3, l, 8) * np.float32(scale), normal(2, 8, 3, 1), normal(3, 8) * np.float32(scale)
    ops = Ops(CANONICAL.replace(ep_depthwise=True))
    found = np.array(ops.depthwise_conv(mx.array(x), mx.array(weight), mx.array(bias), 2))
    assert np.mean(found == short_truth(x, weight, bias).astype(np.float32)) >= CORRECT


def test_the_short_convolution_is_exact_where_it_cancels() -> None:
    x, weight, bias = normal(1, 2, 50, 4), normal(2, 4, 3, 1), normal(3, 4)
    x[:, 2:] = x[:, :1]
    weight[:, 2] = -weight[:, 1]
    bias = -(x[0, 0] * weight[:, 0, 0])
    parts = extended_depthwise.depthwise_parts(mx.array(x), mx.array(weight), mx.array(bias), 2)
    truth = short_truth(x, weight, bias)
    assert np.abs(whole(*parts) - truth).max() <= 2.0**TARGET * np.abs(x).max() * np.abs(weight).max()
    assert np.abs(truth[0, 4:-4]).max() < 1e-6


def test_the_library_is_less_accurate_than_the_short_convolution() -> None:
    x, weight, bias = normal(1, 3, 200, 8), normal(2, 8, 3, 1), normal(3, 8)
    found = np.array(Ops().depthwise_conv(mx.array(x), mx.array(weight), mx.array(bias), 2))
    assert np.mean(found == short_truth(x, weight, bias).astype(np.float32)) < CORRECT


def test_what_is_not_finite_stays_where_a_short_convolution_puts_it() -> None:
    x = normal(1, 1, 12, 3)
    x[0, 4, 0], x[0, 6, 1], x[0, 3, 2] = np.inf, np.nan, 3e38
    arrays = mx.array(x), mx.full((3, 3, 1), 2.0), mx.zeros(3)
    found, native = (np.array(Ops(profile).depthwise_conv(*arrays, 2)) for profile in (EXTENDED, CANONICAL))
    for marked in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(marked(found), marked(native))


# --- derivatives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l", [1, 2, 5, 17, 64])
@pytest.mark.parametrize("flags", COMBINATIONS, ids=ids)
def test_gradients_of_a_convolution_are_those_of_float64(flags: dict[str, bool], l: int) -> None:
    arrays = [normal(1, 2, 3, l), normal(2, 3, l), normal(3, 3), normal(4, 3, l)]

    def loss(ops: Ops) -> Any:
        def weighted(*given: mx.array) -> mx.array:
            y = fftconv(*given, profile=ops.profile, ops=ops)
            return mx.sum(y * mx.array(np.linspace(-1, 1, y.size), dtype=y.dtype).reshape(y.shape))

        return mx.grad(weighted, argnums=(0, 1, 2, 3))

    found = loss(Ops(CANONICAL.replace(**flags)))(*map(mx.array, arrays))
    with mx.stream(mx.cpu):
        truths = loss(float64_ops())(*(mx.array(array.astype(np.float64), dtype=mx.float64) for array in arrays))
        for gradient, truth in zip(found, map(np.array, truths), strict=True):
            scale = np.linalg.norm(truth) + np.linalg.norm(arrays[0])
            assert np.linalg.norm(np.array(gradient) - truth) <= 16 * U * scale


@pytest.mark.parametrize("l", [3, 64, 127, 1000])
def test_gradients_of_the_long_convolution_are_correctly_rounded(l: int) -> None:
    u, k, g = normal(1, 2, 4, l), normal(2, 4, l), normal(3, 2, 4, l)

    def loss(u: mx.array, k: mx.array) -> mx.array:
        return mx.sum(convolved(Ops(EXTENDED), u, k) * mx.array(g))

    by_u, by_k = map(np.array, mx.grad(loss, argnums=(0, 1))(mx.array(u), mx.array(k)))
    # A correlation is a convolution of what is turned round.
    truth_u = true_convolution(g[..., ::-1], np.broadcast_to(k, u.shape))[..., ::-1]
    truth_k = true_convolution(g[..., ::-1], u)[..., ::-1].sum(0)
    assert np.mean(by_u == truth_u.astype(np.float32)) >= CORRECT
    assert np.mean(by_k == truth_k.astype(np.float32)) >= CORRECT


@pytest.mark.parametrize("padding", [0, 2, 3])
def test_gradients_of_the_short_convolution_are_correctly_rounded(padding: int) -> None:
    arrays = normal(1, 2, 9, 4), normal(2, 4, 3, 1), normal(3, 4)
    ops = Ops(EXTENDED)

    def loss(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        y = ops.depthwise_conv(x, weight, bias, padding)
        return mx.sum(y * mx.array(normal(5, *y.shape)))

    by_x, by_weight, by_bias = map(np.array, mx.grad(loss, argnums=(0, 1, 2))(*map(mx.array, arrays)))
    length = 9 + 2 * padding - 2
    g = normal(5, 2, length, 4).astype(np.longdouble)
    wide = np.pad(arrays[0].astype(np.longdouble), [(0, 0), (padding, padding), (0, 0)])
    taps = np.stack([(wide[:, i : i + length] * g).sum((0, 1)) for i in range(3)], axis=1)[..., None]
    spread = np.zeros_like(wide)
    for i in range(3):
        spread[:, i : i + length] += g * arrays[1][:, i, 0]
    np.testing.assert_array_equal(by_weight, taps.astype(np.float32))
    np.testing.assert_array_equal(by_bias, g.sum((0, 1)).astype(np.float32))
    np.testing.assert_array_equal(by_x, spread[:, padding : padding + 9].astype(np.float32))


def test_a_derivative_that_counts_both_parts_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted_twice(_primals: Any, cotangents: mx.array, _outputs: Any) -> Any:
        return cotangents, cotangents

    x = mx.array(normal(1, 2, 8))

    def loss(x: mx.array) -> mx.array:
        return mx.sum(extended_fft.irfft(extended_fft.rfft(x, 8, "backward"), 8, "backward"))

    np.testing.assert_array_equal(np.array(mx.grad(loss)(x)), np.ones((2, 8)))
    planted = extended_fft.with_vjp(double_float._round, counted_twice)
    monkeypatch.setattr(extended_fft, "rounded", planted)
    assert np.abs(np.array(mx.grad(loss)(x)) - 1).max() > 0.5
