"""The ledger held against a run and its baseline: what has expired, what matches nothing, what nobody answers for."""

from __future__ import annotations

import datetime
import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from parity.accuracy import Stratum
from parity.cases import STRATUM_FAMILIES
from parity.gate.baseline import Baseline
from parity.gate.drift import Accepted, Drift, Group, stratum_drift, stratum_margin
from parity.gate.findings import Finding
from parity.gate.ledger import ANY, STEP, Entry, Ledger, Proposal
from parity.gate.runs import Run, RunStratum
from parity.spec.precision import RUNGS
from parity.spec.profile import profile_names
from parity.tolerance import constant

SOON: Final = datetime.timedelta(days=30)
"""Before an entry expires, for so long there is a warning."""


def account_findings(
    run: Run, baseline: Baseline, ledger: Ledger, date: datetime.date, accepted: Accepted | None
) -> list[Finding]:
    """Return what is wrong with the ledger, or not accounted for in it; `accepted` is what the run is judged by."""
    return [
        *_expiry(ledger, date),
        *_margins(run, ledger, accepted),
        *_drift_entries(run, ledger),
        *_baselines(baseline, ledger),
    ]


def proposals(run: Run, ledger: Ledger, drifts: Sequence[Drift], accepted: Accepted | None) -> list[Proposal]:
    """Return the allowances that are far above what runs need, and what they may become.

    A run needs what keeps its false alarms rare: the accepted mean, or the drift found, and the test's margin.
    """
    found = []
    for entry in ledger.entries if accepted is not None else ():
        if entry.bits is None or accepted is None:
            continue
        if entry.kind == "margin":
            departing = {stratum.stratum for stratum in run.strata if _departs(stratum)}
            covered = [s for s in accepted.strata if s.stratum in departing and entry.covers(s.stratum)]
            needs = [stratum.mean + stratum_margin(accepted, stratum) for stratum in covered]
            standard, removable = constant("margin"), False
        else:
            tests = [drift for drift in drifts if entry.covers_test(drift.where)]
            needs, removable = [drift.drift + drift.margin for drift in tests], True
            standard = max((drift.margin for drift in tests), default=0.0)
        need = max(needs, default=math.inf)
        if entry.bits - need <= constant("tighten_from"):
            continue
        bits = max(math.ceil((need + constant("tighten_slack")) / STEP) * STEP, 0.0 if removable else standard)
        if bits < entry.bits:
            found.append(Proposal(entry, need, None if removable and bits <= standard else round(bits, 2)))
    return found


def _expiry(ledger: Ledger, date: datetime.date) -> Iterator[Finding]:
    for entry in ledger.ruling():
        if entry.expires < date:
            yield Finding(
                "drift",
                "expired",
                f"ledger: {entry.title} has expired on {entry.expires} (reason: {entry.reason}; {entry.author}); "
                "renew it with a reason, or remove what it allows",
            )
        elif entry.date > date:
            yield Finding(
                "drift", "future", f"ledger: {entry.title} is dated in the future, {entry.date}; mend the entry"
            )
        elif entry.expires < date + SOON:
            yield Finding("warning", "expires", f"ledger: {entry.title} expires on {entry.expires}")


def _margins(run: Run, ledger: Ledger, accepted: Accepted | None) -> Iterator[Finding]:
    entries = ledger.of("margin")
    for stratum in run.strata:
        ruling = [entry for entry in entries if entry.covers(stratum.stratum)]
        if _departs(stratum) and not ruling:
            yield Finding(
                "drift",
                "no ledger entry",
                f"the margin of {_named(stratum.stratum)} is {stratum.margin:g} bits, the standard is "
                f"{constant('margin'):g}, and there is no ledger entry for it; `{_allowing(stratum)}` writes one",
            )
        for entry in ruling:
            yield from _ruled(stratum, entry, accepted)
    for entry in entries:
        strata = [stratum for stratum in run.strata if entry.covers(stratum.stratum)]
        departs = any(_departs(stratum) for stratum in strata) or (entry.bits or 0.0) < constant("margin")
        if not (strata and departs) and not _out_of_scope(entry, run):
            yield _unmatched(entry, "no stratum of the run has another margin than the standard there")


