"""Capture of an MLX module's intermediates; MLX has no hooks, so the classes' `__call__` is wrapped for a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import mlx.core as mx
from mlx import nn

from parity.trace.tensor import call_name


@contextmanager
def record_mlx(model: nn.Module) -> Iterator[dict[str, mx.array]]:
    """Collect the output of every submodule call while the context lasts, in order of completion.

    Python looks `__call__` up on the class, so every class in the tree is wrapped; only instances of this tree are
    recorded. The classes are as they were afterwards, also after an exception.
    """
    names = {id(part): name for name, part in model.named_modules() if name}
    taken: dict[str, mx.array] = {}
    calls: Counter[str] = Counter()
    running: set[int] = set()

    def keep(name: str, output: Any) -> None:
        calls[name] += 1
        for part, array in enumerate(output) if isinstance(output, tuple) else [(None, output)]:
            taken[call_name(name, calls[name], part)] = array

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if id(self) not in names or id(self) in running:  # the second: a class that calls its parent's __call__
                return original(self, *args, **kwargs)
            running.add(id(self))
            try:
                output = original(self, *args, **kwargs)
            finally:
                running.discard(id(self))
            keep(names[id(self)], output)
            return output

        return call

    originals = {owner: vars(owner)["__call__"] for owner in map(_owner_of_call, model.modules()) if owner is not None}
    try:
        for owner, original in originals.items():
            owner.__call__ = wrap(original)
        yield taken
    finally:
        for owner, original in originals.items():
            owner.__call__ = original


def _owner_of_call(module: nn.Module) -> Any:
    """Return the class that defines the `__call__` of `module`, or None for a module that cannot be called."""
    return next((cls for cls in type(module).__mro__ if "__call__" in vars(cls)), None)
