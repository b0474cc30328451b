"""Works round the lazy dispatch race of MKL's vector mathematics.

torch 2.13's x86 wheels hold MKL 2024.2. There each vector function finds its kernel on its first call. When
the first call runs on several threads, one thread can run its chunk with a kernel of low accuracy:
`torch.sin` of 1e5 float64 values was wrong by 6.8e-9 in the second half in 4 of 27 cold processes. One call
on one thread settles the choice, and every later call is exact. Without this, the float64 "truth" of a parity
check can be the wrong party.

Source: https://github.com/pytorch/pytorch/issues/188792 (gone with oneMKL 2025.0, says that issue).
"""

from __future__ import annotations

import functools
from typing import Final

import torch

_UNARY: Final = (
    torch.sin,
    torch.cos,
    torch.exp,
    torch.erf,
    torch.sqrt,
    torch.log,
    torch.tanh,
    torch.sigmoid,
    torch.rsqrt,
)


@functools.cache
def warm_up() -> None:
    """Call every unary function that a model or a truth uses once, on one element, in float32 and in float64.

    One element keeps the call on one thread, so the race cannot happen here. Cached: the second call does
    nothing.
    """
    for dtype in (torch.float32, torch.float64):
        # 1/2 lies inside the domain of all of them, logarithm and square roots included.
        element = torch.full((1,), 0.5, dtype=dtype)
        for function in _UNARY:
            function(element)
