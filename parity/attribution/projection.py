"""Least squares: how much of each signature there is in a residual, with standard errors and cross-talk.

Everything here is whitened: divided, element by element, by the predicted standard deviation of the rounding. Rounding
is correlated besides (an ill-conditioned filter errs along few directions), so standard errors come from draws of it
that go through the same fit, in quadrature with the textbook ones from what the fit leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from parity.attribution.constants import number
from parity.spec.arrays import Array

NEVER: Final = np.inf


@dataclass(frozen=True)
class Projection:
    """Result of a fit of M signatures to a residual of n elements; every array is (M,) unless noted.

    Args:
        beta, error: Joint least squares, collinear ones excluded from each other's fit, and standard errors.
        alone, alone_error: The same for each signature by itself.
        norm: Euclidean norm of the whitened signature: its size in units of the rounding.
        distance: Norm of the residual less the signature.
        residual: Norm of the residual.
        left: Norm of what the joint fit leaves.
        groups: Number of the group of collinear signatures to which each belongs.
        elements: n.
    """

    beta: Array
    error: Array
    alone: Array
    alone_error: Array
    norm: Array
    distance: Array
    residual: float
    left: float
    groups: tuple[int, ...]
    elements: int

    @property
    def explained(self) -> float:
        """Share of the squared residual that all signatures together explain."""
        return 1 - (self.left / self.residual) ** 2 if self.residual > 0 else 0.0


def project(residual: Array, signatures: Array, noise: Array) -> Projection:
    """Fit `signatures` to `residual`.

    beta = argmin |residual - signatures beta|, by QR of the normalised signatures and SVD of its factor.

    Args:
        residual: (n,), whitened y - T.
        signatures: (n, M), whitened T_m - T; one that moves nothing has beta 0 with an infinite
            standard error, and norm 0.
        noise: (n, D), whitened draws of the rounding.
    """
    size = np.asarray(np.linalg.norm(signatures, axis=0))
    visible = [int(column) for column in np.flatnonzero(size > number("nothing") * np.sqrt(len(residual)))]
    size[np.setdiff1d(np.arange(len(size)), visible)] = 0.0
    directions = signatures[:, visible] / size[visible]
    q, r = np.linalg.qr(directions)
    target, drawn = q.T @ residual, q.T @ noise
    outside = max(float(residual @ residual - target @ target), 0.0)
    gram = r.T @ r
    distance = np.linalg.norm(residual[:, None] - signatures, axis=0)
    members = _groups(np.abs(gram) >= number("collinear"))
    fitted, spread, left = _joint(r, target, drawn, outside, members, distance[visible], len(residual))
    single = directions.T @ residual
    single_left = np.sqrt(np.maximum(float(residual @ residual) - single**2, 0.0))
    single_spread = np.hypot(single_left / np.sqrt(max(len(residual) - 1, 1)), _rms(directions.T @ noise))
    total = len(size)

    def scatter(values: Array, empty: float) -> Array:
        full = np.full(total, empty)
        full[visible] = values / size[visible]
        return full

    return Projection(
        beta=scatter(fitted, 0.0),
        error=scatter(spread, NEVER),
        alone=scatter(single, 0.0),
        alone_error=scatter(single_spread, NEVER),
        norm=size,
        distance=distance,
        residual=float(np.linalg.norm(residual)),
        left=left,
        groups=_numbers(members, visible, total),
        elements=len(residual),
    )


def _joint(
    r: Array, target: Array, drawn: Array, outside: float, groups: list[list[int]], distance: Array, n: int
) -> tuple[Array, Array, float]:
    """Return coefficients and standard errors of the normalised columns, and the norm that the best fit leaves.

    One column stands for each group of collinear ones, the closest to the residual; every member takes that place once.
    """
    best = [min(group, key=lambda column: distance[column]) for group in groups]
    fitted, spread = np.zeros(r.shape[1]), np.full(r.shape[1], NEVER)
    fitted[best], spread[best], left = _solve(r[:, best], target, drawn, outside, n)
    for place, group in enumerate(groups):
        for column in (member for member in group if member != best[place]):
            columns = [*best[:place], column, *best[place + 1 :]]
            coefficients, errors, _ = _solve(r[:, columns], target, drawn, outside, n)
            fitted[column], spread[column] = coefficients[place], errors[place]
    return fitted, spread, left


def _solve(a: Array, target: Array, drawn: Array, outside: float, n: int) -> tuple[Array, Array, float]:
    """Least squares by SVD: coefficients, their standard errors, and the norm of what is left."""
    u, s, vt = np.linalg.svd(a, full_matrices=True)
    kept = np.flatnonzero(s > number("rank") * s.max(initial=0.0))
    inverse = (vt[kept].T / s[kept]) @ u[:, kept].T
    coefficients = inverse @ target
    left = float(np.sqrt(outside + np.sum((target - a @ coefficients) ** 2)))
    scatter = left / np.sqrt(max(n - a.shape[1], 1))
    errors = np.hypot(scatter * np.linalg.norm(inverse, axis=1), _rms(inverse @ drawn))
    free = np.delete(vt, kept, axis=0)
    errors[np.any(np.abs(free) > np.sqrt(number("rank")), axis=0)] = NEVER
    return coefficients, errors, left


def _groups(near: Array) -> list[list[int]]:
    """Connected components of the relation `near` (M, M)."""
    left, groups = set(range(len(near))), []
    while left:
        group, frontier = set[int](), {min(left)}
        while frontier:
            group |= frontier
            frontier = {int(k) for i in frontier for k in np.flatnonzero(near[i])} - group
        left -= group
        groups.append(sorted(group))
    return groups


def _numbers(groups: list[list[int]], visible: list[int], total: int) -> tuple[int, ...]:
    """Return the group of every signature; one that is zero is a group of its own."""
    numbers = dict(enumerate(range(len(groups), len(groups) + total)))
    for place, group in enumerate(groups):
        numbers |= {visible[column]: place for column in group}
    return tuple(numbers[column] for column in range(total))


def apart(signatures: Array, noise: Array, column: int) -> Array:
    """Return the distance of every signature (n, M) from one of them, in deviations of the noise along it.

    The deviation is that of the draws (n, D), at least the 1 that whitening promises.
    """
    difference = signatures - signatures[:, [column]]
    far = np.linalg.norm(difference, axis=0)
    moved = _rms(difference.T @ noise)
    deviation = np.maximum(1.0, np.divide(moved, far, out=np.ones_like(far), where=far > 0))
    return np.asarray(far / deviation)


def _rms(values: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(np.square(values), axis=-1)))
