"""Blame backwards: what each module makes of the reference's inputs and of the reference's cotangents.

The reference runs forward once and back once, with L = sum(y w) over its outputs. Then every call stands alone: the
vector-Jacobian product of the port's module at the reference's inputs and cotangents against the reference's own, for
inputs and for parameters. *Inherited* is the port's own cotangent at that place against the reference's: zeros are
added to every output of a module in the port, and their gradient is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from mlx.utils import tree_flatten, tree_unflatten
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import torch_from_numpy
from parity.backends.noise import perturbed
from parity.backends.port import on_device
from parity.backends.shifts import Noise, noise_of
from parity.backends.true_transforms import TrueTransforms
from parity.blame.forced import gradient_values, in_port, rebuilt, relative, values_of
from parity.blame.forward import DRAWS, Model, compare_outputs, unpaired
from parity.blame.links import Joint, Link, Links, join
from parity.blame.table import CALL, BlameRow, BlameTable, largest
from parity.errors import CaseError
from parity.metrics import compare_special
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import Rung
from parity.trace.calls import Call, leaves
from parity.trace.mlx_capture import capture_mlx
from parity.trace.tensor import call_name
from parity.trace.torch_capture import capture_torch

INPUT = "input "
"""Prefix of an input's gradient among those of parameters."""

MISPLACED: Final = "NaN or infinity where there should be none"
"""Beginning of the note of a call one of whose gradients has such a value: no choice of a derivative makes it."""


@dataclass
class _Pass:
    """One side's calls in the order in which they ended, cotangents by call and path, and shapes of the outputs."""

    calls: dict[str, Call] = field(default_factory=dict)
    cotangents: dict[str, dict[str, Array]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Weighted(Model, Protocol):
    """A model whose port's parameters have the reference's names as well; a pair is one."""

    @property
    def to_state(self) -> Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]:
        """Turns arrays under the port's names into a state dict of the reference."""


def trace_backward(
    model: Weighted,
    reference: nn.Module,
    port: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    links: Links,
    seed: int = 0,
    on_row: Callable[[BlameRow], object] = bool,
) -> BlameTable:
    """Blame every paired call for its gradients; arguments as those of `trace_forward`."""
    with on_device(model.devices, rung):
        theirs = _reference_pass(model, reference, inputs)
        ours = _port_pass(model, port, inputs, rung)
        judge = _Judge(model, reference, port, rung, seed)
        rows: list[BlameRow] = []
        met: set[str] = set()
        for name, call in reversed(theirs.calls.items()):
            for link in (link for link in links.links if link.reference == call.module):
                other = ours.calls.get(call_name(link.port, call.number))
                if other is None:
                    continue
                met |= {f"reference {name}", f"port {other.name}"}
                if name in theirs.cotangents:
                    found = ours.cotangents.get(other.name, {})
                    rows.append(judge.row(link, call, other, theirs.cotangents[name], found))
                    on_row(rows[-1])
        if sum(row.name == "" for row in rows) != 1 and not any(row.exceeds for row in rows):
            rows += judge.outside(inputs)
    alone = unpaired(
        links,
        [name for name in theirs.calls if f"reference {name}" not in met],
        [name for name in ours.calls if f"port {name}" not in met],
    )
    lacking = tuple(f"output {name}" for name, shape in theirs.outputs.items() if ours.outputs.get(name) != shape)
    return BlameTable(rung.name, tuple(rows), (*alone[0], *lacking), alone[1])


# --- both passes ------------------------------------------------------------------------------------------


def _weight(size: int, shape: tuple[int, ...]) -> Array:
    return np.linspace(-1, 1, size).reshape(shape)


def _torch_loss(outputs: Mapping[str, Any]) -> torch.Tensor:
    """Weigh all outputs together: one that were left out would leave what it alone needs without a cotangent."""
    parts = [
        (y * torch.from_numpy(_weight(y.numel(), tuple(y.shape)))).sum() for y in outputs.values() if y.requires_grad
    ]
    if not parts:
        raise CaseError(
            "no output of the reference has a gradient, nothing can be traced backwards: leave --backward out"
        )
    return torch.stack(parts).sum()


def _mlx_loss(outputs: Mapping[str, Any]) -> mx.array:
    parts = [
        mx.sum(y * mlx_from_numpy(_weight(y.size, tuple(y.shape)), "float64").astype(y.dtype, stream=mx.cpu))
        for y in outputs.values()
        if mx.issubdtype(y.dtype, mx.floating)
    ]
    return sum(parts[1:], parts[0])


