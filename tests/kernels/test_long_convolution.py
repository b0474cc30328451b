"""The convolutions of `fft_impl`: native bits, bounded memory, phases on streams, derivatives of any order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import kernels_table
from kernels_table import FLOAT64_GRADIENT, MEANINGS, central_difference, knobs_of, second_derivative

import mlx_impl.fft_conv
from mlx_impl import Ops, fftconv
from mlx_impl.kernels import long_convolution
from mlx_impl.kernels.derivatives import with_vjp
from mlx_impl.kernels.long_convolution import LongConvolution
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.gradients import GradientBench, examine_gradients
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, HyperProfile
from parity.suites import select

BATCHED: Final = ("channel_batched", "streamed")
OWN: Final = (*BATCHED, "monarch")
GRADIENTS: Final = (*OWN, "ep", "monarch, strict")
FLAGS: Final[dict[str, dict[str, bool]]] = {
    "plain": {},
    "strict": {"strict_kernels": True},
    "ep_fft": {"ep_fft": True},
    "ep_freqmul": {"ep_freqmul": True},
}


def drawn(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(shape)
    return mx.array(values, dtype=mx.float64).astype(dtype)


def operands(b: int, d: int, l: int, both: bool = True, dtype: mx.Dtype = mx.float32) -> list[mx.array]:
    shapes = [(b, d, l), (d, l), (d,), (d, l)]
    return [drawn(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes if both else shapes[:3])]


def by(impl: str, **knobs: Any) -> Ops:
    return Ops(CANONICAL.replace(fft_impl=impl, **knobs))


# --- the native bits ------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**20),
    b=st.integers(1, 3),
    d=st.integers(1, 13),
    l=st.integers(1, 70),
    both=st.booleans(),
    flags=st.sampled_from(sorted(FLAGS)),
    meaning=st.sampled_from(sorted(MEANINGS)),
    dtype=st.sampled_from([mx.float32, mx.bfloat16, mx.float16]),
    budget=st.sampled_from([None, 1, 4096]),
)
@settings(max_examples=60)
def test_batches_and_streams_have_the_native_bits(
    seed: int,
    b: int,
    d: int,
    l: int,
    both: bool,
    flags: str,
    meaning: str,
    dtype: mx.Dtype,
    budget: int | None,
) -> None:
    profile = CANONICAL.replace(**MEANINGS[meaning], **FLAGS[flags])
    u, k, D = drawn(seed, b, d, l, dtype=dtype), drawn(seed + 2, d, l), drawn(seed + 1, d)
    k_rev = drawn(seed + 3, d, l) if both else None
    native = fftconv(u, k, D, k_rev, profile, Ops(profile))
    for impl in BATCHED:
        found = fftconv(u, k, D, k_rev, profile, Ops(profile.replace(fft_impl=impl), budget_bytes=budget))
        assert found.dtype == native.dtype
        assert mx.array_equal(found, native)


@pytest.mark.parametrize("impl", BATCHED)
@pytest.mark.parametrize("l", [127, 1000, 4096])
def test_long_ones_too_in_every_position_of_a_batch(impl: str, l: int) -> None:
    u, *rest = operands(3, 10, l)
    whole = fftconv(u, *rest)
    assert mx.array_equal(fftconv(u, *rest, ops=by(impl)), whole)
    for row in range(3):
        assert mx.array_equal(fftconv(u[row : row + 1], *rest, ops=by(impl))[0], whole[row])


@pytest.mark.parametrize("impl", BATCHED)
def test_a_kernel_of_twice_the_length_has_the_native_bits(impl: str) -> None:
    u, k, D = drawn(1, 2, 6, 9), drawn(2, 6, 18), drawn(3, 6)
    assert mx.array_equal(fftconv(u, k, D, ops=by(impl)), fftconv(u, k, D))
    with pytest.raises(ValueError, match="9 or 18"):
        fftconv(u, k[:, :12], D, ops=by(impl))


@pytest.mark.parametrize("impl", BATCHED)
def test_bits_that_depend_on_the_batch_are_seen(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands(1, 8, 16)
    native, calls, original = fftconv(*given), itertools.count(), Ops.irfft
    monkeypatch.setattr(Ops, "irfft", lambda *args: original(*args) * (1 + 2.0**-23 * (next(calls) > 1)))
    assert not mx.array_equal(fftconv(*given, ops=by(impl)), native)


# --- what runs where, and how much of it ----------------------------------------------------------------------


class Watched(Ops):
    """Notes the stream and the channels of every phase."""

    def __init__(self, profile: HyperProfile) -> None:
        super().__init__(profile)
        self.seen: list[tuple[str, str, int]] = []

    def _note(self, phase: str, channels: int) -> None:
        self.seen.append((phase, str(mx.default_stream(mx.default_device())), channels))

    def rfft(self, x: mx.array, n: int, norm: str) -> Any:
        self._note("rfft", x.shape[-2])
        return super().rfft(x, n, norm)

    def irfft(self, spectrum: Any, n: int, norm: str) -> mx.array:
        self._note("irfft", spectrum.shape[-2])
        return super().irfft(spectrum, n, norm)

    def spectrum_product(self, x: Any, y: Any) -> Any:
        self._note("product", x.shape[-2])
        return super().spectrum_product(x, y)

    def streams(self) -> dict[str, set[str]]:
        return {phase: {on for name, on, _ in self.seen if name == phase} for phase in ("rfft", "product", "irfft")}


def watched(impl: str) -> Watched:
    ops = Watched(CANONICAL.replace(fft_impl=impl))
    mx.eval(fftconv(*operands(2, 8, 16), ops=ops))
    return ops


def apart(ops: Watched) -> bool:
    """Whether each of the three phases has one stream to itself, none of them the default one."""
    found = list(ops.streams().values())
    own = set().union(*found)
    return all(len(on) == 1 for on in found) and len(own) == 3 and str(mx.default_stream(mx.cpu)) not in own


def test_streamed_phases_run_on_streams_of_their_own() -> None:
    assert apart(watched("streamed"))
    assert not apart(watched("channel_batched"))


def test_phases_on_one_stream_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx_impl.fft_conv, "on_streams", lambda phases: phases)
    assert not apart(watched("streamed"))


@pytest.mark.parametrize("impl", BATCHED)
def test_channels_come_in_four_batches_at_least(impl: str) -> None:
    assert {channels for _, _, channels in watched(impl).seen} == {2}


def test_one_batch_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, original = [], mx.depends

    def depends(inputs: Any, dependencies: Any) -> Any:
        waited.append(len(dependencies))
        return original(inputs, dependencies)

    monkeypatch.setattr(mx, "depends", depends)
    fftconv(*operands(1, 8, 16), ops=by("channel_batched"))
    assert len(waited) == 3
    waited.clear()
    fftconv(*operands(1, 8, 16), ops=by("streamed"))
    assert len(waited) == 2


def peak(run: Callable[[], Any]) -> int:
    return max(kernels_table.peak_kib(run) for _ in range(2))


@pytest.mark.parametrize("impl", BATCHED)
def test_gradients_of_several_take_about_half_the_memory(impl: str) -> None:
    own, native = (peak(kernels_table.gradient_of_chain(name, (1, 64, 1024), 4)) for name in (impl, "native"))
    assert own <= 0.67 * native


def test_a_budget_bounds_the_bytes_of_a_value() -> None:
    given = operands(1, 64, 4096)
    output, budget = 64 * 4096 * 4 // 1024, 2**21
    bounded = Ops(CANONICAL.replace(fft_impl="channel_batched"), budget_bytes=budget)
    # The parts, what they are put together into, the skip term and the sum; and the budget.
    assert peak(lambda: fftconv(*given, ops=bounded)) <= 4 * output + budget // 1024
    assert peak(lambda: fftconv(*given)) > 8 * output


# --- derivatives ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benches() -> list[tuple[GradientBench, dict[str, Any]]]:
    """Cases of lengths 32, 1, 3, 127 with kernels of one direction or both, under every meaning."""
    pair = select(["fftconv"])[0]
    cases = [corpus_cases(pair, 0)[index] for index in (0, 1, 3, 4)]
    return [
        (GradientBench(Bench(pair, case, CANONICAL.replace(**meaning), intermediates=False)), dict(meaning))
        for meaning in MEANINGS.values()
        for case in cases
    ]


@pytest.mark.parametrize("rung", ["f64", "f32"])
@pytest.mark.parametrize("variant", GRADIENTS)
def test_gradients_are_the_references(
    variant: str, rung: str, benches: list[tuple[GradientBench, dict[str, Any]]]
) -> None:
    for bench, meaning in benches:
        found = examine_gradients(bench, CANONICAL.replace(**meaning, **knobs_of(variant)), RUNGS[rung])  # type: ignore[index]
        assert found.judgements
        assert {name: j.reason for name, j in found.judgements.items() if not j.passed} == {}
        if rung == "f64":
            errors = [j.port.rel_l2 for j in found.judgements.values() if j.port and np.isfinite(j.port.rel_l2)]
            assert max(errors) <= FLOAT64_GRADIENT


@pytest.mark.parametrize("variant", OWN)
def test_gradients_of_every_parameter_of_the_filter_are_the_references(variant: str) -> None:
    pair = select(["hyena_filter"])[0]
    for case in corpus_cases(pair, 0)[:2]:
        bench = GradientBench(Bench(pair, case, CANONICAL, intermediates=False))
        for rung in ("f64", "f32"):
            found = examine_gradients(bench, CANONICAL.replace(fft_impl=variant), RUNGS[rung])  # type: ignore[index]
            assert len(found.judgements) > 5
            assert {name: j.reason for name, j in found.judgements.items() if not j.passed} == {}


@pytest.mark.parametrize("variant", ["native", *GRADIENTS])
def test_slopes_are_central_differences_in_float64(variant: str) -> None:
    assert central_difference(variant) <= FLOAT64_GRADIENT


@pytest.mark.parametrize("variant", ["native", *GRADIENTS])
def test_second_derivatives_are_torch_s(variant: str) -> None:
    assert second_derivative(variant) <= FLOAT64_GRADIENT


@pytest.mark.parametrize("impl", OWN)
def test_third_derivatives_go_through(impl: str) -> None:
    u, k, D, k_rev = operands(1, 4, 6)

    def slope(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
        return lambda u: mx.sum(mx.sin(mx.grad(function)(u)))

    def third(ops: Ops) -> mx.array:
        return mx.grad(slope(slope(lambda u: mx.sum(mx.sin(fftconv(u, k, D, k_rev, ops=ops))))))(u)

    found, expected = third(by(impl)), third(Ops())
    assert float(mx.linalg.norm((found - expected).reshape(-1))) <= 1e-4 * float(mx.linalg.norm(expected.reshape(-1)))


@pytest.mark.parametrize("impl", OWN)
def test_a_gradient_can_be_compiled(impl: str) -> None:
    given = operands(2, 4, 12)
    slope = mx.grad(lambda *arrays: mx.sum(mx.sin(fftconv(*arrays, ops=by(impl)))), argnums=[0, 1, 2, 3])
    for found, expected in zip(mx.compile(slope)(*given), slope(*given), strict=True):
        assert float(mx.abs(found - expected).max()) <= 1e-5 * float(mx.abs(expected).max())


def test_a_kernel_of_twice_the_length_has_its_gradient() -> None:
    u, k, D = drawn(1, 2, 6, 9), drawn(2, 6, 18), drawn(3, 6)
    both = [mx.grad(lambda k, ops=ops: mx.sum(mx.sin(fftconv(u, k, D, ops=ops))))(k) for ops in (by("monarch"), Ops())]
    assert both[0].shape == k.shape
    assert float(mx.abs(both[0] - both[1]).max()) <= 1e-4


# --- faults that must be seen ---------------------------------------------------------------------------------


@pytest.fixture
def _wrong_adjoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel's spectrum is not conjugated: a convolution where a correlation belongs."""
    original = LongConvolution.adjoint

    def adjoint(self: LongConvolution, *given: Any) -> Any:
        return original(replace(self, phases=replace(self.phases, conjugate=lambda x: x)), *given)

    monkeypatch.setattr(LongConvolution, "adjoint", adjoint)
    return


