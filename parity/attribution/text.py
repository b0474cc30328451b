"""An attribution in words: one sentence, the lines of a failure report, the table of betas."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parity.attribution.alternative import Alternative, Probe
from parity.attribution.attribute import Attribution, Finding, attribute
from parity.attribution.constants import number
from parity.pairs import Pair
from parity.spec.precision import Rung
from parity.spec.profile import HyperProfile, load_profile

HEADER = f"{'alternative':44} {'beta':>9} {'+-':>9} {'size/rounding':>13} {'closer':>9}  note"


def sentence(answer: Attribution) -> str:
    """Say in one sentence what the port behaves as."""
    if answer.status == "impossible":
        return f"cannot be attributed: {answer.reason}"
    if answer.status == "explained":
        betas = (answer.finding(name) for name in answer.behaves_as)
        same = f"; {', '.join(answer.same_here)} cannot be told from it on these cases" if answer.same_here else ""
        return f"behaves as if: {' and '.join(map(_claim, betas))}{same}"
    if answer.status == "unexplained":
        leads = ", ".join(f"{name} (beta {answer.finding(name).beta:.3f})" for name in answer.violations[:3])
        hint = f"; traces of {leads}" if leads else ""
        share = max(0, math.floor(100 * answer.explained))
        return f"no known alternative explains it (explained {share} %){hint}"
    count = sum(finding.observable for finding in answer.findings)
    worst = max((abs(finding.beta) for finding in answer.findings if finding.observable), default=0.0)
    return f"computes its own meaning: {count} alternatives observable, largest |beta| {worst:.4f}"


def profile_sentence(answer: Attribution, profile: HyperProfile) -> str:
    """Say which profile's meaning is nearest, and how many times closer; empty where there is none."""
    if not answer.profiles:
        return ""
    nearest = answer.profiles[0]
    if nearest.closer < number("closer") or load_profile(nearest.name).semantics == profile.semantics:
        return f"nearest profile: its own ({profile.name})"
    return f"nearest profile: {nearest.name}, {_times(nearest.closer)} closer"


def explain_failure(
    pair: Pair,
    probes: Sequence[Probe],
    profile: HyperProfile,
    rung: Rung,
    alternatives: Sequence[Alternative],
) -> list[str]:
    """Return the lines that a report prints beside a failure of `pair`, the failing case among `probes`."""
    return explanation(attribute(pair, probes, profile, rung, alternatives), profile)


def explanation(answer: Attribution, profile: HyperProfile) -> list[str]:
    """Return the lines of an answer: what the port behaves as, and its nearest profile."""
    return [line for line in (sentence(answer), profile_sentence(answer, profile)) if line]


def table_lines(answer: Attribution) -> list[str]:
    """Return one line for every alternative tried, by evidence; those that the cases cannot show come last."""
    shown = [finding for finding in answer.findings if finding.observable]
    blind = [finding for finding in answer.findings if not finding.observable]
    return [HEADER, *(_row(finding) for finding in [*shown, *blind])]


def _row(finding: Finding) -> str:
    size = f"{finding.size:13.3g}" if finding.size else f"{'none':>13}"
    error = f"{finding.error:9.1e}" if math.isfinite(finding.error) else f"{'-':>9}"
    return f"{finding.name:44} {finding.beta:9.4f} {error} {size} {finding.closer:9.3g}  {_note(finding)}".rstrip()


def _note(finding: Finding) -> str:
    if not finding.size:
        return "not observable: the same on these cases"
    if finding.observable:
        return f"with {', '.join(finding.collinear)}" if finding.collinear else ""
    if finding.alone_error < number("standard_error"):
        return "not observable: cross-talk with others"
    return "not observable: below the rounding"


def _claim(finding: Finding) -> str:
    beta, error = (finding.beta, finding.error) if finding.observable else (finding.alone, finding.alone_error)
    digits = min(max(3, math.ceil(-math.log10(error))), 6) if error > 0 else 6
    return f"{finding.name} (beta {beta:.{digits}f} +- {max(error, 10.0**-digits):.{digits}f})"


def _times(factor: float) -> str:
    if math.isinf(factor):
        return "infinitely many times"
    return f"{factor:.3g} times" if factor < 1000 else f"{factor:.0e} times".replace("e+0", "e").replace("e+", "e")
