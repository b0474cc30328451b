"""How a reference's state dict goes into a port that nobody wrote a table for: by name, in the layouts of mlx.nn.

| what                            | torch                      | mlx.nn                     |
|---------------------------------|----------------------------|----------------------------|
| Conv1d, Conv2d, Conv3d          | (out, in / groups, *taps)  | (out, *taps, in / groups)  |
| ConvTranspose1d, 2d, 3d         | (in, out, *taps)           | (out, *taps, in)           |
| a child of a Sequential         | `<i>`                      | `layers.<i>`               |
| everything else                 | same name, same shape      | same name, same shape      |

The type of the port's module decides on the layout, never a size: a square convolution is moved like any other. A
table of renames comes first, and a table of layouts serves modules whose type says nothing.

Source: the docstrings of torch.nn and mlx.nn, layer by layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from parity.errors import WeightsError
from parity.spec.checkpoint import set_aside_reason

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTER: Final = re.compile(r"(^|\.)num_batches_tracked$")


@dataclass(frozen=True)
class Place:
    """Where one tensor of the reference goes.

    Attributes:
        source: Its name in the reference's state dict.
        name: Its name in the port.
        axes: The port's axes, each the number of the reference's axis.
        owner: Type of the port's module that holds it; "" where there is none.
    """

    source: str
    name: str
    axes: tuple[int, ...]
    owner: str = ""


@dataclass(frozen=True)
class Table:
    """What the names and the types of the modules do not say.

    Args:
        renames: (pattern, replacement) on the reference's names, applied in this order.
        layouts: (pattern, axes) on the reference's names; axes as in `Place`.
        reference_only: Patterns of the reference's tensors that the port does not store: a tied head, a constant.
        port_only: Patterns of the port's arrays that the reference does not store: a constant.
        own: The port's own way, which replaces all of the above: `own(port, state)` returns the port's arrays by name,
            or fills the port itself and returns None.
    """

    renames: tuple[tuple[str, str], ...] = ()
    layouts: tuple[tuple[str, tuple[int, ...]], ...] = ()
    reference_only: tuple[str, ...] = ()
    port_only: tuple[str, ...] = ()
    own: Any = None
    _seen: dict[str, Place] = field(default_factory=dict, compare=False, repr=False)
    _taken: dict[str, mx.array] = field(default_factory=dict, compare=False, repr=False)
    _aliases: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)

    def place(self, port: nn.Module, name: str, dimensions: int) -> Place:
        """Say where the reference's tensor `name` goes in `port`."""
        renamed = name
        for pattern, replacement in self.renames:
            renamed = re.sub(pattern, replacement, renamed)
        inside, owner = _inside(port, renamed)
        axes = next((axes for pattern, axes in self.layouts if re.search(pattern, name)), None)
        if axes is None:
            axes = _axes_of(owner, inside, dimensions)
        return Place(name, inside, axes, "" if owner is None else type(owner).__name__)

    def load(self, port: nn.Module, state: Mapping[str, mx.array]) -> nn.Module:
        """Fill every parameter of `port` from a state dict.

        Args:
            port: The port.
            state: Arrays under the reference's names, aliases included: names of the very same array are one
                parameter.

        Returns:
            `port`.

        Raises:
            WeightsError: A tensor is missing, left over, mis-shaped or claimed twice; the message lists all of them.
        """
        self._aliases.clear()
        self._aliases.update(_groups(state))
        found = self._by_name(port, state) if self.own is None else self.own(port, dict(state))
        if found is None:
            return port
        if not isinstance(found, Mapping):
            raise WeightsError(
                f"weights= returned {type(found).__name__}; it returns the port's arrays by name, or fills the port "
                "and returns None"
            )
        targets = _stored(port)
        if self.own is not None:
            _require(list(_unfit(targets, found, self.port_only)))
            self._taken.clear()
            self._taken.update(state)
        port.load_weights(list(found.items()), strict=False)
        return port

    def to_state(self, port: nn.Module, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Return gradients of `port`'s arrays as gradients of the reference's tensors, in their names and layout.

        What went across by name goes back the same way. What the port's own way made of the state dict goes back by
        the vector-Jacobian product of that way; a way that fills the port itself has none, and names stay. A shared
        parameter has the sum over its aliases under each of them, whichever of them went across.
        """
        if self.own is not None and self._taken:
            return self._pulled_back(port, arrays)
        state: dict[str, mx.array] = {}
        for name, array in arrays.items():
            place = self._seen.get(name)
            source = name if place is None else place.source
            moved = array if place is None else array.transpose([place.axes.index(i) for i in range(array.ndim)])
            for alias in self._aliases.get(source, (source,)):
                state[alias] = state[alias] + moved if alias in state else moved
        return state

    def _pulled_back(self, port: nn.Module, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        floats = {name: array for name, array in self._taken.items() if mx.issubdtype(array.dtype, mx.floating)}
        fixed = {name: array for name, array in self._taken.items() if name not in floats}
        names = {name: self._aliases.get(name, (name,)) for name in floats}
        state = {name: array for name, array in floats.items() if names[name][0] == name}

        def across(*values: mx.array) -> list[mx.array]:
            given = dict(zip(state, values, strict=True))
            found = self.own(port, {**fixed, **{name: given[names[name][0]] for name in floats}})
            # Of two outputs that are one array mx.vjp takes one cotangent.
            return [found[name] * 1 for name in arrays]

        made = across(*state.values())
        cotangents = [array.astype(like.dtype) for array, like in zip(arrays.values(), made, strict=True)]
        _, pulled = mx.vjp(across, list(state.values()), cotangents)
        # What an array depends on shows in the product with ones, as a gradient that happens to be zero does not.
        _, reached = mx.vjp(across, list(state.values()), [mx.ones_like(like) for like in made])
        dtypes = {array.dtype for array in arrays.values()}
        own = dtypes.pop() if len(dtypes) == 1 else None  # the state dict is wider than a port at a coarse rung
        return {
            alias: array if own is None else array.astype(own)
            for name, array, ones in zip(state, pulled, reached, strict=True)
            if ones.size and mx.any(ones != 0).item()
            for alias in names[name]
        }

    def module_name(self, name: str) -> str:
        """Return the reference's name of the port's module `name`, as the tensors that went across tell it."""
        known = self._modules()
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            head, rest = ".".join(parts[:end]), parts[end:]
            if head in known:
                return ".".join([known[head], *rest] if known[head] else rest) or name
        return name

    def _by_name(self, port: nn.Module, state: Mapping[str, mx.array]) -> dict[str, mx.array]:
        targets = _stored(port)
        used = {name: array for name, array in state.items() if not self._set_aside(name)}
        places = {name: self.place(port, name, array.ndim) for name, array in used.items()}
        constants = {
            name
            for name, array in used.items()
            if not mx.issubdtype(array.dtype, mx.floating) and places[name].name not in targets
        }
        places = {name: place for name, place in places.items() if name not in constants}
        _require(list(self._problems(targets, places, used)))
        self._seen.update({place.name: place for place in places.values()})
        return {place.name: mx.contiguous(used[name].transpose(place.axes)) for name, place in places.items()}

    def _set_aside(self, name: str) -> bool:
        patterns = self.reference_only
        named = any(re.search(pattern, name) for pattern in patterns)
        return named or set_aside_reason(name) is not None or _COUNTER.search(name) is not None

    def _problems(
        self, targets: Mapping[str, mx.array], places: Mapping[str, Place], used: Mapping[str, mx.array]
    ) -> Iterator[str]:
        claimed: dict[str, str] = {}
        for name, place in places.items():
            if place.name in claimed:
                yield f"{claimed[place.name]} and {name} both go to {place.name}"
            claimed.setdefault(place.name, name)
        wanted = {name for name in targets if not _matches(name, self.port_only)}
        yield from (f"missing {name}, which the port has" for name in sorted(wanted - claimed.keys()))
        for name, place in sorted(places.items()):
            if place.name not in targets:
                renamed = "" if place.name == name else f", called {place.name} in the port"
                yield f"left over {name}{renamed}{_twin(name, used)}"
                continue
            shape, wants = tuple(used[name].shape), tuple(targets[place.name].shape)
            if sorted(place.axes) != list(range(len(shape))):
                yield f"layout {place.axes} of {name} does not name each of its {len(shape)} axes once"
            elif tuple(shape[axis] for axis in place.axes) != wants:
                yield f"shape of {name} is {shape}, {place.name} of the port ({place.owner}) has {wants}"

    def _modules(self) -> dict[str, str]:
        """The reference's names of the port's modules that hold a tensor, and of those above them."""
        known: dict[str, str] = {}
        for place in self._seen.values():
            here, there = place.name.split(".")[:-1], place.source.split(".")[:-1]
            while here:
                known.setdefault(".".join(here), ".".join(there))
                if not there or here[-1] != there[-1]:
                    break
                here, there = here[:-1], there[:-1]
        return known


def _groups(state: Mapping[str, mx.array]) -> dict[str, tuple[str, ...]]:
    """Return, of every name, all names of its array, in order."""
    names: dict[int, tuple[str, ...]] = {}
    for name, array in state.items():
        names[id(array)] = (*names.get(id(array), ()), name)
    return {name: names[id(array)] for name, array in state.items()}


def _inside(port: nn.Module, name: str) -> tuple[str, nn.Module | None]:
    """Return the port's name, `layers` put in wherever a Sequential is passed, and the module that holds the array."""
    here: Any = port
    place: list[str] = []
    parts = name.split(".")
    for part in parts[:-1]:
        if isinstance(here, nn.Sequential) and part.isdigit():
            place.append("layers")
            here = here.layers
        place.append(part)
        here = _child(here, part)
    return ".".join([*place, parts[-1]]), here if isinstance(here, nn.Module) else None


def _child(here: Any, part: str) -> Any:
    if isinstance(here, list | tuple):
        return here[int(part)] if part.isdigit() and int(part) < len(here) else None
    return here.get(part) if isinstance(here, dict) else None


def _axes_of(owner: nn.Module | None, name: str, dimensions: int) -> tuple[int, ...]:
    if name.rpartition(".")[2] == "weight" and isinstance(owner, _CONVOLUTIONS):
        return (0, *range(2, dimensions), 1)
    if name.rpartition(".")[2] == "weight" and isinstance(owner, _TRANSPOSED):
        return (*range(1, dimensions), 0)
    return tuple(range(dimensions))


def _stored(port: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(port.parameters()))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _unfit(targets: Mapping[str, mx.array], found: Mapping[str, Any], own: Sequence[str]) -> Iterator[str]:
    """What is wrong with arrays that are under the port's names already."""
    wanted = {name for name in targets if not _matches(name, own)}
    yield from (f"missing {name}, which the port has" for name in sorted(wanted - found.keys()))
    yield from (f"left over {name}, which the port has not" for name in sorted(found.keys() - targets.keys()))
    for name in sorted(found.keys() & targets.keys()):
        if tuple(found[name].shape) != tuple(targets[name].shape):
            yield f"shape of {name} is {tuple(found[name].shape)}, the port has {tuple(targets[name].shape)}"


def _twin(name: str, used: Mapping[str, mx.array]) -> str:
    """Another name of the very same numbers: most likely a tied parameter."""
    for other, array in used.items():
        if other != name and array.shape == used[name].shape and array.size > 1 and mx.array_equal(array, used[name]):
            return f" (equal to {other}: if they are tied, name it in reference_only=)"
    return ""


def _require(problems: Sequence[str]) -> None:
    if problems:
        raise WeightsError(
            f"{len(problems)} problem(s) with the weights: {'; '.join(problems)}. They go across by name; renames=, "
            "layouts=, reference_only= and port_only= say what differs, or weights= does it all"
        )