@pytest.mark.usefixtures("_wrong_adjoint")
@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_an_adjoint_without_its_conjugate_is_seen(
    rung: str, benches: list[tuple[GradientBench, dict[str, Any]]]
) -> None:
    bench, meaning = benches[0]
    found = examine_gradients(bench, CANONICAL.replace(**meaning, fft_impl="channel_batched"), RUNGS[rung])  # type: ignore[index]
    assert not found.judgements["gradient of input u"].passed


@pytest.mark.usefixtures("_wrong_adjoint")
def test_it_is_seen_by_central_differences_too() -> None:
    assert central_difference("channel_batched") > 1000 * FLOAT64_GRADIENT
    assert central_difference("native") <= FLOAT64_GRADIENT


def test_a_second_derivative_that_lacks_a_term_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(function: Any, vjp: Any) -> Any:
        def changed(primals: Any, cotangents: Any, outputs: Any) -> Any:
            found = vjp(primals, cotangents, outputs)
            return found if isinstance(cotangents, mx.array) else (found[0], 0 * found[1], *found[2:])

        return with_vjp(function, changed)

    monkeypatch.setattr(long_convolution, "with_vjp", halved)
    assert central_difference("monarch") <= FLOAT64_GRADIENT
    assert second_derivative("monarch") > 1000 * FLOAT64_GRADIENT


def test_a_derivative_that_keeps_everything_is_seen_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 64, 2048)
    lean = peak(kernels_table.gradient_of_chain("channel_batched", shape, 1))
    monkeypatch.setattr(long_convolution, "with_vjp", lambda function, vjp: function)
    assert peak(kernels_table.gradient_of_chain("channel_batched", shape, 1)) > 1.2 * lean
