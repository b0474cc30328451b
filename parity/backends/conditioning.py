"""How the data amplify one rounding: the float64 reference with its weights and inputs jittered.

kappa = mean over draws of ||y(jittered) - y|| / (eps ||y||), every weight and float input multiplied by 1 + eps xi,
xi N(0, 1), eps = 2^-32. It knows nothing of how the result is computed, unlike the predicted noise
(`parity.backends.noise`), which is what tolerances are made of: kappa says whether a large error was to be expected.

Source: Higham, Accuracy and Stability of Numerical Algorithms, section 1.6; the estimate is stochastic.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import nn

from parity.backends.noise import same_shape
from parity.backends.reference import named_tensors, run_reference
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS
from parity.trace import Trace

EPSILON: Final = 2.0**-32
"""Far above float64's rounding, and its square far below."""

DRAWS: Final = 5


def jitter_kappa(
    pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], truth: Trace, seed: int
) -> dict[str, float]:
    """Return kappa of every tensor of `truth`; 0 where the truth is zero throughout or has no elements.

    A run in which the jitter changed a tensor's shape, or left it out, counts nothing for that tensor.

    Args:
        pair: The pair.
        module: The float64 reference that made `truth`; it stays as it is.
        inputs: Its inputs.
        truth: Its trace.
        seed: Seed of the jitter.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(truth, 0.0)
    moved = copy.deepcopy(module)  # once: copying takes as long as running
    tensors = _tensors(module, moved)
    for _ in range(DRAWS):
        _jitter(tensors, EPSILON, generator)
        run = run_reference(pair, moved, _jittered_inputs(inputs, EPSILON, generator), RUNGS["f64"])
        for name, exact in ((name, exact) for name, exact in truth.items() if same_shape(run, truth, name)):
            sums[name] += _response(run[name].values, exact.values)
    return {name: total / DRAWS for name, total in sums.items()}


def jittered(
    module: nn.Module, inputs: Mapping[str, AnyArray], epsilon: float, generator: torch.Generator
) -> tuple[nn.Module, dict[str, AnyArray]]:
    """Return a float64 module and its inputs, every number multiplied by 1 + epsilon xi, xi N(0, 1).

    Ids, and masks of zeros and ones, stay, since they are exact, and so do constants that no state dict holds.
    `module` and `inputs` stay as they are.
    """
    moved = copy.deepcopy(module)
    _jitter(_tensors(module, moved), epsilon, generator)
    return moved, _jittered_inputs(inputs, epsilon, generator)


def _tensors(module: nn.Module, moved: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the tensors of a module, each beside that of its copy."""
    exact = named_tensors(module)
    return [(exact[name], tensor) for name, tensor in named_tensors(moved).items()]


def _jitter(tensors: Sequence[tuple[torch.Tensor, torch.Tensor]], epsilon: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for exact, moved in tensors:
            factor = 1 + epsilon * torch.randn(exact.shape, generator=generator, dtype=torch.float64)
            torch.mul(exact, factor, out=moved)


def _jittered_inputs(inputs: Mapping[str, AnyArray], epsilon: float, generator: torch.Generator) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {}
    for name, array in inputs.items():
        exact = not np.issubdtype(array.dtype, np.floating) or bool(np.isin(array, (0.0, 1.0)).all())
        noise = torch.randn(array.shape, generator=generator, dtype=torch.float64).numpy()
        arrays[name] = array if exact else np.asarray(array, dtype=np.float64) * (1 + epsilon * noise)
    return arrays


def _response(values: Array, truth: Array) -> float:
    size = float(np.linalg.norm(truth))
    return float(np.linalg.norm(values - truth)) / (EPSILON * size) if size > 0 else 0.0
