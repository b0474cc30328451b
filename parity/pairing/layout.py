"""How the same values lie on either side: axes moved, heads split off or merged, a slice of a fused output.

A layout turns the reference's array into the port's: reshape to `split`, transpose by `axes`, reshape to `merged`, all
in row-major order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from parity.pairing.constants import MOST_AXES, number
from parity.spec.arrays import Array

Shape = tuple[int, ...]
Side = Literal["reference", "port"]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Part:
    """A slice of a fused array's axis: in each of `groups` equal groups the columns from `start`, `width` of them.

    Args:
        fused: The side whose array is fused.
        axis: The axis, counted from 0.
        groups: Number of groups; 1 for a plain slice.
        start: First column within a group.
        width: Columns of this part within a group.
        stride: Columns of a group.
    """

    fused: Side
    axis: int
    groups: int
    start: int
    width: int
    stride: int

    def take(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return the slice of the fused array."""
        shape = values.shape
        grouped = values.reshape(*shape[: self.axis], self.groups, self.stride, *shape[self.axis + 1 :])
        where = (*[slice(None)] * (self.axis + 1), slice(self.start, self.start + self.width))
        return grouped[where].reshape(*shape[: self.axis], self.groups * self.width, *shape[self.axis + 1 :])

    def put(self, values: npt.NDArray[Number], shape: Shape) -> npt.NDArray[Number]:
        """Return zeros of the fused array's shape with the slice in its place: the adjoint of `take`."""
        whole = np.zeros(shape, dtype=values.dtype)
        grouped = whole.reshape(*shape[: self.axis], self.groups, self.stride, *shape[self.axis + 1 :])
        where = (*[slice(None)] * (self.axis + 1), slice(self.start, self.start + self.width))
        grouped[where] = values.reshape(grouped[where].shape)
        return whole

    def describe(self) -> str:
        """Name the columns: `columns 4:8 of axis 2`, and of which groups."""
        groups = f" in each of {self.groups} groups of {self.stride}" if self.groups > 1 else ""
        return f"columns {self.start}:{self.start + self.width} of axis {self.axis} of the {self.fused}'s{groups}"


