"""The engine against whole-array NumPy: every bit, whatever the dtype, the size, the strides and the threads."""

from __future__ import annotations

import importlib.util
import itertools
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_draws import Draw, draws, generated

from parity.metrics.engine import Kernels, measure_error, measure_pair, measure_pair_plain, plain
from parity.metrics.engine import engine as engine_module
from parity.metrics.engine.parts import BIN_SHIFT, COMMON, Histogram, Window, bin_of
from parity.metrics.engine.select import narrow, targets
from parity.metrics.engine.tree import Block, blocks, combine

DTYPES: dict[str, npt.DTypeLike] = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
}
WITH_NUMBA = importlib.util.find_spec("numba") is not None
KERNELS: list[Any] = [
    "numpy",
    pytest.param("compiled", marks=pytest.mark.skipif(not WITH_NUMBA, reason="numba is not installed")),
]
BORDERS = [0, 1, 7, 8, 129, 2**15 - 1, 2**15, 2**15 + 1, 2**17 + 8]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def pair_of(size: int, dtype: npt.DTypeLike, seed: int, truth: npt.DTypeLike = np.float64) -> tuple[Any, Any]:
    """A truth of order one, and numbers of the format a few steps from it."""
    drawn = generator(seed)
    exact = drawn.standard_normal(size).astype(truth)
    digits = ml_dtypes.finfo(np.dtype(dtype)).nmant
    moved = exact.astype(np.float64) * (1.0 + 2.0**-digits * drawn.standard_normal(size))
    return moved.astype(dtype), exact


class SinglePair(NamedTuple):
    """Float32 on both sides: how far apart, relatively, on average; what is planted on one side or both, how often."""

    size: int
    seed: int
    apart: float
    planted: list[float]
    both: bool
    scale: float

    def arrays(self) -> tuple[Any, Any]:
        drawn = generator(self.seed)
        exact = drawn.standard_normal(self.size) * self.scale
        with np.errstate(over="ignore"):
            truth = exact.astype(np.float32)
            actual = (truth * (1.0 + self.apart * drawn.standard_normal(self.size))).astype(np.float32)
        for value in self.planted:
            at = drawn.integers(0, max(self.size, 1), 1 + self.size // 500)
            if self.size:
                actual[at] = value
                truth[at if self.both else drawn.integers(0, self.size, 3)] = value
        return actual, truth


QUIET_NAN = float(np.array(0x7FC1_2345, np.uint32).view(np.float32))
PLANTED = [math.nan, QUIET_NAN, math.inf, -math.inf, 0.0, -0.0, 2.0**-149, -1e-40, 2.0**-126, 3.4028234663852886e38]
single_pairs = st.builds(
    SinglePair,
    size=st.one_of(st.integers(0, 300), st.integers(300, 6000)),
    seed=st.integers(0, 2**32 - 1),
    apart=st.sampled_from([0.0, 2.0**-24, 2.0**-21, 2.0**-17, 2.0**-12, 2.0**-10, 0.1, 10.0]),
    planted=st.lists(st.sampled_from(PLANTED), max_size=3),
    both=st.booleans(),
    scale=st.sampled_from([1.0, 1.0, 2.0**-126, 2.0**-148, 2.0**126]),
)


def cast(draw: Draw) -> tuple[Any, Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        return draw.reals().astype(DTYPES[draw.rung.name]), draw.reals(1)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("size", BORDERS)
def test_sizes_about_the_borders_of_lanes_leaves_and_blocks(size: int, kernels: Kernels) -> None:
    actual, truth = pair_of(size, np.float32, size)
    assert measure_pair(actual, truth, kernels=kernels) == measure_pair_plain(actual, truth)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_and_a_truth_of_float32(dtype: npt.DTypeLike, kernels: Kernels) -> None:
    actual, truth = pair_of(40_001, dtype, 3, np.float32)
    assert measure_pair(actual, truth, kernels=kernels) == measure_pair_plain(actual, truth)


@pytest.mark.parametrize("kernels", KERNELS)
@generated
@given(draw=draws("unit", "wide", "tiny", "special", max_size=300))
def test_values_of_every_kind(draw: Draw, kernels: Kernels) -> None:
    actual, truth = cast(draw)
    assert measure_pair(actual, truth, threads=1, kernels=kernels) == measure_pair_plain(actual, truth)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("narrow", ["f32", "f16", "bf16"])
def test_zeros_and_subnormals_of_a_truth_that_is_narrower_are_seen(narrow: str, kernels: Kernels) -> None:
    actual, truth = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 1e-39]).astype(DTYPES[narrow])
    found = measure_pair(actual, truth, threads=1, kernels=kernels)
    assert found == measure_pair_plain(actual, truth)
    assert found.special.zero >= 1


