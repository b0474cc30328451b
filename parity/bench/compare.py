"""Two reports: what became slower or larger beyond the spread of either."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from parity.bench.cells import LOWER_IS_BETTER, Cell
from parity.bench.report import Report

THRESHOLD: Final = 1.1
"""Ratio of medians that must be exceeded besides: over hours a virtual machine's clock wanders by some percent."""

FEWEST_ROUNDS: Final = 3
"""Rounds on either side below which there is no spread to exceed."""

Outcome = Literal["slower", "faster", "same", "not judged"]


@dataclass(frozen=True)
class Change:
    """One figure in both reports; `least` and `largest` bound the ratio whatever round is compared with which."""

    earlier: Cell
    later: Cell

    @property
    def ratio(self) -> float:
        """Median over median."""
        return _over(self.later.spread.median, self.earlier.spread.median)

    @property
    def least(self) -> float:
        """The later's least over the earlier's largest."""
        return _over(self.later.spread.least, self.earlier.spread.largest)

    @property
    def largest(self) -> float:
        """The later's largest over the earlier's least."""
        return _over(self.later.spread.largest, self.earlier.spread.least)

    @property
    def outcome(self) -> Outcome:
        """Slower, or faster: the ranges of the two are disjoint, and the medians' ratio is beyond `THRESHOLD`."""
        if min(self.earlier.spread.rounds, self.later.spread.rounds) < FEWEST_ROUNDS:
            return "not judged"
        if self.least > 1 and self.ratio > THRESHOLD:
            return "slower"
        return "faster" if self.largest < 1 and self.ratio < 1 / THRESHOLD else "same"


def _over(later: float, earlier: float) -> float:
    return later / earlier if earlier > 0 else (1.0 if later == earlier else float("inf"))


@dataclass(frozen=True)
class Comparison:
    """All figures of seconds and memory that both reports have.

    Args:
        changes: One a figure.
        only_earlier, only_later: How many figures one of them has alone.
        unlike: Why seconds cannot be compared at all; empty where they can.
    """

    changes: tuple[Change, ...]
    only_earlier: int
    only_later: int
    unlike: str

    def having(self, outcome: Outcome) -> list[Change]:
        """Return the changes of one outcome, those of the largest ratio first."""
        return sorted((c for c in self.changes if c.outcome == outcome), key=lambda change: -change.ratio)


def compared(earlier: Report, later: Report) -> Comparison:
    """Compare figure by figure."""
    left, right = _judged(earlier.cells), _judged(later.cells)
    changes = tuple(Change(left[key], cell) for key, cell in right.items() if key in left)
    unlike = _unlike(earlier, later)
    return Comparison(changes, len(left.keys() - right.keys()), len(right.keys() - left.keys()), unlike)


def _unlike(earlier: Report, later: Report) -> str:
    if earlier.machine.hardware != later.machine.hardware:
        return "the two reports are of different hardware"
    for what, field in (("sizes, one is quick", "quick"), ("threads", "threads")):
        if {getattr(run, field) for run in earlier.runs} != {getattr(run, field) for run in later.runs}:
            return f"the two reports are of different {what}"
    return ""


def _judged(cells: Iterable[Cell]) -> dict[object, Cell]:
    return {cell.key: cell for cell in cells if cell.unit in LOWER_IS_BETTER}


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines: what changed, then the counts."""
    lines = []
    for outcome in ("slower", "faster"):
        for change in comparison.having(outcome):
            span = f"{change.least:.2f} to {change.largest:.2f}"
            lines.append(f"{outcome}: {change.later.label()}: {change.ratio:.2f} times ({span})")
    counts = [f"{len(comparison.having(outcome))} {outcome}" for outcome in ("slower", "faster", "same", "not judged")]
    alone = f"{comparison.only_earlier} in the earlier report alone, {comparison.only_later} in the later alone"
    lines.append(f"{len(comparison.changes)} figures in both: {', '.join(counts)}; {alone}")
    if comparison.unlike:
        lines.append(f"{comparison.unlike}: nothing is concluded")
    return lines
