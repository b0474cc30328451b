"""What a law is: a sentence with a formula, where it holds, and how one side's answers are put to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from parity.laws.subject import Subject
from parity.pairs import Pair
from parity.spec.arrays import Array
from parity.tolerance import Allowance

EXACT: Final = Allowance(0.0, 0.0)
"""Where the arithmetic is exact, so must the equality be; -0 equals 0."""


@dataclass(frozen=True)
class Claim:
    """One comparison that a law makes: actual = expected within `allowed`; or, with `distinct`, actual != expected.

    Args:
        what: The comparison in words.
        actual, expected: Arrays of one shape.
        allowed: Root mean square and largest absolute value of their difference; `EXACT` for equality.
        distinct: The two must differ in at least one element: the guard against a law that holds because nothing
            happened.
    """

    what: str
    actual: Array
    expected: Array
    allowed: Allowance = EXACT
    distinct: bool = False

    @property
    def ratio(self) -> float:
        """Difference over allowance, the larger of rms and maximum; infinite where a value is not finite."""
        if self.actual.shape != self.expected.shape or not np.isfinite([*self.actual.flat, *self.expected.flat]).all():
            return np.inf
        difference = np.abs(self.actual - self.expected)
        largest = float(difference.max(initial=0.0))
        if self.distinct:
            return 0.0 if largest > 0 else np.inf
        rms = largest * _rms(difference / largest) if largest > 0 else 0.0
        return max(_over(rms, self.allowed.rms), _over(largest, self.allowed.maximum))

    @property
    def elements(self) -> int:
        """Elements compared."""
        return self.actual.size


def _rms(values: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _over(error: float, allowed: float) -> float:
    if error == 0:
        return 0.0
    return error / allowed if allowed > 0 else np.inf


Check = Callable[[Subject], Iterable[Claim]]
"""Puts a law to one side under one case."""


@dataclass(frozen=True)
class Application:
    """A law applied to one component.

    Args:
        pair: The component, its structures and corpus narrowed to those under which the law holds.
        check: Makes the law's claims about a subject.
    """

    pair: Pair
    check: Check


@dataclass(frozen=True)
class Law:
    """A statement that needs no reference.

    Args:
        name: What `parity laws` calls it.
        statement: One sentence with the formula.
        applications: The components to which it applies, several entries for one component allowed.
    """

    name: str
    statement: str
    applications: tuple[Application, ...]

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components, each once."""
        return tuple(dict.fromkeys(application.pair.name for application in self.applications))