@pytest.mark.parametrize("kernels", KERNELS)
@generated
@given(draw=draws("unit", "wide", "tiny", "special", max_size=300))
def test_the_error_alone_is_that_of_the_whole_set(draw: Draw, kernels: Kernels) -> None:
    actual, truth = cast(draw)
    assert measure_error(actual, truth, threads=1, kernels=kernels) == measure_pair_plain(actual, truth).error


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("reals", [np.float32, np.float64])
def test_the_error_alone_of_several_blocks(reals: npt.DTypeLike, kernels: Kernels) -> None:
    actual, truth = pair_of(600_001, np.float32, 5, reals)
    assert measure_error(actual, truth, threads=2, kernels=kernels) == measure_pair_plain(actual, truth).error
    assert measure_error(actual, truth * (1 + 2.0**-22), kernels=kernels) != measure_pair_plain(actual, truth).error


@pytest.mark.parametrize("kernels", KERNELS)
@generated
@given(drawn=single_pairs)
def test_float32_pairs_of_every_kind(drawn: SinglePair, kernels: Kernels) -> None:
    actual, truth = drawn.arrays()
    assert measure_pair(actual, truth, threads=1, kernels=kernels) == measure_pair_plain(actual, truth)


@pytest.mark.parametrize("kernels", KERNELS)
def test_float32_pairs_whose_quantiles_lie_in_bins_of_several_numbers(kernels: Kernels) -> None:
    for seed, apart in enumerate((2.0**-14, 2.0**-8, 1.0)):
        actual, truth = SinglePair(70_001, seed, apart, [0.0], False, 1.0).arrays()
        found = measure_pair(actual, truth, kernels=kernels, threads=2)
        assert found == measure_pair_plain(actual, truth)
        assert found.steps.p99 > 128


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_mean_that_outweighs_the_spread_is_taken_off_first(kernels: Kernels) -> None:
    truth = 1.0 + generator(14).random(3000, dtype=np.float32)
    actual = truth + np.float32(2.0**-10) + np.float32(2.0**-22) * generator(15).integers(0, 2, 3000).astype(np.float32)
    found = measure_pair(actual, truth, kernels=kernels)
    assert found == measure_pair_plain(actual, truth)
    assert found.error.bias_z > 1e5


@pytest.mark.parametrize("kernels", KERNELS)
def test_special_values_in_several_blocks(kernels: Kernels) -> None:
    actual, truth = pair_of(300_000, np.float32, 5)
    drawn = generator(6)
    for value in (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40):
        actual[drawn.integers(0, actual.size, 999)] = value
        truth[drawn.integers(0, actual.size, 999)] = value
    found = measure_pair(actual, truth, kernels=kernels, threads=2)
    assert found == measure_pair_plain(actual, truth)
    assert found.special.nan > 1000
    assert found.error.count < actual.size


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_channels_of_any_axis_and_strides(axis: int | None, kernels: Kernels) -> None:
    actual, truth = (part.reshape(20, 30, 70) for part in pair_of(42_000, np.float32, 7))
    for left, right in ((actual, truth), (actual[:, ::2].T, truth[:, ::2].T), (actual[::-1], truth[::-1])):
        found = measure_pair(left, right, axis, kernels=kernels)
        assert found == measure_pair_plain(left, right, axis)
        assert len(found.channel_max) == (0 if axis is None else left.shape[axis])


@pytest.mark.parametrize("kernels", KERNELS)
def test_threads_change_no_bit(kernels: Kernels) -> None:
    actual, truth = pair_of(1_000_003, np.float32, 8)
    actual[12_345] = np.nan
    found = [measure_pair(actual, truth, 0, threads=threads, kernels=kernels) for threads in (1, 2, 3, 7)]
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("power", [-1000, -300, 0, 300, 1000])
def test_scales_at_which_squares_leave_the_range(power: int, kernels: Kernels) -> None:
    actual, truth = (np.ldexp(part, power) for part in pair_of(3000, np.float64, 9))
    assert measure_pair(actual, truth, kernels=kernels) == measure_pair_plain(actual, truth)


@pytest.mark.parametrize("kernels", KERNELS)
def test_one_changed_element_is_seen(kernels: Kernels) -> None:
    actual, truth = pair_of(150_000, np.float32, 10, np.float32)
    actual[:] = truth
    assert measure_pair(actual, truth, kernels=kernels).error.max_abs == 0.0
    actual[140_001] = np.nextafter(truth[140_001], np.float32(np.inf))
    found = measure_pair(actual.reshape(-1, 10), truth.reshape(-1, 10), kernels=kernels)
    assert found.error.max_abs_index == (14_000, 1)
    assert (found.steps.largest, found.steps.counts[:2]) == (1.0, (149_999, 1))


