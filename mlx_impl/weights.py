"""One table between the checkpoint's state dict and the port's parameters, total in both directions.

| what                       | checkpoint                              | port                                |
|----------------------------|-----------------------------------------|-------------------------------------|
| depthwise convolution      | `*short_filter.weight` (c, 1, taps)     | (c, taps, 1): channels last         |
| shared parameter           | repeated under every alias              | stored once, under its first name   |
| layers of a filter network | `*implicit_filter[_rev].<i>.*`          | `*implicit_filter[_rev].layers.<i>.*` |
| constants                  | `*position_ids`, `*flashfft.*`          | set aside, by name                  |
| everything else            | same name, same shape                   | same name, same shape               |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from parity.errors import WeightsError
from parity.spec.checkpoint import set_aside_reason


def _swap_last_two(x: mx.array) -> mx.array:
    return mx.contiguous(x.swapaxes(-1, -2))


RENAMES: Final = ((r"(^|\.)(implicit_filter(?:_rev)?)\.(\d+)\.", r"\1\2.layers.\3."),)
"""From the checkpoint's name to the port's; the inverse drops `.layers`, which no checkpoint name contains."""

AXIS_MOVES: Final[Mapping[str, Callable[[mx.array], mx.array]]] = {r"(^|\.)short_filter\.weight$": _swap_last_two}
"""Moves that are their own inverse, so one table serves both directions."""


def port_name(name: str) -> str:
    """Return the port's name of the checkpoint's tensor or module `name`."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, f"{name}.")[:-1]
    return name


def checkpoint_name(name: str) -> str:
    """Return the checkpoint's name of the port's parameter or module `name`."""
    return name.replace(".layers.", ".")


def ties(model: nn.Module) -> dict[str, str]:
    """Return every alias of a shared parameter of `model`, with the name that stores it; both the checkpoint's."""
    pairs: dict[str, str] = {}
    for prefix, module in model.named_modules():
        if hasattr(module, "ties"):
            dot = f"{prefix}." if prefix else ""
            pairs |= {
                checkpoint_name(dot + alias): checkpoint_name(dot + stored) for alias, stored in module.ties().items()
            }
    return pairs


def parameters(model: nn.Module) -> dict[str, mx.array]:
    """Return the port's parameters and buffers by dotted name, each stored once."""
    return dict(tree_flatten(model.parameters()))


def from_state(model: nn.Module, state: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Turn a checkpoint's state dict into the parameters of `model`.

    Args:
        model: The port; only its names and shapes are read.
        state: Every tensor of the state dict, aliases included.

    Returns:
        One array for every parameter of `model`, by the port's name.

    Raises:
        WeightsError: A tensor is missing, left over, mis-shaped or not finite, or two aliases disagree; the message
            lists all of them.
    """
    targets = {checkpoint_name(name): array.shape for name, array in parameters(model).items()}
    aliases = ties(model)
    used = {name: tensor for name, tensor in state.items() if set_aside_reason(name) is None}
    problems = [f"missing {name}" for name in sorted((targets.keys() | aliases.keys()) - used.keys())]
    problems += [f"left over {name}" for name in sorted(used.keys() - targets.keys() - aliases.keys())]
    problems += [f"NaN or infinity in {name}" for name in _not_finite(used)]
    problems += _disagreements(used, aliases)
    moved = {name: move_axes(name, used[name]) for name in targets if name in used}
    problems += [
        f"shape of {name} is {tuple(tensor.shape)} in the port's layout, the port has {tuple(targets[name])}"
        for name, tensor in sorted(moved.items())
        if tensor.shape != targets[name]
    ]
    if problems:
        raise WeightsError(f"{len(problems)} problem(s) with the weights: {'; '.join(problems)}")
    return {port_name(name): tensor for name, tensor in moved.items()}


def to_state(model: nn.Module, arrays: Mapping[str, mx.array] | None = None) -> dict[str, mx.array]:
    """Turn the parameters of `model`, or `arrays` under the port's names, into a state dict with every alias.

    Constants that the port does not store (`position_ids`) are not in it.
    """
    stored = parameters(model) if arrays is None else arrays
    state = {checkpoint_name(name): move_axes(name, tensor) for name, tensor in stored.items()}
    return state | {alias: state[name] for alias, name in ties(model).items() if name in state}


def load(model: nn.Module, state: Mapping[str, mx.array]) -> nn.Module:
    """Fill every parameter of `model` from a state dict, or raise `WeightsError`; returns `model`."""
    model.load_weights(list(from_state(model, state).items()), strict=True)
    return model


def move_axes(name: str, tensor: mx.array) -> mx.array:
    """Move the axes of one tensor between the two layouts; its own inverse."""
    if tensor.ndim < 2:
        return tensor
    move = next((move for pattern, move in AXIS_MOVES.items() if re.search(pattern, name)), None)
    return tensor if move is None else move(tensor)


SMALL: Final = 2**14
"""Elements up to which tensors are put together to be checked at once; asked one by one, many small ones are slow."""


def _not_finite(tensors: Mapping[str, mx.array]) -> list[str]:
    """Names of the tensors with a NaN or an infinity."""
    floating = {name: tensor for name, tensor in sorted(tensors.items()) if mx.issubdtype(tensor.dtype, mx.floating)}
    small = [name for name, tensor in floating.items() if tensor.size <= SMALL]
    if small and _finite(mx.concatenate([floating[name].reshape(-1) for name in small])):
        floating = {name: tensor for name, tensor in floating.items() if tensor.size > SMALL}
    return [name for name, tensor in floating.items() if not _finite(tensor)]


def _finite(tensor: mx.array) -> bool:
    return bool(mx.all(mx.isfinite(tensor)))


def _disagreements(used: Mapping[str, mx.array], aliases: Mapping[str, str]) -> list[str]:
    return [
        f"{alias} differs from {name}, with which it is shared"
        for alias, name in sorted(aliases.items())
        if alias in used and name in used and not mx.array_equal(used[alias], used[name])
    ]
