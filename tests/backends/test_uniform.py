"""Random numbers that are kept are those of a generator, bit for bit, for every reader and beyond what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from parity.backends import noise, uniform
from parity.backends.uniform import LEAST_DRAWN, Uniform, draw
from parity.cases import corpus_cases
from parity.examine import Bench
from parity.gradients import GradientBench
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites.m2_bert import SEQUENCE_CLASSIFICATION

SHAPES = [(3,), (17, 4), (), (1, 5, 33), (0, 3), (2,), (LEAST_DRAWN,), (7, 11), (1,)]
SEEDS = [0, 11, 2**63 + 5]


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    uniform._kept.cache_clear()
    yield
    uniform._kept.cache_clear()


def generated(seed: int, shapes: Iterable[tuple[int, ...]]) -> list[torch.Tensor]:
    """What a generator gives that is asked once for every shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1 for shape in shapes]


def read(reader: Uniform, shapes: Iterable[tuple[int, ...]]) -> list[torch.Tensor]:
    return [reader(shape) for shape in shapes]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(
        one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        for one, other in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reader_gives_the_numbers_of_a_generator(seed: int) -> None:
    assert same(read(Uniform(seed), SHAPES), generated(seed, SHAPES))


def test_every_reader_begins_at_the_beginning_whatever_others_have_read() -> None:
    first = Uniform(3)
    read(first, SHAPES[:4])
    assert same(read(Uniform(3), SHAPES), generated(3, SHAPES))
    assert same(read(first, SHAPES[4:]), generated(3, SHAPES)[4:])


def test_another_seed_does_not_disturb_a_reader() -> None:
    one = Uniform(1)
    found = read(one, SHAPES[:3])
    assert same(read(Uniform(2), SHAPES), generated(2, SHAPES))
    assert same([*found, *read(one, SHAPES[3:])], generated(1, SHAPES))


@pytest.mark.parametrize("most", [0, 1, 2, 72, 100, 237, 240, LEAST_DRAWN + 240])
@pytest.mark.parametrize("ahead", [0, 2, 8])
def test_what_comes_after_the_numbers_that_are_kept_is_the_generators_too(
    most: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniform, "MOST_KEPT", most)
    read(Uniform(5), SHAPES[:ahead])
    early = Uniform(5)
    found = read(early, SHAPES[:2])
    read(Uniform(5), SHAPES)
    assert same([*found, *read(early, SHAPES[2:])], generated(5, SHAPES))
    assert uniform._kept(5).after()[1] <= most


def test_numbers_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    plain = uniform._drawn

    def counted(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        drawn.append(int(np.prod(shape)))
        return plain(shape, generator)

    monkeypatch.setattr(uniform, "_drawn", counted)
    for _ in range(3):
        read(Uniform(7), SHAPES)
    assert sum(drawn) <= 2 * max(LEAST_DRAWN, sum(int(np.prod(shape)) for shape in SHAPES))


def test_a_generator_is_drawn_from_as_ever() -> None:
    generator = torch.Generator().manual_seed(9)
    assert same([draw(generator, shape) for shape in SHAPES], generated(9, SHAPES))


def test_a_reader_that_loses_its_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = uniform._Kept.part
    monkeypatch.setattr(uniform._Kept, "part", lambda self, start, stop: plain(self, start, stop).flip(0))
    assert not same(read(Uniform(0), SHAPES), generated(0, SHAPES))


@pytest.mark.parametrize("spoilt", [False, True])
def test_no_prediction_changes_the_numbers_that_others_read(spoilt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if spoilt:
        plain = noise._Perturb._random
        monkeypatch.setattr(noise._Perturb, "_random", lambda self, shape: plain(self, shape).neg_())
    case = corpus_cases(SEQUENCE_CLASSIFICATION, 0)[-1]
    bench = Bench(SEQUENCE_CLASSIFICATION, case, CANONICAL)
    for rung in ("f32", "f16"):
        bench.noise(RUNGS[rung], 1)
    GradientBench(bench).noise(RUNGS["f32"], 1)
    kept = uniform._kept(case.seed)
    count = kept.after()[1]
    (expected,) = generated(case.seed, [(count,)])
    assert count >= LEAST_DRAWN
    assert torch.equal(kept.part(0, count), expected) != spoilt
