"""Capture of a torch module's intermediates by forward hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from parity.trace.tensor import call_name


@contextmanager
def record_torch(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the output of every submodule call while the context lasts, in order of completion.

    A module reached under several names has its first one. The hooks are gone afterwards, also after an exception.
    """
    taken: dict[str, torch.Tensor] = {}
    calls: Counter[str] = Counter()

    def hook_for(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            calls[name] += 1
            for part, tensor in enumerate(output) if isinstance(output, tuple) else [(None, output)]:
                taken[call_name(name, calls[name], part)] = tensor

        return hook

    handles = [part.register_forward_hook(hook_for(name)) for name, part in model.named_modules() if name]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
