"""True float64 of a reference that asks for float32 by name: its requests are redirected, and reported as its leaks.

A model of `transformers` in float64 still computes its rotary angles, norms, router weights and recurrences in float32,
since its source says `.float()`, `dtype=torch.float32` or `.to(torch.float32)`; its float64 is then right to 24 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from parity.float64.leaks import Leaks

WIDER: Final = {torch.float32: torch.float64, torch.complex64: torch.complex128}
"""What is asked for, and what is given instead."""


@contextmanager
def widened_reference() -> Iterator[Leaks]:
    """Give float64 wherever float32 is asked for by name or by default; requests for 16 bits stay.

    Yields:
        Which function of torch was asked, and by which line outside torch: the precision leaks of the reference.

    Example:
        >>> with widened_reference() as leaks:
        ...     y = torch.ones(2, dtype=torch.float64).float()
        >>> y.dtype, len(leaks)
        (torch.float64, 1)
    """
    default = torch.get_default_dtype()
    leaks = Leaks()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widened(leaks):
            yield leaks
    finally:
        torch.set_default_dtype(default)


class _Widened(TorchFunctionMode):
    def __init__(self, leaks: Leaks) -> None:
        super().__init__()
        self._leaks = leaks

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = {} if kwargs is None else kwargs
        by_method = function is torch.Tensor.float
        if by_method or any(isinstance(value, torch.dtype) and value in WIDER for value in (*args, *named.values())):
            self._leaks.add(getattr(function, "__name__", str(function)), "downcast", _caller(sys._getframe(1)))
        if by_method:
            return args[0].double()
        return function(*map(_wider, args), **{name: _wider(value) for name, value in named.items()})


def _wider(value: Any) -> Any:
    return WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def _caller(frame: FrameType | None) -> str:
    """File and line of the innermost frame that is not torch's."""
    torch_root = str(Path(torch.__file__).parent)
    while frame is not None and frame.f_code.co_filename.startswith(torch_root):
        frame = frame.f_back
    return "unknown" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