def _allowing(stratum: RunStratum) -> str:
    """Return the command that writes the entry which a margin lacks."""
    where = stratum.stratum
    scope = ("--component", where.component, "--rung", where.rung, "--length-class", where.length_class)
    words = ("parity", "baseline", "allow", "margin", "--bits", f"{stratum.margin:g}", *scope, "--family", where.family)
    return f"{shlex.join(words)} --reason ..."


def _ruled(stratum: RunStratum, entry: Entry, accepted: Accepted | None) -> Iterator[Finding]:
    """What an entry says of a stratum that it covers: it can be stricter than the code, never looser."""
    if entry.bits is None or stratum.skipped:
        return
    if _departs(stratum) and entry.bits > stratum.margin:
        yield Finding(
            "drift",
            "loosens",
            f"ledger: {entry.title} loosens the absolute margin of {stratum.margin:g} bits, which no entry can",
        )
    bound = _bound(stratum, accepted)
    if entry.bits < stratum.margin and not bound <= entry.bits:
        yield Finding(
            "drift",
            "tightened",
            f"{_named(stratum.stratum)}: upper bound {bound:.2f} bits, the ledger has tightened the margin to "
            f"{entry.bits:g}",
        )


def _bound(stratum: RunStratum, accepted: Accepted | None) -> float:
    """Return the upper bound of mean r, by the accepted spread where there is one: that of six cases is a guess."""
    known = next((s for s in accepted.strata if s.stratum == stratum.stratum), None) if accepted else None
    if accepted is None or known is None:
        return stratum.bound
    return known.mean + stratum_drift(accepted, known, stratum.bits).upper


def _drift_entries(run: Run, ledger: Ledger) -> Iterator[Finding]:
    tests: list[Group | Stratum] = [*run.groups, *(stratum.stratum for stratum in run.strata)]
    for entry in ledger.of("drift"):
        if not any(entry.covers_test(where) for where in tests) and not _out_of_scope(entry, run):
            yield _unmatched(entry, "the run has no such component, profile, rung, length class and family")


def _baselines(baseline: Baseline, ledger: Ledger) -> Iterator[Finding]:
    ruling = {entry.environment: entry for entry in ledger.ruling() if entry.kind == "baseline"}
    for key, record in baseline.environments.items():
        entry = ruling.pop(key, None)
        if entry is None:
            yield Finding(
                "drift", "no ledger entry", f"baseline {key} has no ledger entry: nobody answers for having accepted it"
            )
        elif entry.content != record.content:
            yield _unmatched(entry, f"the baseline there is {record.content}, accepted was {entry.content}")
    for entry in ruling.values():
        yield _unmatched(entry, "the baseline has no such environment")


def _unmatched(entry: Entry, why: str) -> Finding:
    return Finding("drift", "unmatched", f"ledger: {entry.title} is unmatched: {why}; remove or mend the entry")


def _out_of_scope(entry: Entry, run: Run) -> bool:
    """Whether the entry is about a family, a rung or a profile that exists and was not asked for."""
    families = {stratum.stratum.family for stratum in run.strata}
    rungs, profiles = {rung for _, _, rung in run.groups}, {profile for _, profile, _ in run.groups}
    if entry.component != ANY and entry.component not in run.components:
        return False
    return (
        (entry.family in STRATUM_FAMILIES and entry.family not in families)
        or (entry.rung in RUNGS and entry.rung not in rungs)
        or (entry.profile in profile_names() and entry.profile not in profiles)
    )


def _departs(stratum: RunStratum) -> bool:
    return not stratum.skipped and stratum.margin > constant("margin")


def _named(stratum: Stratum) -> str:
    return f"{stratum.component} {stratum.profile} {stratum.rung} {stratum.length_class}, {stratum.family}"
