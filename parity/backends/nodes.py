"""Modules of either side as pairing sees them: one run under capture.

Inputs and outputs of a module's first call are kept as float64 values under the paths of the captured call: `in.x`,
`in.mask`, `out`, `out.0`, `out.logits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.backends.convert_mlx import numpy_from_mlx
from parity.backends.convert_torch import numpy_from_torch
from parity.pairing import Node
from parity.spec.arrays import Array
from parity.trace.calls import Call
from parity.trace.mlx_capture import capture_mlx, names_of_mlx
from parity.trace.torch_capture import capture_torch


@dataclass(frozen=True)
class Observed:
    """One side of a model, as a run has shown it.

    Attributes:
        nodes: Every module, the model itself included under the empty name.
        calls: The first call of each module that was called, by its name.
    """

    nodes: list[Node]
    calls: Mapping[str, Call]


def input_path(path: str) -> str:
    """Return how a node calls a captured call's input."""
    return f"in.{path}" if path else "in"


def output_path(path: str) -> str:
    """Return how a node calls a captured call's output."""
    return f"out.{path}" if path else "out"


def call_path(path: str) -> str:
    """Return how a captured call calls what a node calls `path`: the inverse of both."""
    return path.partition(".")[2]


def observe_torch(model: tnn.Module, run: Callable[[], object]) -> Observed:
    """Return every module of `model` as `run`, which calls it, shows them.

    Raises:
        CaptureError: A module cannot be captured, or none was called.
    """
    seen = _Seen()
    with torch.no_grad(), capture_torch(model, seen.add):
        run()
    return seen.observed(model.named_modules(remove_duplicate=False), _torch_parameters, _numpy_of_tensor)


def observe_mlx(model: mnn.Module, run: Callable[[], object]) -> Observed:
    """Return every module of `model` as `run`, which calls it, shows them.

    Raises:
        CaptureError: A module cannot be captured, or none was called.
    """
    seen = _Seen()
    with capture_mlx(model, seen.add, evaluate=True):
        run()
    return seen.observed(names_of_mlx(model), _mlx_parameters, _numpy_of_mlx)


@dataclass
class _Seen:
    """First calls in the order in which they ended, and how many there were of each module."""

    first: dict[str, Call] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, call: Call) -> None:
        self.counts[call.module] += 1
        self.first.setdefault(call.module, call)

    def observed(
        self,
        tree: Iterable[tuple[str, Any]],
        parameters: Callable[[Any], dict[str, tuple[int, ...]]],
        to_numpy: Callable[[Any], Array],
    ) -> Observed:
        names: dict[int, list[str]] = {}
        modules: dict[int, Any] = {}
        for name, module in tree:
            names.setdefault(id(module), []).append(name)
            modules[id(module)] = module
        places = {name: place for place, name in enumerate(self.first)}
        nodes = [
            self._node(modules[key], every, parameters(modules[key]), places.get(every[0]), to_numpy)
            for key, every in names.items()
        ]
        return Observed(nodes, self.first)

    def _node(
        self,
        module: Any,
        names: list[str],
        parameters: dict[str, tuple[int, ...]],
        order: int | None,
        to_numpy: Callable[[Any], Array],
    ) -> Node:
        call = self.first.get(names[0])
        inputs = {} if call is None else {input_path(path): to_numpy(value) for path, value in call.inputs.items()}
        outputs = {} if call is None else {output_path(path): to_numpy(value) for path, value in call.outputs.items()}
        return Node(
            name=names[0],
            kind=type(module).__name__,
            parameters=parameters,
            calls=self.counts[names[0]],
            order=order,
            depth=len(names[0].split(".")) if names[0] else 0,
            input_shapes={path: values.shape for path, values in inputs.items()},
            output_shapes={path: values.shape for path, values in outputs.items()},
            values={**inputs, **outputs},
            aliases=tuple(names[1:]),
        )


def _torch_parameters(module: tnn.Module) -> dict[str, tuple[int, ...]]:
    """Parameters and stored buffers, since MLX makes no difference between them."""
    own = {name: value for name, value in module.state_dict(keep_vars=True).items() if "." not in name}
    return {name: tuple(value.shape) for name, value in own.items() if value.is_floating_point()}


def _mlx_parameters(module: mnn.Module) -> dict[str, tuple[int, ...]]:
    """Arrays of the module itself; an underscore marks those that are no parameters."""
    own = {name: value for name, value in module.items() if isinstance(value, mx.array)}
    return {name: tuple(value.shape) for name, value in own.items() if not name.startswith("_")}


def _numpy_of_tensor(tensor: torch.Tensor) -> Array:
    return np.array(numpy_from_torch(tensor)[0])


def _numpy_of_mlx(array: mx.array) -> Array:
    return numpy_from_mlx(array)[0]
