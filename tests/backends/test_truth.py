"""A truth that does not repeat its bits is no truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted_pairs import pair_of
from torch import nn

from parity.backends import truth as truth_module
from parity.backends.truth import UnstableTruthError, compute_truth

INPUTS = {"x": np.arange(8.0).reshape(2, 4) - 3}


class Drifting(nn.Module):
    """Adds what `change` gives for the number of the call."""

    def __init__(self, change: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change, self.calls = change, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.change(self.calls, x)


def one_bit(call: int, x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    if call == 2:
        y[-1, -1] = torch.nextafter(y[-1, -1], torch.tensor(torch.inf, dtype=y.dtype))
    return y


def sign_of_zero(call: int, x: torch.Tensor) -> torch.Tensor:
    return torch.where(x == 0, torch.full_like(x, -0.0 if call == 2 else 0.0), x)


@pytest.mark.parametrize("change", [one_bit, sign_of_zero])
def test_another_bit_on_the_second_run_is_an_error(change: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
    module = Drifting(change)
    with pytest.raises(UnstableTruthError, match="planted: y differs between two float64 runs"):
        compute_truth(pair_of(module), module, INPUTS)


def test_a_difference_inside_is_named_even_if_the_output_hides_it() -> None:
    module = nn.Sequential(Drifting(one_bit), nn.Hardtanh())
    with pytest.raises(UnstableTruthError, match="planted: 0 differs"):
        compute_truth(pair_of(module), module, {"x": INPUTS["x"] + 10})


def test_a_module_that_repeats_itself_is_believed() -> None:
    module = Drifting(lambda call, x: x * 2)
    trace = compute_truth(pair_of(module), module, INPUTS).trace
    assert module.calls == 2
    np.testing.assert_array_equal(trace["y"].values, INPUTS["x"] * 2)
    assert trace["y"].dtype == "float64"


def test_nan_equals_itself() -> None:
    module = Drifting(lambda call, x: x / 0 * 0)
    assert np.isnan(compute_truth(pair_of(module), module, INPUTS).trace["y"].values).all()


def test_unary_kernels_are_warmed_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(truth_module, "warm_up", lambda: order.append("warm"))
    module = Drifting(lambda call, x: (order.append("run"), x)[1])
    compute_truth(pair_of(module), module, INPUTS)
    assert order == ["warm", "run", "run"]


class Wide(Drifting):
    """A part that stays in float32."""

    at_least_float32 = True


def test_the_largest_number_of_any_operation_is_kept_though_no_tensor_shows_it() -> None:
    module = nn.Sequential(Drifting(lambda call, x: (x * 1e6) * 1e-6))
    truth = compute_truth(pair_of(module), module, INPUTS)
    assert truth.largest == truth.largest_narrow == 4e6
    assert np.abs(truth.trace["y"].values).max() == pytest.approx(4)


def test_what_stays_in_float32_does_not_count_for_sixteen_bits() -> None:
    module = nn.Sequential(Wide(lambda call, x: (x * 1e6) * 1e-6), Drifting(lambda call, x: x * 2))
    truth = compute_truth(pair_of(module), module, INPUTS)
    assert truth.largest == 4e6
    assert truth.largest_narrow == pytest.approx(8)


@pytest.mark.parametrize("again", [lambda x: x.view(-1), lambda x: x.sum() * 0])
def test_what_leaves_float32_is_cast_and_counts(again: Callable[[torch.Tensor], torch.Tensor]) -> None:
    module = nn.Sequential(Wide(lambda call, x: x * 1e6), Drifting(lambda call, x: again(x)))
    assert compute_truth(pair_of(module), module, INPUTS).largest_narrow == 4e6
