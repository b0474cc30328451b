"""Both recorders name what the modules computed, in order, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn
import numpy as np
import pytest
import torch
from torch import nn

from parity.trace import Trace, TracedTensor, call_name
from parity.trace.mlx_calls import record_mlx
from parity.trace.torch_hooks import record_torch


class TorchAdd(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.amount


class TorchTree(nn.Module):
    """Calls `second`, then `first` twice, then `both`, which returns a tuple and calls `first` inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = TorchAdd(1), TorchAdd(10)
        self.both = TorchPair(self.first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.both(self.first(self.first(self.second(x))))[1]


class TorchPair(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "_inner", inner)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -x, self._inner(x)


class MlxAdd(mlx.nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.amount


class MlxTwice(MlxAdd):
    """A subclass that calls its parent's `__call__`."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) * 2


class MlxPair(mlx.nn.Module):
    def __init__(self, inner: mlx.nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "_inner", inner)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return -x, self._inner(x)


class MlxTree(mlx.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = MlxAdd(1), MlxAdd(10)
        self.both = MlxPair(self.first)

    def __call__(self, x: mx.array) -> mx.array:
        return self.both(self.first(self.first(self.second(x))))[1]


def taken_by_torch() -> dict[str, Any]:
    tree = TorchTree()
    with record_torch(tree) as taken:
        tree(torch.zeros(1))
    return {name: tensor.tolist() for name, tensor in taken.items()}


def taken_by_mlx() -> dict[str, Any]:
    tree = MlxTree()
    with record_mlx(tree) as taken:
        tree(mx.zeros(1))
    return {name: array.tolist() for name, array in taken.items()}


EXPECTED = {"second": [10], "first": [11], "first#2": [12], "first#3": [13], "both[0]": [-12], "both[1]": [13]}


@pytest.mark.parametrize("record", [taken_by_torch, taken_by_mlx])
def test_calls_are_named_and_numbered_in_the_order_of_completion(record: Callable[[], dict[str, Any]]) -> None:
    taken = record()
    assert taken == EXPECTED
    assert list(taken) == list(EXPECTED)


def test_the_name_of_a_call_says_which_and_which_part() -> None:
    assert [call_name("a.b", 1), call_name("a.b", 2), call_name("a.b", 1, 0), call_name("a.b", 3, 1)] == [
        "a.b",
        "a.b#2",
        "a.b[0]",
        "a.b#3[1]",
    ]


# --- what is left behind ----------------------------------------------------------------------------------


class _PlantedError(Exception):
    pass


class MlxBroken(mlx.nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        raise _PlantedError(x)


def test_mlx_classes_are_as_they_were_afterwards() -> None:
    before = MlxAdd.__call__, MlxPair.__call__, MlxTree.__call__
    taken_by_mlx()
    assert (MlxAdd.__call__, MlxPair.__call__, MlxTree.__call__) == before


def test_mlx_classes_are_as_they_were_after_an_exception_in_the_block() -> None:
    before = MlxAdd.__call__
    tree = MlxTree()

    def fail_inside() -> None:
        with record_mlx(tree):
            assert MlxAdd.__call__ is not before
            raise _PlantedError

    with pytest.raises(_PlantedError):
        fail_inside()
    assert MlxAdd.__call__ is before


def test_a_module_that_raises_is_recorded_by_its_next_call() -> None:
    model = mlx.nn.Sequential(MlxBroken(), MlxAdd(1))
    with record_mlx(model) as taken:
        for _ in range(2):
            with pytest.raises(_PlantedError):
                model(mx.zeros(1))
        model.layers[1](mx.zeros(1))
    assert list(taken) == ["layers.1"]
    assert MlxBroken.__call__ is vars(MlxBroken)["__call__"]
    assert MlxBroken.__call__.__qualname__ == "MlxBroken.__call__"


def test_torch_hooks_are_gone_afterwards_and_after_an_exception() -> None:
    tree = TorchTree()

    def fail_inside() -> None:
        with record_torch(tree):
            assert len(tree.first._forward_hooks) == 1
            raise _PlantedError

    with pytest.raises(_PlantedError):
        fail_inside()
    assert [len(part._forward_hooks) for part in tree.modules()] == [0, 0, 0, 0]


def test_a_class_without_a_call_of_its_own_keeps_none() -> None:
    class Heir(MlxAdd):
        pass

    model = mlx.nn.Sequential(Heir(1))
    with record_mlx(model) as taken:
        model(mx.zeros(1))
    assert list(taken) == ["layers.0"]
    assert "__call__" not in vars(Heir)


def test_a_module_that_cannot_be_called_is_no_obstacle() -> None:
    class Holder(mlx.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.empty, self.add = mlx.nn.Module(), MlxAdd(1)

        def __call__(self, x: mx.array) -> mx.array:
            return self.add(x)

    model = Holder()
    with record_mlx(model) as taken:
        model(mx.zeros(1))
    assert list(taken) == ["add"]


# --- which instances ------------------------------------------------------------------------------------


def test_a_subclass_that_calls_its_parent_is_recorded_once_with_its_own_result() -> None:
    model = mlx.nn.Sequential(MlxTwice(3), MlxAdd(1))
    with record_mlx(model) as taken:
        model(mx.zeros(1))
    assert {name: array.tolist() for name, array in taken.items()} == {"layers.0": [6], "layers.1": [7]}


def test_other_instances_of_the_same_class_are_not_recorded() -> None:
    model, stranger = mlx.nn.Sequential(MlxAdd(1)), MlxAdd(5)
    with record_mlx(model) as taken:
        assert stranger(mx.zeros(1)).tolist() == [5]
        model(mx.zeros(1))
    assert {name: array.tolist() for name, array in taken.items()} == {"layers.0": [1]}


def test_the_model_itself_is_not_recorded() -> None:
    add = MlxAdd(1)
    with record_mlx(add) as taken:
        add(mx.zeros(1))
    assert taken == {}


def test_two_recordings_within_each_other_hear_both() -> None:
    outer, inner = mlx.nn.Sequential(MlxAdd(1)), mlx.nn.Sequential(MlxAdd(2))
    before = MlxAdd.__call__
    with record_mlx(outer) as heard, record_mlx(inner) as also:
        outer(mx.zeros(1))
        inner(mx.zeros(1))
    assert [heard["layers.0"].tolist(), also["layers.0"].tolist()] == [[1], [2]]
    assert MlxAdd.__call__ is before


def test_a_torch_module_under_two_names_has_its_first() -> None:
    add = TorchAdd(1)
    model = nn.Sequential(add, TorchAdd(10), add)
    with record_torch(model) as taken:
        model(torch.zeros(1))
    assert {name: tensor.tolist() for name, tensor in taken.items()} == {"0": [1], "1": [11], "0#2": [12]}


def test_a_trace_is_a_mapping_that_keeps_its_order() -> None:
    tensors = {name: TracedTensor(np.zeros(1), "float32") for name in ("b", "a", "y")}
    trace = Trace(tensors, ("y",))
    assert (list(trace), len(trace), trace.outputs) == (["b", "a", "y"], 3, ("y",))
    assert trace["a"] is tensors["a"]
    with pytest.raises(KeyError, match="c"):
        trace["c"]
