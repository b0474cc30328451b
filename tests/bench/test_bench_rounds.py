"""Contenders that take turns, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from parity.bench.cells import Cell, ratio_cell
from parity.bench.rounds import Clocks, Patience, interleaved
from parity.errors import ConfigError


class FakeClock:
    """A clock that stands still until a contender takes its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, seconds: float, slower: float = 1.0) -> Callable[[], None]:
        """Return a contender of so many seconds, in each call `slower` times as many as in the one before."""
        taken = [seconds]

        def call() -> None:
            self.called.append(name)
            self.now += taken[0]
            taken[0] *= slower

        return call

    @property
    def clocks(self) -> Clocks:
        return Clocks(self, self)


def walls(found: dict[str, object], name: str) -> list[float]:
    return [timing.wall for timing in found[name]]  # type: ignore[attr-defined]


def test_a_planted_slow_function_gives_its_ratio() -> None:
    clock = FakeClock()
    contenders = {"plain": clock.taking("plain", 0.5), "slow": clock.taking("slow", 1.75)}
    found = interleaved(contenders, Patience(seconds=20.0), clock.clocks)
    cell = ratio_cell("models", "slow over plain", {}, walls(found, "slow"), walls(found, "plain"))
    assert (cell.spread.median, cell.spread.least, cell.spread.largest) == (3.5, 3.5, 3.5)
    assert cell.spread.rounds == 8


def test_a_machine_that_slows_down_leaves_the_ratio_of_neighbours_as_it_is() -> None:
    clock = FakeClock()
    contenders = {"plain": clock.taking("plain", 1.0, slower=1.5), "slow": clock.taking("slow", 2.0, slower=1.5)}
    found = interleaved(contenders, Patience(least=6, most=6), clock.clocks)
    cell = ratio_cell("models", "slow over plain", {}, walls(found, "slow"), walls(found, "plain"))
    assert cell.spread.least == pytest.approx(2)
    assert cell.spread.largest == pytest.approx(2)
    assert max(walls(found, "plain")) > 5 * min(walls(found, "plain"))


def test_contenders_take_turns_and_neither_is_always_first() -> None:
    clock = FakeClock()
    interleaved({name: clock.taking(name, 1.0) for name in "ab"}, Patience(least=3, most=3), clock.clocks)
    assert "".join(clock.called) == "ab" + "ab" + "ba" + "ab"


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.001, 15), (1.0, 10), (2.0, 5), (5.0, 3), (20.0, 3)], ids=lambda value: f"{value:g}"
)
def test_rounds_fit_into_the_time_and_are_never_too_few(seconds: float, rounds: int) -> None:
    clock = FakeClock()
    found = interleaved({"it": clock.taking("it", seconds)}, Patience(10.0, 3, 15, 20.0), clock.clocks)
    assert len(found["it"]) == rounds


def test_a_call_beyond_the_limit_is_made_once() -> None:
    clock = FakeClock()
    found = interleaved(
        {"a": clock.taking("a", 1.0), "b": clock.taking("b", 10.5)}, Patience(single_above=10.0), clock.clocks
    )
    assert clock.called == ["a", "b"]
    assert walls(found, "b") == [10.5]


def test_no_contender_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no contender"):
        interleaved({}, Patience())


@pytest.mark.parametrize(
    "fields", [{"least": 0}, {"least": 4, "most": 3}, {"seconds": -1.0}, {"single_above": 0.0}], ids=str
)
def test_patience_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Patience(**fields)  # type: ignore[arg-type]


def test_a_cell_without_values_and_ratios_without_neighbours_are_errors() -> None:
    with pytest.raises(ConfigError, match="at least one value"):
        Cell.make("models", "time", {}, "s", [])
    with pytest.raises(ConfigError, match="2 values over 1"):
        ratio_cell("models", "ratio", {}, [1.0, 2.0], [1.0])


def test_a_unit_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="'furlong'"):
        Cell.make("models", "time", {}, "furlong", [1.0])
