"""Pairs of one layer, and the layers, for the tests of the public API."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import Pair, complete
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.profile import CANONICAL


def linear_pair(name: str = "linear", **changes: Any) -> Pair:
    """A linear layer on both sides; a configuration is its size."""
    given: dict[str, Any] = {
        "reference": lambda n: tnn.Linear(n, n),
        "port": lambda n: mnn.Linear(n, n),
        "configurations": [3, 4],
        "inputs": lambda n: {"x": (2, n)},
    }
    return Pair(name, **{**given, **changes})


def run(pair: Pair, *rungs: Any, budget: str = "quick", seed: int = 0) -> Results:
    """Run a pair under the canonical profile, at f64 and f32 unless other rungs are given."""
    return execute(Plan([complete(pair)], [CANONICAL], rungs or ("f64", "f32"), budget, seed), Results({"seed": seed}))


class Tall(tnn.Module):
    """A buffer that no checkpoint holds, channels first within, and a dropout that the port leaves out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = tnn.Conv1d(dim, dim, 3, padding=1)
        self.act = tnn.GELU()
        self.drop = tnn.Dropout(0.1)
        self.register_buffer("table", torch.full((dim,), 0.1234567), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table: Any = self.table
        return self.drop(self.act(self.conv(x.transpose(1, 2)))).transpose(1, 2) * (1 + table * 0)


class TallPort(mnn.Module):
    """The same, channels last."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = mnn.Conv1d(dim, dim, 3, padding=1)
        self.act = mnn.GELU()

    def __call__(self, x: mx.array) -> mx.array:
        return self.act(self.conv(x))
