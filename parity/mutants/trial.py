"""One mutant on trial: the ordinary suite runs while the port is the wrong one.

The suite is `parity.run.execute` on a budget of `parity run`, nothing tuned for a mutant. Of a mutant whose forward
pass is right its gradients alone are judged, as a run judges them; special values are asked for as `parity extremes`
does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from parity.backends.port import arithmetic
from parity.blame import BlameTable, links_of_pair, trace_backward
from parity.cases import Case, corpus_cases
from parity.examine import Bench, examine, first_bad
from parity.gradients import GradientBench, examine_gradients
from parity.mutants.mutant import Kind, Mutant
from parity.pairs import Pair
from parity.results import Failure, Results
from parity.run import Explain, Plan, execute, plan_cases
from parity.spec.precision import RUNGS, Rung, RungName
from parity.spec.profile import HyperProfile
from parity.verdict import Judgement

SCORED: Final[tuple[RungName, ...]] = ("f64", "f32")
"""Rungs at which a mutant must be killed, each on its own."""

WEAK: Final = 3.0
"""A kill by less than this many times the allowance: another seed's cases might have let it pass."""

Special = Callable[[RungName], Sequence[tuple[str, str]]]
"""Asks what becomes of special values at a rung; returns (primitive, line) of what differs without a known reason."""


@dataclass(frozen=True)
class Finding:
    """What one rung says of a mutant.

    Args:
        rung: The rung.
        killed: What killed it: `tensor`, `accuracy` (a stratum), `raised` (the port did), `gradient`, `special`; empty
            if nothing did.
        margin: Largest error over its allowance; of a kill that stopped the run, in the case that killed.
        place: The first bad tensor, module or primitive.
        rank: The place, from 1, of the blamed module among all that are bad, in execution order; None if it is not
            among them, or nothing is compared tensor by tensor.
        seconds: From the beginning to the first kill; None if there was none.
        line: The failure in words.
    """

    rung: str
    killed: str = ""
    margin: float = 0.0
    place: str = ""
    rank: int | None = None
    seconds: float | None = None
    line: str = ""


@dataclass(frozen=True)
class Outcome:
    """A mutant after its trial.

    `attribution` is the meaning that `explain` names, `error` what the harness itself raised: such a trial says
    nothing. `seconds` are those of the whole trial. `finest` is the finest rung that the pair has, `finest_reason` why
    that is not f64: there it must be killed.
    """

    name: str
    says: str
    source: str
    component: str
    kind: Kind
    equivalent: str
    unseen_at_f32: str
    findings: tuple[Finding, ...]
    attribution: str = ""
    error: str = ""
    seconds: float = 0.0
    finest: RungName = "f64"
    finest_reason: str = ""

    @property
    def fine(self) -> Finding | None:
        """What the finest rung says, None if it was not run."""
        return self.at(self.finest)

    def at(self, rung: str) -> Finding | None:
        """Return what `rung` says, None if it was not run."""
        return next((finding for finding in self.findings if finding.rung == rung), None)

    @property
    def killed(self) -> bool:
        """Whether any rung kills it."""
        return any(finding.killed for finding in self.findings)


@dataclass(frozen=True)
class Court:
    """What every mutant is put to.

    Args:
        seed: Seed of everything drawn.
        rungs: Rungs of mutants that must be killed, each run on its own.
        budget: A name of `parity.run.BUDGETS`.
        explain: Names the meaning of a port that fails at its finest rung.
        special: Asks for special values, for mutants that only they show.
        bench: Makes what a case is examined on; `KeptBenches` keeps truths for the next mutant.
    """

    seed: int
    rungs: Sequence[RungName] = SCORED
    budget: str = "standard"
    explain: Explain | None = None
    special: Special | None = None
    bench: Callable[[Pair, Case, HyperProfile], Bench] = Bench


def put_on_trial(mutant: Mutant, pair: Pair, court: Court) -> Outcome:
    """Run the suite of the mutant's component while its patch is in place.

    An equivalent mutant is put to every rung at once and to its end. Any other meets f64 and f32 apart: first case by
    case until one kills, which gives the time, and at the pair's finest rung then to the end, which gives the margin.
    At f32 beneath f64 the run ends with the first kill; only a mutant that no case kills is put to the whole of it,
    strata included.

    What the port raises kills it. What the harness raises is the outcome's `error`.
    """
    begun = time.monotonic()
    findings: list[Finding] = []
    error = attribution = ""
    finest = finest_rung(pair)
    try:
        with mutant.patch():
            for finding, words in _findings(mutant, pair, court):
                findings.append(finding)
                attribution = attribution or words
    except Exception as raised:  # noqa: BLE001 - a port that raises has failed by now: this is the harness's own
        error = f"{type(raised).__name__}: {raised}"
    return Outcome(
        name=mutant.name,
        says=mutant.says,
        source=mutant.source,
        component=mutant.component,
        kind=mutant.kind,
        equivalent=mutant.equivalent,
        unseen_at_f32=mutant.unseen_at_f32,
        findings=tuple(findings),
        attribution=attribution,
        error=error,
        seconds=time.monotonic() - begun,
        finest=finest,
        finest_reason="" if finest == "f64" else pair.only_rungs_reason,
    )


