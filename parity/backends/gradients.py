"""Gradients of either side under the same cotangents: of every float input, and of every trainable parameter.

Both differentiate L = sum over the outputs y of sum(y * w). Drawn cotangents w are multiples of 1/64 of at most seven
bits, which every format holds: dL/dy is w itself, whatever rounds on the way to L. Golden files have the main output's
alone, and w = linspace(-1, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from mlx.utils import tree_flatten
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import numpy_from_torch
from parity.backends.port import arithmetic
from parity.backends.reference import inputs_at
from parity.backends.true_transforms import TrueTransforms
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array, Arrays
from parity.spec.precision import Rung
from parity.torch_switches import ieee_products
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

    def loss(outputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        parts = [
            (y * torch.from_numpy(cotangents[name]).to(y.dtype).to(y.device)).sum()
            for name, y in outputs.items()
            if y.requires_grad
        ]
        return torch.stack(parts).sum() if parts else None

    by_name, by_input = _reference(pair, module, inputs, rung, loss, varied, nullcontext() if perturbed else None)
    return _joined(by_name, by_input)


def gradients_of_port(
    pair: Pair,
    module: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    cotangents: Mapping[str, Array],
    varied: Collection[str],
) -> dict[str, TracedTensor]:
    """Return the gradients of the port under the reference's names and axes; a shared parameter's under each alias."""

    def loss(outputs: Mapping[str, mx.array]) -> mx.array:
        parts = [
            mx.sum(y * mlx_from_numpy(cotangents[name], "float64").astype(y.dtype, stream=mx.cpu))
            for name, y in outputs.items()
            if name in cotangents and mx.issubdtype(y.dtype, mx.floating)
        ]
        return sum(parts[1:], parts[0])

    return _joined(*_port(pair, module, inputs, rung, loss, varied))


def reference_gradients(
    pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], rung: Rung
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the gradients of sum(y * w), y the main output, w = linspace(-1, 1, y.numel()), as golden files have them.

    Transforms are torch's own. A parameter that the output does not depend on has a gradient of zeros.

    Returns:
        Gradients by parameter, and by float input.
    """

    def loss(outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        y = list(outputs.values())[-1]
        return (
            y * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y.dtype).to(y.device).reshape(y.shape)
        ).sum()

    return _values(_reference(pair, module, inputs, rung, loss, _floats(inputs), nullcontext()))


def port_gradients(
    pair: Pair, module: mlx_nn.Module, inputs: Mapping[str, AnyArray], rung: Rung
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return those of the port under the reference's names and axes; a shared parameter's under each alias."""

    def loss(outputs: Mapping[str, mx.array]) -> mx.array:
        y = list(outputs.values())[-1]
        weight = mlx_from_numpy(np.linspace(-1, 1, y.size), "float64").astype(y.dtype, stream=mx.cpu).reshape(y.shape)
        return mx.sum(y * weight)

    return _values(_port(pair, module, inputs, rung, loss, _floats(inputs)))


# --- one backward pass ------------------------------------------------------------------------------------

Tensors = dict[str, TracedTensor]


def _reference(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    loss: Callable[[Mapping[str, torch.Tensor]], torch.Tensor | None],
    varied: Collection[str],
    transforms: AbstractContextManager[object] | None,
) -> tuple[Tensors, Tensors]:
    """Gradients of `loss` by parameter and by input, none where it is None; `transforms` replace the true ones."""
    tensors = inputs_at(pair, inputs, rung)
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items() if name in varied}
    parameters = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    targets = [*parameters.values(), *leaves.values()]
    with (
        torch.enable_grad(),
        ieee_products(pair.devices.reference_at(rung)),
        TrueTransforms() if transforms is None else transforms,
    ):
        # A copy, since a leaf cannot be changed in place, and a module may do that to what it is given.
        total = loss(pair.call(module, {name: tensor.clone() for name, tensor in tensors.items()}))
        if total is None or not targets:
            return {}, {}
        found: Any = torch.autograd.grad(total, targets, allow_unused=True)
    grads = [
        TracedTensor(*numpy_from_torch(torch.zeros_like(target) if grad is None else grad))
        for target, grad in zip(targets, found, strict=True)
    ]
    split = len(parameters)
    return dict(zip(parameters, grads[:split], strict=True)), dict(zip(leaves, grads[split:], strict=True))


def _port(
    pair: Pair,
    module: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    loss: Callable[[Mapping[str, mx.array]], mx.array],
    varied: Collection[str],
) -> tuple[Tensors, Tensors]:
    """Gradients of `loss` by parameter and by input."""
    with arithmetic(pair, rung):
        arrays = {name: mlx_from_numpy(array, rung.dtype) for name, array in inputs.items()}
        floats = {name: array for name, array in arrays.items() if name in varied}
        start = module.trainable_parameters()
        if not floats and not tree_flatten(start):
            return {}, {}

        def total(parameters: Any, given: Mapping[str, mx.array]) -> mx.array:
            module.update(parameters)
            return loss(pair.call(module, {**arrays, **given}))

        try:
            by_parameter, by_input = mx.grad(total, argnums=(0, 1))(start, floats)
        finally:
            module.update(start)
        by_name = pair.to_state(module, dict(tree_flatten(by_parameter)))
        mx.eval(by_name, by_input)
        return _traced(by_name), _traced(by_input)


def _traced(arrays: Mapping[str, mx.array]) -> Tensors:
    return {name: TracedTensor(*numpy_from_mlx(array)) for name, array in arrays.items()}


def _joined(by_name: Tensors, by_input: Tensors) -> Tensors:
    inputs = {f"{GRADIENT}input {name}": tensor for name, tensor in by_input.items()}
    return inputs | {GRADIENT + name: tensor for name, tensor in by_name.items()}


def _values(found: tuple[Tensors, Tensors]) -> tuple[dict[str, Array], dict[str, Array]]:
    by_name, by_input = ({name: tensor.values for name, tensor in part.items()} for part in found)
    return by_name, by_input


def _floats(inputs: Mapping[str, AnyArray]) -> list[str]:
    return [name for name, array in inputs.items() if np.issubdtype(array.dtype, np.floating)]
