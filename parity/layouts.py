"""Intermediates of ports whose axes lie otherwise: torch's channels come first where MLX's come last.

Which order of axes is meant is read off the values: of all that have the right shape, the one nearest to the truth. It
is asked of intermediates alone; an output in another layout is another answer.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from parity.spec.arrays import Array

LARGEST_RANK = 5
"""Axes up to which all orders are tried, the first axis, the batch, staying first."""


def nearest_layout(values: Array, truth: Array) -> tuple[int, ...] | None:
    """Return the order of axes in which `values` lie nearest to `truth`, None if none has its shape.

    Args:
        values: The port's tensor, of any shape.
        truth: The reference's.

    Returns:
        Axes for `values.transpose`; the given order where no other is nearer.
    """
    same = tuple(range(values.ndim))
    if values.ndim != truth.ndim:
        return None
    orders = [same]
    if 2 < values.ndim <= LARGEST_RANK:
        orders += [order for rest in permutations(same[1:]) if (order := (0, *rest)) != same]
    fitting = [order for order in orders if values.transpose(order).shape == truth.shape]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return min(fitting, key=lambda order: _distance(values.transpose(order), truth))


def _distance(values: Array, truth: Array) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(np.nan_to_num(values - truth, nan=0.0, posinf=0.0, neginf=0.0)))
