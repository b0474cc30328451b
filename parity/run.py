"""A run: pairs x profiles x rungs over drawn cases, gathered into results. Wiring only."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

from parity.accuracy import Assessment
from parity.backends.port import on_device, require_device
from parity.backends.reference import build_reference, run_reference
from parity.cases import STRATUM_FAMILIES, Case, aim_case, corpus_cases, draw_cases, draw_inputs, shrink_case
from parity.digests import RunningDigest, joined
from parity.errors import CaseError, NotImplementedYetError, WeightsError
from parity.examine import Bench, Examination, Modules, classify_tensor, examine, fidelity, first_bad
from parity.gradient_run import GradientRun
from parity.pairs import Pair
from parity.replay.files import BUNDLES
from parity.replay.pack import pack
from parity.results import Digest, Failure, Fidelity, Results, Row, Skip
from parity.resume import (
    Found,
    NoProgress,
    Progress,
    changes,
    pack_assessments,
    pack_found,
    restore,
    snapshot,
    unpack_assessments,
    unpack_found,
)
from parity.spec.precision import RUNGS, Rung, RungName
from parity.spec.profile import CANONICAL, HyperProfile, require_built
from parity.special_values import ask_pair
from parity.strata import StrataPlan, assess_class
from parity.tf32 import stratum_by_tf32, tensors_by_tf32


@dataclass(frozen=True)
class Budget:
    """How many cases Hypothesis draws for a pair beside its corpus, and how hard a failing one is shrunk.

    `aim_effort` examples look for the case of the largest error over allowance, which then runs like the others;
    `families` are those of the accuracy test; `differentiated` is how many cases of the corpus have their gradients
    judged, None for all.
    """

    cases: int
    shrink_effort: int
    aim_effort: int
    families: tuple[str, ...] = tuple(STRATUM_FAMILIES)
    differentiated: int | None = None


BUDGETS: Final[dict[str, Budget]] = {
    "quick": Budget(cases=4, shrink_effort=20, aim_effort=0, families=("normal",), differentiated=4),
    "standard": Budget(cases=20, shrink_effort=60, aim_effort=16),
    "thorough": Budget(cases=120, shrink_effort=200, aim_effort=100),
}


Explain = Callable[[Pair, Case, HyperProfile, Rung], Sequence[str]]


@dataclass(frozen=True)
class Plan:
    """What a run is asked to do.

    `cases` replaces the drawn ones and the corpus; `spelling` says how the user chose a profile, by its name. `explain`
    says in words which known meaning a failing port has; it is asked once for a component, about its first failure.
    `bench` makes what a case is examined on: one that keeps truths serves many ports of one reference.
    """

    pairs: Sequence[Pair]
    profiles: Sequence[HyperProfile]
    rungs: Sequence[RungName]
    budget: str
    seed: int
    cases: Sequence[Case] = field(default=())
    spelling: Mapping[str, str] = field(default_factory=dict)
    explain: Explain | None = None
    bench: Callable[[Pair, Case, HyperProfile], Bench] = Bench
    _drawn: dict[str, list[Case]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cases_of(self, pair: Pair, draw: Callable[[], list[Case]]) -> list[Case]:
        """Return what `draw` returns, which is drawn once for a pair: it is asked for again and again."""
        if pair.name not in self._drawn:
            self._drawn[pair.name] = draw()
        return list(self._drawn[pair.name])

    def command(self, case: Case, profile: str, rung: str) -> str:
        """Return the command that runs `case` again, target and profile spelt as they were chosen."""
        command = case.command(self.spelling.get(profile, profile), rung, self._target(case.component))
        return shlex.join([*shlex.split(command), *self._words(case.component)])

    def stratum_command(self, component: str, profile: str, rung: str) -> str:
        """Return the command that tests the strata of a component again, with the cases of the same seed."""
        words = [
            "parity",
            "run",
            self._target(component),
            "--profile",
            self.spelling.get(profile, profile),
            "--rung",
            rung,
        ]
        return shlex.join([*words, "--budget", self.budget, "--seed", str(self.seed), *self._words(component)])

    def special_command(self, component: str, profile: str) -> str:
        """Return the command that asks a pair for special values again, with the same seed."""
        words = ["parity", "extremes", self._target(component), "--profile", self.spelling.get(profile, profile)]
        return shlex.join([*words, "--rung", "f64", "--seed", str(self.seed)])

    def _words(self, component: str) -> list[str]:
        return next((pair.words for pair in self.pairs if pair.name == component), [])

    def _target(self, component: str) -> str:
        return next((pair.spelling for pair in self.pairs if pair.name == component), component)


def plan_cases(plan: Plan, pair: Pair) -> list[Case]:
    """Return the cases of `pair`: those the plan names, or the corpus and what Hypothesis draws.

    Raises:
        CaseError: The pair draws a key that is not among its `keys`: its cases could not be rerun.
    """
    if plan.cases:
        return [case for case in plan.cases if case.component == pair.name]
    return plan.cases_of(pair, lambda: _drawn_cases(plan, pair))


def _drawn_cases(plan: Plan, pair: Pair) -> list[Case]:
    drawn = draw_cases(pair, BUDGETS[plan.budget].cases, plan.seed)
    cases = list(dict.fromkeys([*corpus_cases(pair, plan.seed), *drawn]))
    for case in cases:
        _require_known_keys(pair, case)
    return cases


def _require_known_keys(pair: Pair, case: Case) -> None:
    unknown = sorted(case.options.keys() - pair.keys) if pair.keys is not None else []
    if unknown and pair.keys is not None:
        raise CaseError(f"case of {pair.name} has unknown key {unknown[0]!r}; allowed: {', '.join(sorted(pair.keys))}")


def require_buildable(pair: Pair, case: Case) -> None:
    """Refuse a case that was written by hand and does not fit its pair.

    Raises:
        CaseError: A size is missing or has a value that the pair cannot be built with.
        ConfigError: A switch of the model is unknown or not allowed.
    """
    _require_known_keys(pair, case)
    try:
        inputs = draw_inputs(pair, case)
        run_reference(pair, build_reference(pair, case.options, CANONICAL, "float64"), inputs, RUNGS["f64"])
    except KeyError as error:
        raise CaseError(f"case of {pair.name} lacks {error.args[0]!r}; got {case.to_json()}") from None
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError, IndexError) as error:
        raise CaseError(f"{pair.name} cannot be built from {case.to_json()}: {error}") from None


def require_weights(pair: Pair, seed: int, cases: Sequence[Case] = ()) -> None:
    """Refuse a pair whose weights do not go across in the first of its cases, before anything is run.

    Args:
        pair: The pair.
        seed: Seed of the run, from which its cases follow.
        cases: The cases of the run, where they are given.

    Raises:
        WeightsError: A tensor is missing, left over or mis-shaped; the message lists all of them.
    """
    case = next(iter([*cases, *corpus_cases(pair, seed), *draw_cases(pair, 1, seed)]))
    modules = Modules(pair, case, CANONICAL)
    try:
        modules.port(CANONICAL, RUNGS["f32"])
    except WeightsError as error:
        raise WeightsError(f"{pair.spelling}: {error}") from None
    except Exception:  # noqa: BLE001 - a port that cannot be built is a port that fails: the run says so
        return


def execute(
    plan: Plan,
    results: Results,
    on_case: Callable[[str], object] = str,
    check: Callable[[], object] = bool,
    progress: Progress | None = None,
) -> Results:
    """Run the plan into `results`.

    `on_case` is called after every case, with its component; `check` before every examination: it may raise to stop.
    What `progress` has is not run again, and what is finished is kept there.
    """
    built = []
    for profile in plan.profiles:
        reason = _unbuilt(plan, profile)
        if reason:
            results.skips += [Skip(p.name, profile.name, rung, reason) for p in plan.pairs for rung in plan.rungs]
        else:
            built.append(profile)
    for pair in plan.pairs if built else ():
        _PairRun(plan, pair, built, check, progress or NoProgress()).execute(results, on_case)
    return results


@dataclass(frozen=True)
class PartNames:
    """Names of the parts of one component, as its progress knows them.

    `ends` are the last parts of everything but the accuracy test: with them found, none is missing.
    """

    cases: list[str]
    ends: list[str]
    strata: list[str]


def part_names(plan: Plan, pair: Pair) -> PartNames:
    """Return the names of the parts of `pair` that can be finished apart from the others."""
    # A search may add as many cases as it keeps failing ones, and the one that it looked for.
    most = len(plan_cases(plan, pair)) + FAILING_AIMS + 1
    steps = [AIM, GRADIENTS, FAILURES, SPECIAL]
    strata = [] if plan.cases else [_strata_name(number) for number in range(len(pair.strata))]
    return PartNames([*map(_case_name, range(most)), *steps], steps, strata)


def execute_unit(plan: Plan, pair: Pair, strata: int | None, progress: Progress) -> None:
    """Finish the parts of `pair` that its accuracy test has no share in, or those of one length class of that test.

    Args:
        plan: The plan; profiles that are not built are left out, as by `execute`.
        pair: One of its pairs.
        strata: Number of the length class, None for all but the accuracy test.
        progress: What is finished already, and where parts are kept.
    """
    built = [profile for profile in plan.profiles if not _unbuilt(plan, profile)]
    if not built:
        return
    run = _PairRun(plan, pair, built, bool, progress)
    if strata is None:
        run.examine(str)
    else:
        run.assess_class(strata)


def _unbuilt(plan: Plan, profile: HyperProfile) -> str:
    """Return why a profile cannot be run, empty if it can."""
    try:
        require_built(profile)
        for devices in {pair.devices for pair in plan.pairs}:
            with on_device(devices, RUNGS["f32"]):
                require_device(profile)
    except NotImplementedYetError as error:
        return str(error)
    return ""


AIM: Final = "aim"
GRADIENTS: Final = "gradients"
FAILURES: Final = "failures"
SPECIAL: Final = "special"
"""Names of the steps over all cases of a component, in a run's progress."""


