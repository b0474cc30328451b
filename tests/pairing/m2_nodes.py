"""Both sides of M2-BERT's pairs as nodes, on one case, in float64."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import mlx.core as mx

from parity.backends.convert import mlx_from_numpy, torch_from_numpy
from parity.backends.nodes import observe_mlx, observe_torch
from parity.backends.port import build_port
from parity.backends.reference import build_reference, fill_reference, fresh_parameters, state_of
from parity.cases import Case, draw_inputs, draw_parameters
from parity.pairing import Node
from parity.pairs import Pair, Structure
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.spec.profile import load_profile


def nodes_of_pair(pair: Pair, structure: Structure, seed: int = 0) -> tuple[list[Node], list[Node]]:
    case = Case(pair.name, tuple(structure.items()), "normal", 0, seed, ("f64",))
    profile = load_profile("canonical")
    reference = build_reference(pair, structure, profile)
    fill_reference(reference, draw_parameters(pair, case, fresh_parameters(reference)))
    with mx.stream(mx.cpu):
        port = build_port(pair, structure, profile, RUNGS["f64"], state_of(reference))
        inputs = draw_inputs(pair, case)
        given: dict[str, Any] = {name: torch_from_numpy(array, "float64") for name, array in inputs.items()}
        taken: dict[str, Any] = {name: mlx_from_numpy(array, "float64") for name, array in inputs.items()}
        return (
            observe_torch(reference, lambda: pair.call(reference, given)).nodes,
            observe_mlx(port, lambda: pair.call(port, taken)).nodes,
        )


def scrambled(nodes: list[Node]) -> list[Node]:
    """The nodes with every part of every name replaced by a meaningless one; the tree stays."""

    def name_of(name: str) -> str:
        words = name.split(".") if name else []
        return ".".join(f"x{zlib.crc32('.'.join(words[: index + 1]).encode()):08x}" for index in range(len(words)))

    return [
        replace(node, name=name_of(node.name), aliases=tuple(name_of(alias) for alias in node.aliases))
        for node in nodes
    ]


def wrong_from(nodes: list[Node], order: int) -> list[Node]:
    """The nodes as if the module called as number `order` computed something else: all values from there on differ."""
    sound = {print_ for node in nodes if node.called and (node.order or 0) < order for print_ in node.prints.values()}

    def spoilt(node: Node) -> dict[str, Array]:
        return {
            path: values if node.prints[path] in sound else 0.7 * values - 0.4 for path, values in node.values.items()
        }

    return [replace(node, values=spoilt(node)) for node in nodes]
