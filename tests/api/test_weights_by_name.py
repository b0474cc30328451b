"""Weights across by name: layouts by the type of the module and never by size, and every mistake listed at once."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn as mnn
from mlx.utils import tree_flatten
from small_pairs import linear_pair, run
from torch import nn as tnn

from parity.errors import WeightsError
from parity.weights import Table


def state_of(module: tnn.Module) -> dict[str, mx.array]:
    return {name: mx.array(tensor.detach().numpy()) for name, tensor in module.state_dict().items()}


def values(module: mnn.Module) -> dict[str, Any]:
    return {name: np.array(array) for name, array in tree_flatten(module.parameters())}


CONVOLUTIONS = {
    "square Conv1d": (tnn.Conv1d(3, 4, 3), mnn.Conv1d(3, 4, 3), (0, 2, 1)),
    "Conv1d of one tap and channel": (tnn.Conv1d(1, 1, 1), mnn.Conv1d(1, 1, 1), (0, 2, 1)),
    "depthwise Conv1d": (tnn.Conv1d(4, 4, 3, groups=4), mnn.Conv1d(4, 4, 3, groups=4), (0, 2, 1)),
    "square Conv2d": (tnn.Conv2d(3, 3, 3), mnn.Conv2d(3, 3, 3), (0, 2, 3, 1)),
    "Conv3d": (tnn.Conv3d(2, 3, 2), mnn.Conv3d(2, 3, 2), (0, 2, 3, 4, 1)),
    "square ConvTranspose1d": (tnn.ConvTranspose1d(3, 3, 3), mnn.ConvTranspose1d(3, 3, 3), (1, 2, 0)),
    "ConvTranspose2d": (tnn.ConvTranspose2d(2, 5, 3), mnn.ConvTranspose2d(2, 5, 3), (1, 2, 3, 0)),
    "square Linear": (tnn.Linear(3, 3), mnn.Linear(3, 3), (0, 1)),
    "square Embedding": (tnn.Embedding(3, 3), mnn.Embedding(3, 3), (0, 1)),
}


@pytest.mark.parametrize(("reference", "port", "axes"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_the_type_of_the_module_decides_on_the_layout(reference: Any, port: Any, axes: tuple[int, ...]) -> None:
    table, state = Table(), state_of(reference)
    table.load(port, state)
    np.testing.assert_array_equal(values(port)["weight"], np.array(state["weight"]).transpose(axes))
    back = table.to_state(port, dict(tree_flatten(port.parameters())))
    assert {name: np.array(array).tolist() for name, array in back.items()} == {
        name: np.array(array).tolist() for name, array in state.items()
    }


def test_the_computation_is_that_of_torch_in_a_square_convolution() -> None:
    pair = linear_pair(
        configurations=[3],
        reference=lambda n: tnn.Conv1d(n, n, n),
        port=lambda n: mnn.Conv1d(n, n, n),
        inputs=lambda n: {"x": (2, 7, n)},
        call={
            "reference": lambda m, i: m(i["x"].transpose(1, 2)).transpose(1, 2),
            "port": lambda m, i: m(i["x"]),
        },
    )
    assert run(pair).verdict == "pass"


def test_children_of_a_sequential_lie_under_layers() -> None:
    reference = tnn.Sequential(tnn.Linear(2, 3), tnn.ReLU(), tnn.Sequential(tnn.Linear(3, 4)))
    port = mnn.Sequential(mnn.Linear(2, 3), mnn.ReLU(), mnn.Sequential(mnn.Linear(3, 4)))
    table = Table()
    table.load(port, state_of(reference))
    assert values(port)["layers.2.layers.0.weight"].tolist() == reference[2][0].weight.tolist()
    names = ["layers.0", "layers.1", "layers.2", "layers.2.layers.0"]
    assert [table.module_name(name) for name in names] == ["0", "1", "2", "2.0"]


def test_buffers_go_across_and_counters_are_set_aside() -> None:
    port = mnn.BatchNorm(3)
    Table().load(port, state_of(tnn.BatchNorm1d(3)))
    assert values(port)["running_var"].tolist() == [1.0, 1.0, 1.0]


class Block(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = tnn.ModuleDict({"in": tnn.Linear(3, 3), "act": tnn.ReLU()})


class BlockPort(mnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = {"blocks": [{"up": mnn.Linear(3, 3)}]}


def test_renames_reach_any_tree_and_lead_back() -> None:
    table = Table(renames=((r"^mlp\.", "model.blocks.0."), (r"\.in\.", ".up.")))
    port = BlockPort()
    table.load(port, state_of(Block()))
    assert table.module_name("model.blocks.0.up") == "mlp.in"
    assert set(table.to_state(port, {"model.blocks.0.up.bias": mx.zeros(3)})) == {"mlp.in.bias"}


class Taps(mnn.Module):
    """A convolution whose weights its module holds itself: its type says nothing."""

    def __init__(self, dim: int, taps: int) -> None:
        super().__init__()
        self.weight = mx.zeros((dim, taps, 1))


def test_a_layout_that_the_type_does_not_say_is_asked_for_and_taken_from_the_table() -> None:
    state = state_of(tnn.Conv1d(4, 4, 3, groups=4, bias=False))
    with pytest.raises(
        WeightsError, match=r"shape of weight is \(4, 1, 3\), weight of the port \(Taps\) has \(4, 3, 1\)"
    ):
        Table().load(Taps(4, 3), state)
    port = Taps(4, 3)
    Table(layouts=((r"^weight$", (0, 2, 1)),)).load(port, state)
    np.testing.assert_array_equal(port.weight, np.array(state["weight"]).swapaxes(1, 2))


def test_a_layout_that_is_no_order_of_axes_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"layout \(0, 1\) of weight does not name each of its 3 axes"):
        Table(layouts=((r"weight", (0, 1)),)).load(Taps(4, 3), state_of(tnn.Conv1d(4, 4, 3, bias=False)))


def test_every_mistake_is_listed_at_once() -> None:
    reference = tnn.Sequential(tnn.Linear(2, 3), tnn.Linear(3, 3, bias=False), tnn.Linear(3, 3))
    port = mnn.Sequential(mnn.Linear(2, 4), mnn.Linear(3, 3))
    with pytest.raises(WeightsError) as caught:
        Table().load(port, state_of(reference))
    text = str(caught.value)
    assert text.startswith("5 problem(s) with the weights: ")
    for words in (
        "missing layers.1.bias, which the port has",
        "left over 2.weight, called layers.2.weight in the port",
        "left over 2.bias",
        "shape of 0.weight is (3, 2), layers.0.weight of the port (Linear) has (4, 2)",
        "shape of 0.bias is (3,), layers.0.bias of the port (Linear) has (4,)",
        "renames=, layouts=, reference_only= and port_only= say what differs",
    ):
        assert words in text


def test_two_tensors_for_one_place_are_refused() -> None:
    state = {"a.weight": mx.zeros((2, 2)), "weight": mx.zeros((2, 2)), "bias": mx.zeros(2)}
    with pytest.raises(WeightsError, match=r"a\.weight and weight both go to weight"):
        Table(renames=((r"^a\.", ""),)).load(mnn.Linear(2, 2), state)


def test_a_tied_head_is_recognised_and_set_aside_by_name_alone() -> None:
    state = {"embed.weight": mx.ones((3, 2)), "head.weight": mx.ones((3, 2))}
    port = mnn.Module()
    port.embed = mnn.Embedding(3, 2)
    with pytest.raises(WeightsError, match=r"left over head.weight \(equal to embed.weight: if they are tied"):
        Table().load(port, state)
    Table(reference_only=(r"^head\.",)).load(port, state)
    assert values(port)["embed.weight"].tolist() == np.ones((3, 2)).tolist()


def test_a_constant_of_the_port_is_left_alone_when_it_is_named() -> None:
    port = mnn.Linear(2, 2)
    port.scale = mx.array([7.0])
    state = state_of(tnn.Linear(2, 2))
    with pytest.raises(WeightsError, match="missing scale"):
        Table().load(port, state)
    Table(port_only=("^scale$",)).load(port, state)
    assert port.scale.item() == 7.0


# --- a way of the port's own ----------------------------------------------------------------------------------------


def test_a_sanitize_of_the_port_replaces_the_table() -> None:
    def sanitize(port: Any, state: Any) -> Any:
        return {"weight": state["weight"].swapaxes(0, 1), "bias": state["bias"]}

    pair = linear_pair(reference=Transposed, weights=sanitize)
    assert run(pair).verdict == "pass"
    forgotten = linear_pair(reference=Transposed, weights=lambda port, state: dict(state))
    assert run(forgotten).verdict == "fail"


class Transposed(tnn.Module):
    """A linear layer that keeps its matrix the other way round."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.zeros(n, n))
        self.bias = tnn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def test_it_may_fill_the_port_itself() -> None:
    def fill(port: Any, state: Any) -> None:
        port.load_weights(list(state.items()))

    assert run(linear_pair(weights=fill)).verdict == "pass"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        pytest.param(lambda port, state: {"weight": state["weight"]}, "missing bias", id="missing"),
        pytest.param(lambda port, state: {**state, "x": state["bias"]}, "left over x", id="left over"),
        pytest.param(lambda port, state: {**state, "bias": mx.zeros(9)}, r"shape of bias is \(9,\)", id="shape"),
        pytest.param(lambda port, state: 3, "weights= returned int", id="kind"),
    ],
)
def test_what_it_returns_must_fit(own: Any, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        Table(own=own).load(mnn.Linear(3, 3), state_of(tnn.Linear(3, 3)))
