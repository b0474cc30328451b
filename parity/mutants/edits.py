"""Small edits of a port: one tensor that a module gives out, or one of its parameters, changed in a small way.

An instance's class is exchanged for a subclass that differs in `__call__`, as capture does: no class that others share
is touched, and what is captured of the module is what it gives out after the edit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_map

from parity.backends.convert_mlx import mlx_from_numpy
from parity.pairs import Pair
from parity.trace.calls import Call
from parity.trace.mlx_capture import capture_mlx, names_of_mlx

What = Literal["shift", "transpose", "halves", "scale", "drop", "sign", "negate", "length", "float32", "bfloat16"]

LARGEST_K: Final = 24
"""Drawn factors are 1 + 2^-k with k up to here, float32's last digit; how much less is still seen is searched for."""


@dataclass(frozen=True)
class Place:
    """A tensor that can be edited.

    Args:
        module: Name of the port's module.
        kind: Its class.
        shape: The tensor's shape.
        parameter: Its name, where it is a parameter; empty for what a call gives out.
        call: Which call, from 1.
        calls: How many there are in one pass.
        leaf: Which of the floating tensors that the call gives out.
    """

    module: str
    kind: str
    shape: tuple[int, ...]
    parameter: str = ""
    call: int = 1
    calls: int = 1
    leaf: int = 0

    def __str__(self) -> str:
        where = self.module or "the model itself"
        if self.parameter:
            return f"{where}.{self.parameter} ({self.kind})"
        call = f" call {self.call}" if self.calls > 1 else ""
        return f"{where} ({self.kind}){call}{f' output {self.leaf}' if self.leaf else ''}"


@dataclass(frozen=True)
class Edit:
    """One change of the tensor at a place.

    Args:
        place: Where.
        what: `shift` by one position, round the end; `transpose` two axes of one size; exchange `halves`; `scale` by
            1 + 2^-k; `drop` a slice (zeros); another `sign` of a slice; `negate` all of it; an off-by-one `length` (the
            last position repeats the one before); a cast to `float32` or `bfloat16` and back.
        axis: Along which axis.
        other: The second axis of a transposition.
        index: Which slice.
        k: Of the factor.
    """

    place: Place
    what: What
    axis: int = 0
    other: int = 0
    index: int = 0
    k: int = 0

    def __str__(self) -> str:
        words: Mapping[str, str] = {
            "transpose": f"transpose axes {self.axis} and {self.other}",
            "scale": f"scale by 1 + 2^-{self.k}",
            "drop": f"drop slice {self.index} of axis {self.axis}",
            "sign": f"sign of slice {self.index} of axis {self.axis}",
            "negate": "negate",
            "float32": "cast to float32 and back",
            "bfloat16": "cast to bfloat16 and back",
        }
        return f"{words.get(self.what, f'{self.what} along axis {self.axis}')} at {self.place}"

    def of(self, array: mx.array) -> mx.array:
        """Return the array edited."""
        return _EDITS[self.what](self, array)


def _along(edit: Edit, array: mx.array) -> mx.array:
    """A mask of the slice, in the array's rank."""
    here = np.arange(array.shape[edit.axis]) == edit.index
    return mx.array(here.reshape([-1 if axis == edit.axis else 1 for axis in range(array.ndim)]))


def _shortened(edit: Edit, array: mx.array) -> mx.array:
    size = array.shape[edit.axis]
    return mx.take(array, mx.array([*range(size - 1), size - 2]), axis=edit.axis)


def _scaled(edit: Edit, array: mx.array) -> mx.array:
    # MLX takes a Python number as float32: the factor would be 1 from k = 24 on.
    return array * mlx_from_numpy(np.array(1 + 2.0**-edit.k), "float64").astype(array.dtype)


