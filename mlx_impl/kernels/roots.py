"""Roots of unity from the host: double precision, the angle reduced by integers first."""

from __future__ import annotations

import functools
import math
from typing import Final

import mlx.core as mx

TABLES: Final = 256
"""Tables kept: a transform of 65,536 points has some thirty in either direction."""


def root(k: int, n: int) -> tuple[float, float]:
    """cos and sin of 2 pi k / n, 0 <= k < n, in double precision, the angle brought into the first octant by integers.

    So 0 and +-1 are exact, and mirror images have the same digits, the last one on a diagonal excepted.
    """
    octant, rest = divmod(8 * k, n)
    if octant % 2:
        rest = n - rest
    angle = math.pi * rest / (4 * n)
    cos, sin = math.cos(angle), math.sin(angle)
    if (octant + 1) // 2 % 2:
        cos, sin = sin, cos
    return (-cos if 2 <= octant < 6 else cos), (-sin if octant >= 4 else sin)


@functools.lru_cache(maxsize=TABLES)
def roots(n: int) -> list[tuple[float, float]]:
    """cos and sin of 2 pi k / n for all k < n."""
    return [root(k, n) for k in range(n)]


def table(values: list[float], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Numbers of the host, rounded once to `dtype`, evaluated: whoever keeps it may use it in any thread.

    The default device may have no float64; the CPU has.
    """
    with mx.stream(mx.cpu):
        found = mx.array(values, dtype=mx.float64).reshape(shape).astype(dtype)
        mx.eval(found)
    return found
