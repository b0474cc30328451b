"""Numbers that compute as a device does which double-float arithmetic must refuse."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Plain:
    """float32 with one rounding an operation; what departs from it is a subclass."""

    def __init__(self, values: Any) -> None:
        self.values: Floats = np.asarray(values, dtype=np.float32)

    def tolist(self) -> list[float]:
        """The values as Python's floats."""
        return list(self.values.tolist())

    def made(self, exact: Any) -> Any:
        """A number of this kind, rounded from an exact one."""
        return type(self)(exact)

    def _other(self, other: Any) -> Any:
        return other.values if isinstance(other, Plain) else np.float32(other)

    def __add__(self, other: Any) -> Any:
        return self.made(self.values + self._other(other))

    def __sub__(self, other: Any) -> Any:
        return self.made(self.values - self._other(other))

    def __mul__(self, other: Any) -> Any:
        return self.made(self.values * self._other(other))


class Flushing(Plain):
    """What lies below the smallest normal number becomes zero."""

    def made(self, exact: Any) -> Any:
        return Flushing(np.where(np.abs(exact) < np.finfo(np.float32).tiny, 0, exact))


class Truncating(Plain):
    """Rounds towards zero."""

    def _truncated(self, exact: npt.NDArray[np.float64]) -> Any:
        nearest = exact.astype(np.float32)
        beyond = np.abs(nearest) > np.abs(exact)
        return Truncating(np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest))

    def __add__(self, other: Any) -> Any:
        return self._truncated(self.values.astype(np.float64) + np.float64(self._other(other)))

    def __sub__(self, other: Any) -> Any:
        return self._truncated(self.values.astype(np.float64) - np.float64(self._other(other)))


class Contracting(Plain):
    """A product keeps all its digits until it has been added to something, as in a fused multiply-add."""

    def __init__(self, values: Any, exact: npt.NDArray[np.longdouble] | None = None) -> None:
        super().__init__(values)
        self.exact = self.values.astype(np.longdouble) if exact is None else exact

    def __add__(self, other: Any) -> Any:
        return Contracting((self.exact + _exact(other)).astype(np.float32))

    def __sub__(self, other: Any) -> Any:
        return Contracting((self.exact - _exact(other)).astype(np.float32))

    def __mul__(self, other: Any) -> Any:
        exact = self.values.astype(np.longdouble) * self._other(other)
        return Contracting(exact.astype(np.float32), exact)


def _exact(other: Any) -> Any:
    return other.exact if isinstance(other, Contracting) else np.longdouble(other)


def running(kind: type[Plain]) -> Any:
    """A runner of the canary that computes with numbers of this kind."""

    def run(function: Any, operands: tuple[mx.array, ...]) -> Any:
        return function(*(kind(np.array(operand)) for operand in operands))

    return run
