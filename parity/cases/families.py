"""Input families: shapes of data that make different errors visible.

Each is a function (generator, shape, axis) -> float64 array; `axis` is the axis of positions. Zeros, constants and unit
variance each hide some bug, which is why there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from parity.spec.arrays import Array

Family = Callable[[np.random.Generator, tuple[int, ...], int], Array]


def normal(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:  # noqa: ARG001
    """Independent N(0, 1)."""
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:  # noqa: ARG001
    """|N(0, 1)|: sums do not cancel."""
    return np.abs(rng.standard_normal(shape))


def constant(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    """The same value at every position, another for each channel."""
    row = rng.standard_normal(tuple(1 if i == axis % len(shape) else n for i, n in enumerate(shape)))
    return np.broadcast_to(row, shape).copy()


def offset(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:  # noqa: ARG001
    """Large mean: 32 + N(0, 1), which conditions every difference from a mean badly."""
    return 32.0 + rng.standard_normal(shape)


def far_offset(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:  # noqa: ARG001
    """Mean a hundred times the spread."""
    return 100.0 + rng.standard_normal(shape)


def tone(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    """A cosine along positions, its frequency and phase different for each channel."""
    length = shape[axis]
    row = tuple(1 if i == axis % len(shape) else n for i, n in enumerate(shape))
    cycles, phase = rng.integers(1, max(2, length // 2 + 1), row), rng.uniform(0, 2 * np.pi, row)
    position = np.arange(length).reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return np.asarray(np.cos(2 * np.pi * cycles * position / length + phase))


def burst(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    """One position 2**14 times louder than the noise around it."""
    noise = rng.standard_normal(shape) * 2.0**-10
    place = [slice(None)] * len(shape)
    place[axis] = slice(int(rng.integers(shape[axis])), None)
    place[axis] = slice(place[axis].start, place[axis].start + 1)
    noise[tuple(place)] *= 2.0**14
    return noise


def _impulse(where: Callable[[int], int]) -> Family:
    def impulse(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
        """Zero but at one position, where each channel has a value of its own."""
        values = np.zeros(shape)
        place = [slice(None)] * len(shape)
        start = where(shape[axis])
        place[axis] = slice(start, start + 1)
        values[tuple(place)] = 1.0 + rng.random(values[tuple(place)].shape)
        return values

    return impulse


FAMILIES: Final[Mapping[str, Family]] = {
    "normal": normal,
    "positive": positive,
    "constant": constant,
    "offset": offset,
    "far_offset": far_offset,
    "tone": tone,
    "burst": burst,
    "impulse_first": _impulse(lambda length: 0 * length),
    "impulse_middle": _impulse(lambda length: length // 2),
    "impulse_last": _impulse(lambda length: length - 1),
}

STRATUM_FAMILIES: Final[Mapping[str, tuple[str, int]]] = {
    "normal": ("normal", 0),
    "tiny": ("normal", -10),
    "offset": ("offset", 0),
    "tone": ("tone", 0),
    "impulse": ("impulse_middle", 0),
}
"""Families and scales of the accuracy test, by the name of the stratum."""
