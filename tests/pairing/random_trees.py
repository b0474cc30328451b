"""Random trees of modules that compute: a reference, and ports of it under other names, levels, layouts and faults.

A tree is data. A leaf is a random linear map of channels followed by tanh, so its values depend on all that went before
it. A composite runs its parts one after the other and adds its input; a fan gives all of its parts its own input and
adds up what they give, as attention does with query, key and value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from parity.pairing import Layout, Node
from parity.pairing.layout import distance
from parity.spec.arrays import Array

LEAVES: Final = (("Linear", "Linear"), ("LayerNorm", "LayerNorm"), ("SiLUActivation", "SiLU"), ("Conv1d", "Conv1d"))
BLOCKS: Final = (("DecoderBlock", "DecoderBlock"), ("LlamaAttention", "Attention"), ("FeedForward", "MLP"))
OWN: Final = "own level"
BATCH, LENGTH, WIDTH = 2, 5, 6


@dataclass(frozen=True)
class Module:
    """A module of a tree.

    Args:
        name: Its name within what holds it.
        kind: Name of its class.
        identity: What it is in both trees; `OWN` for a level that only one of them has.
        parts: What it is made of; none for a leaf.
        seed: From which a leaf's weights are drawn.
        faulty: Whether they are drawn wrongly.
        channels_first: Whether its output lies as (b, d, l).
        wiring: `chain`, `fan`, or `plain` for a chain that does not add its input.
        fused: Leaves of which this one does the work, in the order of its columns.
    """

    name: str
    kind: str
    identity: str
    parts: tuple[Module, ...] = ()
    seed: int = 0
    faulty: bool = False
    channels_first: bool = False
    wiring: str = "chain"
    fused: tuple[Module, ...] = ()

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(part.identity for part in self.fused) or (self.identity,)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def random_tree(seed: int, depth: int = 3) -> Module:
    """A reference: one to four parts on each level, kinds and weights drawn, names by index."""
    rng = generator(seed)
    count = iter(range(10**6))

    def leaf(name: str, kind: str) -> Module:
        return Module(name, kind, f"m{next(count)}", seed=2 * int(rng.integers(2**30)))

    def grow(name: str, levels: int) -> Module:
        if levels == 0 or (levels < depth and rng.random() < 0.4):
            return leaf(name, LEAVES[rng.integers(len(LEAVES))][0])
        if levels < depth and rng.random() < 0.3:
            parts = tuple(leaf(f"part{index}", "Linear") for index in range(rng.integers(2, 5)))
            return Module(name, "SelfAttention", f"m{next(count)}", parts, wiring="fan")
        parts = tuple(grow(f"part{index}", levels - 1) for index in range(rng.integers(1, 5)))
        return Module(name, BLOCKS[rng.integers(len(BLOCKS))][0], f"m{next(count)}", parts)

    return grow("", depth)


def port_of(tree: Module, seed: int, shuffle: bool = True, fuse: bool = True) -> Module:
    """The same tree under random names, in the port's classes, convolutions channels-first, levels put in at random.

    Fans call their parts in another order (`shuffle`), or do all their work in one leaf (`fuse`), at random.
    """
    rng = generator(seed)
    kinds = dict((*LEAVES, *BLOCKS), SelfAttention="Attention")

    def name() -> str:
        return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 7))

    def turn(module: Module, top: bool) -> Module:
        parts = tuple(turn(part, False) for part in module.parts)
        if module.wiring == "fan" and shuffle:
            parts = tuple(parts[index] for index in rng.permutation(len(parts)))
        if module.wiring == "fan" and fuse and rng.random() < 0.5:
            leaves = tuple(part.parts[0] if part.identity == OWN else part for part in parts)
            parts = (Module(name(), "Linear", "fused", fused=leaves),)
        turned = replace(
            module,
            name="" if top else name(),
            kind=kinds[module.kind],
            parts=parts,
            channels_first=module.kind == "Conv1d",
        )
        return Module(name(), "Wrapper", OWN, (turned,), wiring="plain") if not top and rng.random() < 0.25 else turned

    turned = turn(tree, True)
    if rng.random() < 0.3:  # the model is the model: what lies right below it is the port's own level
        return Module("", "Model", turned.identity, (replace(turned, name=name(), identity=OWN),), wiring="plain")
    return turned


def with_fault(tree: Module, identity: str) -> Module:
    """The tree with the wrong weights in one leaf."""
    parts, fused = (tuple(with_fault(part, identity) for part in them) for them in (tree.parts, tree.fused))
    return replace(tree, parts=parts, fused=fused, faulty=tree.faulty or tree.identity == identity)


def leaves_of(tree: Module) -> list[str]:
    return [identity for part in tree.parts for identity in leaves_of(part)] if tree.parts else [tree.identity]


def call(module: Module, x: Array, note: Callable[[Module, str, Array, Array], None], path: str = "") -> Array:
    """Run a module; `note` hears of every call when it ends."""
    names = [f"{path}.{part.name}".lstrip(".") for part in module.parts]
    if module.wiring == "fan":
        made = [call(part, x, note, name) for part, name in zip(module.parts, names, strict=True)]
        y = np.sum([piece for array in made for piece in np.split(array, array.shape[-1] // WIDTH, axis=-1)], axis=0)
    elif module.parts:
        y = x
        for part, name in zip(module.parts, names, strict=True):
            y = call(part, y, note, name)
        y = y if module.wiring == "plain" else y + x
    else:
        y = np.concatenate([_leaf(part, x) for part in module.fused or (module,)], axis=-1)
    note(module, path, x, y)
    return y


def _leaf(module: Module, x: Array) -> Array:
    return np.asarray(np.tanh(x @ generator(module.seed + module.faulty).standard_normal((WIDTH, WIDTH))))


def _laid_out(module: Module, values: Array) -> Array:
    return np.moveaxis(values, 1, 2) if module.channels_first else values


@dataclass
class Run:
    """A tree's run: its nodes, and its modules by name."""

    nodes: list[Node] = field(default_factory=list)
    modules: dict[str, Module] = field(default_factory=dict)

    def note(self, module: Module, path: str, x: Array, y: Array) -> None:
        self.modules[path] = module
        held = not module.parts and not module.kind.startswith("SiLU")
        x, y = _laid_out(module, x), _laid_out(module, y)
        self.nodes.append(
            Node(
                name=path,
                kind=module.kind,
                parameters={"weight": (WIDTH, WIDTH * max(1, len(module.fused)))} if held else {},
                order=len(self.nodes),
                depth=path.count(".") + bool(path),
                input_shapes={"in[0]": x.shape},
                output_shapes={"out": y.shape},
                values={"in[0]": x, "out": y},
            )
        )


def run(tree: Module, seed: int = 0) -> Run:
    record = Run()
    call(tree, _inputs(seed), record.note)
    return record


def _inputs(seed: int) -> Array:
    return generator(seed).standard_normal((BATCH, LENGTH, WIDTH))


def settler(reference: Run, port: Run) -> Callable[[Node, Node, Layout], float]:
    """Runs two modules on fresh inputs, the same for both."""

    def settle(left: Node, right: Node, layout: Layout) -> float:
        modules = reference.modules[left.name], port.modules[right.name]
        made = [_laid_out(module, call(module, _inputs(1), lambda *_: None)) for module in modules]
        return distance(*layout.align(made[0], made[1]))

    return settle


def without_values(nodes: Sequence[Node]) -> list[Node]:
    return [replace(node, values={}) for node in nodes]


def expected(reference: Run, port: Run) -> set[tuple[str, str]]:
    """The right pairs, by name."""
    places = {identity: name for name, module in port.modules.items() for identity in module.identities}
    return {(name, places[module.identity]) for name, module in reference.modules.items()}
