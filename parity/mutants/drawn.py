"""Random mutants: how many small edits that nobody listed the harness sees, and how small a factor it still sees.

Each is one or two edits of a port at random places. It is put to `parity.examine` in a few cases of one structure, the
absolute gates alone, not to the whole budget of a run: what it survives here, `parity run` might still kill.

An edit is equivalent, and drawn again, if it changes no bit of any output at f64 in all of these cases and further ones
with other weights and inputs, nor of any gradient. Of one that changes gradients alone they are judged, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from parity.backends.port import run_port_outputs
from parity.cases import FINE_LADDER, Case, largest_structures
from parity.errors import TargetError
from parity.examine import Bench, Examination, examine, first_bad
from parity.gradients import GradientBench, examine_gradients
from parity.mutants.edits import Edit, Place, draw_edit, find_places, planted
from parity.pairs import Pair
from parity.spec.precision import RUNGS, Rung, RungName
from parity.spec.profile import HyperProfile
from parity.trace import Trace, TracedTensor

CONFIDENCE: Final = 0.95
"""Level of the lower bound of a rate."""

FAMILIES_TRIED: Final = ("normal", "tone")
"""Input families of the cases that a random mutant meets."""

STRUCTURES_TRIED: Final = 3
"""Structures of a pair, the largest of its corpus and of a few drawn ones: a length of 1 hides what goes wrong."""

MORE_SEEDS: Final = 6
"""Further inputs and weights on which an edit must change nothing before it is called equivalent."""

MOST_REDRAWN: Final = 200
"""Edits that change nothing, one after the other, before a structure is given up."""

MOST_K: Final = 53
"""2^-53 is half of float64's last digit: a factor of 1 + 2^-53 is 1."""


@dataclass(frozen=True)
class RandomMutant:
    """One random mutant.

    Args:
        number: Its number: with the seed it draws the same edits again.
        component: The pair.
        structure: Which of the pair's structures, the largest being 0.
        edits: In words.
        margin: Largest error over its allowance at f64.
        seen: Rungs at which it fails.
        redrawn: What was drawn before it and changed nothing, in words.
    """

    number: int
    component: str
    structure: int
    edits: tuple[str, ...]
    margin: float
    seen: tuple[RungName, ...]
    redrawn: tuple[str, ...]


@dataclass(frozen=True)
class Sensitivity:
    """The smallest factor 1 + 2^-k on what a module gives out that is still seen: the largest k at each rung."""

    component: str
    module: str
    kind: str
    k: tuple[tuple[RungName, int | None], ...]


@dataclass(frozen=True)
class Rate:
    """`seen` of `total`, and the lower bound at `CONFIDENCE` of the share behind them.

    Source: Clopper, Pearson, Biometrika 26 (1934), 404.
    """

    seen: int
    total: int

    @property
    def bound(self) -> float:
        """The share p with P(Binomial(total, p) >= seen) = 1 - `CONFIDENCE`; 0 where nothing was tried."""
        if self.total == 0:
            return 0.0
        counted = stats.binomtest(self.seen, self.total, alternative="greater")
        return float(counted.proportion_ci(CONFIDENCE, method="exact").low)

    def __str__(self) -> str:
        share = 100 * self.seen / self.total if self.total else 0.0
        return (
            f"{self.seen} of {self.total} ({share:.1f} %), at least {100 * self.bound:.2f} % with "
            f"{100 * CONFIDENCE:g} % confidence"
        )


