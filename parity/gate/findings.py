"""What the gate found, one sentence each, and the exit status that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from parity.gate.drift import Drift
from parity.gate.ledger import Entry, Proposal

Level = Literal["drift", "nothing", "warning", "note"]
"""Drift stops with status 1; nothing to judge with 3; the others do not stop."""

STATUS: Final = {"drift": 1, "nothing": 3, "warning": 0, "note": 0}
TITLES: Final = {"drift": "DRIFT", "nothing": "NOTHING TO JUDGE", "warning": "warning", "note": "note"}


@dataclass(frozen=True)
class Finding:
    """One finding.

    Args:
        level: How grave it is.
        kind: A word that names its sort: `bits`, `grew`, `gone`.
        sentence: What was found, what is allowed and what to do.
        significance: Of a drift, in standard errors; the gravest come first.
    """

    level: Level
    kind: str
    sentence: str
    significance: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The gate's decision.

    Args:
        findings: Gravest first.
        tier: Which tier judged the accuracy: `same bits`, or `bounds`.
        environment: Key of the baseline's environment that it was judged by, empty without one.
        drifts: Every test of drift.
        ledger: The entries that rule.
        proposals: Allowances that may be tightened.
    """

    findings: Sequence[Finding]
    tier: str = ""
    environment: str = ""
    drifts: Sequence[Drift] = field(default_factory=list)
    ledger: Sequence[Entry] = field(default_factory=list)
    proposals: Sequence[Proposal] = field(default_factory=list)

    @property
    def verdict(self) -> Literal["pass", "drift", "nothing to judge"]:
        """Drift before nothing to judge before pass."""
        levels = {finding.level for finding in self.findings}
        return "drift" if "drift" in levels else "nothing to judge" if "nothing" in levels else "pass"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 drift, 3 nothing to judge."""
        return {"pass": 0, "drift": 1, "nothing to judge": 3}[self.verdict]


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings with the gravest first, of those of one level the most significant."""
    levels = list(STATUS)
    return sorted(findings, key=lambda finding: (levels.index(finding.level), -abs(finding.significance)))
