"""Knowing, operation by operation, whether the reference is inside a module that never goes below float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class WideAware(TorchDispatchMode):
    """A dispatch mode that counts how many modules marked `at_least_float32` it is inside of."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare every operation the guard against torch.compile, a third of its cost: nothing here is compiled."""
        return False

    def left(self, output: Any) -> None:
        """Called with what the outermost of these modules returns: there it is cast to the rung's own format."""


@contextmanager
def watch_wide(module: nn.Module, mode: WideAware) -> Iterator[None]:
    """Keep `mode.wide` up to date while `module` runs; the hooks are gone afterwards, also after an exception.

    Where `module` itself is marked, all that runs in the context is inside of it: its methods have no hooks.
    """
    parts = [part for part in module.modules() if _is_wide(part)]
    outside = int(_is_wide(module))
    mode.wide += outside
    handles = [handle for part in parts for handle in _mark(part, mode, outside)]
    try:
        yield
    finally:
        mode.wide -= outside
        for handle in handles:
            handle.remove()


def _is_wide(part: nn.Module) -> bool:
    return bool(getattr(part, "at_least_float32", False))


def _mark(part: nn.Module, mode: WideAware, outside: int) -> list[Any]:
    def enter(_module: nn.Module, _inputs: Any) -> None:
        mode.wide += 1

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        mode.wide -= 1
        if mode.wide == outside:
            mode.left(output)

    return [part.register_forward_pre_hook(enter), part.register_forward_hook(leave, always_call=True)]