def _reference_pass(model: Model, module: nn.Module, inputs: Mapping[str, AnyArray]) -> _Pass:
    found = _Pass()

    def keep(call: Call) -> None:
        found.calls[call.name] = call

    tensors = {name: torch_from_numpy(array, "float64") for name, array in inputs.items()}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.requires_grad_()
    with torch.enable_grad(), TrueTransforms(), capture_torch(module, keep, copies=False):
        outputs = model.call(module, tensors)
        loss = _torch_loss(outputs)
    found.outputs = {name: tuple(y.shape) for name, y in outputs.items() if y.is_floating_point()}
    places = [
        (name, path, tensor)
        for name, call in found.calls.items()
        for path, tensor in call.outputs.items()
        if tensor.requires_grad
    ]
    with TrueTransforms():
        grads = torch.autograd.grad(loss, [tensor for _, _, tensor in places], allow_unused=True)
    for (name, path, _), grad in zip(places, grads, strict=True):
        if grad is not None:
            found.cotangents.setdefault(name, {})[path] = gradient_values(grad)
    return found


def _port_pass(model: Model, module: mlx_nn.Module, inputs: Mapping[str, AnyArray], rung: Rung) -> _Pass:
    found = _Pass()

    def keep(call: Call) -> None:
        found.calls[call.name] = call

    arrays = {name: mlx_from_numpy(array, rung.dtype) for name, array in inputs.items()}
    with capture_mlx(module, keep, evaluate=True):
        outputs = model.call(module, arrays)
        found.outputs = {name: tuple(y.shape) for name, y in outputs.items() if mx.issubdtype(y.dtype, mx.floating)}
    zeros = {
        name: {path: mx.zeros_like(a) for path, a in call.outputs.items() if mx.issubdtype(a.dtype, mx.floating)}
        for name, call in found.calls.items()
    }

    def loss(added: Mapping[str, Mapping[str, mx.array]]) -> mx.array:
        with _adding(module, added):
            return _mlx_loss(model.call(module, arrays))

    grads = mx.grad(loss)({name: paths for name, paths in zeros.items() if paths})
    mx.eval(grads)
    found.cotangents = {
        name: {path: numpy_from_mlx(array)[0] for path, array in paths.items()} for name, paths in grads.items()
    }
    return found


@contextmanager
def _adding(model: mlx_nn.Module, added: Mapping[str, Mapping[str, mx.array]]) -> Iterator[None]:
    """Add arrays to the outputs of a tree's calls, by name and path, while the context lasts.

    The classes' `__call__` is replaced for a while, and told apart by identity: no capture can be in place meanwhile.
    """
    names = {}
    for name, part in model.named_modules():
        names[id(part)] = name
    first: dict[int, str] = {}
    for name, part in reversed(model.named_modules()):
        first.setdefault(id(part), name)
    names |= first
    calls: Counter[str] = Counter()
    running: set[int] = set()

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: mlx_nn.Module, *args: Any, **kwargs: Any) -> Any:
            if id(self) not in names or id(self) in running:
                return original(self, *args, **kwargs)
            calls[names[id(self)]] += 1
            name = call_name(names[id(self)], calls[names[id(self)]])
            running.add(id(self))
            try:
                return _plus(original(self, *args, **kwargs), "", added.get(name, {}))
            finally:
                running.discard(id(self))

        return call

    owners = {_owner(part) for part in model.modules()} - {None}
    originals = {owner: vars(owner)["__call__"] for owner in owners}
    try:
        for owner, original in originals.items():
            owner.__call__ = wrap(original)
        yield
    finally:
        for owner, original in originals.items():
            owner.__call__ = original


def _owner(module: mlx_nn.Module) -> Any:
    return next((cls for cls in type(module).__mro__ if "__call__" in vars(cls)), None)


