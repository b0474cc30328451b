"""Every mutant of a catalogue against the cases of its pair, at the finest rung that builds it: what saw it.

`python tests/mutants/catalogue_sweep.py [GLOB ...]` prints the table. This is the quick look while one writes mutants:
`parity mutants` runs them on the ordinary suites. The column `f32` is what float32 alone sees of the same cases.
"""

from __future__ import annotations

import os

os.environ["MLX_ENABLE_TF32"] = "0"

import functools
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from parity.blame import links_by_name, trace_backward
from parity.cases import Case, corpus_cases, draw_cases
from parity.examine import Bench, Modules, examine, first_bad
from parity.mutants.mutant import Mutant
from parity.run import BUDGETS
from parity.spec.precision import RUNGS, Rung, RungName
from parity.spec.profile import HyperProfile
from parity.suites import select
from parity.suites.m2_bert_extremes import EXTREME_RUNGS, QUESTIONS, ask

DRAWN: Final = BUDGETS["standard"].cases


@dataclass(frozen=True)
class Sighting:
    """The first place where a mutant was seen: tensor, module or primitive, error over allowance, and the case."""

    where: str
    module: str
    ratio: float
    case: int

    def blamed(self, mutant: Mutant) -> bool:
        """Whether that place is one that the mutant says."""
        return any(fnmatchcase(self.module, glob) for glob in mutant.blamed)


def finest(mutant: Mutant) -> Rung:
    """The finest rung that the mutant's pair is built at."""
    (pair,) = select([mutant.component])
    return RUNGS[next(rung for rung in RUNGS if rung in pair.only_rungs)]


@functools.cache
def _shared(case: Case, profile: HyperProfile) -> Bench:
    (pair,) = select([case.component])
    return Bench(pair, case, profile)


def _bench(mutant: Mutant, case: Case) -> Bench:
    """A bench whose truth and predicted noise serve all mutants of one profile, and whose port is built anew."""
    found = _shared(case, mutant.profile)
    found.modules = Modules(found.pair, case, mutant.profile, found.state if not found.pair.fresh else None)
    return found


def sightings(mutant: Mutant, rung: RungName | None = None, drawn: int = 0) -> Iterator[Sighting]:
    """Where the mutant is seen, case by case: the corpus, then so many drawn cases of `parity run`'s seed 0."""
    if mutant.seen_by == "extremes":
        yield from _extremes(mutant)
        return
    (pair,) = select([mutant.component])
    at = finest(mutant) if rung is None else RUNGS[rung]
    cases: Iterable[Case] = corpus_cases(pair, seed=0)
    if mutant.seen_by == "run" and drawn:
        cases = itertools.chain(cases, draw_cases(pair, drawn, seed=0))
    for number, case in enumerate(cases):
        if at.name not in case.ladder:
            continue
        seen = _gradients(mutant, case, number) if mutant.seen_by == "gradients" else _run(mutant, case, number, at)
        if seen is not None:
            yield seen


def _run(mutant: Mutant, case: Case, number: int, rung: Rung) -> Sighting | None:
    found = _bench(mutant, case)
    with mutant.patch():
        judgements = examine(found, mutant.profile, rung).judgements
    name = first_bad(judgements)
    if name is None:
        return None
    outputs = found.truth.outputs
    module = "" if name in outputs else name.partition("#")[0].partition("[")[0]
    where = f"{name} (raised)" if judgements[name].reason.startswith("the port raised") else name
    return Sighting(where, module, max(judgement.ratio for judgement in judgements.values()), number)


def _gradients(mutant: Mutant, case: Case, number: int) -> Sighting | None:
    found = _bench(mutant, case)
    with mutant.patch():
        port = found.modules.port(mutant.profile, RUNGS["f64"])
        links = links_by_name(found.pair, found.module, port)
        table = trace_backward(found.pair, found.module, port, found.inputs, RUNGS["f64"], links)
    if not table.culprits:
        return None
    row = table.culprits[0]
    return Sighting(row.module or "(model)", row.name, row.ratio, number)


def _extremes(mutant: Mutant) -> Iterator[Sighting]:
    with mutant.patch():
        for rung in EXTREME_RUNGS:
            for number, question in enumerate(QUESTIONS):
                if ask(question, rung).status == "new":
                    yield Sighting(f"{question.primitive}: {question.what}", question.primitive, math.inf, number)
                    return


def main(globs: list[str]) -> int:
    """Print a line for every mutant that a glob matches; 1 if one is not seen, or an equivalent one is."""
    import time

    import mlx.core as mx
    import torch

    from parity.environment import warm_up
    from parity.suites.m2_bert_mutants import MUTANTS

    torch.set_num_threads(1)
    mx.set_default_device(mx.cpu)
    warm_up()
    wrong = 0
    for mutant in MUTANTS:
        if not any(fnmatchcase(mutant.name, glob) for glob in globs or ["*"]):
            continue
        started = time.perf_counter()
        seen = next(sightings(mutant, drawn=DRAWN), None)
        coarse = "-"
        if mutant.seen_by == "run":
            again = next(sightings(mutant, "f32", DRAWN), None)
            coarse = "unseen" if again is None else f"{again.ratio:.2g}"
        word = "unseen" if seen is None else f"{seen.where} {seen.ratio:.3g} case {seen.case}"
        good = (seen is None) == bool(mutant.equivalent) and (seen is None or seen.blamed(mutant))
        good = good and (coarse in ("-", "unseen") or not (mutant.equivalent or mutant.unseen_at_f32))
        wrong += not good
        took = time.perf_counter() - started
        sys.stdout.write(
            f"{'  ' if good else '! '}{mutant.name:38} {mutant.component:24} {word:60} f32 {coarse:8} "
            f"{'' if good else mutant.blamed} {took:.2f} s\n"
        )
        sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
