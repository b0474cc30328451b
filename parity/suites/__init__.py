"""Suites: lists of pairs. M2-BERT is the first; anybody's own come by target."""

from __future__ import annotations

from parity.errors import TargetError
from parity.pairs import Pair
from parity.spec.precision import RUNGS
from parity.suites.m2_bert import PAIRS
from parity.targets import is_own, load_pairs


def select(targets: list[str]) -> list[Pair]:
    """Return the pairs that `targets` name: components in the order of the suite, all if there is no target, then
    those of files and modules.

    Raises:
        TargetError: A name is not known, or a file or module does not hold what it should.
    """
    components = [target for target in targets if not is_own(target)]
    known = {pair.name: pair for pair in PAIRS}
    unknown = [target for target in components if target not in known]
    if unknown:
        hint = "; rungs go behind --rung, joined by commas" if set(unknown) & RUNGS.keys() else ""
        raise TargetError(
            f"unknown target {', '.join(map(repr, unknown))}; allowed: {', '.join(known)}, or your own as FILE.py, "
            f"FILE.py::NAME or MODULE:ATTR{hint}"
        )
    own = load_pairs([target for target in targets if is_own(target)], taken=tuple(known))
    return [*(pair for pair in PAIRS if not targets or pair.name in components), *own]


def select_components(targets: list[str], command: str) -> list[Pair]:
    """Return the pairs of components that `targets` name, all if there is none.

    Raises:
        TargetError: A name is not known, or is that of somebody's own pair, about which `command` knows nothing.
    """
    own = [target for target in targets if is_own(target)]
    if own:
        known = ", ".join(pair.name for pair in PAIRS)
        raise TargetError(f"{command} knows components alone, not a pair of your own as {own[0]!r}; allowed: {known}")
    return select(targets)


__all__ = ["PAIRS", "select", "select_components"]
