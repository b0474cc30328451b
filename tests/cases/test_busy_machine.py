"""What is shrunk follows from the seed, however busy the machine is: cases are counted, not seconds."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest
from hypothesis.internal.conjecture import engine

from parity.cases import Case, draw, shrink_case
from parity.errors import ConfigError
from parity.suites import select

FFTCONV: Final = select(["fftconv"])[0]


class FastClock:
    """The module `time`, an hour passing with every look at the clock."""

    def __init__(self) -> None:
        self.hours = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        self.hours += 1
        return 3600.0 * self.hours

    perf_counter = monotonic


def fails(case: Case) -> bool:
    return case.size > 40 and case.seed % 3 == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_busy_machine_shrinks_to_the_same_case(
    seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = shrink_case(FFTCONV, fails, seed=seed, effort=100)
    assert quiet is not None
    monkeypatch.setattr(engine, "time", FastClock())
    assert shrink_case(FFTCONV, fails, seed=seed, effort=100) == quiet
    assert capsys.readouterr().out == ""


def test_shrinking_ends_after_so_many_cases_with_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "SHRINK_CALLS", 1)
    examined: list[Case] = []

    def counted(case: Case) -> bool:
        examined.append(case)
        return case.size > 40

    found = shrink_case(FFTCONV, counted, seed=1, effort=12)
    assert len(examined) == 12
    assert found in examined
    assert found is not None
    assert found.size > 40


def test_the_switch_is_as_it_was_afterwards() -> None:
    before = engine.MAX_SHRINKING_SECONDS
    shrink_case(FFTCONV, fails, seed=1, effort=20)
    assert before == engine.MAX_SHRINKING_SECONDS < float("inf")


def test_a_hypothesis_that_cannot_be_kept_from_the_clock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(engine, "MAX_SHRINKING_SECONDS")
    with pytest.raises(ConfigError, match="cannot be told to leave the clock alone"):
        shrink_case(FFTCONV, fails, seed=1, effort=20)
