"""Whether a port's error at f64 is float32's rounding: how much of it changes with float32's last places.

r = port - reference at f64, once with the case's numbers and again with every weight and float input multiplied by
1 + 2^-22 xi, xi N(0, 1): four units of float32's last place, 2^31 of float64's. What is rounded to float32 on the way
is rounded anew, so that the two residuals have little in common; another meaning is a smooth function of the numbers,
and its residual moves by 2^-22 times its conditioning.

    roughness = max over draws of ||r' - r|| / max(||r||, ||r'||),   about 1 for rounding, 2^-22 kappa for a meaning.

Source: measured in docs/accuracy.md, section "What kind of failure".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import nn

from parity.backends.conditioning import jittered
from parity.backends.port import build_port, run_port
from parity.backends.reference import run_reference, state_of
from parity.layouts import nearest_layout
from parity.pairs import Pair, Structure
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS
from parity.spec.profile import HyperProfile

EPSILON: Final = 2.0**-22
"""Four units of float32's last place: enough to round anew, little enough for a meaning to stay."""

DRAWS: Final = 4
"""Of a single element two roundings may agree by luck; four times, they do not."""


def roughness(
    pair: Pair,
    structure: Structure,
    profile: HyperProfile,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    tensor: str,
    seed: int,
) -> float | None:
    """Return the roughness of the port's error in `tensor`, None where one of the runs cannot be compared.

    Args:
        pair: The pair.
        structure: Structure of the case.
        profile: The profile of the port.
        module: The float64 reference, which stays as it is.
        inputs: Its inputs.
        tensor: Name of the tensor.
        seed: Seed of the jitter.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = _residual(pair, structure, profile, module, inputs, tensor)
    moved = [
        _residual(pair, structure, profile, *jittered(module, inputs, EPSILON, generator), tensor) for _ in range(DRAWS)
    ]
    found = [_change(residual, other) for other in moved if residual is not None and other is not None]
    return max(found) if len(found) == DRAWS else None


def _residual(
    pair: Pair,
    structure: Structure,
    profile: HyperProfile,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    tensor: str,
) -> Array | None:
    """Port minus reference at f64; None where the port has no such tensor, or not of that shape, or not finite."""
    rung = RUNGS["f64"]
    truth = run_reference(pair, module, inputs, rung)[tensor].values
    port = run_port(pair, build_port(pair, structure, profile, rung, state_of(module)), inputs, rung).get(tensor)
    order = None if port is None else nearest_layout(port.values, truth)
    if port is None or order is None or (pair.same_tree and port.values.shape != truth.shape):
        return None
    residual = np.asarray((port.values if pair.same_tree else port.values.transpose(order)) - truth)
    return residual if np.isfinite(residual).all() else None


def _change(one: Array, other: Array) -> float:
    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    return float(np.linalg.norm(other - one)) / size if size > 0 else 0.0
