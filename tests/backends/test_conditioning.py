"""kappa is what calculus says it is, and an ill-conditioned tensor is called so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_pairs import pair_of
from torch import nn

from parity.backends import conditioning
from parity.backends.conditioning import DRAWS, EPSILON, jitter_kappa, jittered
from parity.backends.reference import run_reference
from parity.spec.precision import RUNGS
from parity.tolerance import Allowance
from parity.trace import TracedTensor
from parity.verdict import judge

X = np.random.Generator(np.random.Philox(1)).standard_normal((8, 16)) + 3


class Function(nn.Module):
    """A function of torch as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(x)  # type: ignore[operator]
        return result


def kappa(function: object, x: np.ndarray = X, seed: int = 0) -> float:  # type: ignore[type-arg]
    module = Function(function).double()
    pair = pair_of(module, x.shape)
    truth = run_reference(pair, module, {"x": x}, RUNGS["f64"])
    return jitter_kappa(pair, module, {"x": x}, truth, seed)["y"]


@pytest.mark.parametrize("power", [1, 2, 5])
def test_a_power_amplifies_by_its_exponent(power: int) -> None:
    assert kappa(lambda x: x**power, np.ones((64, 64)) * 1.5) == pytest.approx(power, rel=0.1)


def test_a_difference_of_near_numbers_is_ill_conditioned() -> None:
    assert kappa(lambda x: x - 1000.0, np.full((64, 64), 1001.0)) == pytest.approx(1001, rel=0.1)


def test_weights_are_jittered_too() -> None:
    module = nn.Linear(16, 16, bias=False).double()
    pair = pair_of(module, X.shape)
    before = module.weight.detach().clone()
    truth = run_reference(pair, module, {"x": np.ones((8, 16))}, RUNGS["f64"])
    found = jitter_kappa(pair, module, {"x": np.ones((8, 16))}, truth, 0)["y"]
    assert found > 0.5, "the inputs are ones and stay; only the weights move"
    assert torch.equal(module.weight, before)


def test_it_repeats_itself() -> None:
    assert kappa(torch.sin) == kappa(torch.sin)
    assert kappa(torch.sin) != kappa(torch.sin, seed=1)


def test_a_zero_tensor_has_no_conditioning() -> None:
    assert kappa(lambda x: x * 0) == 0.0


@pytest.mark.parametrize(
    ("rms", "largest", "powerless"), [(0.5, 9.0, False), (9.0, 0.5, False), (1.5, 1.5, True), (1.0, 1.0, False)]
)
def test_a_tensor_is_powerless_if_zeros_would_pass(rms: float, largest: float, powerless: bool) -> None:
    ones = TracedTensor(np.ones(4), "float32")
    judgement = judge(ones, ones, ones, RUNGS["f32"], Allowance(rms, largest), 0.1, None)
    assert judgement.powerless is powerless
    zeros = TracedTensor(np.zeros(4), "float32")
    assert judge(ones, ones, zeros, RUNGS["f32"], Allowance(rms, largest), 0.1, None).passed is (
        rms >= 1 and largest >= 1
    )


def piled_up(tensors: list[tuple[torch.Tensor, torch.Tensor]], epsilon: float, generator: torch.Generator) -> None:
    """Jitter what a draw before has jittered."""
    with torch.no_grad():
        for _, moved in tensors:
            moved.mul_(1 + epsilon * torch.randn(moved.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("piles_up", [False, True])
def test_every_draw_jitters_the_modules_own_numbers(piles_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(16, 16).double()
    pair, inputs = pair_of(module, X.shape), {"x": X}
    truth = run_reference(pair, module, inputs, RUNGS["f64"])
    generator, total = torch.Generator().manual_seed(4), 0.0
    for _ in range(DRAWS):
        run = run_reference(pair, *jittered(module, inputs, EPSILON, generator), RUNGS["f64"])
        shift = np.linalg.norm(run["y"].values - truth["y"].values)
        total += float(shift) / (EPSILON * float(np.linalg.norm(truth["y"].values)))
    if piles_up:
        monkeypatch.setattr(conditioning, "_jitter", piled_up)
    assert (jitter_kappa(pair, module, inputs, truth, 4)["y"] == total / DRAWS) != piles_up
