"""The gate's hashes hold gradients too: another derivative of the same values has other bits, and only there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.digests import GRADIENTS
from parity.results import Digest, Results
from parity.run import Plan, execute
from parity.spec.profile import CANONICAL


class Net(tnn.Module):
    """A layer and a tanh."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.up = tnn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.up(x))


@mx.custom_function
def tanh_rounded(x: mx.array) -> mx.array:
    return mx.tanh(x)


@tanh_rounded.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:
    return cotangent * (1 - output) * (1 + output)


class Port(mnn.Module):
    """The same with `act` for the tanh."""

    def __init__(self, n: int, act: Callable[[Any], Any]) -> None:
        super().__init__()
        self.up = mnn.Linear(n, n)
        self._act = act

    def __call__(self, x: mx.array) -> mx.array:
        return self._act(self.up(x))


def digests(act: Callable[[Any], Any]) -> Mapping[str, Digest]:
    pair = complete(
        Pair(
            "net",
            reference=Net,
            port=lambda n: Port(n, act),
            inputs=lambda n: {"x": (3, n)},
            configurations=[4, 7],
            inlined=("tanh",),
        )
    )
    found = execute(Plan([pair], [CANONICAL], ("f64", "f32", "bf16"), "quick", 0), Results({"seed": 0}))
    assert found.verdict == "pass"
    return {digest.rung: digest for digest in found.digests}


def test_a_derivative_that_rounds_otherwise_has_other_bits_and_the_values_the_same() -> None:
    library, own = digests(mx.tanh), digests(tanh_rounded)
    assert digests(mx.tanh) == library
    for rung in ("f64", "f32"):
        before, now = library[rung], own[rung]
        assert before.cases == now.cases
        assert [name for name in before.tensors if before.tensors[name] != now.tensors[name]] == [GRADIENTS]
    assert GRADIENTS not in library["bf16"].tensors
    assert library["bf16"] == own["bf16"]
