"""Which modules are judged against each other, and how their numbers lie on either side.

A port with the reference's tree needs its names alone. Any other is paired by `parity.pairing` after a run of both
sides: renamed, regrouped and fused modules find their partners, and layouts (channels first or last, heads split off)
come with them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from mlx import nn as mlx_nn
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import torch_from_numpy
from parity.backends.nodes import Observed, call_path, observe_mlx, observe_torch
from parity.backends.port import on_device
from parity.blame.forced import in_port, rebuilt, shared_inputs, values_of
from parity.pairing import Alone, Layout, Match, Node, Pairing, pair_trees
from parity.pairing.constants import number
from parity.pairing.layout import Number, candidates, distance
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import Rung
from parity.trace.calls import Call, leaves

Ways = Mapping[str, tuple[str, Layout]]
"""Of a port's inputs, by path, the reference's path and the layout."""


@dataclass(frozen=True)
class Link:
    """Two modules that stand for the same computation.

    Args:
        reference, port: Their names.
        inputs: Of the port's inputs, by path, the reference's path and the layout; what is missing goes by path and
            shape.
        outputs: Of the reference's outputs, by path, the port's path and the layout; empty where paths are the same.
        reason: Why they are partners.
        confidence: In (0, 1].
    """

    reference: str
    port: str
    inputs: Ways = field(default_factory=dict)
    outputs: Mapping[str, tuple[str, Layout]] = field(default_factory=dict)
    reason: str = "the same name"
    confidence: float = 1.0


@dataclass(frozen=True)
class Links:
    """All links of two models.

    Args:
        links: One for every two modules that are judged against each other; a fused module is in several.
        unpaired_reference, unpaired_port: Modules that should have a partner and have none, each with the reason.
        aside_reference, aside_port: Modules that need no partner, each with the reason.
    """

    links: tuple[Link, ...]
    unpaired_reference: tuple[Alone, ...] = ()
    unpaired_port: tuple[Alone, ...] = ()
    aside_reference: tuple[Alone, ...] = ()
    aside_port: tuple[Alone, ...] = ()

    @property
    def names(self) -> list[tuple[str, str]]:
        """Both names of every link."""
        return [(link.reference, link.port) for link in self.links]

    def of(self, reference: str, port: str) -> Link:
        """Return the link of two modules."""
        return next(link for link in self.links if (link.reference, link.port) == (reference, port))


def links_of_pair(
    pair: Pair,
    reference: nn.Module,
    port: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    seed: int = 0,
) -> Links:
    """Link by name where both trees are the same, else by pairing; arguments as those of `links_by_pairing`."""
    if pair.same_tree:
        return links_by_name(pair, reference, port)
    return links_by_pairing(pair, reference, port, inputs, rung, seed)


def links_by_name(pair: Pair, reference: nn.Module, port: mlx_nn.Module) -> Links:
    """Link the modules that the pair says have one name; the root is the root's partner."""
    names = {pair.tap_name(name): name for name, _ in reversed(port.named_modules()) if name}
    known = {"": ""} | {name: names[name] for name, _ in reference.named_modules() if name in names}
    return Links(tuple(Link(*both) for both in known.items()))


def links_by_pairing(
    pair: Pair,
    reference: nn.Module,
    port: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    seed: int = 0,
) -> Links:
    """Run both sides once and link what `parity.pairing` pairs: names first, then evidence.

    Args:
        pair: The pair: how a module is called, and its names.
        reference: The reference in float64.
        port: The port at `rung`, with the same weights.
        inputs: Their inputs.
        rung: Where the port runs.
        seed: Of fresh inputs, where only a run can tell layouts or siblings apart.

    Raises:
        CaptureError: A side cannot be captured.
        PairingError: The names that the pair gives contradict each other.
    """
    given = {name: torch_from_numpy(array, "float64") for name, array in inputs.items()}
    arrays = {name: mlx_from_numpy(array, rung.dtype) for name, array in inputs.items()}
    with on_device(pair.devices, rung):
        theirs = observe_torch(reference, lambda: pair.call(reference, given))
        ours = observe_mlx(port, lambda: pair.call(port, arrays))
        settle = _Settle(theirs, ours, dict(reference.named_modules()), dict(port.named_modules()), seed)
        pairing = pair_trees(theirs.nodes, ours.nodes, _renames(pair, theirs, ours), settle)
        return _with_inlined(_with_settled_inputs(links_of(pairing), settle), pair.inlined)