@generated
@given(size=st.integers(1, 5000), limit=st.integers(128, 1000), seed=st.integers(0, 2**32 - 1))
def test_the_tree_adds_as_numpy_does(size: int, limit: int, seed: int) -> None:
    values = generator(seed).standard_normal(size)
    nodes = blocks(size, limit)
    assert combine([float(values[node.start : node.stop].sum()) for node in nodes], nodes) == float(values.sum())


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
def test_a_truth_of_the_format_needs_no_second_pass(
    dtype: npt.DTypeLike, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual, truth = pair_of(20_000, dtype, 18, dtype)
    wanted = measure_pair_plain(actual, truth)
    monkeypatch.delattr(engine_module._Work, "_second")
    assert measure_pair(actual, truth, kernels=kernels) == wanted
    # Quantiles of any real lie anywhere in their bin.
    with pytest.raises(AttributeError, match="_second"):
        measure_pair(actual.astype(np.float32), truth.astype(np.float64) * 1.1, kernels=kernels)


def test_a_full_bin_is_cut_finer() -> None:
    values = np.sort(1.0 + generator(11).random(5000) * 2.0**-9)
    bits = values.view(np.int64)
    bins = np.bincount(bits >> BIN_SHIFT)
    histogram = Histogram(Window(), bins, np.zeros_like(bins))
    found = [narrow(target, lambda: [bits[:100], bits[100:]]) for target in targets(histogram)]
    assert found == [values[2499], values[4949]]


# --- faults -----------------------------------------------------------------------------------------------


def test_an_order_of_its_own_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "combine", lambda sums, nodes: float(sum(sums)))
    found = [pair_of(400_001, np.float64, seed) for seed in range(3)]
    assert any(measure_pair(*pair, kernels="numpy") != measure_pair_plain(*pair) for pair in found)


def test_a_block_cut_elsewhere_is_seen() -> None:
    def even(size: int, limit: int) -> tuple[Block, ...]:
        depth = max(0, math.ceil(math.log2(size / limit)))
        edges = [size * at // 2**depth for at in range(2**depth + 1)]
        return tuple(Block(start, stop, depth) for start, stop in itertools.pairwise(edges))

    drawn = [generator(seed).standard_normal(40_001) for seed in range(20)]
    nodes = even(40_001, 1000)
    added = [combine([float(values[node.start : node.stop].sum()) for node in nodes], nodes) for values in drawn]
    assert added != [float(values.sum()) for values in drawn]


def test_an_error_that_is_rounded_first_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = plain.errors
    monkeypatch.setattr(plain, "errors", lambda actual, truth: errors(actual, truth).astype(np.float32).astype(float))
    pair = pair_of(1000, np.float32, 12)
    assert measure_pair(*pair, kernels="numpy") != measure_pair_plain(*pair)


def test_a_scale_that_is_not_watched_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    monkeypatch.setattr(engine_module, "_moderate", lambda counts, rung: True)
    pair = [np.ldexp(part, 900) for part in pair_of(1000, np.float64, 13)]
    assert measure_pair(*pair, kernels="compiled") != measure_pair_plain(*pair)


def test_errors_outside_the_window_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    monkeypatch.setattr(engine_module, "SINGLE_ULPS", Window(bin_of(1.0), bin_of(2.0**20)))
    actual, truth = SinglePair(3000, 16, 0.1, [], False, 1.0).arrays()
    assert measure_pair(actual, truth, kernels="compiled") != measure_pair_plain(actual, truth)


def test_an_error_taken_for_the_edge_of_its_bin_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    monkeypatch.setattr(engine_module, "_AT_EDGE", np.ones(COMMON, bool))
    actual, truth = SinglePair(3000, 17, 2.0**-14, [], False, 1.0).arrays()
    assert measure_pair(actual, truth, kernels="compiled") != measure_pair_plain(actual, truth)


# --- mistakes of a user -----------------------------------------------------------------------------------


def test_shapes_dtypes_axes_and_threads_that_are_refused() -> None:
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"shape \(3,\) but truth has shape \(2,\).*compare the shapes first"):
        measure_pair(ones, ones[:2])
    with pytest.raises(ValueError, match="dtype int64; allowed: float64, float32, bfloat16, float16"):
        measure_pair(np.ones(3, np.int64), ones)
    with pytest.raises(ValueError, match="channel axis 1 of shape"):
        measure_pair(ones, ones, 1)
    with pytest.raises(ValueError, match="threads is 0; at least one"):
        measure_pair(ones, ones, threads=0)