def _case_name(number: int) -> str:
    return f"case {number}"


def _strata_name(number: int) -> str:
    return f"strata {number}"


LARGEST_EXCESS: Final = 1000.0
"""Bits beyond a margin that a ratio can express."""

DRAWN_GRADIENTS: Final = 4
"""Drawn cases whose gradients are judged where a pair has no corpus."""

FAILING_AIMS: Final = 3
"""Failing examples of the search for a near case that run like the others."""

NO_CASE: Final = "the pair has no case at all: neither a corpus nor drawn ones"


class _PairRun:
    """All cases of one pair under the built profiles."""

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        profiles: Sequence[HyperProfile],
        check: Callable[[], object],
        progress: Progress,
    ) -> None:
        self.plan, self.pair, self.profiles, self.check, self.progress = plan, pair, profiles, check, progress
        self.rungs = [rung for rung in RUNGS if rung in plan.rungs and rung in pair.only_rungs]
        self.rows: dict[tuple[str, str, str], Row] = {}
        self.failing: dict[tuple[str, RungName], list[Case]] = {}
        self.worst: dict[tuple[str, RungName], tuple[float, Case]] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.case_skips: dict[tuple[str, str, str], int] = {}
        self.distances: dict[str, float] = {}
        self.bundles: dict[str, bytes] = {}
        self.unpaired: dict[str, str] = {}
        self.digests: dict[tuple[str, str], RunningDigest] = defaultdict(RunningDigest)
        self.aimed: list[Case] = []

    @cached_property
    def cases(self) -> list[Case]:
        return plan_cases(self.plan, self.pair)

    @property
    def component(self) -> str:
        return self.pair.name

    @property
    def asked(self) -> list[Case]:
        return [*self.cases, *self.aimed]

    def examine(self, on_case: Callable[[str], object]) -> tuple[Found, Found, Found]:
        """Run everything but the accuracy test; return gradients, failures and what became of special values."""
        for number, case in enumerate(self.cases):
            self._finish_case(number, case)
            on_case(self.pair.name)
        self.aimed = self._finish_aim()
        for number, case in enumerate(self.aimed, len(self.cases)):
            self._finish_case(number, case)
        gradients = self._finish(GRADIENTS, self._differentiate)
        failures = self._finish(FAILURES, lambda: Found(failures=self._failures()))
        return gradients, failures, self._finish(SPECIAL, self._ask_special)

    def execute(self, results: Results, on_case: Callable[[str], object]) -> None:
        """Run everything into `results`."""
        gradients, failures, special = self.examine(on_case)
        results.rows += self._sorted([*self.rows.values(), *gradients.rows])
        results.digests += list(self._digests_with(gradients.digests))
        results.skips += self._skips()
        results.fidelity += [Fidelity(self.pair.name, profile, d) for profile, d in sorted(self.distances.items())]
        self._add(results, failures, gradients, special)
        assessments = list(self._assess())
        results.assessments += assessments
        inferior = [assessment for assessment in assessments if not assessment.passed]
        self._add(results, self._finish("inferior", lambda: Found(failures=list(map(self._inferior, inferior)))))
        results.bundles |= self.bundles
        if self.unpaired:
            results.unpaired[self.pair.name] = self.unpaired

    def _differentiate(self) -> Found:
        """Judge the gradients; their rows stand behind those of the forward pass."""
        gradients = GradientRun(self.pair, self.profiles, self.rungs, self.plan.command, self.check)
        gradients.run(self._differentiated(), set(self.failing))
        return Found(
            rows=list(gradients.rows_behind(self.rows.values()).values()),
            failures=gradients.failures(),
            skips=gradients.skips,
            unpaired=gradients.unpaired,
            digests=gradients.digests(),
        )

    def _digests_with(self, gradients: Iterable[Digest]) -> Iterator[Digest]:
        """Yield what the port gave under every profile at every rung, gradients where there are any."""
        found = {(digest.profile, digest.rung): digest for digest in gradients}
        for (profile, rung), running in self.digests.items():
            values = running.digest(self.component, profile, rung)
            yield joined(values, found[profile, rung]) if (profile, rung) in found else values

    def _differentiated(self) -> list[Case]:
        """The cases whose gradients are judged: those that were named, else the corpus, else the first drawn ones."""
        if self.plan.cases:
            return self.cases
        corpus = set(corpus_cases(self.pair, self.plan.seed))
        found = [case for case in self.cases if case in corpus] or self.cases[:DRAWN_GRADIENTS]
        return found[: BUDGETS[self.plan.budget].differentiated]

    def _finish_case(self, number: int, case: Case) -> None:
        """Run a case, or take what it found from the progress."""
        name = _case_name(number)
        kept = self.progress.found(self.pair.name, name)
        if kept is not None:
            restore(self, kept)
            return
        before = snapshot(self)
        self._run_case(case)
        self.progress.keep(self.pair.name, name, changes(self, before))

    def _finish_aim(self) -> list[Case]:
        kept = self.progress.found(self.pair.name, AIM)
        if kept is not None:
            return [Case.from_json(self.pair.name, text) for text in kept]
        aimed = self._aim()
        self.progress.keep(self.pair.name, AIM, [case.to_json() for case in aimed])
        return aimed

    def _finish(self, name: str, find: Callable[[], Found]) -> Found:
        """Take a step over all cases, with the bundles that it packs, or what it found from the progress."""
        kept = self.progress.found(self.pair.name, name)
        if kept is not None:
            found, bundles = unpack_found(kept)
            self.bundles |= bundles
            return found
        before = set(self.bundles)
        found = find()
        packed = {path: data for path, data in self.bundles.items() if path not in before}
        self.progress.keep(self.pair.name, name, pack_found(found, packed))
        return found

    def _add(self, results: Results, *steps: Found) -> None:
        for found in steps:
            results.failures += found.failures
            results.skips += found.skips
            self.unpaired |= found.unpaired

    def _aim(self) -> list[Case]:
        """Look for a case that comes near its allowance, under the first profile and at f32 where that is asked for.

        What fails on the way is returned as well, the first few of it: no example is thrown away that shows a fault.
        """
        effort = BUDGETS[self.plan.budget].aim_effort
        if self.plan.cases or not effort or not self.rungs:
            return []
        profile = self.profiles[0]
        rung = RUNGS["f32" if "f32" in self.rungs else self.rungs[0]]

        found: list[Case] = []

        def score(case: Case) -> float:
            self.check()
            judgements = examine(self.plan.bench(self.pair, case, profile), profile, rung).judgements
            if first_bad(judgements) is not None:
                found.append(case)
            ratios = [judgement.predicted_ratio for judgement in judgements.values()]
            return max((ratio for ratio in ratios if math.isfinite(ratio)), default=0.0)

        aimed = aim_case(self.pair, score, self.plan.seed, effort)
        candidates = [*found[:FAILING_AIMS], *([] if aimed is None else [aimed])]
        return [case for case in dict.fromkeys(candidates) if case not in self.cases]

    def _assess(self) -> Iterator[Assessment]:
        """The accuracy test, where cases are not named one by one."""
        for number in range(len(self.pair.strata)) if not self.plan.cases else ():
            yield from self.assess_class(number)

    def assess_class(self, number: int) -> list[Assessment]:
        """The accuracy test of one length class, or what it found from the progress."""
        name = _strata_name(number)
        kept = self.progress.found(self.pair.name, name)
        if kept is not None:
            return unpack_assessments(kept)
        families = BUDGETS[self.plan.budget].families
        plan = StrataPlan(self.pair, self.profiles, self.rungs, families, self.plan.seed)
        assessments = list(assess_class(plan, self.pair.strata[number], self.check))
        self.progress.keep(self.pair.name, name, pack_assessments(assessments))
        return assessments

    def _ask_special(self) -> Found:
        """Ask somebody's own pair at f64 what becomes of NaN and infinities, where numbers show no failure.

        Components answer for their primitives, to `parity extremes`.
        """
        if not self.pair.target or self.plan.cases or "f64" not in self.rungs:
            return Found()
        failures: list[Failure] = []
        skips: list[Skip] = []
        for profile in self.profiles if self.pair.reads_profile else self.profiles[:1]:
            if self.pair.finite_only:
                why = f"NaN and infinities are not asked for: {self.pair.finite_only}"
                skips.append(Skip(self.pair.name, profile.name, "f64", why, cases=1))
            elif (profile.name, "f64") not in self.failing:
                failures += self._misplaced(profile, skips)
        return Found(failures=failures, skips=skips)

    def _misplaced(self, profile: HyperProfile, skips: list[Skip]) -> Iterator[Failure]:
        answers = []
        try:
            for answer in ask_pair(self.pair, profile, RUNGS["f64"], self.plan.seed):
                self.check()
                answers.append(answer)
        except CaseError as error:  # the reference refuses such numbers: there is nothing to compare with
            skips.append(Skip(self.pair.name, profile.name, "f64", f"NaN and infinities: {error}", cases=1))
        wrong = [answer for answer in answers if answer.differs]
        if wrong:
            name, words = next(iter(wrong[0].differs.items()))
            yield Failure(
                component=self.pair.name,
                profile=profile.name,
                rung="f64",
                first_bad=name,
                reason=f"{wrong[0].what} in {wrong[0].where}: {words}",
                ratio=math.inf,
                case=wrong[0].case,
                shrunk=False,
                rerun=self.plan.special_command(self.pair.name, profile.name),
                cases=len(answers),
                cases_failed=len(wrong),
                worst_case=wrong[0].case,
                worst_ratio=math.inf,
                kind="special",
            )

    def _inferior(self, assessment: Assessment) -> Failure:
        """A stratum's failure, with the bundle of its worst case."""
        self.check()
        stratum = assessment.stratum
        profile = next(profile for profile in self.profiles if profile.name == stratum.profile)
        bench = self.plan.bench(self.pair, Case.from_json(self.pair.name, assessment.worst_case), profile)
        examination = examine(bench, profile, RUNGS[stratum.rung])
        return Failure(
            component=stratum.component,
            profile=stratum.profile,
            rung=stratum.rung,
            first_bad=f"the main output over all cases ({stratum.length_class}, {stratum.family})",
            reason=assessment.reason,
            ratio=2.0 ** min(assessment.bound - assessment.margin, LARGEST_EXCESS),
            case=assessment.worst_case,
            shrunk=False,
            rerun=self.plan.stratum_command(stratum.component, stratum.profile, stratum.rung),
            cases=assessment.cases,
            cases_failed=assessment.beyond,
            worst_case=assessment.worst_case,
            worst_ratio=assessment.largest,
            attribution=stratum_by_tf32(bench, profile, RUNGS[stratum.rung], examination.judgements),
            bundle=self._packed(bench, profile, stratum.rung, examination),
            kind="stratum",
        )

    def _packed(self, bench: Bench, profile: HyperProfile, rung: RungName, examination: Examination) -> str:
        bundle = pack(bench, profile, RUNGS[rung], examination)
        path = f"{BUNDLES}/{bundle.name}"
        self.bundles[path] = bundle.data
        return path

    def _run_case(self, case: Case) -> None:
        benches: dict[tuple[object, ...], Bench] = {}
        rungs = [rung for rung in self.rungs if rung in case.ladder]
        if not rungs:
            return
        canonical = self._bench(benches, case, CANONICAL)
        for profile in self.profiles:
            bench = self._bench(benches, case, profile)
            distance = fidelity(bench, canonical)
            self.distances[profile.name] = max(distance, self.distances.get(profile.name, 0.0))
            for rung in rungs:
                self.check()
                self._gather(case, profile, rung, examine(bench, profile, RUNGS[rung]), bench)

    def _bench(self, benches: dict[tuple[object, ...], Bench], case: Case, profile: HyperProfile) -> Bench:
        meaning = self.pair.meaning(profile, case.options)
        if meaning not in benches:
            benches[meaning] = self.plan.bench(self.pair, case, profile)
        return benches[meaning]

    def _gather(
        self,
        case: Case,
        profile: HyperProfile,
        rung: RungName,
        examination: Examination,
        bench: Bench,
    ) -> None:
        if examination.skipped:
            key = (profile.name, rung, examination.skipped)
            self.case_skips[key] = self.case_skips.get(key, 0) + 1
            return
        self.counts[profile.name, rung] = self.counts.get((profile.name, rung), 0) + 1
        self.digests[profile.name, rung].add(case, examination.judgements, examination.port)
        self.unpaired |= examination.unpaired
        rerun = self.plan.command(case, profile.name, rung)
        for order, (name, judgement) in enumerate(examination.judgements.items()):
            row = self.rows.setdefault(
                (profile.name, rung, name),
                Row(
                    self.pair.name,
                    profile.name,
                    rung,
                    name,
                    _kind(bench, name),
                    order,
                ),
            )
            row.order = max(row.order, order)
            row.add(judgement, case, rerun)
        if first_bad(examination.judgements) is not None:
            place: tuple[str, RungName] = (profile.name, rung)
            self.failing.setdefault(place, []).append(case)
            ratio = max(judgement.ratio for judgement in examination.judgements.values())
            if place not in self.worst or ratio > self.worst[place][0]:
                self.worst[place] = ratio, case

    def _sorted(self, rows: Iterable[Row]) -> list[Row]:
        places = [profile.name for profile in self.profiles]
        rungs = [str(rung) for rung in RUNGS]
        return sorted(
            rows,
            key=lambda row: (places.index(row.profile), rungs.index(row.rung), row.order, row.tensor),
        )

    def _skips(self) -> list[Skip]:
        left_out = [
            Skip(self.pair.name, profile.name, rung, self.pair.only_rungs_reason)
            for profile in self.profiles
            for rung in self.plan.rungs
            if rung not in self.pair.only_rungs
        ]
        laddered = {rung for case in self.cases for rung in case.ladder}
        left_out += [
            Skip(self.pair.name, profile.name, rung, f"no case has {rung} on its ladder" if self.cases else NO_CASE)
            for profile in self.profiles
            for rung in self.rungs
            if rung not in laddered
        ]
        single = [Skip(self.pair.name, *key, cases=count) for key, count in sorted(self.case_skips.items())]
        return left_out + single

    def _failures(self) -> list[Failure]:
        """Describe every failing profile and rung, finest first; the one shrunk case is shared where it fails too."""
        shrunk: Case | None = None
        failures: list[Failure] = []
        places = [(profile, rung) for profile in self.profiles for rung in self.rungs]
        for profile, rung in (place for place in places if (place[0].name, place[1]) in self.failing):
            cases = self.failing[profile.name, rung]
            if not failures and not self.plan.cases:
                shrunk = self._shrink(profile, rung)
            small = shrunk if shrunk is not None and self._fails(shrunk, profile, rung) else None
            failure = self._failure(
                profile, rung, small or min(cases, key=lambda it: it.size), small is not None, len(cases)
            )
            failures.append(failure if failures else self._explained(failure, profile, rung))
        return failures

    def _explained(self, failure: Failure, profile: HyperProfile, rung: RungName) -> Failure:
        """The failure with the words of `explain`; no port that raises computes a meaning, and no integer shows one."""
        if self.plan.explain is None or failure.detail or failure.kind == "exact":
            return failure
        self.check()
        try:
            lines = self.plan.explain(self.pair, Case.from_json(self.pair.name, failure.case), profile, RUNGS[rung])
        except Exception as error:  # noqa: BLE001 - a broken port may raise anything on the cases of the explanation
            lines = [f"no attribution: the port raised {type(error).__name__} on its cases: {error}"]
        return replace(failure, attribution=(*failure.attribution, *lines))

    def _failure(self, profile: HyperProfile, rung: RungName, case: Case, shrunk: bool, failed: int) -> Failure:
        bench = self.plan.bench(self.pair, case, profile)
        worst_ratio, worst = self.worst[profile.name, rung]
        examination = examine(bench, profile, RUNGS[rung])
        judgements = examination.judgements
        name = first_bad(judgements) or "none: the case passed when it was run again"
        judgement = judgements.get(name)
        is_exact = name in bench.truth.exact
        return Failure(
            component=self.pair.name,
            profile=profile.name,
            rung=rung,
            first_bad=name,
            reason=judgement.reason if judgement else "the verdict is not reproducible",
            ratio=judgement.ratio if judgement else 0.0,
            case=case.to_json(),
            shrunk=shrunk,
            rerun=self.plan.command(case, profile.name, rung),
            cases=self.counts[profile.name, rung],
            cases_failed=failed,
            detail=judgement.detail if judgement else "",
            worst_case=worst.to_json(),
            worst_ratio=worst_ratio,
            meaning=None if is_exact else classify_tensor(bench, profile, name, RUNGS[rung]),
            attribution=tensors_by_tf32(bench, profile, RUNGS[rung], judgements),
            bundle=self._packed(bench, profile, rung, examination),
            kind="exact" if is_exact else "tensor",
        )

    def _shrink(self, profile: HyperProfile, rung: RungName) -> Case | None:
        effort = BUDGETS[self.plan.budget].shrink_effort
        return shrink_case(self.pair, lambda case: self._fails(case, profile, rung), self.plan.seed, effort)

    def _fails(self, case: Case, profile: HyperProfile, rung: RungName) -> bool:
        self.check()
        if rung not in case.ladder:
            return False
        return (
            first_bad(examine(self.plan.bench(self.pair, case, profile), profile, RUNGS[rung]).judgements) is not None
        )


def _kind(bench: Bench, name: str) -> Literal["intermediate", "output", "exact"]:
    if name in bench.truth.exact:
        return "exact"
    return "output" if name in bench.truth.outputs else "intermediate"
