"""Float64 for what a port itself rounds to float32: dtypes that its source names, and quotients of integers.

`float64_forms()` computes in float64 what is float64. A port may still ask for float32 by name, for a table of
frequencies or for a step that it wants no coarser: at the f64 rung both are precision leaks of the port, and here they
are lifted. Nothing but names is exchanged, so an epsilon, a default or an order that is wrong stays wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx


@contextmanager
def widened_constants() -> Iterator[None]:
    """Let `mx.float32` name float64 and let integers divide in float64, for the process and until it is left.

    To be entered inside `float64_forms()`, around the construction of a module as well as its calls: frequencies are
    mostly computed when a module is built. A dtype that was bound before (`from mlx.core import float32`) is missed.
    """
    float32, divide = mx.float32, mx.array.__truediv__

    def divided(left: mx.array, right: Any) -> Any:
        exact = mx.issubdtype(left.dtype, mx.integer)
        return divide(left.astype(mx.float64) if exact else left, right)

    mx.float32, mx.array.__truediv__ = mx.float64, divided  # type: ignore[method-assign]
    try:
        yield
    finally:
        mx.float32, mx.array.__truediv__ = float32, divide  # type: ignore[method-assign]
