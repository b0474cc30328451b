"""Casting a port module to a rung's dtype, with the parts that never go below float32 kept there."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

HALVES = (mx.bfloat16, mx.float16)


def cast(module: nn.Module, dtype: mx.Dtype) -> nn.Module:
    """Cast every parameter and buffer of `module` to `dtype`, in place, and return it.

    A module whose class says `at_least_float32 = True` stays in float32 when `dtype` has sixteen bits; the reason
    stands in `reference_torch.precision.cast`.
    """
    module.set_dtype(dtype)
    if dtype in HALVES:
        for part in module.modules():
            if getattr(part, "at_least_float32", False):
                part.set_dtype(mx.float32)
    return module


def widen(x: mx.array) -> mx.array:
    """Return `x` in float32 if it has sixteen bits, else `x` itself."""
    return x.astype(mx.float32) if x.dtype in HALVES else x
