"""Ports that are wrong in ways which finite numbers of one call do not show, as somebody else would write them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity import InputSpec, Pair


class Reference(tnn.Module):
    """tanh(l(x)) + x."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.l = tnn.Linear(d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.l(x)) + x


class Port(mnn.Module):
    """The same."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.l = mnn.Linear(d, d)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.l(x)) + x


class NanMadeZero(Port):
    """NaN is 0."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(mx.where(mx.isnan(x), mx.zeros_like(x), x))


class InfinityCut(Port):
    """Infinities are the largest float32."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(mx.clip(x, -3e38, 3e38))


class NanRaises(Port):
    """NaN is refused."""

    def __call__(self, x: mx.array) -> mx.array:
        if mx.any(mx.isnan(x)).item():
            raise ValueError("NaN")
        return super().__call__(x)


class FirstInputKept(Port):
    """The residual of the first call for good."""

    def __call__(self, x: mx.array) -> mx.array:
        if getattr(self, "_kept", None) is None:
            object.__setattr__(self, "_kept", x)
        return mx.tanh(self.l(x)) + self._kept


class FirstCallOther(Port):
    """The first call differs: a buffer that is filled too late."""

    def __call__(self, x: mx.array) -> mx.array:
        first = getattr(self, "_first", True)
        object.__setattr__(self, "_first", False)
        return mx.tanh(self.l(x)) + (0 if first else x)


class TrainingScaled(Port):
    """Wrong in training alone."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) * (0.9 if self.training else 1)


class Table(tnn.Module):
    """Rows by id."""

    def __init__(self) -> None:
        super().__init__()
        self.e = tnn.Embedding(5000, 4)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.e(ids)


class LastRowCut(mnn.Module):
    """The last row is never read."""

    last = 4998
    first = 0

    def __init__(self) -> None:
        super().__init__()
        self.e = mnn.Embedding(5000, 4)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.e(mx.clip(ids, self.first, self.last))


class FirstRowCut(LastRowCut):
    """The first row is never read."""

    last, first = 4999, 1


def _pair(name: str, port: Any, **more: Any) -> Pair:
    return Pair(
        name,
        reference=lambda c: Reference(c["d"]),
        port=lambda c: port(c["d"]),
        configurations=[{"d": 6, "l": 3}, {"d": 4, "l": 5}],
        inputs=lambda c: {"x": (2, c["l"], c["d"])},
        **more,
    )


def _table(name: str, port: Any) -> Pair:
    return Pair(
        name,
        reference=lambda c: Table(),
        port=lambda c: port(),
        configurations=[{"l": 3}, {"l": 6}],
        inputs=lambda c: {"ids": InputSpec((2, c["l"]), "ids", high=5000)},
    )


def in_training(module: Any, inputs: Any) -> Any:
    """Either side in training."""
    return module.train()(inputs["x"])


PAIRS = [
    _pair("right", Port),
    _pair("right_in_training", Port, call=in_training),
    _pair("excused", NanMadeZero, finite_only="the port's users have no NaN"),
    _pair("nan_made_zero", NanMadeZero),
    _pair("infinity_cut", InfinityCut),
    _pair("nan_raises", NanRaises),
    _pair("first_input_kept", FirstInputKept),
    _pair("first_call_other", FirstCallOther),
    _pair("training_scaled", TrainingScaled, call=in_training),
    _table("last_row_cut", LastRowCut),
    _table("first_row_cut", FirstRowCut),
]
