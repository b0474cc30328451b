"""Which module of a port in the zoo errs: the blame table, modules paired by name where their calls look alike.

Each paired module of the port runs on the reference's own numbers (`parity.blame`), so that an error is charged to
whoever makes it. Modules of one name are no partners where one side calls them more often, or gives out other shapes
(a router that chooses experts as well, a projection applied step by step): what happens there belongs to the module
around them, as does what one side computes in no module at all, rotary angles in attention for example.

Two right models may share their work out otherwise: a factor on embeddings inside a module or behind it, a multiplier
folded into weights. So the port that is known to agree, that of the row's remedy, is blamed first: what errs there by
itself, though the logits are right, is no partner of its namesake.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import torch

from parity.backends.nodes import observe_mlx, observe_torch
from parity.backends.widened import widened_reference
from parity.blame import BlameRow, BlameTable, Link, Links, trace_forward
from parity.pairing import Node
from parity.spec.arrays import Array
from parity.spec.devices import ON_CPU
from parity.spec.precision import RUNGS, RungName
from parity.suites.zoo_sides import (
    NO_REMEDY,
    REFUSALS,
    Architecture,
    Exhibit,
    Remedy,
    built_port,
    port_logits,
    relative,
)
from parity.tolerance import NO_FACTORS, constant


@dataclass(frozen=True)
class Blamed:
    """A module of a port that errs by itself.

    Attributes:
        module: Its name in the port.
        verdict: `culprit`, or `wiring` where all its paired parts agree.
        own: Relative L2 error of what it makes of the reference's inputs.
        ratio: That error over what rounding inside the module allows.
        signature: What the error looks like.
    """

    module: str
    verdict: str
    own: float
    ratio: float
    signature: str

    def holds(self, ending: str) -> bool:
        """Whether it is the module that an ending of a name means, or one around it.

        Example:
            >>> attention = Blamed("model.layers.0.self_attn", "culprit", 0.1, 1e9, "")
            >>> attention.holds("self_attn.rope"), attention.holds("mlp")
            (True, False)
        """
        own, parts = self.module.split("."), ending.split(".")
        return any(own[-length:] == parts[:length] for length in range(1, len(parts) + 1))


def blame(
    architecture: Architecture,
    shown: Exhibit,
    rung: RungName,
    remedy: Remedy = NO_REMEDY,
    spoil: Callable[[Any], None] | None = None,
) -> tuple[Blamed, ...]:
    """Return the modules of a port that err by themselves, in the order in which they answered.

    Args:
        architecture: The row.
        shown: Its exhibit.
        rung: 'f64' for another meaning; 'f32' where the port agrees at f64 and loses bits at f32.
        remedy: What is changed on the way: the part of it without which no port is built.
        spoil: Changes the port after its weights are loaded.
    """
    apart = _shared_out_otherwise(architecture, shown, rung)
    table = blame_table(architecture, shown, rung, remedy, spoil, apart)
    return tuple(Blamed(_name(row), table.verdict(row), row.own, row.ratio, row.signature) for row in table.culprits)


def blame_table(
    architecture: Architecture,
    shown: Exhibit,
    rung: RungName,
    remedy: Remedy = NO_REMEDY,
    spoil: Callable[[Any], None] | None = None,
    apart: Collection[str] = (),
) -> BlameTable:
    """Return the whole table; arguments as those of `blame`, and the port's modules that are no partners."""
    inputs = {"tokens": shown.tokens}
    with ExitStack() as stack:
        stack.enter_context(widened_reference())
        stack.enter_context(_main_outputs(shown.exact))
        port, _ = stack.enter_context(built_port(architecture, shown, RUNGS[rung].dtype, remedy, spoil))
        partner = partners(
            observe_torch(
                shown.exact, lambda: _CALLS.call(shown.exact, {"tokens": torch.from_numpy(shown.tokens)})
            ).nodes,
            observe_mlx(port, lambda: _CALLS.call(port, {"tokens": mx.array(shown.tokens)})).nodes,
            architecture.renamed,
        )
        links = Links(tuple(Link(name, other) for name, other in partner.items() if other not in apart))
        return trace_forward(_CALLS, shown.exact, port, inputs, RUNGS[rung], links)


def partners(reference: Sequence[Node], port: Sequence[Node], renamed: Mapping[str, str]) -> dict[str, str]:
    """Return the port's module for each of the reference's that has its name and whose calls look like its own.

    Args:
        reference, port: The modules of either side, run once.
        renamed: Parts of the reference's names, and what they are called in the port.
    """
    ours = {node.name: node for node in port}
    found = {}
    for node in reference:
        other = ours.get(".".join(renamed.get(part, part) for part in node.name.split(".")))
        if other is not None and _alike(node, other):
            found[node.name] = other.name
    return found


def least_that_answers(architecture: Architecture, shown: Exhibit, remedy: Remedy) -> Remedy | None:
    """Return as much of a remedy as it takes for the port to be built and to answer; None if all of it does not do."""
    if _answer(architecture, shown, NO_REMEDY) is not None:
        return NO_REMEDY
    if _answer(architecture, shown, remedy) is None:
        return None
    for part in remedy.lessened():
        less = remedy.lessened()[part]
        if _answer(architecture, shown, less) is not None:
            remedy = less
    return remedy


def _shared_out_otherwise(architecture: Architecture, shown: Exhibit, rung: RungName) -> frozenset[str]:
    """Return the port's modules that err by themselves where the port as a whole is right; none if it is not."""
    remedy = NO_REMEDY if architecture.red is None else architecture.red.remedy
    logits = _answer(architecture, shown, remedy)
    if logits is None or not relative(logits, shown.truth) <= constant("zoo_float64"):
        return frozenset()
    return frozenset(_name(row) for row in blame_table(architecture, shown, rung, remedy).rows if row.exceeds)


def _answer(architecture: Architecture, shown: Exhibit, remedy: Remedy) -> Array | None:
    """Return the port's logits, None where it refuses."""
    try:
        return port_logits(architecture, shown, "float64", remedy)[0]
    except REFUSALS:
        return None


def _alike(reference: Node, port: Node) -> bool:
    """Whether two modules are called equally often, give out the same shapes and take the same first input."""
    given = next(iter(port.input_shapes.values()), None)
    return (
        0 < reference.calls == port.calls
        and sorted(reference.output_shapes.values()) == sorted(port.output_shapes.values())
        and given in reference.input_shapes.values()
    )


def _name(row: BlameRow) -> str:
    return row.port.partition("#")[0]


@dataclass(frozen=True)
class _Calls:
    """How either side is called."""

    devices, factors = ON_CPU, NO_FACTORS

    def call(self, module: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(module, torch.nn.Module):
            # Blame runs the reference in a thread of its own, and torch keeps such modes by thread.
            with widened_reference(), torch.no_grad():
                return {"logits": module(input_ids=inputs["tokens"], use_cache=False).logits}
        return {"logits": module(inputs["tokens"])}


_CALLS: Final = _Calls()


@contextmanager
def _main_outputs(model: torch.nn.Module) -> Iterator[None]:
    """Take what no port gives out, the weights of attention, off what attention answers."""

    def first_alone(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0], *(None for _ in output[1:])) if isinstance(output, tuple) else output

    handles = [
        module.register_forward_hook(first_alone)
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
