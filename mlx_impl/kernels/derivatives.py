"""A function with a derivative of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import mlx.core as mx

Function = TypeVar("Function", bound=Callable[..., Any])


def with_vjp(function: Function, vjp: Callable[[Any, Any, Any], Any]) -> Function:
    """Return `function` of arrays whose derivative is `vjp(primals, cotangents, outputs)`, and nothing traced."""
    wrapped = mx.custom_function(function)
    wrapped.vjp(vjp)
    return cast(Function, wrapped)
