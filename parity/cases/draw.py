"""Drawing cases by Hypothesis, and shrinking a failing one to the smallest shape that still fails."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from unittest.mock import patch

import hypothesis
import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Flaky, NoSuchExample
from hypothesis.internal.conjecture import engine
from hypothesis.internal.conjecture.providers import HypothesisProvider

from parity.cases.case import FINE_LADDER, FULL_LADDER, Case
from parity.cases.families import FAMILIES
from parity.errors import ConfigError
from parity.pairs import Pair, Structure

SCALES = (0, 5, -10)
"""Powers of two: 1, loud, and small enough that LayerNorm's epsilon matters. float16 holds all of them."""

TINY_SCALE = -20
"""Drawn on the fine ladder only: float16 would lose it."""

DRAWN_STRUCTURES = 8
"""Structures that are drawn beside the corpus, where the largest ones are asked for."""

SHRINK_CALLS: Final = 20
"""Cases that shrinking may examine for each fresh example of its effort; most take two or three."""

SEEDS = st.integers(0, 2**32 - 1)

_DRAWS_CONSTANTS: Final = "_maybe_draw_constant"
"""The method of Hypothesis that may answer with a constant of the source instead of a drawn number."""

_STOPS_SHRINKING: Final = "MAX_SHRINKING_SECONDS"
"""The number of Hypothesis after which it takes the smallest case so far."""


def cases(pair: Pair) -> st.SearchStrategy[Case]:
    """Strategy of cases of `pair`: a structure, a family, a scale, a ladder and a seed; never an array."""

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        structure = draw(pair.structures, label="structure")
        family = draw(st.sampled_from(tuple(FAMILIES)), label="family")
        ladder = draw(st.sampled_from((FULL_LADDER, FINE_LADDER)), label="ladder")
        scales = SCALES if ladder == FULL_LADDER else (*SCALES, TINY_SCALE)
        scale = draw(st.sampled_from(scales), label="scale")
        return Case.make(pair.name, structure, family, scale, draw(SEEDS, label="seed"), ladder)

    return draw_case()


def draw_cases(pair: Pair, count: int, seed: int) -> list[Case]:
    """Draw `count` examples, repeats removed; the same seed draws the same cases."""
    drawn: dict[Case, None] = {}

    @hypothesis.seed(_mixed(pair, seed))
    @hypothesis.settings(_settings(count), phases=[Phase.generate])
    @hypothesis.given(cases(pair))
    def collect(case: Case) -> None:
        drawn.setdefault(case)

    with _without_constants():
        collect()
    return list(drawn)


def shrink_case(pair: Pair, fails: Callable[[Case], bool], seed: int, effort: int) -> Case | None:
    """Return the smallest case for which `fails` is true, or None.

    None means that `effort` fresh examples show no failure, or that one of them failed only now and then: the caller
    has failing cases of its own, and reports the smallest of those. What ends it early is the number of cases that were
    examined (`SHRINK_CALLS`), never the time: a busy machine shrinks to the same case.
    """
    known: dict[Case, bool] = {}
    left = effort * SHRINK_CALLS

    def fails_while_counted(case: Case) -> bool:
        nonlocal left
        if left == 0:
            return known.get(case, False)
        left -= 1
        known[case] = fails(case)
        return known[case]

    try:
        with _without_constants(), _without_clock():
            return hypothesis.find(
                cases(pair),
                fails_while_counted,
                settings=hypothesis.settings(_settings(effort), phases=[Phase.generate, Phase.shrink]),
                random=random.Random(_mixed(pair, seed)),
            )
    except (NoSuchExample, Flaky):
        return None


def aim_case(pair: Pair, score: Callable[[Case], float], seed: int, effort: int) -> Case | None:
    """Return the case of the highest score among `effort` examples, which Hypothesis steers towards higher ones.

    None where no example has a score above 0. Cases that `draw_cases` draws from the same seed are not among them.
    """
    best: tuple[float, Case] | None = None

    @hypothesis.seed(_mixed(pair, seed) + 1)
    @hypothesis.settings(_settings(effort), phases=[Phase.generate, Phase.target])
    @hypothesis.given(cases(pair))
    def search(case: Case) -> None:
        nonlocal best
        value = score(case)
        hypothesis.target(value, label="error over allowance")
        if value > 0 and (best is None or value > best[0]):
            best = value, case

    with _without_constants():
        search()
    return None if best is None else best[1]


def largest_structures(pair: Pair, seed: int, count: int) -> list[Structure]:
    """Return at most `count` structures of the corpus and of a few drawn ones, the most input elements first."""
    drawn = (case.options for case in draw_cases(pair, DRAWN_STRUCTURES, seed))
    every: dict[str, Structure] = {Case.make(pair.name, s).to_json(): s for s in (*pair.corpus, *drawn)}

    def elements(structure: Structure) -> int:
        return sum(math.prod(spec.shape) for spec in pair.inputs(structure).values())

    return sorted(every.values(), key=elements, reverse=True)[:count]


@contextmanager
def _without_constants() -> Iterator[None]:
    """Have Hypothesis draw integers from the seed alone.

    One in twenty it takes from the constants in the source of every loaded module that it holds for local. So a new
    number in any file changes what a seed draws, and an installed package draws other cases than a checkout.

    Raises:
        ConfigError: This version of Hypothesis has no such switch.

    Source: HypothesisWorks/hypothesis, hypothesis/internal/conjecture/providers.py, `_maybe_draw_constant`.
    """
    if not hasattr(HypothesisProvider, _DRAWS_CONSTANTS):
        raise ConfigError(
            f"hypothesis {hypothesis.__version__} cannot be told to leave constants alone, so its cases would change "
            "with every file; install hypothesis==6.170.15"
        )
    with patch.object(HypothesisProvider, _DRAWS_CONSTANTS, lambda *_choice, **_chance: None):
        yield


@contextmanager
def _without_clock() -> Iterator[None]:
    """Have Hypothesis shrink however long it takes; it stops after five minutes otherwise, and says so on stdout.

    Raises:
        ConfigError: This version of Hypothesis has no such number.

    Source: HypothesisWorks/hypothesis, hypothesis/internal/conjecture/engine.py.
    """
    if not hasattr(engine, _STOPS_SHRINKING):
        raise ConfigError(
            f"hypothesis {hypothesis.__version__} cannot be told to leave the clock alone, so what is shrunk would "
            "depend on how busy the machine is; install hypothesis==6.170.15"
        )
    with patch.object(engine, _STOPS_SHRINKING, math.inf):
        yield


def _settings(count: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )


def _mixed(pair: Pair, seed: int) -> int:
    return int.from_bytes(f"{pair.name}:{seed}".encode(), "big")


def corpus_cases(pair: Pair, seed: int) -> list[Case]:
    """Return the fixed corpus as cases: every structure of `pair.corpus`, the families and ladders taken in turn."""
    families = tuple(FAMILIES)
    return [
        Case.make(
            pair.name,
            structure,
            families[index % len(families)],
            SCALES[index % len(SCALES)] if index else 0,
            seed * 1_000_003 + index,
            FULL_LADDER if index % 2 == 0 else FINE_LADDER,
        )
        for index, structure in enumerate(pair.corpus)
    ]
