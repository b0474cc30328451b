"""The blame table: for every paired call what it was given, what it made of it, and which call is the culprit.

Four errors are told apart. *Inherited* is what a module was given; *own* is what it makes of the reference's inputs, so
that nothing is handed down; *gain* is how it amplifies what it is given; *total* is what it gave out in its own run. A
culprit is a module whose own error exceeds its allowance and none of whose parts' does: of a chain of composites that
all contain the fault, the deepest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "culprit", "wiring", "contains", "unmeasured"]

CALL = "(call)"
"""Name of the row that stands for what the pair's own call does outside of all modules."""


@dataclass(frozen=True)
class BlameRow:
    """One paired call.

    Args:
        module: The reference's module, its number appended from the second call on; empty for the model itself.
        port: The port's.
        kind: Class of the reference's module.
        depth: How many paired calls enclose it.
        inherited: rel L2 of its inputs, the largest over them; 0 where it has none.
        own: rel L2 of what it makes of the reference's inputs, of the output (or gradient) whose ratio is largest.
        ratio: Own error over its allowance, root mean square or largest element, the larger.
        gain: Relative change of the outputs over relative change of the inputs; None where nothing was inherited.
        total: rel L2 of what it gave out.
        worst: Path of the output (or gradient) whose ratio is largest.
        notes: What could not be compared, and why.
        signature: What the own error looks like, where it is too large.
        aliases: Further names of the reference's module: one that several others share is a part of each.
        missing: Its parameters and inputs whose gradients no array of the port is known to be.
        doubts: Outputs that the port's module gives out in another place or shape: nothing wrong by itself, and the
            fault where the module around it errs.
    """

    module: str
    port: str
    kind: str
    depth: int
    inherited: float
    own: float
    ratio: float
    gain: float | None
    total: float
    worst: str = ""
    notes: tuple[str, ...] = ()
    signature: str = ""
    aliases: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the module."""
        return (self.name, *self.aliases)

    @property
    def name(self) -> str:
        """The module's name without the number of the call."""
        return self.module.partition("#")[0]

    @property
    def exceeds(self) -> bool:
        """Whether its own error is known, and larger than allowed."""
        return self.measured and not self.ratio <= 1

    @property
    def measured(self) -> bool:
        """Whether its own error is known at all."""
        return not math.isnan(self.own)


@dataclass(frozen=True)
class BlameTable:
    """All paired calls in the order in which they ended, and what stayed without a partner.

    Args:
        rung: Where the port ran.
        rows: The calls.
        unpaired_reference, unpaired_port: Calls that were compared with nothing.
    """

    rung: str
    rows: tuple[BlameRow, ...]
    unpaired_reference: tuple[str, ...] = ()
    unpaired_port: tuple[str, ...] = ()

    @property
    def culprits(self) -> list[BlameRow]:
        """Rows whose own error is too large and none of whose parts' is; the first call of each module.

        Where such a row calls a part whose outputs are in doubt, it is that part.
        """
        bad = [row for row in self.rows if row.exceeds and row.module != CALL]
        bad += [row for row in self.rows if row.doubts and any(self._calls(whole, row) for whole in bad)]
        deepest = [row for row in bad if not any(_within(other, row) for other in bad)]
        first = {row.name: row for row in reversed(deepest)}
        found = [row for row in deepest if first[row.name] is row]
        return found or [row for row in self.rows if row.exceeds]

    @property
    def passed(self) -> bool:
        """Whether every call was compared and is its partner's."""
        paired = not self.unpaired_reference and not self.unpaired_port
        known = all(row.measured and not row.exceeds and not row.missing for row in self.rows)
        return bool(self.rows) and paired and known

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters and inputs whose gradients were compared with nothing, each once, whoever holds them."""
        names = (f"{row.name}.{name}".removeprefix(".") for row in self.rows for name in row.missing)
        return tuple(dict.fromkeys(names))

    def verdict(self, row: BlameRow) -> Verdict:
        """What a row is: a culprit with captured parts is `wiring`, since all of those agree."""
        if not row.measured:
            return "unmeasured"
        if not any(row.name == culprit.name for culprit in self.culprits):
            return "contains" if row.exceeds else "ok"
        if not row.exceeds:
            return "culprit" if row.doubts else "ok"
        return "wiring" if any(_within(other, row) for other in self.rows) else "culprit"

    def sentence(self) -> str:
        """Name the culprits in one line."""
        if not self.rows:
            return "nothing compared: no call of the reference found a partner"
        alone = len(self.unpaired_reference) + len(self.unpaired_port)
        unknown = sum(not row.measured for row in self.rows)
        missing = self.missing
        words = [self._accusation(row) for row in self.culprits] or ["no module errs beyond its allowance"]
        words += [f"{alone} calls were compared with nothing"] * (alone > 0)
        words += [f"the own error of {unknown} calls is unknown"] * (unknown > 0)
        words += [f"gradients of {len(missing)} parameters and inputs were compared with nothing"] * bool(missing)
        return "; ".join(words)

    def _calls(self, whole: BlameRow, part: BlameRow) -> bool:
        """Whether a row's module is a part of another's with none in between."""
        between = (row for row in self.rows if _within(row, whole) and _within(part, row))
        return _within(part, whole) and next(between, None) is None

    def _accusation(self, row: BlameRow) -> str:
        where = row.module or "the model itself"
        if not row.exceeds:
            return f"{where} ({row.kind}): {'; '.join(row.doubts)}, and what calls it does not expect that"
        what = f"{where} ({row.kind}): own error {row.own:.2g}, {row.ratio:.3g} times what is allowed"
        if self.verdict(row) == "wiring":
            what += "; its parts agree: the wiring is wrong"
        return f"{what}; {row.signature}" if row.signature else what


def _within(part: BlameRow, whole: BlameRow) -> bool:
    """Whether a row's module is a part of another's, under any of its names."""
    if part.name == whole.name or CALL in (part.name, whole.name):
        return False
    return whole.name == "" or any(name.startswith(f"{above}.") for name in part.names for above in whole.names)


def largest(values: Sequence[float]) -> float:
    """Return the largest value, infinity where one is not a number, 0 where there is none."""
    return math.inf if any(math.isnan(value) for value in values) else max(values, default=0.0)
