"""Casting a reference module to a rung's dtype, with the parts that never go below float32 kept there."""

from __future__ import annotations

import torch
from torch import nn


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast every floating parameter and buffer of `module` to `dtype`, in place, and return it.

    A module whose class says `at_least_float32 = True` (the Hyena filter, the FFT convolution) stays in float32
    when `dtype` has sixteen bits, with everything inside it: the transforms exist in float32 alone, and a filter
    computed in bfloat16 is off by 17 to 19 % whatever the framework.
    """
    module.to(dtype)
    if dtype in (torch.bfloat16, torch.float16):
        for part in module.modules():
            if getattr(part, "at_least_float32", False):
                part.to(torch.float32)
    return module


def widen(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float32 if it has sixteen bits, else `x` itself."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
