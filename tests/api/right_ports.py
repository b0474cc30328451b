"""Right ports of models that are hard to compare: transforms of infinities, experts of a mixture, a modulus at zero."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity import Pair


class TorchFunction(tnn.Module):
    """A function of x."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class MlxFunction(mnn.Module):
    """A function of x."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def __call__(self, x: mx.array) -> Any:
        return self.function(x)


def of_functions(name: str, reference: Any, port: Any) -> Pair:
    return Pair(
        name,
        reference=lambda c: TorchFunction(reference),
        port=lambda c: MlxFunction(port),
        configurations=[{"n": 13}],
        inputs=lambda c: {"x": (2, c["n"], 7)},
    )


class TorchExperts(tnn.Module):
    """The better of two experts for each row; an expert sees its own rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = tnn.Linear(7, 1)
        self.low, self.high = tnn.Linear(7, 7), tnn.Linear(7, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The gate's sum less itself: its sign is that of a rounding, so that which rows go where is too.
        first = torch.tanh(self.gate(x))[..., 0]
        taken = (first * 3.0) / 3.0 - first > 0
        y = torch.zeros_like(x)
        y[taken], y[~taken] = self.low(x[taken]), self.high(x[~taken])
        return y * 0.0 + x


class MlxExperts(mnn.Module):
    """Both experts see all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = mnn.Linear(7, 1)
        self.low, self.high = mnn.Linear(7, 7), mnn.Linear(7, 7)

    def __call__(self, x: mx.array) -> mx.array:
        return (self.low(x) + self.high(x) + self.gate(x)) * 0.0 + x


log_softmax = of_functions(
    "log_softmax",
    lambda x: x.log_softmax(-1),
    lambda x: x - mx.logsumexp(x, axis=-1, keepdims=True),
)
fourier = of_functions(
    "fourier",
    lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real,
    lambda x: mx.fft.fft(mx.fft.fft(x, axis=-1), axis=-2).real,
)
experts = Pair(
    "experts",
    reference=lambda c: TorchExperts(),
    port=lambda c: MlxExperts(),
    configurations=[{"n": 13}],
    inputs=lambda c: {"x": (2, c["n"], 7)},
    finite_only="the rows of an expert that sees all of them are multiplied by 0",
)
