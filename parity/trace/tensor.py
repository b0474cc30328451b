"""What a trace holds: tensors in the order in which they came into being, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from parity.spec.arrays import AnyArray, Array

_WORDS: Final = (2, 4, 8)
"""Bytes of what is compared at a time, where an element has as many."""


@dataclass(frozen=True)
class TracedTensor:
    """Values (any shape) carried as float64, and the dtype in which the framework held them."""

    values: Array
    dtype: str


@dataclass(frozen=True)
class Trace(Mapping[str, TracedTensor]):
    """Named tensors in order: intermediates as their modules finished, then the outputs, last the main one.

    Integers and booleans stand beside them and not among them: `exact` are the outputs, as int64 or bool, `inner` the
    names of the intermediates, which nothing is compared with.
    """

    tensors: Mapping[str, TracedTensor]
    outputs: tuple[str, ...]
    exact: Mapping[str, AnyArray] = field(default_factory=dict)
    inner: tuple[str, ...] = ()

    @property
    def everything(self) -> dict[str, TracedTensor]:
        """All tensors, integers and booleans as float64 values behind the others: beyond 2^53 the nearest ones."""
        held = {name: TracedTensor(array.astype(np.float64), kind_of(array)) for name, array in self.exact.items()}
        return {**self.tensors, **held}

    def __getitem__(self, name: str) -> TracedTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def kind_of(array: AnyArray) -> str:
    """Return what the elements of an exact output are, in words: integers of any width are one kind."""
    return "booleans" if array.dtype == np.bool_ else "integers"


def same_bits(one: AnyArray, other: AnyArray) -> bool:
    """Whether two arrays are the same to the bit: NaN equals the same NaN, and -0 does not equal 0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    word = f"u{one.dtype.itemsize}" if one.dtype.itemsize in _WORDS else "u1"
    left, right = (np.ascontiguousarray(array).reshape(-1).view(word) for array in (one, other))
    return np.array_equal(left, right)


def call_name(module: str, call: int, part: int | None = None) -> str:
    """Name the output of a module's call: `module`, `module#2` from the second call on, `[i]` for a tuple's parts."""
    name = module if call == 1 else f"{module}#{call}"
    return name if part is None else f"{name}[{part}]"
