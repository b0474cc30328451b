"""Bare passes of either side, forward and gradient: the frameworks' own calls, and nothing of the harness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten

from parity.backends.convert_mlx import mlx_from_numpy
from parity.backends.reference import inputs_at
from parity.bench.rounds import Contenders
from parity.cases import Case, draw_inputs
from parity.examine import Modules
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

SINGLE = RUNGS["f32"]


class BarePasses:
    """Both sides of one case at float32, filled and given their inputs, so that a call computes and nothing else.

    Args:
        pair: The pair.
        case: Structure and seed.
        modules: The filled modules, where they are there already.
    """

    def __init__(self, pair: Pair, case: Case, modules: Modules | None = None) -> None:
        modules = modules or Modules(pair, case, CANONICAL)
        self._call = pair.call
        self._reference, self._port = modules.reference(SINGLE), modules.port(CANONICAL, SINGLE)
        inputs = draw_inputs(pair, case)
        self._tensors = inputs_at(pair, inputs, SINGLE)
        self._arrays = {name: mlx_from_numpy(array, SINGLE.dtype) for name, array in inputs.items()}
        self._varied = [name for name, tensor in self._tensors.items() if tensor.is_floating_point()]
        mx.eval(self._arrays, self._port.parameters())

    def forward(self) -> Contenders:
        """Return the forward passes."""
        return {"torch": self._torch_forward, "mlx": self._mlx_forward}

    def gradient(self) -> Contenders:
        """Return forward and backward passes: gradients of sum(y * w) for every parameter and float input, w drawn."""
        weights = self._weights()
        ours = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        theirs = {name: mx.array(weight) for name, weight in weights.items()}
        mx.eval(theirs)
        return {"torch": lambda: self._torch_gradient(ours), "mlx": lambda: self._mlx_gradient(theirs)}

    def _torch_forward(self) -> Any:
        with torch.no_grad():
            return self._call(self._reference, self._tensors)

    def _mlx_forward(self) -> Any:
        with mx.stream(mx.cpu):
            outputs = self._call(self._port, self._arrays)
            mx.eval(outputs)
        return outputs

    def _weights(self) -> dict[str, Any]:
        drawn = np.random.Generator(np.random.Philox(0))
        return {
            name: drawn.standard_normal(tuple(output.shape), dtype=np.float32)
            for name, output in self._torch_forward().items()
            if output.is_floating_point()
        }

    def _torch_gradient(self, weights: dict[str, torch.Tensor]) -> Any:
        leaves = {name: self._tensors[name].detach().requires_grad_() for name in self._varied}
        parameters = [parameter for parameter in self._reference.parameters() if parameter.requires_grad]
        outputs = self._call(self._reference, {**self._tensors, **leaves})
        total = torch.stack([(outputs[name] * weight).sum() for name, weight in weights.items()]).sum()
        return torch.autograd.grad(total, [*parameters, *leaves.values()], allow_unused=True)

    def _mlx_gradient(self, weights: dict[str, mx.array]) -> Any:
        port, start = self._port, self._port.trainable_parameters()

        def total(parameters: Any, given: dict[str, mx.array]) -> mx.array:
            port.update(parameters)
            outputs = self._call(port, {**self._arrays, **given})
            parts = [mx.sum(outputs[name] * weight) for name, weight in weights.items()]
            return sum(parts[1:], parts[0])

        with mx.stream(mx.cpu):
            try:
                gradients = mx.grad(total, argnums=(0, 1))(start, {name: self._arrays[name] for name in self._varied})
            finally:
                port.update(start)
            mx.eval(gradients)
        return gradients

    @property
    def trainable(self) -> bool:
        """Whether there is anything to differentiate by."""
        return bool(self._varied) or bool(tree_flatten(self._port.trainable_parameters()))


def truth_pass(pair: Pair, case: Case, modules: Modules) -> Callable[[], object]:
    """Return the bare forward pass of the reference in float64."""
    tensors = inputs_at(pair, draw_inputs(pair, case), RUNGS["f64"])

    def run() -> object:
        with torch.no_grad():
            return pair.call(modules.module, tensors)

    return run
