"""Contenders timed in turn, so that a ratio compares neighbours: other work on the machine falls upon all of them.

Neither pyperf nor pytest-benchmark can take turns: each finishes one benchmark before it begins the next, and a machine
that slows down in between is taken for a slower contender.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from parity.errors import ConfigError

Contenders = Mapping[str, Callable[[], object]]
Clock = Callable[[], float]


class Timing(NamedTuple):
    """Seconds of one call: by the clock on the wall, and of all processors that worked on it."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Clocks:
    """What the time is read from: seconds."""

    wall: Clock = field(default=time.perf_counter)
    processor: Clock = field(default=time.process_time)


@dataclass(frozen=True)
class Patience:
    """How often contenders take their turn.

    Args:
        seconds: What the rounds of one group of contenders should take together.
        least: Rounds at least, however long they take.
        most: Rounds at most.
        single_above: Seconds of one call beyond which there is one round, and no call before it to warm up.
    """

    seconds: float = 2.0
    least: int = 3
    most: int = 15
    single_above: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"{self.least} rounds at least and {self.most} at most; give 1 <= least <= most")
        if self.seconds < 0 or self.single_above <= 0:
            raise ConfigError(f"{self.seconds:g} s a group, one round above {self.single_above:g} s; give more than 0")

    def rounds(self, first: float) -> int:
        """Return how many rounds fit where all contenders together took `first` seconds."""
        fitting = self.most if first <= 0 else int(min(self.seconds / first, self.most))
        return max(self.least, fitting)


def interleaved(
    contenders: Contenders, patience: Patience, clocks: Clocks | None = None
) -> dict[str, tuple[Timing, ...]]:
    """Time all contenders in rounds: each once a round, in the opposite order in every other one.

    A first call of each warms up and says how many rounds there will be. Where one of these takes longer than
    `patience.single_above`, they are the only round.

    Returns:
        By contender its timings, one a round: those of one index are neighbours.

    Raises:
        ConfigError: There is no contender.
    """
    if not contenders:
        raise ConfigError("no contender is to be timed: name at least one")
    clocks = clocks or Clocks()
    warm = _round(contenders, list(contenders), clocks)
    if max(timing.wall for timing in warm.values()) > patience.single_above:
        return {name: (timing,) for name, timing in warm.items()}
    count = patience.rounds(sum(timing.wall for timing in warm.values()))
    order = list(contenders)
    rounds = [_round(contenders, order if index % 2 == 0 else order[::-1], clocks) for index in range(count)]
    return {name: tuple(found[name] for found in rounds) for name in contenders}


def _round(contenders: Contenders, order: list[str], clocks: Clocks) -> dict[str, Timing]:
    return {name: timed(contenders[name], clocks) for name in order}


def timed(call: Callable[[], object], clocks: Clocks | None = None) -> Timing:
    """Time one call."""
    clocks = clocks or Clocks()
    wall, processor = clocks.wall(), clocks.processor()
    call()
    return Timing(clocks.wall() - wall, clocks.processor() - processor)
