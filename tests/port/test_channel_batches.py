"""The FFT convolution in channel batches: a byte budget bounds memory and changes no bit."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from mlx.utils import tree_flatten

import mlx_impl.fft_conv
from mlx_impl import HyenaFilter, Ops, fftconv
from mlx_impl.fft_conv import channels_at_once
from parity.backends.mlx_float64 import Float64Library
from parity.spec.profile import CANONICAL, load_profile, profile_names, require_built

BUILT = [name for name in profile_names() if name != "extended_precision"]


def drawn(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(shape)
    return mx.array(values, dtype=mx.float64).astype(dtype)


@given(
    seed=st.integers(0, 2**20),
    b=st.integers(1, 3),
    d=st.integers(1, 19),
    l=st.integers(1, 70),
    batch=st.integers(1, 19),
    both=st.booleans(),
    name=st.sampled_from(BUILT),
    dtype=st.sampled_from([mx.float32, mx.bfloat16, mx.float16]),
)
@settings(max_examples=60)
def test_every_batch_size_gives_the_same_bits(
    seed: int, b: int, d: int, l: int, batch: int, both: bool, name: str, dtype: mx.Dtype
) -> None:
    profile = load_profile(name)
    require_built(profile)
    u, D = drawn(seed, b, d, l, dtype=dtype), drawn(seed + 1, d)
    k, k_rev = drawn(seed + 2, d, l), drawn(seed + 3, d, l) if both else None
    budget = batch * (b + 1) * mlx_impl.fft_conv.BUFFERS * 2 * l * 4
    assert channels_at_once(b, l, 4, budget) == batch
    whole = fftconv(u, k, D, k_rev, profile, Ops(profile))
    parts = fftconv(u, k, D, k_rev, profile, Ops(profile, budget_bytes=budget))
    assert parts.dtype == whole.dtype
    assert mx.array_equal(whole, parts)


@pytest.mark.parametrize("l", [64, 96, 127, 1000, 4096])
def test_long_ones_too(l: int) -> None:
    u, k, k_rev, D = (drawn(n, *shape) for n, shape in enumerate([(1, 24, l), (24, l), (24, l), (24,)]))
    whole = fftconv(u, k, D, k_rev, ops=Ops())
    for budget in (1, 3 * 64 * l, 7 * 64 * l, 2**40):
        assert mx.array_equal(whole, fftconv(u, k, D, k_rev, ops=Ops(budget_bytes=budget)))


def test_a_filter_and_its_gradients_keep_their_bits_or_nearly() -> None:
    mx.random.seed(0)
    whole = HyenaFilter(12, order=8, seq_len=32, bidirectional=True)
    mx.random.seed(0)
    batched = HyenaFilter(12, order=8, seq_len=32, bidirectional=True, ops=Ops(budget_bytes=1))
    x = drawn(5, 2, 12, 32)
    assert mx.array_equal(whole(x), batched(x))

    def gradients(module: HyenaFilter) -> dict[str, mx.array]:
        def loss(parameters: dict[str, object]) -> mx.array:
            module.update(parameters)
            return mx.sum(mx.sin(module(x)))

        return dict(tree_flatten(mx.grad(loss)(module.trainable_parameters())))

    ours, theirs = gradients(batched), gradients(whole)
    for name, gradient in theirs.items():
        # Networks sum the gradients of the batches in another order than one product does.
        assert float(mx.abs(ours[name] - gradient).max()) <= 1e-4 * float(mx.abs(gradient).max())


def test_float64_goes_in_batches_too() -> None:
    with mx.stream(mx.cpu):
        u, k, D = (drawn(n, *s, dtype=mx.float64) for n, s in enumerate([(1, 6, 20), (6, 20), (6,)]))
        whole = fftconv(u, k, D, None, CANONICAL, Ops(library=Float64Library()))
        parts = fftconv(u, k, D, None, CANONICAL, Ops(library=Float64Library(), budget_bytes=1))
        assert parts.dtype == mx.float64
        assert mx.array_equal(whole, parts)


def test_the_budget_bounds_the_memory() -> None:
    l, d = 4096, 64
    u, k, D = drawn(0, 1, d, l), drawn(1, d, l), drawn(2, d)
    mx.eval(u, k, D)
    peaks = []
    for budget in (None, 2**21):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        y = fftconv(u, k, D, k, ops=Ops(budget_bytes=budget))
        mx.eval(y)
        peaks.append(mx.get_peak_memory() - before)
        del y
    output = d * l * 4
    assert peaks[0] > 6 * output
    # The parts and what they are put together into, and the budget.
    assert peaks[1] <= 2 * output + 2**21


def test_bits_that_depend_on_the_batch_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    original = mlx_impl.fft_conv.skip_term
    monkeypatch.setattr(
        mlx_impl.fft_conv, "skip_term", lambda u, D: original(u, D) * (1 + 2.0**-23 * (next(calls) > 1))
    )
    u, k, D = drawn(0, 1, 8, 16), drawn(1, 8, 16), drawn(2, 8)
    whole = fftconv(u, k, D, ops=Ops())
    assert not mx.array_equal(whole, fftconv(u, k, D, ops=Ops(budget_bytes=1)))


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_that_is_none_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Ops(budget_bytes=budget)


def test_channels_of_a_budget() -> None:
    assert channels_at_once(1, 32768, 4, None) is None
    assert channels_at_once(1, 32768, 4, 2**28) == 128
    assert channels_at_once(8, 32768, 4, 1) == 1
    assert math.isclose(channels_at_once(1, 1024, 4, 2**30) or 0, 2**30 // (2 * 4 * 2048 * 4))
