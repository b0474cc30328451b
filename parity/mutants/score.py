"""The mutation score: what of a catalogue was killed, at which rung, by how much, and how well it was blamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from parity.mutants.trial import WEAK, Outcome

LEAST_F32_SHARE: Final = 0.85
"""Share of mutants that f32 alone must kill: some lie below float32's noise, and f64 is there for them."""

LEAST_RANK_ONE_SHARE: Final = 0.95
"""Share of kills by a tensor or a gradient whose first bad module must be the blamed one."""

BLAMING: Final = ("tensor", "gradient", "special")
"""Kills that name a module or a primitive."""


@dataclass(frozen=True)
class Score:
    """What a catalogue's trials come to.

    Args:
        outcomes: Of every mutant, equivalent ones and unchanged ports included.
        whole: Whether these are all mutants of the catalogue: shares mean nothing of a few.
    """

    outcomes: Sequence[Outcome]
    whole: bool = True

    @property
    def mutants(self) -> list[Outcome]:
        """Those that must be killed."""
        return [outcome for outcome in self.outcomes if not outcome.equivalent]

    @property
    def equivalents(self) -> list[Outcome]:
        """Those that must pass."""
        return [outcome for outcome in self.outcomes if outcome.equivalent]

    @property
    def errors(self) -> list[Outcome]:
        """Those on which the harness itself raised: they are neither killed nor passed."""
        return [outcome for outcome in self.outcomes if outcome.error]

    def tried(self, rung: str) -> list[Outcome]:
        """Return the mutants that `rung` was put to."""
        return [outcome for outcome in self.mutants if outcome.at(rung) is not None]

    def killed(self, rung: str) -> list[Outcome]:
        """Return the mutants that `rung` kills."""
        return [outcome for outcome in self.mutants if (found := outcome.at(rung)) is not None and found.killed]

    def survivors(self, rung: str) -> list[Outcome]:
        """Return the mutants that `rung` lets pass."""
        return [outcome for outcome in self.mutants if (found := outcome.at(rung)) is not None and not found.killed]

    def weak(self, rung: str) -> list[Outcome]:
        """Return the mutants that `rung` kills by less than `WEAK` times the allowance."""
        return [it for it in self.killed(rung) if (found := it.at(rung)) is not None and found.margin < WEAK]

    @property
    def falsely_killed(self) -> list[Outcome]:
        """Equivalent mutants that some rung kills."""
        return [outcome for outcome in self.equivalents if outcome.killed]

    @property
    def unexplained(self) -> list[Outcome]:
        """Mutants that f32 does not see, and that do not say why."""
        return [outcome for outcome in self.survivors("f32") if not outcome.unseen_at_f32]

    @property
    def seen_after_all(self) -> list[Outcome]:
        """Mutants that say why f32 cannot see them, and that it kills."""
        return [outcome for outcome in self.killed("f32") if outcome.unseen_at_f32]

    @property
    def surviving(self) -> list[Outcome]:
        """Mutants that the finest rung of their pair lets pass."""
        return [it for it in self.mutants if it.fine is not None and not it.fine.killed]

    @property
    def weakly_killed(self) -> list[Outcome]:
        """Mutants that the finest rung of their pair kills by less than `WEAK` times the allowance."""
        return [it for it in self.mutants if it.fine is not None and it.fine.killed and it.fine.margin < WEAK]

    @property
    def blamed(self) -> tuple[int, int]:
        """How many kills at the finest rung blame the right module first, of how many that blame one."""
        kills = self._blaming
        return len(kills) - len(self.misblamed), len(kills)

    @property
    def misblamed(self) -> list[Outcome]:
        """Kills at the finest rung that blame another module first."""
        return [it for it in self._blaming if it.fine is not None and it.fine.rank != 1]

    @property
    def _blaming(self) -> list[Outcome]:
        """Kills at the finest rung that name a module: a port that raises, and a stratum, name none."""
        return [it for it in self.mutants if it.fine is not None and it.fine.killed in BLAMING]

    @property
    def complaints(self) -> list[str]:
        """Why the session fails, a line each; empty if it does not."""
        lines = [f"{it.name}: the harness raised {it.error}" for it in self.errors]
        lines += [f"{it.name} was put to no rung" for it in self.outcomes if not it.findings and not it.error]
        lines += [f"{it.name} survives {it.finest}" for it in self.surviving]
        lines += [
            f"{it.name}: killed at {it.finest} by {_margin(it)} times the allowance alone" for it in self.weakly_killed
        ]
        lines += [f"{it.name} computes the same and was killed: {_line(it)}" for it in self.falsely_killed]
        lines += [f"{it.name} survives f32 and does not say why" for it in self.unexplained]
        if self.whole:
            lines += self._shares()
        return lines

    def _shares(self) -> list[str]:
        right, blaming = self.blamed
        found = (
            ("of mutants are killed at f32", len(self.killed("f32")), len(self.tried("f32")), LEAST_F32_SHARE),
            ("of kills at the finest rung blame the right module first", right, blaming, LEAST_RANK_ONE_SHARE),
        )
        return [
            f"only {100 * part / of:.1f} % {what}, at least {100 * least:g} % must be"
            for what, part, of, least in found
            if of and part < least * of
        ]

    @property
    def exit_status(self) -> int:
        """0 if everything is as it must be, 1 if not, 3 if no mutant was tried."""
        return 3 if not self.mutants and not self.equivalents else 1 if self.complaints else 0


def _margin(outcome: Outcome) -> str:
    found = outcome.fine
    return "" if found is None else f"{found.margin:.2g}"


def _line(outcome: Outcome) -> str:
    return next(finding.line for finding in outcome.findings if finding.killed)
