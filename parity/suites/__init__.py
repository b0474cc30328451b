"""Suites: lists of pairs. M2-BERT is the first."""

from __future__ import annotations

from parity.errors import TargetError
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.suites.m2_bert import PAIRS


def select(targets: list[str]) -> list[Pair]:
    """Return the pairs called `targets`, or all of them, in the order of the suite.

    Raises:
        TargetError: A name is not known.
    """
    known = {pair.name: pair for pair in PAIRS}
    unknown = [target for target in targets if target not in known]
    if unknown:
        hint = "; rungs go behind --rung, joined by commas" if set(unknown) & RUNGS.keys() else ""
        raise TargetError(f"unknown target {', '.join(map(repr, unknown))}; allowed: {', '.join(known)}{hint}")
    return [pair for pair in PAIRS if not targets or pair.name in targets]


__all__ = ["PAIRS", "select"]
