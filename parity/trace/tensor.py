"""What a trace holds: tensors in the order in which they came into being, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from parity.spec.arrays import Array


@dataclass(frozen=True)
class TracedTensor:
    """Values (any shape) carried as float64, and the dtype in which the framework held them."""

    values: Array
    dtype: str


@dataclass(frozen=True)
class Trace(Mapping[str, TracedTensor]):
    """Named tensors in order: intermediates as their modules finished, then the outputs, last the main one."""

    tensors: Mapping[str, TracedTensor]
    outputs: tuple[str, ...]

    def __getitem__(self, name: str) -> TracedTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def call_name(module: str, call: int, part: int | None = None) -> str:
    """Name the output of a module's call: `module`, `module#2` from the second call on, `[i]` for a tuple's parts."""
    name = module if call == 1 else f"{module}#{call}"
    return name if part is None else f"{name}[{part}]"
