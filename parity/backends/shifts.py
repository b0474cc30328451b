"""How far perturbed runs lie from the truth: the predicted error of a tensor, from as many runs as there are.

The runs of a small tensor are kept and measured together. Of a large one each run is measured in blocks as it comes and
then forgotten, so that memory does not grow with the number of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from parity.spec.arrays import Array
from parity.spec.precision import Rung

F64_EPSILON: Final = 2.0**-32
"""Amplitude that stands for u at f64, whose own roundoff would drown it: squared it is below that, 2**20 above it."""

LARGE: Final = 1 << 18
"""Elements from which runs are not kept."""

BLOCK: Final = 1 << 15
"""Elements that are measured at a time: three arrays of them fit into the second cache."""


@dataclass(frozen=True)
class Noise:
    """Predicted error of one tensor at one rung: root mean square over elements and draws, and the largest seen."""

    rms: float
    maximum: float


class Moved(NamedTuple):
    """What one run moved: the largest |run - truth| d, and the sum of (|run - truth| / d)**2."""

    largest: float
    squares: float


class Shifts:
    """Shifts of one tensor over perturbed runs.

    Args:
        truth: The unperturbed tensor, any shape.
        rung: The rung of the perturbation, which is larger than its u at f64: the response is scaled back.
    """

    def __init__(self, truth: Array, rung: Rung) -> None:
        self._factor = rung.u / F64_EPSILON if rung.name == "f64" else 1.0
        self._streamed = truth.size >= LARGE and bool(np.isfinite(truth).all())
        self._truth = truth.reshape(-1) if self._streamed else truth
        self._kept: list[Array] = []
        self._moved: list[Moved] = []

    def add(self, values: Array) -> None:
        """Add a run of the tensor."""
        if self._streamed:
            self._moved.append(_moved(values.reshape(-1), self._truth))
        else:
            self._kept.append(values)

    def noise(self) -> Noise:
        """Return the predicted error, from one run at least."""
        if self._streamed:
            largest, squares = _together(self._moved)
            return self._noise(largest, squares / (len(self._moved) * self._truth.size))
        return self._kept_noise()

    def _kept_noise(self) -> Noise:
        runs, truth = self._kept, self._truth
        finite = np.isfinite(truth)  # what is not is compared as it is, and has no rounding
        if not finite.any():
            return Noise(0.0, 0.0)
        if not finite.all():
            runs, truth = [run[finite] for run in runs], truth[finite]
        shifts = np.abs(np.stack(runs) - truth)
        largest = float(shifts.max())
        return self._noise(largest, float(np.mean(np.square(shifts / largest))) if largest > 0.0 else 0.0)

    def _noise(self, largest: float, mean_square: float) -> Noise:
        """Return the noise whose mean square is given in units of the largest shift squared."""
        return Noise(largest * float(np.sqrt(mean_square)) * self._factor, largest * self._factor)


def noise_of(runs: Sequence[Array], truth: Array, rung: Rung) -> Noise:
    """Return the predicted error of a tensor at `rung` from perturbed runs of it."""
    shifts = Shifts(truth, rung)
    for run in runs:
        shifts.add(run)
    return shifts.noise()


def _moved(run: Array, truth: Array) -> Moved:
    """Measure a run in blocks, which stay in the cache; both are flat."""
    buffer = np.empty(min(run.size, BLOCK))
    return _together(_block(run[at : at + BLOCK], truth[at : at + BLOCK], buffer) for at in range(0, run.size, BLOCK))


def _block(run: Array, truth: Array, buffer: Array) -> Moved:
    shift = np.subtract(run, truth, out=buffer[: run.size])
    largest = float(max(shift.max(), -shift.min()))  # of a NaN both are NaN
    if largest > 0.0:
        shift /= largest
    return Moved(largest, float(np.sum(np.square(shift, out=shift))))


def _together(parts: Iterable[Moved]) -> Moved:
    """Put parts together in units of the largest shift of all; nothing is moved by no part, or by parts of 0."""
    found = np.array([*parts], dtype=np.float64).reshape(-1, 2)
    largest = float(found[:, 0].max(initial=0.0))
    if largest == 0.0:
        return Moved(0.0, 0.0)
    return Moved(largest, float(np.sum(np.square(found[:, 0] / largest) * found[:, 1])))
