"""Number classes by name: what a value is before it is asked how large it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from parity.metrics.arrays import as_array
from parity.spec.precision import Rung


def number_classes(values: npt.ArrayLike, rung: Rung) -> tuple[str, ...]:
    """Name the class of each value, in row-major order.

    Args:
        values: values of the format carried in float64, any shape.
        rung: the format; it says which numbers are subnormal.

    Returns:
        'nan', 'inf', '-inf', '0', '-0', 'subnormal' or 'number' for each.

    Source: IEEE 754-2019, section 5.7.2, `class`.
    """
    return tuple(_class(float(value), rung) for value in as_array(values).ravel())


def _class(value: float, rung: Rung) -> str:
    if value != value:
        return "nan"
    sign = "-" if np.signbit(value) else ""
    if np.isinf(value):
        return f"{sign}inf"
    if value == 0:
        return f"{sign}0"
    return "subnormal" if abs(value) < rung.tiny else "number"
