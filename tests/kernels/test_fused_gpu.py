"""The fused convolution on a graphics processor: values, derivatives of two orders, roundings, bits in every batch.

Skipped where MLX has no such device. Run on an H100 by CUDA; the Metal prelude has been run on no device so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_impl import fftconv
from mlx_impl.kernels.fused_convolution import FusedConvolution
from mlx_impl.ops import Ops
from parity.spec.arrays import AnyArray
from parity.spec.profile import CANONICAL

HAS_GPU: Final = mx.cuda.is_available() or mx.metal.is_available()
pytestmark = pytest.mark.skipif(not HAS_GPU, reason="MLX has no graphics processor here")

LENGTHS: Final = (1, 2, 3, 7, 64, 100, 127, 1000, 1024, 4096, 9000)
U: Final = 2.0**-24


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.gpu)
    yield
    mx.set_default_device(before)


@dataclass(frozen=True)
class Given:
    """Arguments, and the float64 values and derivatives that belong to them."""

    convolution: FusedConvolution
    length: int
    gated: bool

    def arrays(self) -> dict[str, AnyArray]:
        draw = np.random.Generator(np.random.Philox(self.length))
        b, d, l = 2, 3, self.length
        shapes = {"u": (b, d, l), "k": (d, l), "reverse": (d, l), "skip": (d,), "gate": (b, d, l), "g": (b, d, l)}
        numbers = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        dropped = ([] if self.gated else ["gate"]) + ([] if self.convolution.reverse is not None else ["reverse"])
        return {name: array for name, array in numbers.items() if name not in dropped}


def second(first: dict[str, Any]) -> Any:
    """A number made of gradients, to be differentiated again."""
    return sum((value * value).sum() for value in first.values())


def truth(case: Given, numbers: dict[str, AnyArray]) -> tuple[AnyArray, dict[str, AnyArray], dict[str, AnyArray]]:
    length, n = case.length, 4 * case.length
    leaves = {k: torch.tensor(v.astype(np.float64), requires_grad=True) for k, v in numbers.items() if k != "g"}
    taps = torch.nn.functional.pad(leaves["k"], (0, n - length))
    if case.convolution.reverse is not None:
        late = torch.nn.functional.pad(leaves["reverse"], (0, n - length)).flip(-1)
        taps = taps + torch.roll(late, 1 + case.convolution.reverse, -1)
    taps = taps / 2 if case.convolution.half else taps
    y = torch.fft.irfft(torch.fft.rfft(leaves["u"], n) * torch.fft.rfft(taps, n), n)[..., :length]
    y = (y + leaves["u"] * leaves["skip"][:, None]) * leaves.get("gate", torch.tensor(1.0))
    names, tensors = list(leaves), list(leaves.values())
    g = torch.tensor(numbers["g"].astype(np.float64))
    first = dict(zip(names, torch.autograd.grad((y * g).sum(), tensors, create_graph=True), strict=True))
    again = torch.autograd.grad(second(first), tensors)
    return y.detach().numpy(), _numpy(first), _numpy(dict(zip(names, again, strict=True)))


def _numpy(tensors: dict[str, torch.Tensor]) -> dict[str, AnyArray]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def ours(case: Given, numbers: dict[str, AnyArray]) -> tuple[mx.array, dict[str, mx.array], dict[str, mx.array]]:
    leaves = {name: mx.array(array) for name, array in numbers.items() if name != "g"}
    g = mx.array(numbers["g"])

    def value(leaves: dict[str, mx.array]) -> mx.array:
        kernels = tuple(leaves[name] for name in ("k", "reverse") if name in leaves)
        return case.convolution(leaves["u"], kernels, leaves["skip"], leaves.get("gate"))

    gradients = mx.grad(lambda leaves: (value(leaves) * g).sum())
    return value(leaves), gradients(leaves), mx.grad(lambda leaves: second(gradients(leaves)))(leaves)


def error(found: mx.array, exact: AnyArray) -> float:
    return float(np.linalg.norm(np.array(found, dtype=np.float64) - exact) / np.linalg.norm(exact) / U)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("convolution", "gated"),
    [
        (FusedConvolution(), False),
        (FusedConvolution(reverse=0, half=True), True),
        (FusedConvolution(reverse=-1, double=True), False),
    ],
    ids=["one way", "both ways, gated", "double"],
)
def test_values_and_derivatives(convolution: FusedConvolution, gated: bool, length: int) -> None:
    case = Given(convolution, length, gated)
    numbers = case.arrays()
    exact, first, again = truth(case, numbers)
    y, gradients, seconds = ours(case, numbers)
    bound = 2.5 * np.sqrt(np.log2(4 * length + 12))
    if convolution.double:
        assert np.array_equal(np.array(y), exact.astype(np.float32))
    assert error(y, exact) <= bound
    allowed = dict.fromkeys(first, bound) | {"skip": bound * cancelled(numbers, first["skip"])}
    # At L = 1 the only tap that reaches anything is the first: the reverse kernel's gradient is zero.
    wrong = {name: error(gradients[name], value) for name, value in first.items() if value.any()}
    assert {name: found for name, found in wrong.items() if found > allowed[name]} == {}
    wrong = {name: error(seconds[name], value) for name, value in again.items() if value.any()}
    assert {name: found for name, found in wrong.items() if found > 2 * allowed[name]} == {}


def cancelled(numbers: dict[str, AnyArray], sums: AnyArray) -> float:
    """How much smaller the sums over sequences and positions, D's gradient, are than random sums of their terms."""
    terms = numbers["g"].astype(np.float64) * numbers["u"] * numbers.get("gate", 1.0)
    return max(1.0, float(np.linalg.norm(terms) / np.linalg.norm(sums)))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("length", [100, 4096, 20000])