_EDITS: Final[Mapping[str, Callable[[Edit, mx.array], mx.array]]] = {
    "shift": lambda edit, array: mx.roll(array, 1, edit.axis),
    "transpose": lambda edit, array: array.swapaxes(edit.axis, edit.other),
    "halves": lambda edit, array: mx.roll(array, array.shape[edit.axis] // 2, edit.axis),
    "scale": _scaled,
    "drop": lambda edit, array: mx.where(_along(edit, array), mx.zeros_like(array), array),
    "sign": lambda edit, array: mx.where(_along(edit, array), -array, array),
    "negate": lambda _edit, array: -array,
    "length": _shortened,
    "float32": lambda _edit, array: array.astype(mx.float32).astype(array.dtype),
    "bfloat16": lambda _edit, array: array.astype(mx.bfloat16).astype(array.dtype),
}

_EVERYWHERE: Final[tuple[What, ...]] = ("scale", "scale", "negate", "float32", "bfloat16")
"""Needs no axis. A scale comes twice: its size is drawn besides."""

_ALONG_AN_AXIS: Final[tuple[What, ...]] = ("shift", "halves", "drop", "sign", "length")
_WITH_EQUAL_AXES: Final[tuple[What, ...]] = ("transpose",)


def draw_edit(places: Sequence[Place], rng: np.random.Generator) -> Edit:
    """Draw a place, and an edit that its shape allows: a call's output twice as often as a parameter."""
    outputs = [place for place in places if not place.parameter]
    parameters = [place for place in places if place.parameter]
    among = parameters if parameters and (not outputs or rng.integers(3) == 0) else outputs
    place = among[rng.integers(len(among))]
    long = [axis for axis, size in enumerate(place.shape) if size > 1]
    equal = [(a, b) for a in long for b in long if a < b and place.shape[a] == place.shape[b]]
    allowed = [*_EVERYWHERE, *(_ALONG_AN_AXIS if long else ()), *(_WITH_EQUAL_AXES if equal else ())]
    edit = Edit(place, allowed[rng.integers(len(allowed))])
    if edit.what == "scale":
        return replace(edit, k=int(rng.integers(1, LARGEST_K + 1)))
    if edit.what == "transpose":
        axis, other = equal[rng.integers(len(equal))]
        return replace(edit, axis=axis, other=other)
    if edit.what in _ALONG_AN_AXIS:
        axis = long[rng.integers(len(long))]
        return replace(edit, axis=axis, index=int(rng.integers(place.shape[axis])))
    return edit


def find_places(port: nn.Module, run: Callable[[], object]) -> list[Place]:
    """Return every floating tensor that a called module of `port` gives out while it is run, and their parameters."""
    calls: list[tuple[Call, list[tuple[int, ...]]]] = []

    def keep(call: Call) -> None:
        calls.append((call, [tuple(a.shape) for a in call.outputs.values() if mx.issubdtype(a.dtype, mx.floating)]))

    with capture_mlx(port, keep):
        run()
    times = {name: sum(call.module == name for call, _ in calls) for name in {call.module for call, _ in calls}}
    places = [
        Place(call.module, call.kind, shape, call=call.number, calls=times[call.module], leaf=leaf)
        for call, shapes in calls
        for leaf, shape in enumerate(shapes)
    ]
    modules = dict(names_of_mlx(port))
    return places + [
        Place(name, type(modules[name]).__name__, tuple(array.shape), parameter=parameter)
        for name in sorted(times)
        for parameter, array in sorted(_own_parameters(modules[name]).items())
    ]


def _own_parameters(module: nn.Module) -> dict[str, mx.array]:
    return {
        name: value
        for name, value in module.items()
        if isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating) and not name.startswith("_")
    }


def planted(pair: Pair, edits: Iterable[Edit]) -> Pair:
    """Return the pair with edits in its port: they are put in as soon as the weights are."""
    listed = tuple(edits)

    def transfer(module: Any, arrays: Mapping[str, Any]) -> None:
        pair.transfer(module, arrays)
        for edit in listed:
            plant(module, edit)

    return replace(pair, transfer=transfer)


def plant(port: nn.Module, edit: Edit) -> None:
    """Put an edit into a port, for good."""
    module: Any = dict(names_of_mlx(port))[edit.place.module]
    if edit.place.parameter:
        module[edit.place.parameter] = edit.of(module[edit.place.parameter])
    else:
        _wrap(module, edit)


def _wrap(module: Any, edit: Edit) -> None:
    cls: Any = type(module)
    called = 0

    @functools.wraps(cls.__call__)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal called
        output = cls.__call__(self, *args, **kwargs)
        called += 1
        # The port runs more than once: its calls are counted pass by pass.
        return _edited(output, edit) if (called - 1) % edit.place.calls == edit.place.call - 1 else output

    members = {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    object.__setattr__(module, "__class__", type(cls)(cls.__name__, (cls,), members))


def _edited(output: Any, edit: Edit) -> Any:
    met = 0

    def change(value: Any) -> Any:
        nonlocal met
        if not isinstance(value, mx.array) or not mx.issubdtype(value.dtype, mx.floating):
            return value
        met += 1
        return edit.of(value) if met - 1 == edit.place.leaf else value

    return tree_map(change, output)
