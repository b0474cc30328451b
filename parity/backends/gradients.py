"""Gradients of either side under the same cotangents: of every float input, and of every trainable parameter.

Both differentiate L = sum over the outputs y of sum(y * w). The cotangents w are multiples of 1/64 of at most seven
bits, which every format holds: dL/dy is w itself, whatever rounds on the way to L.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from mlx.utils import tree_flatten
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import numpy_from_torch, torch_from_numpy
from parity.backends.port import arithmetic
from parity.backends.true_transforms import TrueTransforms
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array, Arrays
from parity.spec.precision import Rung
from parity.trace import Trace, TracedTensor

GRADIENT: Final = "gradient of "
"""Before the name of a parameter, or of an input (`gradient of input x`), in the name of its gradient."""

_STEPS: Final = 127
_STEP: Final = 2.0**-6


def draw_cotangents(outputs: Trace, seed: int) -> Arrays:
    """Return a cotangent for every output: k / 64, k drawn from -127 to 127 and never 0.

    Args:
        outputs: The outputs, of any values.
        seed: Seed of the draw.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    found = {}
    for name in outputs.outputs:
        steps = generator.integers(1, _STEPS, size=outputs[name].values.shape, endpoint=True)
        found[name] = np.asarray(steps * generator.choice((-_STEP, _STEP), size=np.shape(steps)))
    return found


def gradients_of_reference(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    cotangents: Mapping[str, Array],
    varied: Collection[str],
    perturbed: bool = False,
) -> dict[str, TracedTensor]:
    """Return the gradients of the reference, already cast to the rung, by name; none where nothing has a gradient.

    What no output depends on has a gradient of zeros. `varied` are the inputs that have one: no mask does. A
    `perturbed` pass needs no better transforms than torch's own.
    """
    tensors = {name: torch_from_numpy(array, rung.dtype) for name, array in inputs.items()}
    targets = {f"{GRADIENT}input {name}": tensor.requires_grad_() for name, tensor in tensors.items() if name in varied}
    targets |= {GRADIENT + name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    with torch.enable_grad(), nullcontext() if perturbed else TrueTransforms():
        # A copy, since a leaf cannot be changed in place, and a module may do that to what it is given.
        outputs = pair.call(module, {name: tensor.clone() for name, tensor in tensors.items()})
        parts = [
            (y * torch.from_numpy(cotangents[name]).to(y.dtype)).sum() for name, y in outputs.items() if y.requires_grad
        ]
        if not parts or not targets:
            return {}
        found: Any = torch.autograd.grad(torch.stack(parts).sum(), list(targets.values()), allow_unused=True)
    return {
        name: TracedTensor(*numpy_from_torch(torch.zeros_like(target) if grad is None else grad))
        for (name, target), grad in zip(targets.items(), found, strict=True)
    }


def gradients_of_port(
    pair: Pair,
    module: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    cotangents: Mapping[str, Array],
    varied: Collection[str],
) -> dict[str, TracedTensor]:
    """Return the gradients of the port under the reference's names and axes; a shared parameter's under each alias."""
    with arithmetic(pair, rung), mx.stream(mx.cpu):
        arrays = {name: mlx_from_numpy(array, rung.dtype) for name, array in inputs.items()}
        floats = {name: array for name, array in arrays.items() if name in varied}
        start = module.trainable_parameters()
        if not floats and not tree_flatten(start):
            return {}

        def loss(parameters: Any, given: Mapping[str, mx.array]) -> mx.array:
            module.update(parameters)
            parts = [
                mx.sum(y * mlx_from_numpy(cotangents[name], "float64").astype(y.dtype))
                for name, y in pair.call(module, {**arrays, **given}).items()
                if name in cotangents and mx.issubdtype(y.dtype, mx.floating)
            ]
            return sum(parts[1:], parts[0])

        try:
            by_parameter, by_input = mx.grad(loss, argnums=(0, 1))(start, floats)
        finally:
            module.update(start)
        by_name = pair.to_state(module, dict(tree_flatten(by_parameter)))
        mx.eval(by_name, by_input)
        found = {f"{GRADIENT}input {name}": TracedTensor(*numpy_from_mlx(array)) for name, array in by_input.items()}
        return found | {GRADIENT + name: TracedTensor(*numpy_from_mlx(array)) for name, array in by_name.items()}
