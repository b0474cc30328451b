"""Parameters that several places share: where either side stores them, and assigning one place alone."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx
import torch
from mlx import nn as mlx_nn
from mlx.utils import tree_flatten
from torch import nn

from parity.pairs import Pair


def reference_storages(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Return those of `names` (state-dict keys) under which the torch module can be assigned to: all of its aliases."""
    known = module.state_dict().keys()
    return [name for name in names if name in known]


def port_storages(pair: Pair, module: mlx_nn.Module, names: Iterable[str]) -> list[str]:
    """Return the port's own names of the arrays that fill any of `names` (state-dict keys)."""
    wanted = set(names)
    stored = dict(tree_flatten(module.parameters()))
    return [name for name, array in stored.items() if wanted & pair.to_state(module, {name: array}).keys()]


def double_in_reference(module: nn.Module, name: str) -> None:
    """Double, in place, the tensor that the torch module shows under `name`; aliases follow if they are one tensor."""
    with torch.no_grad():
        module.state_dict()[name].mul_(2)


def double_in_port(module: mlx_nn.Module, name: str) -> None:
    """Double the array that the MLX module stores under `name`."""
    stored = dict(tree_flatten(module.parameters()))
    with mx.stream(mx.cpu):
        module.load_weights([(name, 2 * stored[name])], strict=False)
