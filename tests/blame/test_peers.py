"""False passes of other tools: each must be a failure here."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.blame import BlameTable, links_by_pairing, trace_forward
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL


class Child(tnn.Module):
    """A linear layer whose result is used as `forward` says."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = tnn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


class Parent(tnn.Module):
    """Two calls of one child, and another one that hardly counts."""

    def __init__(self, dim: int, tiny: float = 1e-7) -> None:
        super().__init__()
        self.child, self.small, self.tiny = Child(dim), Small(tiny), tiny

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.child(self.child(x)) + self.small(x)  # type: ignore[no-any-return]


class Small(tnn.Module):
    """Outputs of 1e-7."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class ChildPort(mnn.Module):
    """The same; subclasses spoil it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = mnn.Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(x)


class SmallPort(mnn.Module):
    """The same; subclasses spoil it."""

    factor = 1e-7

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.factor


class ParentPort(mnn.Module):
    """The same; `child` and `small` are chosen by the test, `undo` hides what the child does."""

    def __init__(self, dim: int, child: type = ChildPort, small: type = SmallPort, undo: float = 1.0) -> None:
        super().__init__()
        self.child, self.small, self.undo = child(dim), small(), undo

    def __call__(self, x: mx.array) -> mx.array:
        return self.child(self.child(x) / self.undo) / self.undo + self.small(x)


class Permuted(ChildPort):
    """Outputs in another order."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x)[..., ::-1]


class Loud(ChildPort):
    """Nine times too large; its parent divides by nine."""

    def __call__(self, x: mx.array) -> mx.array:
        return 9 * super().__call__(x)


class Forgetful(ChildPort):
    """Wrong from its second call on."""

    calls = 0

    def __call__(self, x: mx.array) -> mx.array:
        self.calls += 1
        return super().__call__(x) * (1.0 if self.calls % 2 else 1.001)


class Fifty(SmallPort):
    """Outputs of 1e-7 that are 50 times wrong."""

    factor = 5e-6


class Extra(ChildPort):
    """A layer that the reference does not have."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.unit = mnn.GELU()

    def __call__(self, x: mx.array) -> mx.array:
        y = super().__call__(x)
        return y + 0 * self.unit(y)


def traced(**choice: Any) -> BlameTable:
    pair = complete(
        Pair(
            "parent",
            reference=Parent,
            port=lambda n: ParentPort(n, **choice),
            configurations=[6],
            inputs=lambda n: {"x": (3, n)},
        )
    )
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, RUNGS["f64"])
    return blame(bench, port)


def blame(bench: Bench, port: Any, inputs: Any = None, rung: str = "f64") -> BlameTable:
    given = bench.inputs if inputs is None else inputs
    links = links_by_pairing(bench.pair, bench.module, port, given, RUNGS[rung])
    return trace_forward(bench.pair, bench.module, port, given, RUNGS[rung], links)


def blamed(table: BlameTable) -> set[str]:
    return {row.module for row in table.culprits}


def test_a_right_port_passes() -> None:
    table = traced()
    assert table.passed, table.sentence()
    assert {row.module for row in table.rows} >= {"child", "child#2", "small", ""}


def test_outputs_that_are_a_permutation_fail_and_the_permutation_is_named() -> None:
    table = traced(child=Permuted)
    assert blamed(table) == {"child"}
    assert "reversed along axis 1" in table.sentence()
    assert "its parts agree: the wiring is wrong" in table.sentence()


def test_a_child_nine_times_too_large_fails_though_its_parent_agrees() -> None:
    table = traced(child=Loud, undo=9.0)
    rows = {row.module: row for row in table.rows}
    assert rows[""].total < 1e-15
    assert blamed(table) == {"child"}
    assert "scaled by 9" in table.sentence()


def test_a_tiny_output_that_is_fifty_times_wrong_fails() -> None:
    table = traced(small=Fifty)
    assert blamed(table) == {"small"}
    assert "scaled by 50" in table.sentence()


def test_a_second_call_that_differs_is_seen() -> None:
    table = traced(child=Forgetful)
    assert not table.passed


def test_a_layer_without_a_partner_is_listed_and_fails() -> None:
    table = traced(child=Extra)
    assert not table.passed
    assert table.unpaired_port == ("child.unit", "child.unit#2")
    assert "2 calls were compared with nothing" in table.sentence()


class Holes(tnn.Module):
    """NaN where x is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x < 0, torch.nan, x)


class HolesPort(mnn.Module):
    """NaN where x is positive."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.where(x > 0, mx.array(float("nan"), dtype=x.dtype), x)


def test_nan_on_both_sides_in_different_places_fails() -> None:
    pair = complete(
        Pair(
            "holes",
            reference=lambda n: tnn.Sequential(Holes()),
            port=lambda n: mnn.Sequential(HolesPort()),
            configurations=[6],
            inputs=lambda n: {"x": (3, n)},
        )
    )
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    inputs = {"x": np.array([[1.0, -1.0, 2.0]])}
    table = blame(bench, bench.modules.port(CANONICAL, RUNGS["f64"]), inputs)
    assert not table.passed
    assert all(row.exceeds for row in table.rows)


@pytest.mark.parametrize("rung", ["f64", "f32", "bf16"])
def test_a_right_port_passes_at_every_rung(rung: Any) -> None:
    pair = complete(
        Pair(
            "parent",
            reference=Parent,
            port=ParentPort,
            configurations=[6],
            inputs=lambda n: {"x": (3, n)},
        )
    )
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, RUNGS[rung])
    assert blame(bench, port, rung=rung).passed
