"""The decision, in three tiers: the same bits, bounds of the drift, and the absolute allowances, which nothing loosens.

1. Where environment, seed and cases are those of the baseline's first run, the port must give the same bits.
2. Everywhere, the upper confidence bound of every drift must be within its margin (`parity.gate.drift`): of the
   port's error over the reference's, or, where an unknown environment is judged by the fallback, of the port's own
   error. There the reference rounds otherwise, since its libraries choose their kernels by processor.
3. Everywhere, the run itself must have passed: no baseline and no entry of the ledger changes that.

It fails closed: what cannot be judged is said, and is no pass. Pure: it reads no file and no clock.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from parity.accuracy import Stratum
from parity.gate.accounts import account_findings, proposals
from parity.gate.baseline import Baseline, EnvironmentRecord, RungRecord
from parity.gate.drift import Accepted, Drift, Group, Sample, compared, group_drift, stratum_drift
from parity.gate.findings import Decision, Finding, Level, ordered
from parity.gate.ledger import Ledger
from parity.gate.runs import Run

ACCEPT: Final = "`parity baseline accept RUN --reason ...` accepts it"


@dataclass(frozen=True)
class Today:
    """What the decision depends on beside the files: the date, the hash of the code at hand, and that of own code."""

    date: datetime.date
    code: str
    own: Mapping[str, str]


def decide(run: Run, baseline: Baseline, ledger: Ledger, today: Today, bits_stop: bool = True) -> Decision:
    """Decide whether a run may pass.

    Args:
        run: The run.
        baseline: What was accepted.
        ledger: Who answers for it.
        today: Date and code.
        bits_stop: Whether other bits stop a run whose accuracy is within its margins; else they are a warning.
    """
    findings = [*_absolute(run), *_staleness(run, today)]
    found = _environment(run, baseline)
    if isinstance(found, Finding):
        drifts: list[Drift] = []
        key, same, accepted = "", False, None
        findings.append(found)
    else:
        key, record = found
        findings += _coverage(run, record)
        known = key == run.key
        moved = list(_bits(run, record, "drift" if bits_stop else "warning")) if known else []
        comparable = known and _comparable(run, record)
        same = comparable and not moved
        accepted = record.accepted()
        drifts = list(_drifts(run.sample, accepted) if known else _drifts(run.port_sample, record.accepted(port=True)))
        findings += [*moved, *_bounds(drifts, ledger, key, run)]
        if not drifts and not comparable:
            findings.append(Finding("nothing", "nothing compared", _nothing(run, record)))
    findings += account_findings(run, baseline, ledger, today.date, accepted)
    return Decision(
        ordered(findings),
        "same bits" if same else "bounds" if drifts else "",
        key,
        sorted(drifts, key=lambda drift: -abs(drift.significance)),
        ledger.ruling(),
        proposals(run, ledger, drifts, accepted),
    )


def _absolute(run: Run) -> Iterator[Finding]:
    """Tier 3: what the run itself found."""
    for sentence in run.failures:
        yield Finding("drift", "allowance", f"beyond its absolute allowance: {sentence}")
    if not run.failures:
        for row in run.failed:
            yield Finding("drift", "allowance", f"beyond its absolute allowance: {_named(row.group)}: {row.tensor}")
        for stratum in run.strata:
            if not stratum.passed:
                yield Finding(
                    "drift", "allowance", f"beyond its absolute allowance: {_named(stratum.stratum)}: {stratum.reason}"
                )


def _staleness(run: Run, today: Today) -> Iterator[Finding]:
    if run.code != today.code:
        yield Finding(
            "nothing", "stale", f"the run is stale: it is of code {run.code}, this is {today.code}; run it again"
        )
    for target, code in run.own.items():
        if today.own.get(target) != code:
            yield Finding("nothing", "stale", f"the run is stale: the code beside {target} is another; run it again")


def _environment(run: Run, baseline: Baseline) -> tuple[str, EnvironmentRecord] | Finding:
    record = baseline.environments.get(run.key)
    if record is not None:
        return run.key, record
    fallback = baseline.fallback(run.budget, run.environment)
    if fallback is not None:
        return fallback
    budgets = sorted({key.rpartition("/")[2] for key in baseline.environments})
    if run.budget not in budgets:
        return Finding(
            "nothing",
            "budget",
            f"the baseline has no run of budget {run.budget}, only {', '.join(budgets)}; {ACCEPT}",
        )
    others = [key for key, other in baseline.environments.items() if other.fallback and key.endswith(f"/{run.budget}")]
    why = f"the fallback {others[0]} is of another platform" if others else "no environment is the fallback"
    return Finding(
        "nothing",
        "fingerprint",
        f"unknown fingerprint {run.fingerprint}, and {why}: `parity baseline accept RUN --fallback --reason ...` names "
        "one",
    )


def _nothing(run: Run, record: EnvironmentRecord) -> str:
    seeds = ", ".join(map(str, record.seeds))
    return (
        f"nothing was compared with what was accepted: no stratum has an accuracy, and the bits that were kept are of "
        f"the seeds {seeds} and other cases than those of seed {run.seed}"
    )


def _coverage(run: Run, record: EnvironmentRecord) -> Iterator[Finding]:
    """What one side has and the other lacks."""
    known, here = record.groups, set(run.groups)
    for component in (component for component in record.components if component not in run.components):
        yield Finding("drift", "gone", f"component {component} is gone: the baseline has it, the run does not")
    for group in known:
        if group not in here and group[0] in run.components:
            yield Finding("nothing", "partial", f"the run is partial: it lacks {_named(group)}, which the baseline has")
    for group in run.groups:
        if group not in run.digests:
            yield Finding("nothing", "partial", f"the run is partial: it has no hash of {_named(group)}")
        if group not in known:
            yield Finding("nothing", "no baseline", f"{_named(group)} has no baseline: it is new; {ACCEPT}")
    yield from _stratum_coverage(run, record.accepted(), known, here)


def _stratum_coverage(
    run: Run, accepted: Accepted, known: Mapping[Group, RungRecord], here: set[Group]
) -> Iterator[Finding]:
    judged = {stratum.stratum for stratum in accepted.strata}
    sample = run.sample
    for stratum in accepted.strata:
        if stratum.group in here and not compared(sample.get(stratum.stratum, ())):
            why = next((found.skipped for found in run.strata if found.stratum == stratum.stratum), "")
            yield Finding(
                "nothing",
                "partial",
                f"the run is partial: it compared no case of {_named(stratum.stratum)}{f' ({why})' if why else ''}",
            )
    for where, bits in sample.items():
        group = (where.component, where.profile, where.rung)
        if where not in judged and group in known and len(compared(bits)) > 1:
            yield Finding("nothing", "no baseline", f"{_named(where)} has no baseline: it is new; {ACCEPT}")


def _comparable(run: Run, record: EnvironmentRecord) -> bool:
    """Whether any group can be compared bit for bit."""
    return any(
        group in run.digests and run.digests[group].cases == _cases(record, known, run.seed)
        for group, known in record.groups.items()
    )


def _cases(record: EnvironmentRecord, known: RungRecord, seed: int) -> str | None:
    """Return the hash of the cases that were accepted of a seed, None if it is not one of them."""
    if seed == record.seeds[0]:
        return known.cases
    return known.others[str(seed)][0] if str(seed) in known.others else None


def _bits(run: Run, record: EnvironmentRecord, level: Level) -> Iterator[Finding]:
    """Tier 1: groups whose cases are the same and whose bits are not."""
    if run.seed not in record.seeds:
        seeds = ", ".join(map(str, record.seeds))
        yield Finding(
            "note", "bits", f"the bits were not compared: those that were kept are of the seeds {seeds}, not {run.seed}"
        )
        return
    other_cases = []
    for group, known in record.groups.items():
        digest = run.digests.get(group)
        if digest is None:
            continue
        if digest.cases != _cases(record, known, run.seed):
            other_cases.append(group)
            continue
        if run.seed != record.seeds[0]:
            if digest.joint != known.others[str(run.seed)][1]:
                yield Finding(
                    level, "bits", f"other bits: {_named(group)}; environment and cases are the same. {ACCEPT}"
                )
            continue
        if len(digest.tensors) != len(known.tensors):
            yield Finding(
                level,
                "bits",
                f"other bits: {_named(group)} has {len(digest.tensors)} tensors, accepted were {len(known.tensors)}",
            )
            continue
        moved = [
            name for (name, now), before in zip(digest.tensors.items(), known.tensors, strict=True) if now != before
        ]
        if moved:
            yield Finding(
                level,
                "bits",
                f"other bits: {_named(group)}: {len(moved)} of {len(known.tensors)} tensors, the first is {moved[0]}; "
                f"environment and cases are the same. {ACCEPT}",
            )
    if other_cases:
        yield Finding(
            "warning",
            "cases",
            f"{len(other_cases)} groups have other cases than the accepted run, the first is "
            f"{_named(other_cases[0])}: their bits cannot be compared, their bounds are",
        )


def _drifts(sample: Sample, accepted: Accepted) -> Iterator[Drift]:
    """Tier 2: every test that can be made."""
    for stratum in accepted.strata:
        if compared(sample.get(stratum.stratum, ())):
            yield stratum_drift(accepted, stratum, sample[stratum.stratum])
    for group in accepted.groups:
        strata = accepted.strata_of(group.group)
        if strata and all(compared(sample.get(stratum.stratum, ())) for stratum in strata):
            yield group_drift(accepted, group, sample)


def _bounds(drifts: Sequence[Drift], ledger: Ledger, key: str, run: Run) -> Iterator[Finding]:
    against = "" if key == run.key else " (fallback environment)"
    for drift in drifts:
        if drift.grew:
            yield _grown(drift, ledger, against)
        elif drift.shrank:
            yield Finding(
                "warning",
                "improved",
                f"improved beyond the margin{against}: {_sentence(drift)}; a wrong dtype looks like this too",
                drift.significance,
            )
    if key != run.key and drifts:
        yield Finding(
            "note",
            "fallback",
            f"unknown fingerprint {run.fingerprint}: judged by the fallback environment {key}, the port's own error by "
            "the one accepted there",
        )


def _grown(drift: Drift, ledger: Ledger, against: str) -> Finding:
    for entry in ledger.of("drift"):
        if entry.covers_test(drift.where) and entry.bits is not None and drift.upper <= entry.bits:
            return Finding("note", "ledger", f"allowed by the ledger ({entry.title}): {_sentence(drift)}")
    what = "the error grew" if drift.lower > 0 else "that the error grew cannot be excluded"
    return Finding("drift", "grew", f"{what}{against}: {_sentence(drift)}", drift.significance)


def _sentence(drift: Drift) -> str:
    return (
        f"{_named(drift.where)}: {drift.drift:+.3f} bits ({drift.percent:+.1f} %) over {drift.cases} cases, bounds "
        f"{drift.lower:+.3f} to {drift.upper:+.3f}, margin {drift.margin:.3f}, {drift.significance:+.1f} standard "
        "errors"
    )


def _named(where: Group | Stratum) -> str:
    if isinstance(where, Stratum):
        return f"{where.component} {where.profile} {where.rung} {where.length_class}, {where.family}"
    return " ".join(where)
