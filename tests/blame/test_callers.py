"""Mistakes of a caller are the caller's: exchanged arguments, another plain argument; and layers without a module."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.backends.port import arithmetic
from parity.blame import BlameTable, links_by_pairing, trace_forward
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

F64 = RUNGS["f64"]


class Mix(tnn.Module):
    """Two tensors of one shape and a number, which are not to be exchanged."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, step: int = 1) -> torch.Tensor:
        return (q * 2 - k.relu()).roll(step, 1)


class Caller(tnn.Module):
    """Calls it."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.q, self.k, self.mix, self.act = tnn.Linear(n, n), tnn.Linear(n, n), Mix(), tnn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.mix(self.q(x), self.k(x), step=1))  # type: ignore[no-any-return]


class MixPort(mnn.Module):
    """The same."""

    def __call__(self, q: mx.array, k: mx.array, step: int = 1) -> mx.array:
        return mx.roll(q * 2 - mx.maximum(k, 0), step, 1)


class CallerPort(mnn.Module):
    """The same, its activation a function; `fault` says what it does wrong."""

    def __init__(self, n: int, fault: str = "") -> None:
        super().__init__()
        self.q, self.k, self.mix, self.fault = mnn.Linear(n, n), mnn.Linear(n, n), MixPort(), fault

    def __call__(self, x: mx.array) -> mx.array:
        q, k = self.q(x), self.k(x)
        if self.fault == "exchanged":
            q, k = k, q
        y = self.mix(q, k, step=2 if self.fault == "step" else 1)
        return mnn.gelu(y) if self.fault == "gelu" else mnn.silu(y)


def pair(fault: str = "", **more: Any) -> Pair:
    inputs = lambda n: {"x": (2, 5, n)}  # noqa: E731
    return Pair(
        "caller", reference=Caller, port=lambda n: CallerPort(n, fault), configurations=[6], inputs=inputs, **more
    )


def blame(found: Pair) -> BlameTable:
    whole = complete(found)
    bench = Bench(whole, corpus_cases(whole, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, F64)
    with arithmetic(whole, F64):
        links = links_by_pairing(whole, bench.module, port, bench.inputs, F64)
        return trace_forward(whole, bench.module, port, bench.inputs, F64, links)


INLINED = {"inlined": (r"^act$",)}


def test_a_layer_that_is_a_function_on_the_other_side_must_be_named() -> None:
    assert not blame(pair()).passed
    assert blame(pair()).unpaired_reference == ("act",)
    table = blame(pair(**INLINED))
    assert table.passed, table.sentence()


@pytest.mark.parametrize("fault", ["exchanged", "step", "gelu"])
def test_what_a_caller_does_wrong_is_blamed_on_the_caller(fault: str) -> None:
    table = blame(pair(fault, **INLINED))
    assert {row.module for row in table.culprits} == {""}
    assert "its parts agree: the wiring is wrong" in table.sentence()
    notes = [note for row in table.rows if row.module == "mix" for note in row.notes]
    assert notes == (["the port gives it another step"] if fault == "step" else [])


class Two(tnn.Module):
    """An output that has the name of a submodule."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.y, self.aux = tnn.Linear(n, n), tnn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"main": self.y(x), "aux": self.aux(x)}


class TwoPort(mnn.Module):
    """The same, or without the second output though it is computed."""

    def __init__(self, n: int, whole: bool) -> None:
        super().__init__()
        self.y, self.aux, self.whole = mnn.Linear(n, n), mnn.Linear(n, n), whole

    def __call__(self, x: mx.array) -> dict[str, mx.array]:
        found = {"main": self.y(x), "aux": self.aux(x)}
        return found if self.whole else {"main": found["main"]}


@pytest.mark.parametrize("whole", [True, False])
def test_a_submodule_is_not_taken_for_an_output_of_its_name(whole: bool) -> None:
    two = Pair(
        "two",
        reference=Two,
        port=lambda n: TwoPort(n, whole),
        configurations=[4],
        inputs=lambda n: {"x": (2, n)},
    )
    results = execute(Plan([complete(two)], [CANONICAL], ("f64",), "quick", 0), Results({"seed": 0}))
    assert bool(results.failures) != whole