def finest_rung(pair: Pair) -> RungName:
    """Return the finest rung that a pair has."""
    return next(rung for rung in RUNGS if rung in pair.only_rungs)


def _findings(mutant: Mutant, pair: Pair, court: Court) -> Iterator[tuple[Finding, str]]:
    plan = Plan([pair], [mutant.profile], court.rungs, court.budget, court.seed, bench=court.bench)
    if mutant.equivalent:
        yield from _equivalent(mutant, pair, replace(plan, rungs=tuple(RUNGS)), court)
        return
    for rung in (rung for rung in court.rungs if rung in pair.only_rungs):
        asked, begun = replace(plan, rungs=(rung,)), time.monotonic()
        if mutant.seen_by == "gradients":
            yield _gradient(mutant, pair, asked, begun), ""
        elif mutant.seen_by == "extremes":
            yield _special(mutant, court, rung, begun), ""
        else:
            yield _forward(mutant, pair, asked, court, begun)


def _equivalent(mutant: Mutant, pair: Pair, plan: Plan, court: Court) -> Iterator[tuple[Finding, str]]:
    begun = time.monotonic()
    results = executed(plan)
    for rung in (rung for rung in RUNGS if rung in pair.only_rungs):
        yield _judged(mutant, pair, plan, rung, results, None), ""
    for rung in SCORED if mutant.seen_by == "gradients" else ():
        yield _gradient(mutant, pair, replace(plan, rungs=(rung,)), begun), ""
    for rung in SCORED if mutant.seen_by == "extremes" else ():
        yield _special(mutant, court, rung, begun), ""


def executed(plan: Plan) -> Results:
    """Run a plan, and see to it that everything asked for was run or is said to be skipped.

    Raises:
        RuntimeError: A component was compared at a rung with nothing, and no reason is given.
    """
    results = execute(plan, Results({}))
    values = [row for row in results.rows if row.kind != "gradient"]
    answered = {(row.component, row.profile, row.rung) for row in values if row.elements or row.cases_failed}
    skips = [skip for skip in results.skips if not skip.reason.startswith("gradients")]
    answered |= {(skip.component, skip.profile, skip.rung) for skip in skips}
    for pair in plan.pairs:
        for profile in plan.profiles:
            for rung in plan.rungs:
                if (pair.name, profile.name, rung) not in answered:
                    raise RuntimeError(f"{pair.name} under {profile.name} at {rung} was neither compared nor skipped")
    return results


# --- forwards ---------------------------------------------------------------------------------------------


def _forward(mutant: Mutant, pair: Pair, plan: Plan, court: Court, begun: float) -> tuple[Finding, str]:
    (rung,) = plan.rungs
    fine = rung == finest_rung(pair)
    first = _first_kill(mutant, pair, plan, rung, begun)
    if first is not None and not fine:
        return first, ""
    results = executed(replace(plan, explain=court.explain if fine else None))
    seconds = None if first is None else first.seconds
    if seconds is None and results.failures:
        seconds = time.monotonic() - begun
    words = next((failure.attribution[0] for failure in results.failures if failure.attribution), "")
    return _judged(mutant, pair, plan, rung, results, seconds), words


def _first_kill(mutant: Mutant, pair: Pair, plan: Plan, name: RungName, begun: float) -> Finding | None:
    """Examine the plan's cases in their order; return what the first failing one shows."""
    rung = RUNGS[name]
    for case in (case for case in plan_cases(plan, pair) if name in case.ladder):
        bench = plan.bench(pair, case, mutant.profile)
        judgements = examine(bench, mutant.profile, rung).judgements
        bad = first_bad(judgements)
        if bad is None:
            continue
        seconds = time.monotonic() - begun
        raised = bool(judgements[bad].detail)
        return Finding(
            rung=name,
            killed="raised" if raised else "tensor",
            margin=max(judgement.ratio for judgement in judgements.values()),
            place=bad,
            rank=None if raised else _place_of(mutant, judgements, bench.truth.outputs),
            seconds=seconds,
            line=f"{mutant.profile.name} {name}: {bad}: {judgements[bad].reason}",
        )
    return None


def _judged(mutant: Mutant, pair: Pair, plan: Plan, rung: RungName, results: Results, seconds: float | None) -> Finding:
    """Return what the failures of a run at `rung` come to; a tensor's failure says more than a stratum's."""
    failures = [failure for failure in results.failures if failure.rung == rung]
    if not failures:
        return Finding(rung, margin=max((row.ratio for row in results.rows if row.rung == rung), default=0.0))
    failure = next((failure for failure in failures if failure.meaning is not None), failures[0])
    killed = _killer(failure)
    if killed == "gradient":
        return replace(_gradient(mutant, pair, replace(plan, rungs=(rung,)), time.monotonic()), seconds=seconds)
    rank = _rank(mutant, pair, plan, failure) if killed == "tensor" else None
    return Finding(
        rung=rung,
        killed=killed,
        margin=max(_margin(failure) for failure in failures),
        place=failure.first_bad,
        rank=rank_of([failure.first_bad], [True], mutant.blamed) if killed == "special" else rank,
        seconds=seconds,
        line=f"{failure.profile} {failure.rung}: {failure.first_bad}: {failure.reason}",
    )


