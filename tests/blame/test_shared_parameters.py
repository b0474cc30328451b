"""Parameters that modules share, whose values went across by the pair's own way, under whichever of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import pytest
import torch
from mlx import nn as mnn
from torch import nn as tnn

import mlx_impl
import reference_torch
from mlx_impl.weights import move_axes, parameters, port_name
from parity.api import Pair, complete
from parity.backends.port import arithmetic
from parity.blame import BlameTable, links_of_pair, trace_backward
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

F64 = RUNGS["f64"]


def traced(pair: Any) -> BlameTable:
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, F64)
    with arithmetic(pair, F64):
        links = links_of_pair(pair, bench.module, port, bench.inputs, F64, 0)
        return trace_backward(pair, bench.module, port, bench.inputs, F64, links)


def run(pair: Any) -> Results:
    return execute(Plan([pair], [CANONICAL], ("f64",), "quick", 0), Results({"seed": 0}))


SIZES = {"d_model": 8, "l_max": 6, "residual_long_conv": True}


def last_alias(port: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Every frequency of a filter is one parameter; the last of its names overwrites the others."""
    named = {re.sub(r"implicit_filter\.\d\.freq", "implicit_filter.1.freq", name): a for name, a in state.items()}
    found = {port_name(name): move_axes(name, array) for name, array in named.items()}
    return {name: found[name] for name in parameters(port)}


def test_a_mixer_whose_shared_frequency_is_read_under_its_last_name() -> None:
    pair = complete(
        Pair(
            "mixer",
            reference=lambda n: reference_torch.MonarchMixer(**SIZES),
            port=lambda n: mlx_impl.MonarchMixer(**SIZES),
            configurations=[6],
            inputs=lambda n: {"u": (2, n, 8)},
            weights=last_alias,
        )
    )
    table = traced(pair)
    assert table.passed, table.sentence()
    assert table.missing == ()
    results = run(pair)
    assert results.verdict == "pass"
    assert not [name for name in results.unpaired["mixer"] if name.startswith("gradient")]
    assert "gradient of filter_fn.implicit_filter.1.freq" in {row.tensor for row in results.rows}


class Scale(tnn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.s = tnn.Parameter(torch.ones(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.s


class Net(tnn.Module):
    """One scale before and after a layer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.lin = Scale(n), tnn.Linear(n, n)
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.lin(self.a(x))))


class ScalePort(mnn.Module):
    """The same; `stopped` gives its scale no gradient."""

    def __init__(self, n: int, stopped: bool = False) -> None:
        super().__init__()
        self.s, self.stopped = mx.ones(n), stopped

    def __call__(self, x: mx.array) -> mx.array:
        return x * (mx.stop_gradient(self.s) if self.stopped else self.s)


class Port(mnn.Module):
    """The same, each place with a scale of its own, or only the first (`once`)."""

    def __init__(self, n: int, once: bool, stopped: bool = False) -> None:
        super().__init__()
        self.a, self.lin = ScalePort(n), mnn.Linear(n, n)
        if not once:
            self.b = ScalePort(n, stopped)

    def __call__(self, x: mx.array) -> mx.array:
        y = mx.tanh(self.lin(self.a(x)))
        return self.b(y) if "b" in self else self.a(y)


WAYS: dict[str, tuple[bool, Any]] = {
    "first": (True, lambda port, state: {name: array for name, array in state.items() if name != "b.s"}),
    "last": (True, lambda port, state: {"a.s": state["b.s"], **{k: a for k, a in state.items() if "lin" in k}}),
    "mean": (
        True,
        lambda port, state: {
            "a.s": 0.5 * (state["a.s"] + state["b.s"]),
            **{k: a for k, a in state.items() if "lin" in k},
        },
    ),
    "each its own": (False, lambda port, state: state),
}


def small(once: bool, **given: Any) -> Any:
    stopped = given.pop("stopped", False)
    return complete(
        Pair(
            "scales",
            reference=Net,
            port=lambda n: Port(n, once, stopped),
            configurations=[4],
            inputs=lambda n: {"x": (3, n)},
            inlined=("tanh",),
            **given,
        )
    )


@pytest.mark.parametrize("way", WAYS)
def test_whichever_name_is_read_its_gradient_is_that_of_the_parameter(way: str) -> None:
    once, weights = WAYS[way]
    results = run(small(once, weights=weights))
    assert results.verdict == "pass", results.failures
    rows = {row.tensor: row.verdict for row in results.rows if row.kind == "gradient"}
    assert rows["gradient of a.s"] == "pass"
    assert results.unpaired.get("scales", {}).get("gradient of a.s") is None


def test_by_name_a_parameter_that_the_port_stores_twice_has_the_sum_of_both_gradients() -> None:
    results = run(small(once=False))
    assert results.verdict == "pass", results.failures


def test_one_of_two_places_that_gives_no_gradient_fails() -> None:
    for weights in (None, WAYS["each its own"][1]):
        results = run(small(once=False, weights=weights, stopped=True))
        assert [failure.first_bad for failure in results.failures] == ["gradient of a.s"]
