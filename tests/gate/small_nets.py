"""A layer and a tanh on both sides, for the tests of what the gate and a resumed run keep of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.pairs import Pair as Whole


class Net(tnn.Module):
    """A layer and a tanh."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.up = tnn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.up(x))


class Port(mnn.Module):
    """The same with `act` for the tanh, `before` it; `frozen` gives its bias no gradient."""

    def __init__(
        self,
        n: int,
        act: Callable[[Any], Any] = mx.tanh,
        before: Callable[[mx.array], mx.array] = lambda x: x,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.up = mnn.Linear(n, n)
        self._act, self._before = act, before
        if frozen:
            self.up.freeze(keys=["bias"])

    def __call__(self, x: mx.array) -> mx.array:
        return self._act(self.up(self._before(x)))


def tanh_with(derivative: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """Return a tanh whose derivative is a function of its value."""

    @mx.custom_function
    def tanh(x: mx.array) -> mx.array:
        return mx.tanh(x)

    @tanh.vjp
    def _(primals: Any, cotangent: Any, output: Any) -> Any:
        return cotangent * derivative(output)

    return tanh  # type: ignore[no-any-return]


def pair_of(port: Callable[[int], Any]) -> Whole:
    return complete(
        Pair(
            "net",
            reference=Net,
            port=port,
            inputs=lambda n: {"x": (3, n)},
            configurations=[4, 7],
            inlined=("tanh",),
        )
    )
