"""One figure of the report: what was measured, where, how often, with which spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parity.errors import ConfigError, ReportError

Place = tuple[tuple[str, str | int], ...]
"""Where a figure belongs, as (key, value) items: component, pass, L, blas, side."""

UNITS: Final = ("s", "x", "MiB", "B", "1/s", "GB/s", "rounds")
"""Seconds, a ratio, memory, memory a piece of work, pieces of work a second, memory a second."""

LOWER_IS_BETTER: Final = frozenset({"s", "MiB", "B"})
"""Units whose figures `--compare` judges: a ratio would be judged twice."""


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of `rounds` values."""

    median: float
    least: float
    largest: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value.

        Raises:
            ConfigError: There is none.
        """
        if not values:
            raise ConfigError("a spread needs at least one value; got none")
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Cell:
    """A figure.

    Args:
        part: The part of the benchmark that measured it.
        figure: What it is, for example `time`.
        at: Where it belongs.
        unit: One of `UNITS`.
        spread: Its values over the rounds.
        work: Pieces of work of one call, of kind `of`: tokens, for one. 0 where there are none.
    """

    part: str
    figure: str
    at: Place
    unit: str
    spread: Spread
    work: float = 0.0
    of: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"unit {self.unit!r} is not known; allowed: {', '.join(UNITS)}")

    @classmethod
    def make(
        cls, part: str, figure: str, at: Mapping[str, str | int], unit: str, values: Iterable[float], work: float = 0.0,
        of: str = "",
    ) -> Cell:  # fmt: skip
        """Return the cell of some values."""
        return cls(part, figure, tuple(at.items()), unit, Spread.of(list(values)), work, of)

    @property
    def key(self) -> tuple[str, str, Place]:
        """What tells the cell from all others of a report."""
        return self.part, self.figure, tuple(sorted(self.at))

    @property
    def place(self) -> dict[str, str | int]:
        """Where it belongs, by key."""
        return dict(self.at)

    @property
    def rate(self) -> float:
        """Pieces of work a second, from the median; 0 where there is no work or no time."""
        return self.work / self.spread.median if self.unit == "s" and self.spread.median > 0 else 0.0

    def label(self) -> str:
        """Return what a line calls it."""
        return " ".join([self.part, *(f"{key}={value}" for key, value in self.at), self.figure])

    def to_dict(self) -> dict[str, Any]:
        """Return the cell as JSON has it; with `work` also the rate."""
        found: dict[str, Any] = {"part": self.part, "figure": self.figure, "at": self.place, "unit": self.unit}
        found |= {"median": self.spread.median, "least": self.spread.least, "largest": self.spread.largest}
        found |= {"rounds": self.spread.rounds}
        return found | ({"work": self.work, "of": self.of, "rate": self.rate} if self.work else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """Read what `to_dict` wrote.

        Raises:
            ReportError: A key is missing or unknown, or a value is of another kind.
        """
        only(data, {*_CELL}, {"work", "of", "rate"}, "a cell")
        median, least, largest, rounds = (_number(data, name) for name in ("median", "least", "largest", "rounds"))
        spread = Spread(median, least, largest, int(rounds))
        at = data["at"]
        if data["unit"] not in UNITS:
            raise ReportError(f"a cell's unit is one of {', '.join(UNITS)}; got {str(data['unit'])[:80]!r}")
        if not isinstance(at, dict) or not all(isinstance(value, str | int) for value in at.values()):
            raise ReportError(f"a cell's `at` is an object of texts and integers; got {str(at)[:80]!r}")
        work = _number(data, "work") if "work" in data else 0.0
        return cls(
            str(data["part"]), str(data["figure"]), tuple(at.items()), str(data["unit"]), spread, work,
            str(data.get("of", "")),
        )  # fmt: skip


_CELL: Final = ("part", "figure", "at", "unit", "median", "least", "largest", "rounds")


@dataclass(frozen=True)
class Skip:
    """What was not measured, and why."""

    part: str
    what: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {"part": self.part, "what": self.what, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Skip:
        """Read what `to_dict` wrote.

        Raises:
            ReportError: A key is missing or unknown.
        """
        only(data, {"part", "what", "reason"}, set(), "a skip")
        return cls(str(data["part"]), str(data["what"]), str(data["reason"]))


def ratio_cell(
    part: str, figure: str, at: Mapping[str, str | int], over: Sequence[float], base: Sequence[float]
) -> Cell:
    """Return the ratios of neighbours, `over[i] / base[i]`, as a cell.

    Raises:
        ConfigError: There are not as many of one as of the other.
    """
    if len(over) != len(base):
        raise ConfigError(f"ratios compare neighbours: {len(over)} values over {len(base)}; give one for each")
    return Cell.make(part, figure, at, "x", [high / low for high, low in zip(over, base, strict=True)])


def only(data: Any, needed: set[str], allowed: set[str], what: str) -> None:
    """Require an object of these keys and no other.

    Raises:
        ReportError: It is none, or a key is missing or unknown.
    """
    if not isinstance(data, Mapping):
        raise ReportError(f"{what} of a benchmark's report is an object; got {str(data)[:80]!r}")
    missing, unknown = sorted(needed - data.keys()), sorted(map(str, data.keys() - needed - allowed))
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has the unknown {', '.join(unknown)}"] * bool(
            unknown
        )
        raise ReportError(
            f"{what} of a benchmark's report {' and '.join(said)}; allowed: {', '.join(sorted(needed | allowed))}; "
            "measure again with `parity bench --json FILE`"
        )


def _number(data: Mapping[str, Any], name: str) -> float:
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportError(f"{name} of a benchmark's cell is a number; got {str(value)[:80]!r}")
    return float(value)
