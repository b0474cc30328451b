"""The predicted error repeats itself, is nothing where nothing rounds, and grows with the conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from planted_pairs import pair_of
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from parity.backends.noise import perturbed, predict_noise
from parity.backends.reference import run_reference
from parity.backends.shifts import Noise
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import CANONICAL
from parity.suites import select

X = np.random.Generator(np.random.Philox(1)).standard_normal((2, 4))


def predict(
    module: nn.Module, x: npt.NDArray[Any] = X, rung: RungName = "f32", draws: int = 8, seed: int = 0
) -> Mapping[str, Noise]:
    module = module.double()
    pair = pair_of(module, x.shape)
    truth = run_reference(pair, module, {"x": x}, RUNGS["f64"])
    return predict_noise(pair, module, {"x": x}, truth, RUNGS[rung], draws, seed)


class Function(nn.Module):
    """A function of torch as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(x)
        return result


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.GELU())


def test_the_same_seed_predicts_the_same() -> None:
    assert predict(small()) == predict(small())


def test_another_seed_predicts_otherwise() -> None:
    assert predict(small())["y"] != predict(small(), seed=1)["y"]


def test_every_tensor_of_the_truth_has_a_prediction() -> None:
    assert list(predict(small())) == ["0", "1", "y"]


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize(
    "function",
    [
        torch.clone,
        lambda x: x.transpose(0, 1).reshape(4, 2).flip(0),
        lambda x: torch.cat([x, -x], dim=0)[1:, :2].abs(),
        lambda x: nn.functional.pad(x, (1, 2)),
    ],
    ids=["copy", "move", "join, negate, cut", "pad"],
)
def test_what_only_moves_numbers_makes_no_error(function: Any, rung: RungName) -> None:
    assert predict(Function(function), rung=rung)["y"] == Noise(0.0, 0.0)


@pytest.mark.parametrize("rung", RUNGS)
def test_one_product_makes_an_error_of_about_u(rung: RungName) -> None:
    noise = predict(Function(lambda x: x * 3), rung=rung, draws=64)["y"]
    # Uniform relative noise of u on x, and on the scalar none: u |3x| / sqrt(3) root mean square, u max|3x| at most.
    expected = RUNGS[rung].u * np.sqrt(np.mean((3 * X) ** 2) / 3)
    assert noise.rms == pytest.approx(expected, rel=0.2)
    assert expected < noise.maximum <= RUNGS[rung].u * np.abs(3 * X).max() * (1 + 1e-6)


def test_a_mean_a_thousand_times_the_spread_costs_a_thousandfold() -> None:
    plain, offset = (predict(nn.LayerNorm(4, eps=1e-12), X + mean, draws=16)["y"].rms for mean in (0.0, 1000.0))
    assert 200 < offset / plain < 5000


def test_a_sum_that_cancels_costs_more_than_one_that_does_not() -> None:
    kind, hard = (
        predict(Function(lambda x, w=weight: x @ torch.tensor(w, dtype=torch.float64)), np.array([[1.0, 1.0]]))["y"].rms
        / abs(sum(weight))
        for weight in ([1.0, 1.0], [1.0, -0.999])
    )
    assert hard > 100 * kind


@pytest.mark.parametrize(("finer", "coarser"), [("f64", "f32"), ("f32", "f16"), ("f16", "bf16")])
def test_a_coarser_rung_predicts_more(finer: RungName, coarser: RungName) -> None:
    ratio = predict(small(), rung=coarser)["y"].rms / predict(small(), rung=finer)["y"].rms
    assert ratio == pytest.approx(RUNGS[coarser].u / RUNGS[finer].u, rel=0.8)


def test_what_stays_in_float32_is_perturbed_at_its_level() -> None:
    wide = Function(lambda x: x * 3)
    wide.at_least_float32 = True
    module = nn.Sequential(wide, Function(lambda x: x * 3))
    noise = predict(module, rung="bf16", draws=16)
    assert noise["0"].rms < 4 * RUNGS["f32"].u * np.abs(3 * X).max()
    assert noise["1"].rms > 0.1 * RUNGS["bf16"].u * np.abs(X).max()


