"""Uniform numbers in [-1, 1] of a seed, drawn once and read again from their beginning by whoever perturbs with it.

The predictions of a case at every rung, and those of its gradients, begin with the same numbers; drawing them takes a
quarter of the time of a perturbed layer. A generator makes one number after the other, however many it is asked for at
a time: a part of many is what as many calls would have given, bit for bit.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Final

import torch

MOST_KEPT: Final = 1 << 22
"""Numbers of a seed that are kept, 32 MiB; what comes after them is drawn anew for each reader."""

LEAST_DRAWN: Final = 1 << 14
"""Numbers drawn at a time."""


class _Kept:
    """The first numbers of a seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._numbers = torch.empty(0, dtype=torch.float64)
        self._lock = threading.Lock()

    def part(self, start: int, stop: int) -> torch.Tensor:
        """Return the numbers from `start` to `stop`, which is within what may be kept; they must not be changed."""
        if stop > self._numbers.numel():
            with self._lock:
                self._extend(stop)
        return self._numbers[start:stop]

    def after(self) -> tuple[torch.Generator, int]:
        """Return a generator of what comes after the numbers that are kept, and how many these are."""
        with self._lock:
            generator = torch.Generator()
            generator.set_state(self._generator.get_state())
            return generator, self._numbers.numel()

    def _extend(self, stop: int) -> None:
        known = self._numbers.numel()
        more = min(max(stop, 2 * known, LEAST_DRAWN), MOST_KEPT) - known
        if more > 0:
            self._numbers = torch.cat([self._numbers, _drawn((more,), self._generator)])


@functools.lru_cache(maxsize=1)
def _kept(seed: int) -> _Kept:
    return _Kept(seed)


class Uniform:
    """The numbers of a seed from their beginning, for one reader.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self._known = _kept(seed)
        self._place = 0
        self._rest: torch.Generator | None = None

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the next numbers in `shape`, float64; they belong to all readers and must not be changed."""
        if self._rest is not None:
            return _drawn(shape, self._rest)
        start, count = self._place, math.prod(shape)
        self._place = stop = start + count
        if stop <= MOST_KEPT:
            return self._known.part(start, stop).view(shape)
        self._rest, kept = self._known.after()
        return torch.cat([self._known.part(start, kept), _drawn((stop - kept,), self._rest)]).view(shape)


Source = torch.Generator | Uniform
"""Where random numbers come from: a generator, of which nothing is kept, or a reader of a seed."""


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul_(2).sub_(1)


def draw(source: Source, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the next numbers of `source` in `shape`: uniform in [-1, 1], float64, and not to be changed."""
    return source(shape) if isinstance(source, Uniform) else _drawn(shape, source)