def links_of(pairing: Pairing) -> Links:
    """Return the links that a pairing has found."""
    return Links(
        tuple(_link(match) for match in pairing.matches),
        pairing.unpaired_reference,
        pairing.unpaired_port,
        pairing.aside_reference,
        pairing.aside_port,
    )


def _link(match: Match) -> Link:
    inputs = {
        call_path(other): (call_path(one), layout)
        for (one, other), layout in match.layouts.items()
        if _is_input(one) and _is_input(other)
    }
    outputs = {
        call_path(one): (call_path(other), layout)
        for (one, other), layout in match.layouts.items()
        if not _is_input(one) and not _is_input(other)
    }
    return Link(match.reference, match.port, inputs, outputs, match.reason, match.confidence)


def _with_inlined(links: Links, patterns: Sequence[str]) -> Links:
    """Set modules aside that the pair says the other side computes without one."""

    def parted(unpaired: Sequence[Alone]) -> tuple[tuple[Alone, ...], tuple[Alone, ...]]:
        named = [it for it in unpaired if any(re.search(pattern, it.name) for pattern in patterns)]
        reason = "inlined= says so: judged as a part of what is around it"
        return tuple(it for it in unpaired if it not in named), tuple(Alone(it.name, reason) for it in named)

    reference, port = parted(links.unpaired_reference), parted(links.unpaired_port)
    return replace(
        links,
        unpaired_reference=reference[0],
        unpaired_port=port[0],
        aside_reference=(*links.aside_reference, *reference[1]),
        aside_port=(*links.aside_port, *port[1]),
    )


def _with_settled_inputs(links: Links, settle: _Settle) -> Links:
    """Find out by a run how inputs lie whose values differ, since something before them is wrong."""
    return replace(links, links=tuple(replace(it, inputs=settle.inputs(it) or it.inputs) for it in links.links))


def _is_input(path: str) -> bool:
    return path.partition(".")[0] == "in"


def _renames(pair: Pair, reference: Observed, port: Observed) -> list[tuple[str, str]]:
    """What the pair's own table says of names that differ, as exact patterns."""
    known = {node.name for node in reference.nodes}
    said = {node.name: pair.tap_name(node.name) for node in port.nodes if node.name}
    taken = {there for here, there in said.items() if here == there}
    found = {there: here for here, there in said.items() if there != here and there in known - taken}
    return [(f"^{re.escape(there)}$", here.replace("\\", r"\\")) for there, here in found.items()]