def test_a_complex_sum_is_perturbed_in_both_parts() -> None:
    def parts(x: torch.Tensor) -> torch.Tensor:
        total = torch.complex(x, x).sum(0)
        return torch.stack([total.real, total.imag])

    x = np.ones((4096, 2))
    module = Function(parts).double()
    truth = module(torch.from_numpy(x)).numpy()
    with perturbed(module, RUNGS["f32"], torch.Generator().manual_seed(0)):
        shifts = np.abs(module(torch.from_numpy(x)).numpy() - truth).max(axis=1)
    assert shifts.min() > 0.01 * shifts.max() > 0


def test_an_empty_tensor_has_no_error() -> None:
    assert predict(Function(lambda x: x[:, :0] * 2))["y"] == Noise(0.0, 0.0)


# --- the context ----------------------------------------------------------------------------------------


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def wide_linear() -> nn.Module:
    module = nn.Linear(4, 4).double()
    module.at_least_float32 = True
    return module


def test_inside_the_context_arithmetic_is_perturbed() -> None:
    x = torch.ones(4, 4, dtype=torch.float64)
    with perturbed(nn.Identity(), RUNGS["f32"], torch.Generator().manual_seed(0)):
        assert not torch.equal(x * 1, x)
    assert torch.equal(x * 1, x)


def test_after_an_exception_nothing_of_the_context_is_left() -> None:
    module = wide_linear()

    def fail_inside() -> None:
        with perturbed(module, RUNGS["bf16"], torch.Generator()):
            assert hooks(module) == 2
            assert _get_current_dispatch_mode() is not None
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail_inside()
    assert hooks(module) == 0
    assert _get_current_dispatch_mode() is None
    x = torch.ones(4, dtype=torch.float64)
    assert torch.equal(x * 1, x)


def test_an_exception_inside_a_wide_module_does_not_leave_the_rest_at_its_level() -> None:
    wide = Function(lambda x: x.no_such_method())
    wide.at_least_float32 = True
    outer = nn.ModuleList([wide, Function(lambda x: x * 3)])
    x = torch.ones(64, dtype=torch.float64)
    with perturbed(outer, RUNGS["bf16"], torch.Generator().manual_seed(0)):
        with pytest.raises(AttributeError, match="no_such_method"):
            wide(x)
        shift = (outer[1](x) - 3).abs().max()
    assert shift > 10 * 3 * RUNGS["f32"].u


def test_the_backward_pass_is_perturbed_too() -> None:
    x = torch.ones(8, dtype=torch.float64, requires_grad=True)
    with perturbed(nn.Identity(), RUNGS["f32"], torch.Generator().manual_seed(0)):
        gradient = torch.autograd.grad(torch.sin(x).sum(), x)[0]
    assert 0 < (gradient - torch.cos(x)).abs().max() < 8 * RUNGS["f32"].u


class Doubled(nn.Module):
    """2 x + x, the product in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        twice = x.clone()
        if self.in_place:
            twice.mul_(2.0)
        else:
            twice = twice * 2.0
        return twice + x


def test_an_operation_in_place_is_perturbed_and_still_changes_its_operand() -> None:
    """Were a noisy copy changed in its place, the product would be lost and the prediction of the order of 1."""
    errors = {in_place: predict(Doubled(in_place))["y"].rms for in_place in (True, False)}
    assert 0 < errors[True] < 4 * errors[False]


def test_a_marked_module_stays_in_float32_whichever_of_its_methods_is_called() -> None:
    """The Hyena filter's kernels are asked for by a method, which no hook sees."""
    (pair,) = select(["hyena_filter"])
    case = next(case for case in corpus_cases(pair, 0) if "bf16" in case.ladder)
    bench = Bench(pair, case, CANONICAL)
    assert bench.noise(RUNGS["bf16"]) == bench.noise(RUNGS["f32"])


def test_float32_constants_inside_a_float64_reference_are_perturbed_too() -> None:
    noise = predict(Function(lambda x: x * torch.linspace(0.5, 1.5, 4)))
    assert 0 < noise["y"].rms < 1e-6
