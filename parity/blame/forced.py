"""A module run on numbers that are not its own: the reference's inputs for the port, rounded ones for the reference."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import numpy_from_torch
from parity.spec.arrays import AnyArray, Array
from parity.trace.calls import Call, by_parameter


@dataclass(frozen=True)
class Shared:
    """The inputs of a pair of calls that belong to each other.

    Args:
        paths: Of every input of the port the path of the reference's.
        notes: Inputs that are only one side's.
    """

    paths: Mapping[str, str]
    notes: tuple[str, ...]


def shared_inputs(reference: Call, port: Call, known: Mapping[str, str]) -> Shared:
    """Match inputs: those known, then by path, then by place among those of one shape that are left.

    What only the port has, a mask that the reference builds inside for example, stays the port's own.

    Args:
        reference, port: The calls.
        known: Of some of the port's inputs the path of the reference's.
    """
    paths = dict(known)
    paths |= {p: p for p in port.inputs if p not in paths and p in reference.inputs and p not in known.values()}
    left = [path for path in reference.inputs if path not in paths.values()]
    for path in (path for path in port.inputs if path not in paths):
        shape = tuple(port.inputs[path].shape)
        found = next((other for other in left if tuple(reference.inputs[other].shape) == shape), None)
        if found is not None:
            paths[path] = found
            left.remove(found)
    notes = [f"its input {path} has no counterpart in the port" for path in left]
    notes += [f"the port's input {path} has no counterpart" for path in port.inputs if path not in paths]
    return Shared(paths, tuple(notes))


def plain_arguments(call: Call, function: Any) -> dict[str, Any]:
    """Return the arguments of a call that are plain values, numbers or text, by parameter."""
    named = by_parameter(_signature(function), call.args, call.kwargs)
    return {name: value for name, value in named.items() if isinstance(value, bool | int | float | str)}


def values_of(tensor: Any) -> AnyArray:
    """Return a torch tensor's numbers: integers as they are, everything else as float64."""
    if tensor.is_floating_point() or tensor.is_complex():
        return numpy_from_torch(tensor)[0]
    return np.asarray(tensor.detach().cpu().numpy())


def gradient_values(tensor: Any) -> Array:
    """Return a gradient's numbers as float64."""
    return numpy_from_torch(tensor)[0]


def in_port(values: AnyArray, like: Any) -> Any:
    """Return numbers as an MLX array of the dtype of `like`."""
    if np.issubdtype(values.dtype, np.bool_):
        import mlx.core as mx

        return mx.array(np.asarray(values))
    return mlx_from_numpy(values, numpy_from_mlx(like[:0] if like.ndim else like)[1])


def relative(error: Array, truth: Array) -> float:
    """||error|| / ||truth||; 0 without an error, infinite where only the truth is zero."""
    size, length = float(np.linalg.norm(truth)), float(np.linalg.norm(error))
    if length == 0:
        return 0.0
    return length / size if size > 0 else float("inf")


def rebuilt(call: Call, function: Any, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with the tensors at some paths replaced.

    Args:
        call: The call.
        function: What was called: its signature gives positional arguments their names.
        values: New tensors by path.
    """
    signature = _signature(function)
    places = by_parameter(signature, tuple(map(_Place, range(len(call.args)))), {k: _Place(k) for k in call.kwargs})
    names = {place.where: path for path, place in places.items() if isinstance(place, _Place)}
    args = tuple(_replaced(value, names.get(i, str(i)), values) for i, value in enumerate(call.args))
    return args, {key: _replaced(value, names.get(key, key), values) for key, value in call.kwargs.items()}


@dataclass(frozen=True)
class _Place:
    where: int | str


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _replaced(tree: Any, path: str, values: Mapping[str, Any]) -> Any:
    if path in values:
        return values[path]
    if isinstance(tree, Mapping):
        return {key: _replaced(part, f"{path}.{key}", values) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [_replaced(part, f"{path}.{place}", values) for place, part in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {
            f.name: _replaced(getattr(tree, f.name), f"{path}.{f.name}", values) for f in dataclasses.fields(tree)
        }
        return dataclasses.replace(tree, **fields)
    return tree