class Range:
    """One structure of a pair, its cases prepared: many edited ports are examined against one truth.

    Args:
        pair: The pair; one that compares freshly built modules has no weights to be put in, and no calls.
        structure: Which of its structures, by size.
        profile: The profile.
        seed: Seed of weights and inputs.

    Raises:
        TargetError: The pair cannot be edited.
    """

    def __init__(self, pair: Pair, structure: int, profile: HyperProfile, seed: int) -> None:
        if not editable(pair):
            raise TargetError(
                f"{pair.spelling} cannot be edited: it compares freshly built modules, or has no rung f64"
            )
        self.pair, self.profile, self.seed = pair, profile, seed
        found = largest_structures(pair, seed, STRUCTURES_TRIED)
        self.options = found[structure % len(found)]
        self.benches = [self._bench(family, seed) for family in FAMILIES_TRIED]
        self.gradient_benches = [] if pair.no_gradients else [GradientBench(bench) for bench in self.benches]
        self.clean = [self._examined(bench, RUNGS["f64"]) for bench in self.benches]
        self._more: list[tuple[Bench, Examination]] = []
        for examination in self.clean:
            if (bad := first_bad(examination.judgements)) is not None:
                raise TargetError(f"{pair.spelling} fails as it stands, at {bad}: `parity run` it first, then edit it")
        bench, fine = self.benches[0], RUNGS["f64"]
        port = bench.modules.port(profile, fine)
        self.places = find_places(port, lambda: run_port_outputs(pair, port, bench.inputs, fine))

    def _bench(self, family: str, seed: int) -> Bench:
        case = Case.make(self.pair.name, self.options, family, seed=seed, ladder=FINE_LADDER)
        return Bench(self.pair, case, self.profile)

    def _examined(self, bench: Bench, rung: Rung) -> Examination:
        return examine(bench, self.profile, rung)

    def examine(self, edits: Sequence[Edit], rung: Rung) -> list[Examination]:
        """Examine the port with edits in every case."""
        pair = planted(self.pair, edits)
        return [self._examined(bench.with_pair(pair), rung) for bench in self.benches]

    def seen(self, edits: Sequence[Edit], rung: Rung) -> bool:
        """Whether the port with edits fails at `rung` in any case."""
        return any(first_bad(found.judgements) is not None for found in self.examine(edits, rung))

    def unchanged(self, found: Sequence[Examination]) -> bool:
        """Whether every output at f64 is what it was, bit for bit."""
        return all(_same(clean.port, other.port) for clean, other in zip(self.clean, found, strict=True))

    def examine_more(self, edits: Sequence[Edit]) -> tuple[list[Examination], bool]:
        """Examine the port with edits on `MORE_SEEDS` further cases; return also whether nothing changes there."""
        if not self._more:
            benches = [self._bench(FAMILIES_TRIED[0], self.seed + 2 * (n + 1)) for n in range(MORE_SEEDS)]
            self._more = [(bench, self._examined(bench, RUNGS["f64"])) for bench in benches]
        pair = planted(self.pair, edits)
        found = [self._examined(bench.with_pair(pair), RUNGS["f64"]) for bench, _ in self._more]
        same = all(_same(clean.port, other.port) for (_, clean), other in zip(self._more, found, strict=True))
        return found, same

    def same_gradients(self, edits: Sequence[Edit]) -> bool:
        """Whether every gradient at f64, of inputs too, is what it was, bit for bit; true of a pair without."""
        edited = planted(self.pair, edits)
        for bench in self.gradient_benches:
            clean = bench.port(self.profile, RUNGS["f64"])
            other = bench.with_pair(edited).port(self.profile, RUNGS["f64"])
            if clean.keys() != other.keys() or any(_bits(clean[name]) != _bits(other[name]) for name in clean):
                return False
        return True

    def gradients_err(self, edits: Sequence[Edit]) -> bool:
        """Whether a gradient at f64 fails in any case, judged as a run judges it."""
        edited = planted(self.pair, edits)
        checks = (
            examine_gradients(bench.with_pair(edited), self.profile, RUNGS["f64"]) for bench in self.gradient_benches
        )
        return any(first_bad(check.judgements) is not None for check in checks)


def editable(pair: Pair) -> bool:
    """Whether a pair has a port with weights, and a rung at which meaning is judged."""
    return not pair.fresh and "f64" in pair.only_rungs


def _bits(tensor: TracedTensor) -> tuple[tuple[int, ...], bytes]:
    return tensor.values.shape, tensor.values.tobytes()


def _same(clean: Trace | None, other: Trace | None) -> bool:
    if clean is None or other is None:
        return False
    before, after = clean.everything, other.everything
    names = (*clean.outputs, *clean.exact)
    return all(name in after and before[name].values.tobytes() == after[name].values.tobytes() for name in names)


def random_mutants(place: Range, structure: int, numbers: Iterable[int], seed: int) -> list[RandomMutant]:
    """Draw and examine the mutants of these numbers.

    Raises:
        TargetError: So many edits in a row change nothing that none is found that does.
    """
    return [_mutant(place, structure, number, seed) for number in numbers]


def _mutant(place: Range, structure: int, number: int, seed: int) -> RandomMutant:
    rng = np.random.Generator(np.random.Philox(key=(seed << 64) + number))
    redrawn: list[str] = []
    while len(redrawn) < MOST_REDRAWN:
        edits = [draw_edit(place.places, rng) for _ in range(1 + int(rng.integers(4) == 0))]
        words = tuple(map(str, edits))
        found, by_gradients = place.examine(edits, RUNGS["f64"]), False
        if place.unchanged(found):
            more, same = place.examine_more(edits)
            if same and place.same_gradients(edits):
                redrawn.append("; ".join(words))
                continue
            found, by_gradients = [*found, *more], same and place.gradients_err(edits)
        ratios = [judgement.ratio for examination in found for judgement in examination.judgements.values()]
        by_values = any(first_bad(it.judgements) is not None for it in found)
        seen: list[RungName] = ["f64"] if by_values or by_gradients else []
        if "f32" in place.pair.only_rungs and place.seen(edits, RUNGS["f32"]):
            seen.append("f32")
        return RandomMutant(number, place.pair.name, structure, words, max(ratios), tuple(seen), tuple(redrawn))
    raise TargetError(f"{place.pair.spelling}: {MOST_REDRAWN} edits in a row change nothing: its outputs are constant")


def sensitivities(place: Range) -> list[Sensitivity]:
    """Search, for the first called module of every kind, for the smallest factor that is still seen.

    A smaller factor is taken to be seen no better than a larger one, so the search halves.
    """
    first: dict[str, Place] = {}
    for it in place.places:
        if not it.parameter:
            first.setdefault(it.kind, it)
    rungs: list[RungName] = [rung for rung in ("f64", "f32") if rung in place.pair.only_rungs]
    return [
        Sensitivity(place.pair.name, it.module, kind, tuple((rung, _largest_k(place, it, rung)) for rung in rungs))
        for kind, it in first.items()
    ]


def _largest_k(place: Range, where: Place, rung: RungName) -> int | None:
    return largest_true(lambda k: place.seen([Edit(where, "scale", k=k)], RUNGS[rung]), MOST_K)


def largest_true(holds: Callable[[int], bool], end: int) -> int | None:
    """Return the largest number below `end` of which `holds` is true, if it holds up to there; None if for none."""
    low, high = -1, end
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return None if low < 0 else low
