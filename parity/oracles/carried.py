"""Exact numbers that carry how far float64 roundings may reach.

`value` is computed at 50 digits; `reach` is a running error analysis beside it, in units of u: what the roundings of
a float64 computation of the same formula may move the result by, to first order, each operation rounding once.

    stored number            0
    a + b                    e_a + e_b + |a + b|
    a * b                    |a| e_b + |b| e_a + |a b|
    sum of terms t           sum e_t + sum |t|
    sum of products x w      sum (|x| e_w + |w| e_x) + sum |x w|
    f(a)                     |f'(a)| e_a + |f(a)|

The number of terms of a sum does not enter: a bound n u sum |t| would be met by anything. So "4 ulp" of `reach` is
4 ulp of the result where nothing cancels, and 4 ulp of the terms where they do.

Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.3, "Running error analysis".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import mpmath
import numpy as np
import numpy.typing as npt

DIGITS: Final = 50
"""Decimal digits: 169 bits, so a product of two float64 numbers is exact and a sum of 1000 errs below 2**-150."""

ExactArray = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def fifty_digits(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run `function` with mpmath at `DIGITS` decimal digits."""

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with mpmath.workdps(DIGITS):
            return function(*args, **kwargs)

    return wrapped


@dataclass(frozen=True)
class Carried:
    """Exact values (any shape) and the reach of roundings beside them, in units of u."""

    value: ExactArray
    reach: Floats

    @property
    def size(self) -> Floats:
        """Absolute values, as float64."""
        return floats(np.abs(self.value))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self.value.shape

    def __getitem__(self, key: Any) -> Carried:
        return Carried(np.asarray(self.value[key], dtype=object), np.asarray(self.reach[key]))

    def __add__(self, other: Carried) -> Carried:
        value = self.value + other.value
        return Carried(value, self.reach + other.reach + floats(np.abs(value)))

    def __sub__(self, other: Carried) -> Carried:
        return self + Carried(-other.value, other.reach)

    def __mul__(self, other: Carried) -> Carried:
        value = self.value * other.value
        return Carried(value, self.size * other.reach + other.size * self.reach + floats(np.abs(value)))

    def __truediv__(self, other: Carried) -> Carried:
        return self * other.apply(lambda v: 1 / v, lambda v: -1 / v**2)

    def apply(self, function: Callable[[Any], Any], derivative: Callable[[Any], Any]) -> Carried:
        """Apply `function` to every value; `derivative` carries what has been rounded before."""
        value = elementwise(function, self.value)
        slope = floats(np.abs(elementwise(derivative, self.value)))
        return Carried(value, slope * self.reach + floats(np.abs(value)))

    def sum(self, axis: int) -> Carried:
        """Sum over `axis`, which is kept with length 1."""
        return Carried(
            self.value.sum(axis, keepdims=True),
            (self.reach + self.size).sum(axis, keepdims=True),
        )

    def exactly(self, change: Callable[[Any], Any]) -> Carried:
        """Apply a change that moves or selects numbers and rounds nothing."""
        return Carried(change(self.value), change(self.reach))


def floats(values: ExactArray) -> Floats:
    """Round exact values to float64."""
    return np.asarray(values, dtype=np.float64)


def elementwise(function: Callable[[Any], Any], values: ExactArray) -> ExactArray:
    """Apply `function` to every exact value."""
    return np.asarray(np.frompyfunc(function, 1, 1)(values), dtype=object)


def stored(values: npt.ArrayLike) -> Carried:
    """Return float64 numbers, exactly."""
    array = np.asarray(values, dtype=np.float64)
    return Carried(elementwise(lambda v: mpmath.mpf(float(v)), array.astype(object)), np.zeros(array.shape))


def constant(value: Any) -> Carried:
    """Return a constant of a formula, which float64 rounds once."""
    return Carried(np.asarray(mpmath.mpf(value), dtype=object), np.asarray(abs(float(value))))


def integer(value: int) -> Carried:
    """Return a small whole number, which float64 holds exactly."""
    return Carried(np.asarray(mpmath.mpf(value), dtype=object), np.zeros(()))


def dot(x: Carried, w: Carried) -> Carried:
    """Return the products x (..., p) with w (..., q, p) summed over p: shape (..., q)."""
    x_value, w_value = x.value[..., None, :], w.value
    products = x_value * w_value
    size_x, size_w = x.size[..., None, :], w.size
    carried = size_x * w.reach + size_w * x.reach[..., None, :]
    return Carried(products.sum(-1), (carried + floats(np.abs(products))).sum(-1))
