"""The gradients of one pair over its cases, gathered into rows, failures and skips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from parity.cases import Case
from parity.digests import RunningDigest
from parity.examine import Bench, first_bad
from parity.gradients import GRADIENT_RUNGS, KINK, GradientBench, GradientCheck, examine_gradients
from parity.pairs import Pair
from parity.results import Digest, Failure, Row, Skip
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import HyperProfile
from parity.tf32 import gradients_by_tf32, tf32_may_explain

FORWARD_FAILS: Final = "gradients: the forward pass fails here, and its derivative with it"

Command = Callable[[Case, str, str], str]
"""The command that runs a case again under a profile's name at a rung."""


class GradientRun:
    """Gradients of a pair under several profiles.

    Args:
        pair: The pair.
        profiles: The profiles that are built.
        rungs: The rungs of the run.
        command: How a case is run again.
        check: Called before every examination; it may raise to stop.
    """

    def __init__(
        self,
        pair: Pair,
        profiles: Sequence[HyperProfile],
        rungs: Sequence[RungName],
        command: Command,
        check: Callable[[], object],
    ) -> None:
        self.pair, self.profiles, self.command, self.check = pair, profiles, command, check
        self.rungs = [rung for rung in rungs if rung in GRADIENT_RUNGS]
        self._rows: dict[tuple[str, str, str], Row] = {}
        self.skips: list[Skip] = []
        self.unpaired: dict[str, str] = {}
        self._digests: dict[tuple[str, RungName], RunningDigest] = defaultdict(RunningDigest)
        self._failing: dict[tuple[str, RungName], list[tuple[Case, GradientCheck]]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._case_skips: dict[tuple[str, str, str], int] = {}

    def run(self, cases: Sequence[Case], failing: Collection[tuple[str, RungName]]) -> None:
        """Judge the gradients of `cases`, but under profiles and at rungs where the forward pass is `failing`."""
        if self.pair.fresh:
            return  # buffers are built from nothing that could be varied
        if self.pair.no_gradients:
            self.skips += [
                Skip(self.pair.name, profile.name, rung, f"gradients: {self.pair.no_gradients}", len(cases))
                for profile in self.profiles
                for rung in self.rungs
            ]
            return
        for case in cases:
            self._run_case(case, failing)
        self.skips += [Skip(self.pair.name, *key, cases=count) for key, count in sorted(self._case_skips.items())]

    def rows_behind(self, tensors: Iterable[Row]) -> dict[tuple[str, str, str], Row]:
        """Return the rows by profile, rung and name, their places behind those of the forward pass."""
        behind = 1 + max((row.order for row in tensors), default=-1)
        return {key: replace(row, order=row.order + behind) for key, row in self._rows.items()}

    def digests(self) -> list[Digest]:
        """Return what the port gave, bit for bit."""
        return [digest.digest(self.pair.name, profile, rung) for (profile, rung), digest in self._digests.items()]

    def failures(self) -> list[Failure]:
        """Describe every failing profile and rung by its smallest failing case."""
        return [self._failure(*place) for place in self._failing]

    def _run_case(self, case: Case, failing: Collection[tuple[str, RungName]]) -> None:
        benches: dict[tuple[object, ...], GradientBench] = {}
        for profile in self.profiles:
            for rung in (rung for rung in self.rungs if rung in case.ladder):
                if (profile.name, rung) in failing:
                    self._skip(profile, rung, FORWARD_FAILS)
                    continue
                self.check()
                meaning = self.pair.meaning(profile, case.options)
                if meaning not in benches:
                    benches[meaning] = GradientBench(Bench(self.pair, case, profile, intermediates=False))
                self._gather(case, profile, rung, examine_gradients(benches[meaning], profile, RUNGS[rung]))

    def _skip(self, profile: HyperProfile, rung: str, reason: str) -> None:
        key = (profile.name, rung, reason)
        self._case_skips[key] = self._case_skips.get(key, 0) + 1

    def _gather(self, case: Case, profile: HyperProfile, rung: RungName, found: GradientCheck) -> None:
        if found.skipped:
            self._skip(profile, rung, found.skipped)
            return
        self._counts[profile.name, rung] = self._counts.get((profile.name, rung), 0) + 1
        self.unpaired |= found.unpaired
        self._digests[profile.name, rung].add(case, found.judgements, found.port)
        if found.beside:
            self._skip(profile, rung, KINK)
        rerun = self.command(case, profile.name, rung)
        for order, (name, judgement) in enumerate(found.judgements.items()):
            key = (profile.name, rung, name)
            row = self._rows.setdefault(key, Row(self.pair.name, profile.name, rung, name, "gradient", order))
            row.order = max(row.order, order)
            row.add(judgement, case, rerun)
        if first_bad(found.judgements) is not None:
            self._failing.setdefault((profile.name, rung), []).append((case, found))

    def _failure(self, profile: str, rung: RungName) -> Failure:
        failing = self._failing[profile, rung]
        case, found = min(failing, key=lambda it: it[0].size)
        name = first_bad(found.judgements)
        worst, largest = max(((it, _largest(check)) for it, check in failing), key=lambda pair: pair[1])
        judgement = found.judgements[name or ""]
        traced = f"which module errs: {self._trace(case, profile, rung)}"
        return Failure(
            component=self.pair.name,
            profile=profile,
            rung=rung,
            first_bad=name or "",
            reason=judgement.reason,
            ratio=judgement.ratio,
            case=case.to_json(),
            shrunk=False,
            rerun=self.command(case, profile, rung),
            cases=self._counts[profile, rung],
            cases_failed=len(failing),
            detail=judgement.detail,
            worst_case=worst.to_json(),
            worst_ratio=largest,
            attribution=() if judgement.detail else (*self._by_tf32(case, profile, rung, found), traced),
            kind="gradient",
        )

    def _by_tf32(self, case: Case, name: str, rung: RungName, found: GradientCheck) -> tuple[str, ...]:
        profile = next(profile for profile in self.profiles if profile.name == name)
        if not tf32_may_explain(self.pair, profile, RUNGS[rung]):
            return ()
        bench = GradientBench(Bench(self.pair, case, profile, intermediates=False))
        place = bench.beside(RUNGS[rung]) if found.beside else bench
        return gradients_by_tf32(place, profile, RUNGS[rung], found.judgements)

    def _trace(self, case: Case, profile: str, rung: str) -> str:
        return self.command(case, profile, rung).replace("parity run", "parity trace --backward", 1)


def _largest(found: GradientCheck) -> float:
    return max(judgement.ratio for judgement in found.judgements.values())
