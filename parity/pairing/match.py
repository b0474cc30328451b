"""What a pairing says: which modules are partners and why, and which have none and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from parity.pairing.layout import Layout


@dataclass(frozen=True)
class Match:
    """Two modules that stand for the same computation; a fused module has one match for every part of it.

    Args:
        reference: Name of the reference's module.
        port: Name of the port's.
        confidence: In (0, 1]; `parity.pairing.pair` has the formula.
        reason: What they were paired by.
        layouts: How inputs and outputs lie on either side, by (the reference's path, the port's path).
        ambiguous: Whether another layout would do as well.
    """

    reference: str
    port: str
    confidence: float
    reason: str
    layouts: Mapping[tuple[str, str], Layout]
    ambiguous: bool = False

    def swapped(self) -> Match:
        """Return the match with reference and port exchanged."""
        layouts = {(port, reference): layout.inverse() for (reference, port), layout in self.layouts.items()}
        return replace(self, reference=self.port, port=self.reference, layouts=layouts)

    @property
    def layout(self) -> str:
        """The main output's layout in words; empty where there is none."""
        mains = [layout for (path, _), layout in self.layouts.items() if path.startswith("out")]
        return mains[0].describe() if mains else ""


@dataclass(frozen=True)
class Alone:
    """A module without a partner, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pairing:
    """Both trees: every module of either side is in a match, unpaired or set aside.

    Args:
        matches: In the order of the reference's calls.
        unpaired_reference: Modules that should have a partner and have none.
        unpaired_port: The same for the port.
        aside_reference: Modules that need no partner, with the reason: they compute nothing of their own.
        aside_port: The same for the port.
    """

    matches: tuple[Match, ...]
    unpaired_reference: tuple[Alone, ...]
    unpaired_port: tuple[Alone, ...]
    aside_reference: tuple[Alone, ...]
    aside_port: tuple[Alone, ...]

    @property
    def complete(self) -> bool:
        """Whether no module lacks a partner."""
        return not self.unpaired_reference and not self.unpaired_port

    def partners_of(self, reference: str) -> tuple[Match, ...]:
        """Return the matches of one of the reference's modules: none, one, or several where it is fused."""
        return tuple(match for match in self.matches if match.reference == reference)

    def summary(self) -> tuple[str, ...]:
        """Return what came out, a line for each kind of result, counts first."""
        unsure = [match for match in self.matches if match.ambiguous]
        lines = [f"{len(self.matches)} pairs" + (f", {len(unsure)} with an ambiguous layout" if unsure else "")]
        for title, alone in (
            ("unpaired in the reference", self.unpaired_reference),
            ("unpaired in the port", self.unpaired_port),
            ("set aside in the reference", self.aside_reference),
            ("set aside in the port", self.aside_port),
        ):
            lines += [f"{len(alone)} {title}: {'; '.join(f'{it.name} ({it.reason})' for it in alone)}"] * bool(alone)
        return tuple(lines)

    def rows(self) -> tuple[dict[str, str], ...]:
        """Return a table's rows, every module in one of them: reference, port, confidence, layout, reason."""
        paired = [
            _row(match.reference, match.port, f"{match.confidence:.2f}", match.layout, match.reason)
            for match in self.matches
        ]
        alone = [
            _row(it.name if on_reference else "", "" if on_reference else it.name, "", "", f"{state}: {it.reason}")
            for state, on_reference, them in (
                ("unpaired", True, self.unpaired_reference),
                ("unpaired", False, self.unpaired_port),
                ("set aside", True, self.aside_reference),
                ("set aside", False, self.aside_port),
            )
            for it in them
        ]
        return (*paired, *alone)

    def swapped(self) -> Pairing:
        """Return the pairing with reference and port exchanged; the order of the matches stays."""
        return Pairing(
            tuple(match.swapped() for match in self.matches),
            self.unpaired_port,
            self.unpaired_reference,
            self.aside_port,
            self.aside_reference,
        )


def _row(reference: str, port: str, confidence: str, layout: str, reason: str) -> dict[str, str]:
    return {"reference": reference, "port": port, "confidence": confidence, "layout": layout, "reason": reason}