def test_a_row_has_the_same_bits_in_every_batch_and_every_run(length: int, double: bool) -> None:
    convolve = FusedConvolution(double=double)
    mx.random.seed(length)
    u, k, skip = mx.random.normal((5, 4, length)), mx.random.normal((4, length)), mx.random.normal((4,))
    together = np.array(convolve(u, (k,), skip))
    for row in range(5):
        assert np.array_equal(np.array(convolve(u[row : row + 1], (k,), skip))[0], together[row])
    assert all(np.array_equal(np.array(convolve(u, (k,), skip)), together) for _ in range(5))


@pytest.mark.parametrize("bidir_space", ["time", "freq"])
@pytest.mark.parametrize("bidir_combine", ["sum", "avg"])
@pytest.mark.parametrize("fft_norm", ["forward", "backward", "ortho"])
def test_every_meaning_is_that_of_the_transforms(bidir_space: str, bidir_combine: str, fft_norm: str) -> None:
    profile = CANONICAL.replace(name="p", bidir_space=bidir_space, bidir_combine=bidir_combine, fft_norm=fft_norm)
    fused = profile.replace(fft_impl="fused")
    mx.random.seed(1)
    u, k, k_rev, skip = (mx.random.normal(s) for s in ((2, 3, 130), (3, 130), (3, 130), (3,)))
    for reverse in (None, k_rev):
        plain = fftconv(u, k, skip, reverse, profile, Ops(profile))
        found = fftconv(u, k, skip, reverse, fused, Ops(fused))
        assert error(found, np.array(plain, dtype=np.float64)) <= 20


def test_a_kernel_that_holds_both_directions() -> None:
    fused = CANONICAL.replace(name="p", fft_impl="fused")
    mx.random.seed(1)
    u, k, skip = mx.random.normal((2, 3, 130)), mx.random.normal((3, 260)), mx.random.normal((3,))
    plain = fftconv(u, k, skip, None, CANONICAL, Ops(CANONICAL))
    assert error(fftconv(u, k, skip, None, fused, Ops(fused)), np.array(plain, dtype=np.float64)) <= 20


def test_sixteen_bits_are_widened_and_rounded_back() -> None:
    fused = CANONICAL.replace(name="p", fft_impl="fused")
    mx.random.seed(1)
    u, k, skip = mx.random.normal((2, 3, 64)).astype(mx.float16), mx.random.normal((3, 64)), mx.random.normal((3,))
    found = fftconv(u, k, skip, None, fused, Ops(fused))
    assert found.dtype == mx.float16