@dataclass(frozen=True)
class Layout:
    """Where the reference's values lie in the port's array.

    Args:
        source: Shape of the reference's array, or of its slice.
        split: Shape to which it is reshaped first.
        axes: Permutation of the axes of `split`.
        merged: Shape of the port's array, or of its slice.
        part: The slice, where one side is fused.
    """

    source: Shape
    split: Shape
    axes: tuple[int, ...]
    merged: Shape
    part: Part | None = None

    def apply(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return the reference's array, already sliced, in the port's layout."""
        return values.reshape(self.split).transpose(self.axes).reshape(self.merged)

    def align(self, reference: Array, port: Array) -> tuple[Array, Array]:
        """Return both arrays, whole, in the port's layout: the slices where there are any."""
        return self.of_reference(reference), self.of_port(port)

    def of_reference(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return the reference's array, or its slice, in the port's layout."""
        fused = self.part is not None and self.part.fused == "reference"
        return self.apply(self.part.take(values) if self.part is not None and fused else values)

    def of_port(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return the port's array, or its slice."""
        fused = self.part is not None and self.part.fused == "port"
        return self.part.take(values) if self.part is not None and fused else values

    def inverse(self) -> Layout:
        """Return the layout with reference and port exchanged."""
        back = tuple(int(axis) for axis in np.argsort(self.axes))
        part = self.part
        if part is not None:
            part = replace(part, fused="reference" if part.fused == "port" else "port")
        return Layout(self.merged, tuple(self.split[axis] for axis in self.axes), back, self.source, part)

    def fitted(self, reference: Shape, port: Shape) -> Layout | None:
        """Return what moves axes in the same way between whole arrays of these shapes; None if nothing does."""
        source, target = self._sliced("reference", reference), self._sliced("port", port)
        if (source, target) == (self.source, self.merged):
            return self
        if self.effort or len(source) != len(self.axes):
            return None
        moved = tuple(source[axis] for axis in self.axes)
        return replace(self, source=source, split=source, merged=target) if moved == target else None

    def _sliced(self, side: Side, shape: Shape) -> Shape:
        part = self.part
        if part is None or part.fused != side or len(shape) <= part.axis:
            return shape
        return (*shape[: part.axis], part.groups * part.width, *shape[part.axis + 1 :])

    @property
    def is_identity(self) -> bool:
        """Whether shape and values stay as they are."""
        return self.source == self.merged and len(_runs(self)) <= 1 and self.part is None

    @property
    def effort(self) -> int:
        """0 if axes are moved at most, 1 if the array is reshaped, 2 if an axis is split or merged and moved."""
        if self.split == self.source and tuple(self.split[axis] for axis in self.axes) == self.merged:
            return 0
        return 1 if len(_runs(self)) <= 1 else 2

    def describe(self) -> str:
        """Name the layout in one line."""
        return self._describe_axes() + (f", {self.part.describe()}" if self.part else "")

    def _describe_axes(self) -> str:
        if self.source == self.merged and len(_runs(self)) <= 1:
            return "identity"
        if self.effort == 0:
            return f"axes {self.axes}"
        moved = f", axes {self.axes}" if len(_runs(self)) > 1 else ""
        return f"{self.source} as {self.split}{moved}, as {self.merged}" if moved else f"{self.source} as {self.merged}"


def _runs(layout: Layout) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Axes that stay neighbours, in their new order, each as (axis of the split, length); one run moves nothing.

    Axes of length 1 are left out, so two layouts that move values in the same way have runs of the same lengths.
    """
    runs: list[list[int]] = []
    wide = [axis for axis, length in enumerate(layout.split) if length != 1]
    following = dict(itertools.pairwise(wide))
    for axis in (axis for axis in layout.axes if layout.split[axis] != 1):
        if runs and following.get(runs[-1][-1]) == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return tuple(tuple((axis, layout.split[axis]) for axis in run) for run in runs)


def _action(layout: Layout) -> tuple[tuple[int, int], ...]:
    """What the layout does to values: runs as (rank of its first axis among the runs, elements), in their new order."""
    runs = _runs(layout)
    first = sorted(run[0][0] for run in runs)
    return tuple((first.index(run[0][0]), math.prod(length for _, length in run)) for run in runs)


# --- candidates -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def candidates(source: Shape, target: Shape) -> tuple[Layout, ...]:
    """Return every layout that turns `source` into `target`, those first that do less; no two do the same.

    Permutations of the axes; one axis split in two and the axes moved, (b, l, h d) -> (b, h, l, d); its inverse; both
    at once, (b, l, h d) -> (b h, l, d); the plain reshape.
    """
    if math.prod(source) != math.prod(target):
        return ()
    plain = Layout(source, source, tuple(range(len(source))), target)
    if max(len(source), len(target)) > MOST_AXES:
        return (plain,)
    found: Iterable[Layout] = itertools.chain(
        [plain],
        _permutations(source, target),
        _splits(source, target),
        (layout.inverse() for layout in _splits(target, source)),
        _splits_and_merges(source, target),
    )
    unlike: dict[tuple[tuple[int, int], ...], Layout] = {}
    for layout in found:
        unlike.setdefault(_action(layout), layout)
    return tuple(sorted(unlike.values(), key=lambda layout: layout.effort))


def _permutations(source: Shape, target: Shape) -> Iterator[Layout]:
    if sorted(source) == sorted(target):
        for axes in itertools.permutations(range(len(source))):
            if tuple(source[axis] for axis in axes) == target:
                yield Layout(source, source, axes, target)


def _splits_of(source: Shape) -> Iterator[Shape]:
    for axis, length in enumerate(source):
        for first in range(2, length // 2 + 1):
            if length % first == 0:
                yield (*source[:axis], first, length // first, *source[axis + 1 :])


def _splits(source: Shape, target: Shape) -> Iterator[Layout]:
    """One axis split in two, then moved: the target has one more."""
    if len(target) == len(source) + 1:
        for split in _splits_of(source):
            for layout in _permutations(split, target):
                yield replace(layout, source=source)


def _splits_and_merges(source: Shape, target: Shape) -> Iterator[Layout]:
    """One axis split in two, moved, and two neighbours merged: as many axes as before."""
    if len(target) != len(source) or len(source) != 3:
        return
    for split, whole in itertools.product(_splits_of(source), _splits_of(target)):
        for layout in _permutations(split, whole):
            yield replace(layout, source=source, merged=target)


# --- agreement ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """The layout under which two arrays come closest.

    Args:
        layout: It, or the first candidate where none of them agrees.
        distance: Relative L2 distance under it; None where there were no values.
        agrees: Whether that is within `agree`.
        ambiguous: Whether another layout does as well, or nothing was there to choose one by.
        information: Share of the full weight of values that these arrays carry, 0 to 1.
    """

    layout: Layout
    distance: float | None
    agrees: bool
    ambiguous: bool
    information: float


def distance(reference: Array, port: Array) -> float:
    """Return ||reference - port|| / max(||reference||, ||port||) of two arrays of one shape.

    0 for two zeros; infinity where NaN or infinities do not stand in the same places.
    """
    if np.isfinite(reference).all() and np.isfinite(port).all():
        largest = max(np.abs(reference).max(initial=0.0), np.abs(port).max(initial=0.0))
        if largest == 0.0:
            return 0.0
        left, right = reference / largest, port / largest
        return float(np.linalg.norm(left - right) / max(np.linalg.norm(left), np.linalg.norm(right)))
    special = ~np.isfinite(reference)
    if not np.array_equal(special, ~np.isfinite(port)):
        return math.inf
    if not np.array_equal(reference[special], port[special], equal_nan=True):
        return math.inf
    return distance(reference[~special], port[~special])


def recognise(reference: Array, port: Array, layouts: Sequence[Layout]) -> Agreement:
    """Return the one of `layouts` under which the values agree, or what shapes alone tell.

    Raises:
        ValueError: `layouts` is empty.
    """
    found = _nearest(layouts, lambda layout: distance(*layout.align(reference, port)))
    spread = float(np.ptp(port)) if port.size and np.isfinite(port).all() else 1.0
    weight = min(1.0, port.size / number("informative")) if spread else 0.0
    return replace(found, information=weight)


def settled(layouts: Sequence[Layout], settle: Callable[[Layout], float]) -> Agreement:
    """Return the one of `layouts` under which a run on fresh inputs agrees, by the disagreement that `settle` finds.

    Raises:
        ValueError: `layouts` is empty.
    """
    return _nearest(layouts, settle)


def by_shape(layouts: Sequence[Layout]) -> Agreement:
    """Return the first of `layouts`, ambiguous unless all others do more to the array: there are no values to tell by.

    Raises:
        ValueError: `layouts` is empty.
    """
    if not layouts:
        raise ValueError("no layout to choose from; pass the candidates of two shapes of one size")
    ambiguous = len(layouts) > 1 and layouts[1].effort <= layouts[0].effort  # `candidates` gives the lesser first
    return Agreement(layouts[0], None, False, ambiguous, 0.0)


def _nearest(layouts: Sequence[Layout], measure: Callable[[Layout], float]) -> Agreement:
    first = by_shape(layouts)
    distances = [measure(layout) for layout in layouts]
    least = min(distances)
    if not least <= number("agree"):
        return replace(first, distance=distances[0])
    limit = min(number("clear") * max(least, number("rounding")), number("agree"))
    alike = [at for at, value in enumerate(distances) if value <= limit]
    # Which of them is nearest is the rounding's choice, and another processor's would be another.
    return Agreement(layouts[alike[0]], distances[alike[0]], True, len(alike) > 1, 1.0)
