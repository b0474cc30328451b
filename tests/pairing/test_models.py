"""Real models of both frameworks: M2-BERT, and a decoder whose port has another tree."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as mnn
import pytest
import torch
from attention_models import Build, both_sides, port_names
from m2_nodes import nodes_of_pair, scrambled, wrong_from

from parity.backends.nodes import observe_mlx, observe_torch
from parity.errors import CaptureError
from parity.pairing import pair_trees
from parity.pairs import Pair
from parity.suites.m2_bert import PAIRS

BUILDS = {
    "fused": Build(),
    "fused in another order": Build(order=(2, 0, 1)),
    "fused, dealt out to groups of heads": Build(dealt=True),
    "apart, renamed, in another order": Build(fused=False),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_port_with_another_tree_pairs_fully_with_reasons(build: Build) -> None:
    pairing = pair_trees(*both_sides(build))
    assert {(match.reference, match.port) for match in pairing.matches} == set(port_names(build).items())
    assert pairing.complete
    assert all(match.reason and not match.ambiguous for match in pairing.matches)
    layouts = {match.reference: match.layout for match in pairing.matches}
    assert layouts["blocks.1.mixer"] == "axes (0, 2, 1)"
    assert layouts["blocks.1.attn.rope_k"] == "axes (0, 2, 1, 3)"
    aside = {it.name for it in (*pairing.aside_reference, *pairing.aside_port)}
    assert {"blocks", "blocks.0.mlp.dropout", "model", "model.h.0.ffn"} <= aside


def spoil(port: mnn.Module, name: str) -> None:
    module = dict(port.named_modules())[name]
    for key, value in module.items():
        if isinstance(value, mx.array):
            module[key] = value[::-1] + 0.5


FAULTS = (
    "model.wte",
    "model.h.0.conv",
    "model.h.0.ln_1",
    "model.h.0.mha.qkv",
    "model.h.0.mha.out",
    "model.h.1.ffn.body.gate_up",
    "model.ln_f",
)


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_weights_in_a_layer_change_no_partner(name: str) -> None:
    pairing = pair_trees(*both_sides(Build(), lambda port: spoil(port, name)))
    assert {(match.reference, match.port) for match in pairing.matches} == set(port_names(Build()).items())
    assert pairing.complete
    spoilt = [match.reason for match in pairing.matches if match.port == name]
    assert spoilt
    assert not any("values agree" in reason or "rel L2" in reason for reason in spoilt)


METHODS = {"hyena_buffers"}
"""Components whose pair asks for a function, or looks at what a constructor builds: no module is called."""


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_m2_bert_pairs_fully_under_its_names_and_without_them(pair: Pair) -> None:
    if pair.name in METHODS:
        with pytest.raises(CaptureError, match="no module of"):
            nodes_of_pair(pair, pair.corpus[0])
        return
    reference, port = nodes_of_pair(pair, pair.corpus[0])
    pairing = pair_trees(reference, port)
    assert pairing.complete
    assert all(match.reason for match in pairing.matches)
    found = {(match.reference, match.port) for match in pairing.matches}
    # The port's Sequential holds its parts in a list of its own.
    assert all(there == pair.tap_name(here) for there, here in found)
    nameless = scrambled(port)
    names = {other.name: node.name for node, other in zip(port, nameless, strict=True)}
    half = max(node.order or 0 for node in port) // 2
    for nodes in (nameless, wrong_from(nameless, half)):
        again = pair_trees(reference, nodes)
        assert {(match.reference, names[match.port]) for match in again.matches} == found
        assert again.complete


# --- the adapters ---------------------------------------------------------------------------------------------------


class TorchPart(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 3))

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, object]:
        if x.shape[0] == 0:
            raise RuntimeError("nothing given")
        return {"y": x * scale, "more": (x, None)}


class TorchWhole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = TorchPart()
        self.tied, self.unused = self.part, torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            out = self.part(x, scale=torch.full((), 2.0))["y"].clone()
            x.add_(1)
        return out


class MlxPart(mnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self._table = mx.ones((2, 3)), mx.ones(5)

    def __call__(self, x: mx.array, scale: mx.array) -> dict[str, object]:
        if x.shape[0] == 0:
            raise RuntimeError("nothing given")
        return {"y": x * scale, "more": (x, None)}


class MlxHeir(MlxPart):
    def __call__(self, x: mx.array, scale: mx.array) -> dict[str, object]:
        return super().__call__(x, scale)


class MlxWhole(mnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = MlxHeir()
        self.tied, self.unused = self.part, mnn.Linear(2, 2)

    def __call__(self, x: mx.array) -> mx.array:
        for _ in range(2):
            out = self.part(x, scale=mx.array(2.0))["y"]
            x = x + 1
        return out


@pytest.mark.parametrize("side", ["torch", "mlx"])
def test_nodes_hold_calls_paths_own_parameters_aliases_and_the_first_calls_values(side: str) -> None:
    if side == "torch":
        model, x = TorchWhole(), torch.ones(2, 3)
        nodes = observe_torch(model, lambda: model(x)).nodes
    else:
        port = MlxWhole()
        nodes = observe_mlx(port, lambda: port(mx.ones((2, 3)))).nodes
    by_name = {node.name: node for node in nodes}
    assert set(by_name) == {"", "part", "unused"}
    part = by_name["part"]
    assert (part.calls, part.order, part.depth, part.aliases) == (2, 0, 1, ("tied",))
    assert part.parameters == {"weight": (2, 3)}
    assert part.input_shapes == {"in.x": (2, 3), "in.scale": ()}
    assert part.output_shapes == {"out.y": (2, 3), "out.more.0": (2, 3)}
    assert part.values["in.x"].max() == 1.0
    assert part.values["out.y"].max() == 2.0
    assert (by_name["unused"].calls, by_name["unused"].order) == (0, None)
    assert (by_name[""].order, by_name[""].depth) == (1, 0)


def test_nothing_is_left_behind_after_an_exception() -> None:
    model, port, before = TorchPart(), MlxPart(), MlxPart.__call__
    with pytest.raises(RuntimeError, match="nothing given"):
        observe_torch(model, lambda: model(torch.ones(0), torch.ones(1)))
    with pytest.raises(RuntimeError, match="nothing given"):
        observe_mlx(port, lambda: port(mx.ones(0), mx.ones(1)))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert MlxPart.__call__ is before
