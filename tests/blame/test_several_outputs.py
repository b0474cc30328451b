"""Modules with several outputs: exchanged, of another shape, partly or wholly NaN, one whose gradient is nothing."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.backends.port import arithmetic
from parity.blame import BlameTable, links_by_pairing, trace_backward, trace_forward
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

F64 = RUNGS["f64"]


class Split(tnn.Module):
    """Three outputs, two of one shape."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b, self.c = tnn.Linear(n, n), tnn.Linear(n, n), tnn.Linear(n, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.a(x), self.b(x), self.c(x)


class Whole(tnn.Module):
    """Uses all three."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.split, self.out = Split(n), tnn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = self.split(x)
        return self.out(a) * b.sum(-1, keepdim=True) - c.sum(-1, keepdim=True).relu()  # type: ignore[no-any-return]


class SplitPort(mnn.Module):
    """The same; two are exchanged, of one shape (`alike`) or not, or the third has a column less (`shape`)."""

    def __init__(self, n: int, fault: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fault = mnn.Linear(n, n), mnn.Linear(n, n), mnn.Linear(n, 3), fault

    def __call__(self, x: mx.array) -> tuple[mx.array, ...]:
        a, b, c = self.a(x), self.b(x), self.c(x)
        if self.fault == "alike":
            a, b = b, a
        if self.fault == "exchanged":
            b, c = c, b
        return a, b, c[..., :2] if self.fault == "shape" else c


class WholePort(mnn.Module):
    """The same; `expects` knows that they are exchanged, `caller` uses them wrongly itself."""

    def __init__(self, n: int, fault: str = "", expects: bool = False) -> None:
        super().__init__()
        self.split, self.out, self.fault, self.expects = SplitPort(n, fault), mnn.Linear(n, n), fault, expects

    def __call__(self, x: mx.array) -> mx.array:
        a, b, c = self.split(x)
        if self.expects or self.fault == "caller":
            b, c = c, b
        return self.out(a) * mx.sum(b, axis=-1, keepdims=True) - mnn.relu(mx.sum(c, axis=-1, keepdims=True))


def table_of(reference: Any, port: Any, backward: bool = False, **more: Any) -> BlameTable:
    inputs = lambda n: {"x": (2, 5, n)}  # noqa: E731
    whole = complete(Pair("several", reference=reference, port=port, configurations=[6], inputs=inputs, **more))
    bench = Bench(whole, corpus_cases(whole, 0)[0], CANONICAL, intermediates=False)
    built = bench.modules.port(CANONICAL, F64)
    judge = trace_backward if backward else trace_forward
    with arithmetic(whole, F64):
        links = links_by_pairing(whole, bench.module, built, bench.inputs, F64)
        return judge(whole, bench.module, built, bench.inputs, F64, links)


def test_a_caller_may_expect_exchanged_outputs() -> None:
    table = table_of(Whole, lambda n: WholePort(n, "exchanged", expects=True))
    assert table.passed, table.sentence()
    assert [row.doubts for row in table.rows if row.module == "split"] == [
        ("its output 1 is the port's output 2", "its output 2 is the port's output 1")
    ]


FAULTS = {
    "alike": ("split", "its parts agree: the wiring is wrong"),
    "exchanged": ("split", "its output 1 is the port's output 2"),
    "shape": ("split", "its output 2 has shape (2, 5, 3), the port's (2, 5, 2)"),
    "caller": ("", "its parts agree: the wiring is wrong"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_outputs_in_another_place_or_shape_are_the_childs_where_its_caller_errs(fault: str) -> None:
    table = table_of(Whole, lambda n: WholePort(n, fault))
    culprit, words = FAULTS[fault]
    assert {row.module for row in table.culprits} == {culprit}
    assert words in table.sentence()
    assert not table.passed


class Holes(tnn.Module):
    """The root of what is negative in the first channel alone: NaN there, its gradients too; `empty` adds all NaN."""

    def __init__(self, n: int, empty: bool = False) -> None:
        super().__init__()
        self.weight, self.empty = tnn.Parameter(torch.ones(n)), empty

    def forward(self, x: torch.Tensor) -> Any:
        size = (x * self.weight).square() + 1
        y = torch.where(torch.arange(x.shape[-1]) == 0, -size, size).sqrt().exp()
        return (y, y * torch.nan) if self.empty else y


class HolesPort(mnn.Module):
    """The same, or scaled."""

    def __init__(self, n: int, empty: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.empty, self.scale = mx.ones(n), empty, scale

    def __call__(self, x: mx.array) -> Any:
        size = mx.square(x * self.weight) + 1
        y = mx.exp(mx.sqrt(mx.where(mx.arange(x.shape[-1]) == 0, -size, size))) * self.scale
        return (y, y * float("nan")) if self.empty else y


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1.001])
def test_channels_that_are_nan_on_both_sides_leave_the_others_to_be_judged(scale: float, backward: bool) -> None:
    table = table_of(Holes, lambda n: HolesPort(n, scale=scale), backward)
    assert table.passed == (scale == 1.0), table.sentence()


def test_an_output_of_nothing_but_nan_beside_a_finite_one_is_no_pass() -> None:
    table = table_of(lambda n: Holes(n, empty=True), lambda n: HolesPort(n, empty=True))
    assert not table.passed
    assert any("no element of 1 is finite" in note for row in table.rows for note in row.notes)


class Shifted(tnn.Module):
    """The softmax of keys with a bias: the bias' gradient is zero but for rounding."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.bias, self.lin = tnn.Parameter(torch.zeros(1)), tnn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.lin(x) + self.bias).softmax(-1)


class ShiftedPort(mnn.Module):
    """The same."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.bias, self.lin = mx.zeros(1), mnn.Linear(n, n)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.softmax(self.lin(x) + self.bias, axis=-1)


def test_own_is_the_error_of_the_gradient_with_the_largest_ratio() -> None:
    table = table_of(Shifted, ShiftedPort, backward=True)
    assert table.passed, table.sentence()
    root = next(row for row in table.rows if row.module == "")
    assert (root.worst == "bias") == (root.own > 1e-10)
    assert root.worst != "bias", "the seed of this test must leave another gradient the worst"
