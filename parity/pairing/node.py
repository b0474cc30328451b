"""What pairing knows of a module, and the tree that modules form by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from parity.errors import PairingError
from parity.pairing.kinds import family_of
from parity.spec.arrays import Array

Shape = tuple[int, ...]
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Node:
    """One module of either side, as a run has shown it.

    Args:
        name: Dotted name within the model; empty for the model itself.
        kind: Name of its class.
        parameters: Shapes of its own parameters, those of its parts left out.
        calls: How often it was called.
        order: Place in the order in which first calls ended; None if never called.
        depth: Number of names in `name`.
        input_shapes: Shapes of the first call's inputs by path, `in[0]`, `in.mask`; the main one first.
        output_shapes: Shapes of the first call's outputs by path, `out`, `out[0]`, `out.logits`; the main one first.
        values: Values of the first call by path, inputs and outputs; may be empty, or lack some.
        aliases: Other names of the same module.
    """

    name: str
    kind: str
    parameters: Mapping[str, Shape] = field(default_factory=dict)
    calls: int = 1
    order: int | None = None
    depth: int = 0
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    output_shapes: Mapping[str, Shape] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.calls > 0) != (self.order is not None):
            raise PairingError(
                f"module {self.name!r} was called {self.calls} time(s) and has order {self.order}; "
                "give an order to those that were called, and None to the others"
            )
        shapes = {**self.input_shapes, **self.output_shapes}
        for path, values in self.values.items():
            if shapes.get(path) != values.shape:
                raise PairingError(
                    f"values of {path} of module {self.name!r} have shape {values.shape}, "
                    f"its inputs and outputs are {shapes}; give every array under a path of its own shape"
                )

    @property
    def called(self) -> bool:
        """Whether it was called at all."""
        return self.calls > 0

    @property
    def last_name(self) -> str:
        """The last part of its name."""
        return self.name.rpartition(".")[2]

    @cached_property
    def prints(self) -> Mapping[str, str]:
        """Digests of the values, which do not depend on the order of an array's elements."""
        return {path: _digest(values) for path, values in self.values.items()}

    @cached_property
    def ranked(self) -> Mapping[str, Array]:
        """The values of each array, sorted: no layout brings two arrays closer than these are."""
        return {path: np.sort(values, axis=None) for path, values in self.values.items()}


def _digest(values: Array) -> str:
    # Adding 0 makes -0 and 0 one: a module that moves axes may not keep the sign of zeros apart.
    return hashlib.sha256((np.sort(values, axis=None) + 0.0).tobytes()).hexdigest()


@dataclass(frozen=True)
class Tree:
    """One side's modules.

    Args:
        nodes: All of them, by name.
        called: Those that were called, children before their parent, siblings in the order of their calls.
        parents: The nearest called module above each module, by name; None where there is none.
        children: The called modules right below each called module, containers that were never called left out.
        shells: Called modules that give out what one of their parts gives, as far as values show.
        sources: The family of the layer whose output each module takes in, as far as values show; `UNKNOWN` for a class
            that is in no family, None where no layer is seen.
        sinks: The same of the first layer that takes in each module's output.
    """

    nodes: Mapping[str, Node]
    called: tuple[Node, ...]
    parents: Mapping[str, str | None]
    children: Mapping[str | None, tuple[str, ...]]
    shells: frozenset[str]
    sources: Mapping[str, str | None]
    sinks: Mapping[str, str | None]

    def above(self, name: str) -> Iterable[str]:
        """Yield the called modules above `name`, the nearest first."""
        parent = self.parents[name]
        while parent is not None:
            yield parent
            parent = self.parents[parent]


def tree_of(nodes: Sequence[Node], kinds: Sequence[tuple[str, str]], side: str) -> Tree:
    """Build the tree of one side.

    Raises:
        PairingError: Two modules have one name.
    """
    by_name = {node.name: node for node in nodes}
    if len(by_name) < len(nodes):
        names = [node.name for node in nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise PairingError(f"the {side} lists {', '.join(map(repr, twice))} more than once; give each module one node")
    parents = {name: _parent(name, by_name) for name in by_name}
    children: dict[str | None, list[Node]] = {}
    for name, parent in parents.items():
        if by_name[name].called:
            children.setdefault(parent, []).append(by_name[name])
    named = {
        parent: tuple(node.name for node in sorted(parts, key=lambda node: (node.order or 0, node.name)))
        for parent, parts in children.items()
    }
    called = tuple(by_name[name] for name in _postorder(None, named))
    return Tree(by_name, called, parents, named, _shells(by_name, named), *_flow(called, named, kinds))


def _parent(name: str, nodes: Mapping[str, Node]) -> str | None:
    while name:
        name = name.rpartition(".")[0]
        if name in nodes and nodes[name].called:
            return name
    return None


def _postorder(top: str | None, children: Mapping[str | None, tuple[str, ...]]) -> list[str]:
    found: list[str] = []
    for name in children.get(top, ()):
        found += [*_postorder(name, children), name]
    return found


def _shells(nodes: Mapping[str, Node], children: Mapping[str | None, tuple[str, ...]]) -> frozenset[str]:
    made = {name: set(_prints(node, node.output_shapes)) for name, node in nodes.items()}
    below = {name: set().union(*(made[part] for part in children.get(name, ()))) for name in nodes}
    return frozenset(name for name in nodes if made[name] & below[name])


def _flow(
    called: Sequence[Node], children: Mapping[str | None, tuple[str, ...]], kinds: Sequence[tuple[str, str]]
) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Which types of layers stand before and behind each module: data flow is the same on both sides, faults or not.

    Layers are seen behind moved axes and split heads as well, since prints do not depend on the order of elements.
    """
    makers: dict[str, str] = {}
    takers: dict[str, str] = {}
    for node in sorted(called, key=lambda node: node.order or 0):
        given, made = _prints(node, node.input_shapes), _prints(node, node.output_shapes)
        if node.name in children or set(given) & set(made):  # what holds others, or changes nothing, is no layer
            continue
        family = family_of(node.kind, kinds) or UNKNOWN
        for print_ in made:
            makers.setdefault(print_, family)
        for print_ in given:
            takers.setdefault(print_, family)
    return (
        {node.name: _first(makers, _prints(node, node.input_shapes)) for node in called},
        {node.name: _first(takers, _prints(node, node.output_shapes)) for node in called},
    )


def _first(families: Mapping[str, str], prints: Sequence[str]) -> str | None:
    return families.get(prints[0]) if prints else None


def _prints(node: Node, paths: Iterable[str]) -> list[str]:
    return [node.prints[path] for path in paths if path in node.prints]
