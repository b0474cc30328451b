"""One tree in both frameworks, with everything that a capture must follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn
import torch
from torch import nn

from parity.trace.calls import Call


class KVCache:
    """No container."""


class TorchScale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = x * self.factor
        return y if bias is None else y + bias


class TorchBlock(nn.Module):
    """Returns nested containers and takes a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TorchScale(2)

    def forward(self, x: torch.Tensor, cache: Any = None) -> Any:
        y = self.inner(x, bias=x)
        return y, {"states": [y + 1, y + 2], "cache": cache}


class TorchTree(nn.Module):
    """`first` twice, `block`, and `again`, which is `first` under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = TorchScale(10), TorchBlock()
        self.again = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.block(self.first(self.first(x)), cache=KVCache())
        return self.again(bias=y, x=y)


class MlxScale(mlx.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __call__(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        y = x * self.factor
        return y if bias is None else y + bias


class MlxBlock(mlx.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = MlxScale(2)

    def __call__(self, x: mx.array, cache: Any = None) -> Any:
        y = self.inner(x, bias=x)
        return y, {"states": [y + 1, y + 2], "cache": cache}


class MlxTree(mlx.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = MlxScale(10), MlxBlock()
        self.again = self.first

    def __call__(self, x: mx.array) -> mx.array:
        y, _ = self.block(self.first(self.first(x)), cache=KVCache())
        return self.again(bias=y, x=y)


class PlantedError(Exception):
    """What a test raises."""


EXPECTED = [
    # name, depth, inputs, outputs of the tree called with 1
    ("first", 1, {"x": 1}, {"": 10}),
    ("first#2", 1, {"x": 10}, {"": 100}),
    ("block.inner", 2, {"x": 100, "bias": 100}, {"": 300}),
    ("block", 1, {"x": 100}, {"0": 300, "1.states.0": 301, "1.states.1": 302}),
    ("first#3", 1, {"x": 300, "bias": 300}, {"": 3300}),
    ("", 0, {"x": 1}, {"": 3300}),
]


def described(calls: Sequence[Call]) -> list[Any]:
    """What EXPECTED says of each call."""

    def values(tensors: Any) -> dict[str, float]:
        return {path: tensor.item() for path, tensor in tensors.items()}

    return [(call.name, call.depth, values(call.inputs), values(call.outputs)) for call in calls]


def listener() -> tuple[list[Call], Callable[[Call], None]]:
    calls: list[Call] = []
    return calls, calls.append
