"""Blame where the port's tree is another one: renamed, regrouped, fused, channels last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
import torch
from attention_models import Build, attention_pair, port_names
from mlx import nn as mnn
from torch import nn as tnn

from parity import pairs
from parity.api import Pair, complete
from parity.backends.port import arithmetic
from parity.blame import BlameTable, Links, links_by_pairing, trace_backward, trace_forward
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

F64 = RUNGS["f64"]
Spoil = Callable[[Any], None]
BUILDS = {
    "fused": Build(),
    "fused, dealt out to groups of heads": Build(dealt=True),
    "apart, renamed, in another order": Build(fused=False),
}


def blame(
    pair: pairs.Pair, backward: bool = False, spoil: Spoil | None = None, rung: str = "f64"
) -> tuple[BlameTable, Links]:
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, RUNGS[rung])
    if spoil is not None:
        spoil(port)
    with arithmetic(pair, RUNGS[rung]):
        links = links_by_pairing(pair, bench.module, port, bench.inputs, RUNGS[rung])
        trace = trace_backward if backward else trace_forward
        return trace(pair, bench.module, port, bench.inputs, RUNGS[rung], links), links


@pytest.mark.parametrize("rung", ["f64", "f32"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_every_module_of_a_right_port_is_judged_and_none_is_blamed(build: Build, backward: bool, rung: str) -> None:
    table, links = blame(complete(attention_pair(build)), backward, rung=rung)
    assert table.passed, table.sentence()
    names = {name for name, other in port_names(build).items() if name != ""}
    assert {row.module for row in table.rows} >= names - ({"embed"} if backward else set())
    assert all(link.reason for link in links.links)
    assert max(row.own for row in table.rows) < (1e-13 if rung == "f64" else 1e-4)


def reversed_weight(name: str) -> Spoil:
    def spoil(port: Any) -> None:
        module = dict(port.named_modules())[name]
        module.weight = module.weight[::-1]

    return spoil


FAULTS = {
    "model.wte": "embed",
    "model.h.0.conv": "blocks.0.mixer",
    "model.h.1.mha.out": "blocks.1.attn.out_proj",
    "model.h.0.ffn.body.proj": "blocks.0.mlp.down",
    "model.ln_f": "norm",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_blamed_on_its_module_under_the_reference_s_name(name: str) -> None:
    table, _ = blame(complete(attention_pair(Build())), spoil=reversed_weight(name))
    assert {row.module for row in table.culprits} == {FAULTS[name]}


def test_a_fault_in_a_slice_of_a_fused_module_is_blamed_on_that_part_alone() -> None:
    def spoil(port: Any) -> None:
        module = port.model.h[1].mha.qkv
        (_, keys, _) = Build().columns()
        module.bias[mx.array(keys)] += 0.01

    table, _ = blame(complete(attention_pair(Build())), spoil=spoil)
    assert {row.module for row in table.culprits} == {"blocks.1.attn.k_proj"}


class Together(tnn.Module):
    """Two projections in one, channels first."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.both = tnn.Conv1d(n, 2 * n, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.both(x.transpose(1, 2)).chunk(2, dim=1)
        return (one * other).transpose(1, 2)


class Apart(mnn.Module):
    """The same in two, channels last."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left, self.right = mnn.Linear(n, n), mnn.Linear(n, n)

    def __call__(self, x: mx.array) -> mx.array:
        return self.left(x) * self.right(x)


def apart(_port: Any, state: Any) -> dict[str, mx.array]:
    weights = mx.split(state["both.weight"][..., 0], 2)
    biases = mx.split(state["both.bias"], 2)
    sides = zip(("left", "right"), weights, biases, strict=True)
    return {
        f"{side}.{kind}": array for side, *both in sides for kind, array in zip(("weight", "bias"), both, strict=True)
    }


SPLIT = Pair(
    "split",
    reference=Together,
    port=Apart,
    configurations=[4],
    inputs=lambda n: {"x": (2, 5, n)},
    weights=apart,
)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_module_that_the_port_splits_is_judged_against_each_part(backward: bool) -> None:
    table, _ = blame(complete(SPLIT), backward)
    assert table.passed, table.sentence()
    assert {(row.module, row.port) for row in table.rows} >= {("both", "left"), ("both", "right")}


def test_an_input_whose_gradient_nothing_is_compared_with_is_no_pass() -> None:
    pair = complete(SPLIT)
    bench = Bench(pair, corpus_cases(pair, 0)[0], CANONICAL, intermediates=False)
    port = bench.modules.port(CANONICAL, F64)
    with arithmetic(pair, F64):
        links = links_by_pairing(pair, bench.module, port, bench.inputs, F64)
        blind = replace(links, links=tuple(replace(link, inputs={}) for link in links.links))
        table = trace_backward(pair, bench.module, port, bench.inputs, F64, blind)
    assert not table.passed
    assert "gradients of 1 parameters and inputs were compared with nothing" in table.sentence()


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_of_a_module_that_the_port_splits_the_wrong_part_is_named(backward: bool) -> None:
    def spoil(port: Any) -> None:
        port.right.weight = port.right.weight * 1.001

    table, _ = blame(complete(SPLIT), backward, spoil)
    assert {row.port for row in table.rows if row.exceeds and row.module == "both"} == {"right"}