def _plus(tree: Any, path: str, added: Mapping[str, mx.array]) -> Any:
    if isinstance(tree, mx.array):
        return tree + added[path] if path in added else tree
    inner = f"{path}." if path else ""
    if isinstance(tree, Mapping):
        return {key: _plus(part, f"{inner}{key}", added) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [_plus(part, f"{inner}{place}", added) for place, part in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


# --- one call alone ---------------------------------------------------------------------------------------


class _Judge:
    """Vector-Jacobian products of single modules."""

    def __init__(self, model: Weighted, reference: nn.Module, port: mlx_nn.Module, rung: Rung, seed: int) -> None:
        self.model, self.rung, self.root = model, rung, port
        self.reference, self.port = dict(reference.named_modules()), dict(port.named_modules())
        self.generator = torch.Generator().manual_seed(seed)
        trainable: dict[str, mx.array] = dict(tree_flatten(port.trainable_parameters()))
        # Of every parameter's name in the reference, aliases included, the port's; of a fused one, all.
        self.stored: dict[str, list[str]] = {}
        for stored, array in trainable.items():
            for name in model.to_state(port, {stored: array}):
                self.stored.setdefault(name, []).append(stored)

    def row(
        self, link: Link, call: Call, other: Call, cotangents: dict[str, Array], actual: dict[str, Array]
    ) -> BlameRow:
        """Judge one pair of calls."""
        joint = join(link, call, other)
        given = {path: joint.to_port(path, values_of(call.inputs[place])) for path, place in joint.paths.items()}
        arrays = {path: in_port(values, other.inputs[path]) for path, values in given.items()}
        rounded = {joint.paths[path]: joint.to_reference(path, _numbers(array)) for path, array in arrays.items()}
        theirs, ours = joint.cotangents(cotangents, {path: tuple(y.shape) for path, y in other.outputs.items()})
        made = self._port_gradients(call, other, arrays, ours, joint)
        truth = self._reference_gradients(call, rounded, theirs)
        unnamed = [name for name in truth if name not in made and not name.startswith(INPUT)]
        floats = [path for path, tensor in call.inputs.items() if tensor.is_floating_point()]
        lost = [INPUT + path for path in floats if path not in joint.paths.values()]
        runs = []
        for _ in range(DRAWS):
            with perturbed(self.reference[call.module], self.rung, self.generator, self.model.factors):
                runs.append(self._reference_gradients(call, rounded, theirs))
        truth = {name: exact for name, exact in truth.items() if name not in unnamed}
        allowed: dict[str, Noise] = {
            name: noise_of([run[name] for run in runs], exact, self.rung) for name, exact in truth.items()
        }
        own = compare_outputs(made, truth, allowed, self.rung)
        lost_numbers = [name for name in truth if name in made and _misplaced(made[name], truth[name], self.rung)]
        unused = {path: np.zeros(tuple(y.shape)) for path, y in call.outputs.items() if path not in cotangents}
        exact, found = joint.of_reference({**unused, **cotangents}), joint.of_port(actual)
        inherited = largest([relative(found[path] - exact[path], exact[path]) for path in exact if path in found])
        return BlameRow(
            module=call.name,
            port=other.name,
            kind=call.kind,
            depth=call.depth,
            inherited=inherited,
            own=own.error,
            ratio=own.ratio,
            gain=None,
            total=max(inherited, own.error),
            worst=own.worst,
            notes=(*joint.notes, *own.notes, *(f"{MISPLACED}: gradient of {name}" for name in lost_numbers)),
            doubts=joint.doubts,
            aliases=call.aliases,
            missing=(*unnamed, *lost),
        )

    def outside(self, inputs: Mapping[str, AnyArray]) -> list[BlameRow]:
        """A row for the pair's own call where it has lines between modules: gradients of the whole."""
        module, names = self.reference[""], [n for n, p in self.reference[""].named_parameters() if p.requires_grad]

        def reference() -> dict[str, Array]:
            given = {name: torch_from_numpy(array, "float64") for name, array in inputs.items()}
            floats = {name: tensor.requires_grad_() for name, tensor in given.items() if tensor.is_floating_point()}
            targets = [*floats.values(), *(p for _, p in module.named_parameters() if p.requires_grad)]
            with torch.enable_grad(), TrueTransforms():
                total = _torch_loss(self.model.call(module, given))
                found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(total, targets, allow_unused=True)
            return {
                name: gradient_values(torch.zeros_like(target) if grad is None else grad)
                for name, grad, target in zip([*(INPUT + it for it in floats), *names], found, targets, strict=True)
            }

        arrays = {name: mlx_from_numpy(array, self.rung.dtype) for name, array in inputs.items()}
        floats = {name: array for name, array in arrays.items() if mx.issubdtype(array.dtype, mx.floating)}
        start = self.root.trainable_parameters()

        def loss(parameters: Mapping[str, mx.array], given: Mapping[str, mx.array]) -> mx.array:
            self.root.update(tree_unflatten(list(parameters.items())))
            return _mlx_loss(self.model.call(self.root, {**arrays, **given}))

        by_parameter, by_input = mx.grad(loss, argnums=(0, 1))(dict(tree_flatten(start)), floats)
        self.root.update(start)
        mx.eval(by_parameter, by_input)
        by_name = self.model.to_state(self.root, by_parameter)
        made = {INPUT + name: numpy_from_mlx(array)[0] for name, array in by_input.items()}
        made |= {name: numpy_from_mlx(by_name[name])[0] for name in names if name in self.stored}
        exact = {name: values for name, values in reference().items() if name in made}
        runs = []
        for _ in range(DRAWS):
            with perturbed(module, self.rung, self.generator, self.model.factors):
                runs.append(reference())
        allowed = {name: noise_of([run[name] for run in runs], values, self.rung) for name, values in exact.items()}
        found = compare_outputs(made, exact, allowed, self.rung)
        if found.ratio <= 1:
            return []
        lost = [name for name in exact if _misplaced(made[name], exact[name], self.rung)]
        what = "what is called outside of modules"
        notes = (*found.notes, *(f"{MISPLACED}: gradient of {name}" for name in lost))
        return [BlameRow(CALL, CALL, what, 0, 0.0, found.error, found.ratio, None, found.error, found.worst, notes)]

    def _reference_gradients(
        self, call: Call, values: Mapping[str, AnyArray], cots: Mapping[str, Array]
    ) -> dict[str, Array]:
        module = self.reference[call.module]
        tensors = {path: torch_from_numpy(array, "float64") for path, array in values.items()}
        floats = {path: tensor.requires_grad_() for path, tensor in tensors.items() if tensor.is_floating_point()}
        own = {name: p for name, p in module.named_parameters() if p.requires_grad}
        with torch.enable_grad(), TrueTransforms():
            args, kwargs = rebuilt(call, module.forward, tensors)
            outputs = leaves(module(*args, **kwargs))
            loss = sum((outputs[path] * torch.from_numpy(np.ascontiguousarray(c))).sum() for path, c in cots.items())
            targets = [*floats.values(), *own.values()]
            found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(loss, targets, allow_unused=True)
        names = [*(INPUT + path for path in floats), *own]
        return {
            name: gradient_values(torch.zeros_like(target) if grad is None else grad)
            for name, grad, target in zip(names, found, targets, strict=True)
        }

    def _port_gradients(
        self,
        reference: Call,
        call: Call,
        arrays: Mapping[str, mx.array],
        cots: Mapping[str, Array],
        joint: Joint,
    ) -> dict[str, Array]:
        """Gradients under the reference's names: of inputs, and of parameters as the weights' table gives them.

        A parameter that modules share is stored in one of them: it is sought in the whole model.
        """
        module, function = self.port[call.module], type(self.port[call.module]).__call__
        start = self.root.trainable_parameters()
        flat = dict(tree_flatten(start))
        prefix = f"{reference.module}." if reference.module else ""
        wanted = {name: prefix + name for name, _ in self.reference[reference.module].named_parameters()}
        stored = {name: self.stored[full] for name, full in wanted.items() if full in self.stored}
        floats = {path: array for path, array in arrays.items() if mx.issubdtype(array.dtype, mx.floating)}

        def loss(parameters: Mapping[str, mx.array], given: Mapping[str, mx.array]) -> mx.array:
            self.root.update(tree_unflatten(list(parameters.items())))
            args, kwargs = rebuilt(call, function.__get__(module), {**arrays, **given})
            outputs = leaves(module(*args, **kwargs))
            parts = [
                mx.sum(outputs[path] * mlx_from_numpy(c, "float64").astype(outputs[path].dtype, stream=mx.cpu))
                for path, c in cots.items()
            ]
            return sum(parts[1:], parts[0])

        sought = {name: flat[name] for names in stored.values() for name in names}
        by_parameter, by_input = mx.grad(loss, argnums=(0, 1))(sought, floats)
        self.root.update(start)
        mx.eval(by_parameter, by_input)
        by_name = self.model.to_state(self.root, by_parameter)
        return {
            **{
                INPUT + joint.paths[path]: joint.to_reference(path, numpy_from_mlx(array)[0])
                for path, array in by_input.items()
                if path in joint.paths
            },
            **{name: numpy_from_mlx(by_name[wanted[name]])[0] for name in stored},
        }


def _misplaced(made: Array, exact: Array, rung: Rung) -> bool:
    return made.shape == exact.shape and compare_special(made, exact, rung).fatal


def _numbers(array: mx.array) -> AnyArray:
    return numpy_from_mlx(array)[0] if mx.issubdtype(array.dtype, mx.floating) else np.asarray(array)
