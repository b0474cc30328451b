"""The accuracy test of a pair: cases of every stratum, look by look, until each is settled. Wiring only.

Weights and inputs of a case have every digit of the format it is judged in: at f32 they have 24 digits, so that what a
port does to the last bits of a weight is seen; for the sixteen-bit rungs they are drawn anew, to the digits both have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from parity.accuracy import Assessment, Ratio, Stratum, judge_ratios, looks, settled, skipped_stratum
from parity.cases import FINE_LADDER, FULL_LADDER, STRATUM_FAMILIES, Case
from parity.examine import Bench, Modules, accuracy, out_of_range
from parity.pairs import LengthClass, Pair
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import HyperProfile
from parity.tolerance import constant

SEEDS_PER_RUN: Final = 1_000_003
"""Distance of the seeds of two runs: more than a stratum has cases, so that no two runs share one."""

Key = tuple[str, HyperProfile, RungName]
"""Family, profile and rung: with component and length class they name a stratum."""

Meaning = tuple[object, ...]
"""The knobs of a profile that change what is computed."""

LADDERS: Final[Mapping[RungName, tuple[RungName, ...]]] = {"f32": FINE_LADDER, "bf16": FULL_LADDER, "f16": FULL_LADDER}
"""The ladder whose digits the cases of a rung have."""


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

    @property
    def looks(self) -> tuple[int, ...]:
        """Cases of a stratum after which its bound is formed; more at first where the component has few strata."""
        return looks(sum(len(self.families_of(sizes)) for sizes in self.pair.strata))

    def families_of(self, sizes: LengthClass) -> list[str]:
        """Those of the plan that the length class names; the first alone where no input is made of floats."""
        if not any(spec.kind == "float" for spec in self.pair.inputs(sizes.structure).values()):
            return list(self.families[:1])
        return [family for family in self.families if not sizes.families or family in sizes.families]


def assess_pair(plan: StrataPlan, check: Callable[[], object] = bool) -> Iterator[Assessment]:
    """Yield the assessment of every stratum of the plan; `check` is called before every case and may raise to stop."""
    for sizes in plan.pair.strata:
        yield from assess_class(plan, sizes, check)


def assess_class(plan: StrataPlan, sizes: LengthClass, check: Callable[[], object] = bool) -> Iterator[Assessment]:
    """Yield the assessment of every stratum of one length class; those of another do not depend on it."""
    if not plan.coarse_rungs:
        return
    families = plan.families_of(sizes)
    if not families:
        yield from _left_out(plan, sizes)
        return
    found: dict[Key, Assessment] = {}
    for ladder in dict.fromkeys(LADDERS[rung] for rung in plan.coarse_rungs):
        rungs = [rung for rung in plan.coarse_rungs if LADDERS[rung] == ladder]
        keys = [(family, profile, rung) for family in families for profile in plan.profiles for rung in rungs]
        found |= _Group(plan, sizes, ladder, keys, check).assess()
    yield from (
        found[family, profile, rung] for family in families for profile in plan.profiles for rung in plan.coarse_rungs
    )


def _left_out(plan: StrataPlan, sizes: LengthClass) -> Iterator[Assessment]:
    """A length class none of whose families the plan draws: said, never dropped in silence."""
    reason = f"of its families {', '.join(sizes.families)} this budget draws none"
    for profile in plan.profiles:
        for rung in plan.coarse_rungs:
            stratum = Stratum(plan.pair.name, profile.name, rung, sizes.name, sizes.families[0])
            yield skipped_stratum(stratum, constant(sizes.margin(rung, sizes.families[0])), reason, 0)


class _Group:
    """The strata of one length class and ladder: all families, profiles and rungs.

    Cases of one number have the same parameters in every family, so what is built of them serves all.
    """

    def __init__(
        self,
        plan: StrataPlan,
        sizes: LengthClass,
        ladder: tuple[RungName, ...],
        keys: Sequence[Key],
        check: Callable[[], object],
    ) -> None:
        self.plan, self.sizes, self.ladder, self.check = plan, sizes, ladder, check
        self.ratios: dict[Key, list[Ratio]] = {key: [] for key in keys}
        self.skipped: dict[Key, list[str]] = {key: [] for key in keys}
        self.compared: dict[Key, list[Ratio | None]] = {key: [] for key in keys}
        self.modules: dict[Meaning, Modules] = {}

    def assess(self) -> dict[Key, Assessment]:
        found: dict[Key, Assessment] = {}
        first = 0
        for look in self.plan.looks:
            unsettled = [key for key in self.ratios if key not in found or not settled(found[key])]
            for number in range(first, look) if unsettled else ():
                self._add_cases(number, unsettled)
            found |= {key: self._judge(key) for key in unsettled}
            first = look
        return found

    def _add_cases(self, number: int, keys: Sequence[Key]) -> None:
        """Add the case of this number to each stratum: its parameters are drawn once, its inputs by family."""
        drawn: dict[Meaning, Modules] = {}
        for family in dict.fromkeys(family for family, _, _ in keys):
            self.check()
            case = self._case(number, family)
            benches: dict[Meaning, Bench] = {}
            for key in (key for key in keys if key[0] == family):
                meaning = self.plan.pair.meaning(key[1], self.sizes.structure)
                if meaning not in drawn:
                    drawn[meaning] = self._redrawn(case, key[1])
                if meaning not in benches:
                    benches[meaning] = self._bench(case, key[1], drawn[meaning])
                self._add(benches[meaning], key)

    def _add(self, bench: Bench, key: Key) -> None:
        _, profile, rung = key
        reason = out_of_range(bench, RUNGS[rung])
        if reason:
            self.skipped[key].append(reason)
            self.compared[key].append(None)
        else:
            limit = self._margin(key) + constant("margin_beyond")
            ratio = accuracy(bench, profile, RUNGS[rung], limit)
            self.ratios[key].append(ratio)
            self.compared[key].append(ratio)

    def _bench(self, case: Case, profile: HyperProfile, modules: Modules) -> Bench:
        """Only sixteen bits are left by numbers of these sizes; at f32 such a case would fail, and not be skipped."""
        return Bench(
            self.plan.pair, case, profile, modules=modules, intermediates=False, extent=self.ladder == FULL_LADDER
        )

    def _redrawn(self, case: Case, profile: HyperProfile) -> Modules:
        """Return the modules of this meaning with the parameters of `case`; the reference's are built once."""
        meaning = self.plan.pair.meaning(profile, self.sizes.structure)
        if meaning in self.modules:
            self.modules[meaning].redraw(case)
        else:
            self.modules[meaning] = Modules(self.plan.pair, case, profile)
        return self.modules[meaning]

    def _case(self, number: int, name: str) -> Case:
        family, scale = STRATUM_FAMILIES[name]
        seed = self.plan.seed * SEEDS_PER_RUN + number
        return Case.make(self.plan.pair.name, self.sizes.structure, family, scale, seed, self.ladder)

    def _margin(self, key: Key) -> float:
        family, _, rung = key
        return constant(self.sizes.margin(rung, family))

    def _judge(self, key: Key) -> Assessment:
        family, profile, rung = key
        stratum = Stratum(self.plan.pair.name, profile.name, rung, self.sizes.name, family)
        margin, skipped = self._margin(key), self.skipped[key]
        assessment = judge_ratios(stratum, margin, self.ratios[key], len(skipped))
        if assessment.beyond or len(skipped) <= assessment.cases:
            found = self.compared[key]
            return replace(
                assessment,
                bits=tuple(None if ratio is None else ratio.bits for ratio in found),
                port_bits=tuple(None if ratio is None else ratio.port_bits for ratio in found),
            )
        drawn = len(skipped) + assessment.cases
        return skipped_stratum(stratum, margin, f"most cases are out of range: {skipped[0]}", drawn)
