"""The FFT convolution against the sum that it stands for, one product a time."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest
import torch

from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch import FFTConv, fftconv

U: Final = 2.0**-53
LENGTHS: Final = (1, 2, 3, 5, 8, 33)
PROFILES: Final = [
    CANONICAL.replace(name=f"{space}-{combine}", bidir_space=space, bidir_combine=combine)
    for space in ("time", "freq")
    for combine in ("sum", "avg")
]
EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
EVERY_LENGTH = pytest.mark.parametrize("length", LENGTHS, ids=lambda length: f"L={length}")


def draw(length: int, *leading: int, seed: int = 0) -> torch.Tensor:
    stream = np.random.Generator(np.random.Philox(key=[seed, length]))
    return torch.from_numpy(stream.standard_normal((*leading, length)))


def by_lags(u: torch.Tensor, lags: list[dict[int, float]], D: torch.Tensor) -> torch.Tensor:
    """y[b, d, t] = sum over lags of kernel[d][lag] u[b, d, t - lag] + D[d] u[b, d, t], each sum rounded once."""
    y = torch.empty_like(u)
    batch, channels, length = u.shape
    for b in range(batch):
        for d in range(channels):
            for t in range(length):
                terms = [w * float(u[b, d, t - lag]) for lag, w in lags[d].items() if 0 <= t - lag < length]
                y[b, d, t] = math.fsum([*terms, float(D[d] * u[b, d, t])])
    return y


def kernel_lags(k: torch.Tensor, k_rev: torch.Tensor | None, profile: HyperProfile) -> list[dict[int, float]]:
    """The kernel by lag, positive into the past: k[j] at j; k_rev[j] at -j - 1 in time, at -j in freq."""
    scale = 0.5 if profile.bidir_combine == "avg" and k_rev is not None else 1.0
    shift = 1 if profile.bidir_space == "time" else 0
    lags: list[dict[int, float]] = []
    for d in range(k.shape[0]):
        lag = {j: scale * float(w) for j, w in enumerate(k[d])}
        for j, w in enumerate([] if k_rev is None else k_rev[d]):
            lag[-j - shift] = lag.get(-j - shift, 0.0) + scale * float(w)
        lags.append(lag)
    return lags


def assert_convolves(
    u: torch.Tensor, k: torch.Tensor, D: torch.Tensor, lags: list[dict[int, float]], y: torch.Tensor
) -> None:
    expected = by_lags(u, lags, D)
    # |e| <= 2 u log2(2L) |u| |k| by Cauchy-Schwarz (numerics 2.3, largest seen 1.24); the skip rounds twice.
    norm = torch.tensor([math.hypot(*lag.values()) for lag in lags], dtype=torch.float64)[None, :, None]
    allowed = 2 * U * math.log2(2 * u.shape[-1]) * u.norm(dim=-1, keepdim=True) * norm + 2 * U * (u * D[:, None]).abs()
    assert ((y - expected).abs() <= allowed + U * expected.abs()).all()


@EVERY_LENGTH
@EVERY_PROFILE
def test_both_directions_are_the_direct_sum(length: int, profile: HyperProfile) -> None:
    u, k, k_rev, D = draw(length, 2, 3), draw(length, 3, seed=1), draw(length, 3, seed=2), draw(3, seed=3)
    y = fftconv(u, k, D, k_rev, profile)
    assert_convolves(u, k, D, kernel_lags(k, k_rev, profile), y)


@EVERY_LENGTH
@EVERY_PROFILE
def test_one_direction_is_the_direct_sum_whatever_the_profile(length: int, profile: HyperProfile) -> None:
    u, k, D = draw(length, 2, 3), draw(length, 3, seed=1), draw(3, seed=3)
    assert_convolves(u, k, D, kernel_lags(k, None, profile), fftconv(u, k, D, None, profile))


@EVERY_LENGTH
def test_a_kernel_of_2l_taps_holds_the_future_in_its_second_half(length: int) -> None:
    u, k, D = draw(length, 2, 3), draw(2 * length, 3, seed=1), draw(3, seed=3)
    lags = [{(j if j < length else j - 2 * length): float(w) for j, w in enumerate(k[d])} for d in range(3)]
    assert_convolves(u, k, D, lags, fftconv(u, k, D))


@pytest.mark.parametrize("wrong", ["time", "freq"])
def test_the_direct_sum_tells_the_two_spaces_apart(wrong: str) -> None:
    u, k, k_rev, D = draw(8, 2, 3), draw(8, 3, seed=1), draw(8, 3, seed=2), draw(3, seed=3)
    lags = kernel_lags(k, k_rev, CANONICAL.replace(bidir_space=wrong))
    other = CANONICAL.replace(bidir_space="freq" if wrong == "time" else "time")
    with pytest.raises(AssertionError):
        assert_convolves(u, k, D, lags, fftconv(u, k, D, k_rev, other))


def responses(place: int, profile: HyperProfile, length: int = 8) -> torch.Tensor:
    """Response to an impulse at `place` of the reverse kernel 1, 2, 3, ... alone."""
    u = torch.zeros(1, 1, length, dtype=torch.float64)
    u[0, 0, place] = 1
    k_rev = torch.arange(1.0, length + 1, dtype=torch.float64)[None]
    return fftconv(u, torch.zeros_like(k_rev), torch.zeros(1, dtype=torch.float64), k_rev, profile)[0, 0]


@pytest.mark.parametrize("place", [0, 4, 7])
def test_in_time_the_first_reverse_tap_acts_one_position_earlier(place: int) -> None:
    expected = [float(place - t) if t < place else 0.0 for t in range(8)]
    np.testing.assert_allclose(responses(place, PROFILES[0]), expected, rtol=0, atol=8 * U * 14)


@pytest.mark.parametrize("place", [0, 4, 7])
def test_in_freq_the_first_reverse_tap_acts_at_the_position_itself(place: int) -> None:
    expected = [float(place - t + 1) if t <= place else 0.0 for t in range(8)]
    np.testing.assert_allclose(responses(place, PROFILES[2]), expected, rtol=0, atol=8 * U * 14)


@pytest.mark.parametrize("place", [0, 4, 7])
def test_without_a_reverse_kernel_nothing_is_heard_before_the_impulse(place: int) -> None:
    u = torch.zeros(1, 1, 8, dtype=torch.float64)
    u[0, 0, place] = 1
    y = fftconv(u, torch.arange(1.0, 9, dtype=torch.float64)[None], torch.zeros(1, dtype=torch.float64))[0, 0]
    np.testing.assert_allclose(y, [0.0] * place + [float(j + 1) for j in range(8 - place)], rtol=0, atol=8 * U * 14)


def test_the_skip_weight_multiplies_and_does_not_add() -> None:
    u, D = draw(5, 2, 3), draw(3, seed=3)
    y = fftconv(u, torch.zeros(3, 5, dtype=torch.float64), D)
    torch.testing.assert_close(y, u * D[:, None], rtol=0, atol=0)


def test_silence_gives_silence() -> None:
    module = FFTConv(3, 5, bidirectional=True).double()
    assert (module(torch.zeros(2, 3, 5, dtype=torch.float64)) == 0).all()


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)], ids=["(d,)", "(1, d, 1)"])
def test_the_skip_weight_may_have_either_shape(shape: tuple[int, ...]) -> None:
    u, k, D = draw(5, 2, 3), draw(5, 3, seed=1), draw(3, seed=3)
    torch.testing.assert_close(fftconv(u, k, D.reshape(shape)), fftconv(u, k, D), rtol=0, atol=0)


def test_the_average_is_half_of_the_sum_where_there_is_no_skip() -> None:
    u, k, k_rev = draw(33, 2, 3), draw(33, 3, seed=1), draw(33, 3, seed=2)
    nothing = torch.zeros(3, dtype=torch.float64)
    total, mean = (fftconv(u, k, nothing, k_rev, profile) for profile in PROFILES[:2])
    torch.testing.assert_close(mean, total / 2, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_widened_and_rounded_once(dtype: torch.dtype) -> None:
    u, k, D = draw(8, 2, 3).to(dtype), draw(8, 3, seed=1).to(dtype), draw(3, seed=3).to(dtype)
    y = fftconv(u, k, D)
    assert y.dtype == dtype
    torch.testing.assert_close(y, fftconv(u.float(), k.float(), D.float()).to(dtype), rtol=0, atol=0)
