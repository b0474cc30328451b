"""The accuracy test of a pair: cases of every stratum, look by look, until each is settled. Wiring only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from parity.accuracy import LOOKS, Assessment, Ratio, Stratum, judge_ratios, settled, skipped_stratum
from parity.cases import STRATUM_FAMILIES, Case
from parity.examine import Bench, Modules, accuracy, out_of_range
from parity.pairs import LengthClass, Pair
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import HyperProfile
from parity.tolerance import constant

SEEDS_PER_RUN: Final = 1_000_003
"""Distance of the seeds of two runs: more than a stratum has cases, so that no two runs share one."""

Key = tuple[HyperProfile, RungName]
Meaning = tuple[object, ...]
"""The knobs of a profile that change what is computed."""


@dataclass(frozen=True)
class StrataPlan:
    """Which strata of a pair are tested.

    Args:
        pair: The pair.
        profiles: Built profiles; those of one meaning share truth and reference.
        rungs: Rungs; f64, where the reference is the truth, has no accuracy of its own.
        families: Names of `STRATUM_FAMILIES`; a pair without float inputs has the first alone.
        seed: Seed of the run.
    """

    pair: Pair
    profiles: Sequence[HyperProfile]
    rungs: Sequence[RungName]
    families: Sequence[str]
    seed: int

    @property
    def coarse_rungs(self) -> list[RungName]:
        """The rungs with an accuracy to compare."""
        return [rung for rung in self.rungs if rung != "f64" and rung in self.pair.only_rungs]


def assess_pair(plan: StrataPlan, check: Callable[[], object] = bool) -> Iterator[Assessment]:
    """Yield the assessment of every stratum of the plan; `check` is called before every case and may raise to stop."""
    if not plan.coarse_rungs:
        return
    for sizes in plan.pair.strata:
        parameters: dict[tuple[int, Meaning], Modules] = {}
        for family in _families(plan, sizes):
            yield from _Group(plan, sizes, family, parameters, check).assess()


def _families(plan: StrataPlan, sizes: LengthClass) -> list[str]:
    """Those of the plan that the length class names; the first alone where no input is made of floats."""
    if not any(spec.kind == "float" for spec in plan.pair.inputs(sizes.structure).values()):
        return list(plan.families[:1])
    return [family for family in plan.families if not sizes.families or family in sizes.families]


class _Group:
    """The strata of one length class and family: all profiles and rungs, which share their cases.

    Cases of one number have the same parameters in every family, so `modules` keeps what is built of them.
    """

    def __init__(
        self,
        plan: StrataPlan,
        sizes: LengthClass,
        family: str,
        modules: dict[tuple[int, Meaning], Modules],
        check: Callable[[], object],
    ) -> None:
        self.plan, self.sizes, self.family, self.modules, self.check = plan, sizes, family, modules, check
        self.keys: list[Key] = [(profile, rung) for profile in plan.profiles for rung in plan.coarse_rungs]
        self.ratios: dict[int, list[Ratio]] = {index: [] for index in range(len(self.keys))}
        self.skipped: dict[int, str] = {}

    def assess(self) -> Iterator[Assessment]:
        found: dict[int, Assessment] = {}
        first = 0
        for look in LOOKS:
            unsettled = [index for index in self.ratios if index not in found or not settled(found[index])]
            for number in range(first, look) if unsettled else ():
                self._add_case(number, unsettled)
            found |= {index: self._judge(index) for index in unsettled}
            first = look
        yield from (found[index] for index in self.ratios)

    def _add_case(self, number: int, indices: Sequence[int]) -> None:
        self.check()
        benches: dict[Meaning, Bench] = {}
        case = self._case(number)
        for index in indices:
            profile, rung = self.keys[index]
            if profile.semantics not in benches:
                benches[profile.semantics] = self._bench(case, number, profile)
            bench = benches[profile.semantics]
            reason = out_of_range(bench, RUNGS[rung])
            if reason:
                self.skipped[index] = reason
            else:
                self.ratios[index].append(accuracy(bench, profile, RUNGS[rung]))

    def _bench(self, case: Case, number: int, profile: HyperProfile) -> Bench:
        key = (number, profile.semantics)
        if key not in self.modules:
            self.modules[key] = Modules(self.plan.pair, case, profile)
        return Bench(self.plan.pair, case, profile, modules=self.modules[key], intermediates=False)

    def _case(self, number: int) -> Case:
        family, scale = STRATUM_FAMILIES[self.family]
        seed = self.plan.seed * SEEDS_PER_RUN + number
        return Case.make(self.plan.pair.name, self.sizes.structure, family, scale, seed)

    def _judge(self, index: int) -> Assessment:
        profile, rung = self.keys[index]
        stratum = Stratum(self.plan.pair.name, profile.name, rung, self.sizes.name, self.family)
        margin = constant(self.sizes.margin(rung, self.family))
        if not self.ratios[index] and index in self.skipped:
            return skipped_stratum(stratum, margin, self.skipped[index])
        return judge_ratios(stratum, margin, self.ratios[index])
