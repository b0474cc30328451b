"""Modules of either side as pairing sees them: one run under torch's hooks, or with MLX's calls wrapped.

Inputs and outputs of a module's first call are kept as float64 values under paths: `in[0]`, `in.mask`, `out`,
`out[0]`, `out.logits`; what is no array is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

ToNumpy = Callable[[Any], Array | None]


@dataclass
class _Calls:
    """What the first call of each module, by its identity, took in and gave, in the order in which calls ended."""

    to_numpy: ToNumpy
    counts: dict[int, int] = field(default_factory=dict)
    inputs: dict[int, dict[str, Array]] = field(default_factory=dict)
    outputs: dict[int, dict[str, Array]] = field(default_factory=dict)

    def begin(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep what a first call takes in: arrays may be changed in place before it ends."""
        if id(module) not in self.inputs:
            given = {f"[{index}]": value for index, value in enumerate(args)}
            given |= {f".{name}": value for name, value in kwargs.items()}
            found = [item for path, value in given.items() for item in self._flat(f"in{path}", value)]
            self.inputs[id(module)] = dict(found)

    def end(self, module: Any, output: Any) -> None:
        """Count a call, and keep what the first gives."""
        self.counts[id(module)] = self.counts.get(id(module), 0) + 1
        if id(module) not in self.outputs:
            self.outputs[id(module)] = dict(self._flat("out", output))

    def node(self, module: Any, names: list[str], parameters: Mapping[str, tuple[int, ...]]) -> Node:
        """Return the module's node under the first of its names."""
        key = id(module)
        inputs, outputs = self.inputs.get(key, {}), self.outputs.get(key, {})
        return Node(
            name=names[0],
            kind=type(module).__name__,
            parameters=dict(parameters),
            calls=self.counts.get(key, 0),
            order=list(self.outputs).index(key) if key in self.outputs else None,
            depth=len(names[0].split(".")) if names[0] else 0,
            input_shapes={path: values.shape for path, values in inputs.items()},
            output_shapes={path: values.shape for path, values in outputs.items()},
            values={**inputs, **outputs},
            aliases=tuple(names[1:]),
        )

    def _flat(self, path: str, value: Any) -> Iterator[tuple[str, Array]]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from self._flat(f"{path}.{name}", item)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from self._flat(f"{path}[{index}]", item)
        elif (array := self.to_numpy(value)) is not None:
            yield path, array


def nodes_of_torch(model: tnn.Module, run: Callable[[], Any]) -> list[Node]:
    """Return every module of `model`, itself included under the empty name, as `run`, which calls it, shows them.

    The hooks are gone afterwards, also after an exception.
    """
    calls = _Calls(_numpy_of_tensor)
    names = _names(model.named_modules(remove_duplicate=False))
    modules = {id(module): module for module in model.modules()}
    handles = [module.register_forward_pre_hook(calls.begin, with_kwargs=True) for module in modules.values()]
    handles += [
        module.register_forward_hook(lambda module, _args, output: calls.end(module, output))
        for module in modules.values()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return [calls.node(module, names[key], _torch_parameters(module)) for key, module in modules.items()]


def nodes_of_mlx(model: mnn.Module, run: Callable[[], Any]) -> list[Node]:
    """Return every module of `model`, itself included under the empty name, as `run`, which calls it, shows them.

    Python looks `__call__` up on the class, so the classes of the tree are wrapped, and only instances of this tree are
    recorded. The classes are as they were afterwards, also after an exception.
    """
    calls = _Calls(_numpy_of_mlx)
    # MLX lists a shared module once for every name, and the last names first.
    names = _names(reversed(model.named_modules()))
    modules = {id(module): module for _, module in reversed(model.named_modules())}
    with _wrapped(modules, calls):
        run()
    return [calls.node(module, names[key], _mlx_parameters(module)) for key, module in modules.items()]


@contextmanager
def _wrapped(modules: Mapping[int, mnn.Module], calls: _Calls) -> Iterator[None]:
    running: set[int] = set()

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: mnn.Module, *args: Any, **kwargs: Any) -> Any:
            if id(self) not in modules or id(self) in running:  # the second: a class that calls its parent's __call__
                return original(self, *args, **kwargs)
            calls.begin(self, args, kwargs)
            running.add(id(self))
            try:
                output = original(self, *args, **kwargs)
            finally:
                running.discard(id(self))
            calls.end(self, output)
            return output

        return call

    owners = {_owner_of_call(type(module)) for module in modules.values()} - {None}
    originals = {owner: vars(owner)["__call__"] for owner in owners}
    try:
        for owner, original in originals.items():
            owner.__call__ = wrap(original)
        yield
    finally:
        for owner, original in originals.items():
            owner.__call__ = original


def _owner_of_call(kind: type) -> Any:
    return next((owner for owner in kind.__mro__ if "__call__" in vars(owner)), None)


def _names(named: Any) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, module in named:
        names.setdefault(id(module), []).append(name)
    return names


def _torch_parameters(module: tnn.Module) -> dict[str, tuple[int, ...]]:
    """Parameters and stored buffers, since MLX makes no difference between them."""
    own = {name: value for name, value in module.state_dict(keep_vars=True).items() if "." not in name}
    return {name: tuple(value.shape) for name, value in own.items() if value.is_floating_point()}


def _mlx_parameters(module: mnn.Module) -> dict[str, tuple[int, ...]]:
    """Arrays of the module itself; an underscore marks those that are no parameters."""
    own = {name: value for name, value in module.items() if isinstance(value, mx.array)}
    return {name: tuple(value.shape) for name, value in own.items() if not name.startswith("_")}


def _numpy_of_tensor(value: Any) -> Array | None:
    if not isinstance(value, torch.Tensor):
        return None
    return np.array(numpy_from_torch(value)[0])  # a copy: what follows may work in place


def _numpy_of_mlx(value: Any) -> Array | None:
    return numpy_from_mlx(value)[0] if isinstance(value, mx.array) else None
