"""What a run in float64 lost after all, by the name of the operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

REASONS: Final = {
    "downcast": "was given float64 and answered in a coarser format",
    "formless": "loses float64 accuracy and has no float64 form",
    "captured": "is held where it cannot be exchanged, and computes in float32 if called from there",
}
"""Kinds of precision leak, and what each says of an operation."""


@dataclass(frozen=True)
class Leak:
    """One precision leak.

    Attributes:
        operation: Its place under `mlx.core`, for example `linalg.eigvals` or `array.astype`.
        kind: A key of `REASONS`.
        detail: What was seen: the dtype of the answer, or who holds it.
        times: How often.
    """

    operation: str
    kind: str
    detail: str
    times: int

    def __str__(self) -> str:
        return f"precision leak: {self.operation} {REASONS[self.kind]} ({self.detail}), {self.times} times"


class Leaks:
    """The precision leaks of one context, in the order in which they were met; false while there are none."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, operation: str, kind: str, detail: str) -> None:
        """Count one more leak."""
        self._counts[operation, kind, detail] += 1

    def __iter__(self) -> Iterator[Leak]:
        return iter([Leak(*key, times) for key, times in self._counts.items()])

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations that leaked, each once."""
        return tuple(dict.fromkeys(leak.operation for leak in self))

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no precision leak"
