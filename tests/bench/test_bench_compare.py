"""Two reports compared: a planted slowdown is seen, noise is not."""

from __future__ import annotations

import dataclasses

import pytest
from bench_pieces import MACHINE, a_report, a_time

from parity.bench.cells import Cell
from parity.bench.compare import Change, compared, comparison_lines

BEFORE = (1.0, 1.05, 1.1)


def changed(*values: float) -> Change:
    return Change(a_time("layer", 128, BEFORE), a_time("layer", 128, values))


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((1.3, 1.35, 1.4), "slower"),
        ((1.09, 1.35, 1.4), "same"),
        ((1.11, 1.12, 1.13), "same"),
        ((1.0, 1.05, 1.1), "same"),
        ((0.7, 0.8, 0.9), "faster"),
        ((0.7, 0.8, 1.0), "same"),
        ((3.0,), "not judged"),
    ],
    ids=["slower", "ranges meet", "too little", "equal", "faster", "ranges touch", "one round"],
)
def test_slower_is_beyond_both_ranges_and_the_threshold(values: tuple[float, ...], outcome: str) -> None:
    assert changed(*values).outcome == outcome


def test_the_range_of_a_ratio_bounds_every_pair_of_rounds() -> None:
    change = changed(2.0, 2.1, 2.2)
    assert (change.ratio, change.least, change.largest) == pytest.approx((2.0, 2.0 / 1.1, 2.2))


def test_a_planted_slowdown_is_named_and_counted() -> None:
    before = a_report(*(a_time("layer", length, BEFORE) for length in (128, 256, 512)))
    after = a_report(
        a_time("layer", 128, BEFORE), a_time("layer", 256, [2 * value for value in BEFORE]), a_time("mlp", 256, BEFORE)
    )
    lines = comparison_lines(compared(before, after))
    assert lines[0] == (
        "slower: models component=layer pass=forward L=256 blas=torch side=mlx time: 2.00 times (1.82 to 2.20)"
    )
    assert lines[1] == (
        "2 figures in both: 1 slower, 0 faster, 1 same, 0 not judged; 1 in the earlier report alone, 1 in the later "
        "alone"
    )


def test_more_memory_counts_and_a_ratio_does_not() -> None:
    def figures(scale: float) -> tuple[Cell, ...]:
        values = [scale * value for value in BEFORE]
        return tuple(Cell.make("harness", unit, {}, unit, values) for unit in ("MiB", "x", "GB/s"))

    found = compared(a_report(*figures(1.0)), a_report(*figures(2.0)))
    assert [change.later.unit for change in found.having("slower")] == ["MiB"]


def test_other_hardware_is_said() -> None:
    other = dataclasses.replace(MACHINE, cores=64)
    found = compared(a_report(a_time("layer", 128, BEFORE)), a_report(a_time("layer", 128, BEFORE), machine=other))
    assert "of different hardware: nothing is concluded" in comparison_lines(found)[-1]


def test_other_versions_can_be_compared() -> None:
    other = dataclasses.replace(MACHINE, versions=(("mlx", "3"),))
    assert not compared(a_report(), a_report(machine=other)).unlike


def test_a_quick_report_is_not_compared_with_another() -> None:
    found = compared(a_report(a_time("layer", 128, BEFORE)), a_report(a_time("layer", 128, BEFORE), quick=True))
    assert "different sizes, one is quick: nothing is concluded" in comparison_lines(found)[-1]