def _killer(failure: Failure) -> str:
    if failure.kind in ("special", "gradient") and not failure.detail:
        return failure.kind
    return "raised" if failure.detail else "accuracy" if failure.kind == "stratum" else "tensor"


def _margin(failure: Failure) -> float:
    """Of tensors and gradients, the worst error over its allowance; of a stratum, how far its bound lies beyond."""
    return failure.ratio if failure.kind == "stratum" else failure.worst_ratio


def _rank(mutant: Mutant, pair: Pair, plan: Plan, failure: Failure) -> int | None:
    """The blamed module's place among the bad tensors of the case that the failure shows."""
    profile = next(profile for profile in plan.profiles if profile.name == failure.profile)
    bench = plan.bench(pair, Case.from_json(pair.name, failure.case), profile)
    judgements = examine(bench, profile, RUNGS[failure.rung]).judgements  # type: ignore[index]
    return _place_of(mutant, judgements, bench.truth.outputs)


def _place_of(mutant: Mutant, judgements: Mapping[str, Judgement], outputs: Sequence[str]) -> int | None:
    bad = [name for name, judgement in judgements.items() if not judgement.passed]
    return rank_of([module_of(name) for name in bad], [name in outputs for name in bad], mutant.blamed)


def module_of(tensor: str) -> str:
    """Return the module that a tensor's name stands for: without the number of the call and the output's index."""
    return tensor.partition("#")[0].partition("[")[0]


def rank_of(modules: Sequence[str], outputs: Sequence[bool], blamed: Sequence[str]) -> int | None:
    """Return the place, from 1, of the first of `modules` that lies in one that is blamed; None if none does.

    Args:
        modules: Names in execution order.
        outputs: Of each, whether it is the pair's own output: what the glob "" means.
        blamed: Globs of modules; a part of a module lies in it.
    """
    for place, (module, own) in enumerate(zip(modules, outputs, strict=True), 1):
        parts = module.split(".")
        names = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        if any(own if glob == "" else any(fnmatchcase(name, glob) for name in names) for glob in blamed):
            return place
    return None


# --- gradients and special values -------------------------------------------------------------------------


def _gradient(mutant: Mutant, pair: Pair, plan: Plan, begun: float) -> Finding:
    """Judge gradients as a run does, corpus case by corpus case, until one kills by a margin that is not weak."""
    (name,) = plan.rungs
    killed, largest, compared = Finding(name), 0.0, False
    for case in corpus_cases(pair, plan.seed):
        bench = Bench(pair, case, mutant.profile, intermediates=False)
        found = examine_gradients(GradientBench(bench), mutant.profile, RUNGS[name])
        if found.skipped:
            continue
        compared = True
        largest = max([largest, *(judgement.ratio for judgement in found.judgements.values())])
        bad = first_bad(found.judgements)
        if bad is not None and not killed.killed:
            killed = _of_gradient(mutant, bench, name, plan.seed, bad, found.judgements[bad])
            killed = replace(killed, seconds=time.monotonic() - begun)
        if killed.killed and largest >= WEAK:
            break
    if not compared:
        raise RuntimeError(f"no case of {pair.name} is within the range of {name}: no gradient was compared")
    return replace(killed, margin=largest)


def _of_gradient(mutant: Mutant, bench: Bench, rung: RungName, seed: int, bad: str, judgement: Judgement) -> Finding:
    """What a failing gradient shows; whom to blame says the command that the failure prints."""
    line = f"{mutant.profile.name} {rung}: {bad}: {judgement.reason}"
    if judgement.detail:
        return Finding(rung, "raised", line=line)
    table = _backward(bench, RUNGS[rung], seed)
    names = [row.name for row in table.culprits]
    return Finding(
        rung=rung,
        killed="gradient",
        place=names[0] or "the model itself" if names else bad,
        rank=rank_of(names, [not name for name in names], mutant.blamed),
        line=f"{line}; blame backwards: {table.sentence()}",
    )


def _backward(bench: Bench, rung: Rung, seed: int) -> BlameTable:
    pair, reference, port = bench.pair, bench.module, bench.modules.port(bench.profile, rung)
    with arithmetic(pair, rung):
        links = links_of_pair(pair, reference, port, bench.inputs, rung, seed)
        return trace_backward(pair, reference, port, bench.inputs, rung, links, seed)


def _special(mutant: Mutant, court: Court, rung: RungName, begun: float) -> Finding:
    """Return the kill by the first question whose answer differs without a known reason."""
    if court.special is None:
        raise RuntimeError(f"nobody asks for special values, and nothing else shows {mutant.name}")
    news = court.special(rung)
    if not news:
        return Finding(rung)
    names = [name for name, _ in news]
    return Finding(
        rung=rung,
        killed="special",
        margin=math.inf,
        place=names[0],
        rank=rank_of(names, [True] * len(names), mutant.blamed),
        seconds=time.monotonic() - begun,
        line=news[0][1],
    )