# --- layouts where modules meet ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Joint:
    """Two calls that are judged against each other: whose input is whose, and how numbers go across.

    Args:
        paths: Of every input of the port the path of the reference's.
        layouts: Of those inputs of the port that lie otherwise, how.
        outputs: As in `Link`, fitted to the shapes of these calls; None where nothing fits them.
        notes: Inputs and outputs that are only one side's.
        doubts: Outputs of one name that are another's on the other side, or have another shape there. That is a
            fault only if the caller does not expect it.
    """

    paths: Mapping[str, str]
    layouts: Mapping[str, Layout]
    outputs: Mapping[str, tuple[str, Layout]] | None
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()

    def to_port(self, path: str, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return the reference's numbers in the layout of the port's input `path`."""
        return self.layouts[path].apply(values) if path in self.layouts else values

    def to_reference(self, path: str, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Return the numbers of the port's input `path` in the reference's layout."""
        return self.layouts[path].inverse().apply(values) if path in self.layouts else values

    def of_reference(self, outputs: Mapping[str, npt.NDArray[Number]]) -> dict[str, npt.NDArray[Number]]:
        """Return those of the reference's outputs that the port has, in the port's layout."""
        if not self.outputs:
            return dict(outputs)
        return {path: layout.of_reference(outputs[path]) for path, (_, layout) in self.outputs.items()}

    def of_port(self, outputs: Mapping[str, npt.NDArray[Number]]) -> dict[str, npt.NDArray[Number]]:
        """Return the port's outputs, or its slices, under the reference's paths."""
        if not self.outputs:
            return dict(outputs)
        return {
            path: layout.of_port(outputs[other]) for path, (other, layout) in self.outputs.items() if other in outputs
        }

    def cotangents(
        self, wanted: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return cotangents of the reference's outputs as either side takes them: where fused, those of the slice.

        Args:
            wanted: Cotangents by the reference's path.
            shapes: Shapes of the port's outputs.
        """
        if not self.outputs:
            only = len(wanted) == len(shapes) == 1
            return dict(wanted), dict(zip(shapes, wanted.values(), strict=True)) if only else dict(wanted)
        theirs, ours = dict[str, Array](), dict[str, Array]()
        for path, (other, layout) in self.outputs.items():
            if path not in wanted:
                continue
            part, moved = layout.part, layout.of_reference(wanted[path])
            theirs[path] = wanted[path]
            ours[other] = moved
            if part is not None and part.fused == "reference":
                theirs[path] = part.put(part.take(wanted[path]), wanted[path].shape)
            elif part is not None:
                ours[other] = part.put(moved, shapes[other])
        return theirs, ours


def join(link: Link, reference: Call, port: Call) -> Joint:
    """Return how the numbers of two calls go across."""
    paths, layouts = dict[str, str](), dict[str, Layout]()
    for path, (other, layout) in link.inputs.items():
        if path in port.inputs and other in reference.inputs:
            fitted = layout.fitted(tuple(reference.inputs[other].shape), tuple(port.inputs[path].shape))
            if fitted is not None:
                paths[path] = other
                if not fitted.is_identity:
                    layouts[path] = fitted
    shared = shared_inputs(reference, port, paths)
    fitted_outputs = _fitted(link, reference, port)
    if fitted_outputs is None:
        notes = (*shared.notes, "its outputs have other shapes than in its first call")
        return Joint(shared.paths, layouts, None, notes)
    if not fitted_outputs:
        return Joint(shared.paths, layouts, {}, shared.notes)
    notes, doubts = _of_outputs({path: other for path, (other, _) in fitted_outputs.items()}, reference, port)
    return Joint(shared.paths, layouts, fitted_outputs, (*shared.notes, *notes), doubts)


def _of_outputs(taken: Mapping[str, str], reference: Call, port: Call) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What to note of outputs without a partner, and what to doubt of outputs that share a name and nothing else.

    Args:
        taken: Of the reference's outputs, by path, the port's.
        reference, port: The calls.
    """
    here = [path for path in reference.outputs if path not in taken]
    there = [path for path in port.outputs if path not in taken.values()]
    notes = [f"its output {path} has no counterpart in the port" for path in here if path not in there]
    notes += [f"the port's output {path} has no counterpart" for path in there if path not in here]
    doubts = [
        f"its output {path} is the port's output {other}"
        for path, other in taken.items()
        if path != other and path in port.outputs and other in reference.outputs
    ]
    shapes = {
        path: (tuple(reference.outputs[path].shape), tuple(port.outputs[path].shape)) for path in here if path in there
    }
    doubts += [f"its output {path} has shape {one}, the port's {other}" for path, (one, other) in shapes.items()]
    return tuple(notes), tuple(doubts)


def _fitted(link: Link, reference: Call, port: Call) -> Mapping[str, tuple[str, Layout]] | None:
    found = {}
    for path, (other, layout) in link.outputs.items():
        if path not in reference.outputs or other not in port.outputs:
            return None
        fitted = layout.fitted(tuple(reference.outputs[path].shape), tuple(port.outputs[other].shape))
        if fitted is None:
            return None
        found[path] = (other, fitted)
    return found


# --- a run on fresh inputs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settle:
    """Runs two modules on the same fresh inputs, in the arguments of their first calls."""

    reference: Observed
    port: Observed
    reference_modules: Mapping[str, Any]
    port_modules: Mapping[str, Any]
    seed: int

    def __call__(self, left: Node, right: Node, layout: Layout) -> float:
        """Return the smallest distance of the main outputs over the ways in which the inputs can lie."""
        one, other = self.reference.calls[left.name], self.port.calls[right.name]
        truth = self._reference_output(one)
        if truth is None:
            return math.inf
        return min((self._distance(truth, one, other, way, layout) for way in self._ways(one, other)), default=math.inf)

    def inputs(self, link: Link) -> Ways | None:
        """Return how the inputs of two modules lie if their values do not tell and a run does."""
        one, other = self.reference.calls.get(link.reference), self.port.calls.get(link.port)
        if one is None or other is None or self._told_by_values(link, one, other):
            return None
        layout = next((layout for _, layout in link.outputs.values()), None)
        truth = self._reference_output(one)
        ways = list(self._ways(one, other))
        if layout is None or truth is None or len(ways) < 2:
            return None
        found = [self._distance(truth, one, other, way, layout) for way in ways]
        best = int(np.argmin(found))
        return ways[best] if found[best] <= number("agree") else None

    def _told_by_values(self, link: Link, one: Call, other: Call) -> bool:
        return all(
            distance(*layout.align(_float64(one.inputs[there]), numpy_from_mlx(other.inputs[here])[0]))
            <= number("agree")
            for here, (there, layout) in link.inputs.items()
        )

    def _fresh(self, call: Call) -> dict[str, AnyArray]:
        generator = np.random.Generator(np.random.Philox(self.seed))
        found: dict[str, AnyArray] = {}
        for path, tensor in call.inputs.items():
            values = values_of(tensor)
            floating = np.issubdtype(values.dtype, np.floating)
            found[path] = generator.standard_normal(values.shape) if floating else generator.permuted(values)
        return found

    def _reference_output(self, call: Call) -> Array | None:
        module = self.reference_modules[call.module]
        tensors = {path: torch_from_numpy(values, "float64") for path, values in self._fresh(call).items()}
        args, kwargs = rebuilt(call, module.forward, tensors)
        with torch.no_grad():
            made = leaves(module(*args, **kwargs))
        return next((_float64(tensor) for tensor in made.values()), None)

    def _ways(self, one: Call, other: Call) -> Iterator[Ways]:
        shapes = {path: tuple(tensor.shape) for path, tensor in one.inputs.items()}
        paths = shared_inputs(one, other, {}).paths
        missing = [path for path in other.inputs if path not in paths]
        unused = [path for path in shapes if path not in paths.values()]
        paths = {**paths, **dict(zip(missing, unused, strict=False))}
        each = [candidates(shapes[there], tuple(other.inputs[here].shape)) for here, there in paths.items()]
        for layouts in itertools.islice(itertools.product(*each), _WAYS):
            yield {here: (there, layout) for (here, there), layout in zip(paths.items(), layouts, strict=True)}

    def _distance(self, truth: Array, one: Call, other: Call, way: Ways, layout: Layout) -> float:
        module, fresh = self.port_modules[other.module], self._fresh(one)
        arrays = {here: in_port(how.apply(fresh[there]), other.inputs[here]) for here, (there, how) in way.items()}
        args, kwargs = rebuilt(other, type(module).__call__.__get__(module), arrays)
        made = leaves(module(*args, **kwargs))
        ours = next((numpy_from_mlx(array)[0] for array in made.values()), None)
        if ours is None or layout.fitted(truth.shape, ours.shape) is not layout:
            return math.inf
        return distance(*layout.align(truth, ours))


def _float64(tensor: Any) -> Array:
    return np.asarray(values_of(tensor), dtype=np.float64)


_WAYS: Final = 24
"""Ways in which the inputs can lie that are tried."""
