"""Blame forwards: reference and port advance together, and each pair of calls is judged and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import torch_from_numpy
from parity.backends.noise import perturbed, with_rounding
from parity.backends.port import on_device, port_device
from parity.backends.shifts import Noise, noise_of
from parity.backends.true_transforms import TrueTransforms
from parity.blame.forced import in_port, plain_arguments, rebuilt, relative, values_of
from parity.blame.links import Joint, Links, join
from parity.blame.signature import residual_signature
from parity.blame.table import CALL, BlameRow, BlameTable, largest
from parity.metrics import compare_special
from parity.spec.arrays import AnyArray, Array
from parity.spec.devices import Devices
from parity.spec.precision import RUNGS, Rung
from parity.tolerance import Factors, constant, propagated
from parity.trace.calls import Call, leaves
from parity.trace.mlx_capture import mlx_side
from parity.trace.together import advance_together
from parity.trace.torch_capture import torch_side

DRAWS: Final = 16
"""Perturbed runs of each module behind the allowance of its own error."""

Outputs = Mapping[str, AnyArray]


class Model(Protocol):
    """How a model's sides are run; a pair is one."""

    @property
    def call(self) -> Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]:
        """Runs either module on its inputs; returns named outputs."""

    @property
    def devices(self) -> Devices:
        """Where the port runs."""

    @property
    def factors(self) -> Factors:
        """By how much its device errs more than the table of tolerances says."""


class Explain(Protocol):
    """Says in words what a module with too large an error computes instead; empty if that is not known."""

    def __call__(self, module: str, run: Callable[[nn.Module], Array], truth: Array, made: Array) -> str:
        """Return the words.

        Args:
            module: Name of the reference's module.
            run: What the module of that name of another model makes of the same inputs.
            truth: What the reference made of them.
            made: What the port did.
        """


def trace_forward(
    model: Model,
    reference: nn.Module,
    port: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    links: Links,
    seed: int = 0,
    explain: Explain | None = None,
    on_row: Callable[[BlameRow], object] = bool,
) -> BlameTable:
    """Run both sides together and blame every paired call.

    Args:
        model: How either side is run.
        reference: The reference in float64.
        port: The port at `rung`, with the same weights.
        inputs: Their inputs.
        rung: Where the port runs.
        links: Which modules are judged against each other.
        seed: Of the perturbations behind the allowances.
        explain: Asked for words about every module whose own error is too large.
        on_row: Called with every row as soon as it is known.

    Raises:
        CaptureError: A side cannot be captured.
    """
    judge = _Judge(model, reference, port, rung, links, seed, explain, on_row)
    outputs: dict[str, Mapping[str, Any]] = {}

    def run_reference() -> None:
        with TrueTransforms():
            outputs["reference"] = model.call(reference, {n: torch_from_numpy(a, "float64") for n, a in inputs.items()})

    def run_port() -> None:
        outputs["port"] = model.call(port, {n: mlx_from_numpy(a, rung.dtype) for n, a in inputs.items()})

    with on_device(model.devices, rung):
        alone = advance_together(
            torch_side(reference, run_reference),
            mlx_side(port, run_port, device=port_device(model.devices, rung)),
            judge,
            links.names,
        )
        last = judge.outside(model, inputs, leaves(outputs["reference"]), leaves(outputs["port"]))
    rows = (*judge.rows, *((last,) if last is not None else ()))
    return BlameTable(rung.name, rows, *unpaired(links, alone.reference, alone.port))


def unpaired(links: Links, reference: Iterable[str], port: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the calls that were compared with nothing and should not be, and modules that nothing pairs."""
    aside = [{module.name for module in side} for side in (links.aside_reference, links.aside_port)]
    calls = [
        tuple(name for name in names if name.partition("#")[0] not in unneeded)
        for names, unneeded in zip((reference, port), aside, strict=True)
    ]
    never = [
        tuple(it.name for it in side if it.name not in {name.partition("#")[0] for name in named})
        for side, named in zip((links.unpaired_reference, links.unpaired_port), calls, strict=True)
    ]
    return (*calls[0], *never[0]), (*calls[1], *never[1])


class _Judge:
    """Judges pairs of calls as they come."""

    def __init__(
        self,
        model: Model,
        reference: nn.Module,
        port: mlx_nn.Module,
        rung: Rung,
        links: Links,
        seed: int,
        explain: Explain | None,
        on_row: Callable[[BlameRow], object],
    ) -> None:
        self.reference, self.port = dict(reference.named_modules()), dict(port.named_modules())
        self.rung, self.generator, self.on_row = rung, torch.Generator().manual_seed(seed), on_row
        self.links = {(link.reference, link.port): link for link in links.links}
        self.explain, self.factors = explain, model.factors
        self.rows: list[BlameRow] = []

    def __call__(self, reference: Call, port: Call) -> None:
        with torch.no_grad():
            row = self._row(reference, port)
        self.rows.append(row)
        self.on_row(row)

    def _row(self, reference: Call, port: Call) -> BlameRow:
        joint = join(self.links[reference.module, port.module], reference, port)
        given = {path: joint.to_port(path, values_of(reference.inputs[other])) for path, other in joint.paths.items()}
        arrays = {path: in_port(values, port.inputs[path]) for path, values in given.items()}
        rounded = {joint.paths[path]: joint.to_reference(path, _numbers(array)) for path, array in arrays.items()}
        theirs = {path: _numbers(port.inputs[path]) for path in joint.paths}
        plain = self._plain(reference, port)
        forced = joint.of_port(self._forced(port, {**arrays, **plain}))
        truth = joint.of_reference(self._truth(reference, rounded))
        own = compare_outputs(forced, truth, self._allowed(reference, rounded, joint, truth), self.rung)
        inherited = largest([_relative(theirs[path], given[path]) for path in joint.paths])
        actual = joint.of_port({path: _numbers(array) for path, array in port.outputs.items()})
        exact = joint.of_reference({path: values_of(t) for path, t in reference.outputs.items()})
        row = BlameRow(
            module=reference.name,
            port=port.name,
            kind=reference.kind,
            depth=reference.depth,
            inherited=inherited,
            own=own.error if joint.outputs is not None else float("nan"),
            ratio=own.ratio if joint.outputs is not None else float("nan"),
            gain=_gain(actual, forced, inherited),
            total=compare_outputs(actual, exact, None, self.rung).error,
            worst=own.worst,
            notes=(*joint.notes, *own.notes, *(f"the port gives it another {name}" for name in plain)),
            doubts=joint.doubts,
            aliases=reference.aliases,
        )
        return self._with_signature(row, reference, rounded, joint, forced, truth, given)

    def _plain(self, reference: Call, port: Call) -> dict[str, Any]:
        """The reference's plain arguments that the port's caller gives otherwise: that is not the module's error."""
        theirs = plain_arguments(reference, self.reference[reference.module].forward)
        module = self.port[port.module]
        ours = plain_arguments(port, type(module).__call__.__get__(module))
        return {name: value for name, value in theirs.items() if name in ours and ours[name] != value}

    def _forced(self, call: Call, arrays: Mapping[str, Any]) -> Outputs:
        """What the port's module makes of the reference's inputs."""
        module = self.port[call.module]
        args, kwargs = rebuilt(call, type(module).__call__.__get__(module), arrays)
        return {path: _numbers(array) for path, array in leaves(module(*args, **kwargs)).items()}

    def _truth(self, call: Call, values: Outputs) -> Outputs:
        """What the reference makes of the numbers that the port was given: rounded, at a coarse rung."""
        if self.rung.name == "f64":
            return {path: values_of(tensor) for path, tensor in call.outputs.items()}
        return {path: values_of(tensor) for path, tensor in leaves(self._run(call, values)).items()}

    def _run(self, call: Call, values: Outputs) -> Any:
        module = self.reference[call.module]
        args, kwargs = rebuilt(call, module.forward, {p: torch_from_numpy(v, "float64") for p, v in values.items()})
        with TrueTransforms():
            return module(*args, **kwargs)

    def _allowed(self, call: Call, values: Outputs, joint: Joint, truth: Outputs) -> Mapping[str, Noise]:
        """The error that rounding makes within the module, by perturbing every one of its operations."""
        runs = []
        for _ in range(DRAWS):
            with perturbed(self.reference[call.module], self.rung, self.generator, self.factors):
                result = self._run(call, values)
            runs.append(joint.of_reference({path: values_of(tensor) for path, tensor in leaves(result).items()}))
        return {
            path: noise_of([_float64(run[path]) for run in runs], _float64(exact), self.rung)
            for path, exact in truth.items()
        }

    def _with_signature(
        self,
        row: BlameRow,
        call: Call,
        values: Outputs,
        joint: Joint,
        made: Outputs,
        truth: Outputs,
        given: Mapping[str, AnyArray],
    ) -> BlameRow:
        """Say what the error of a row that exceeds looks like: another known meaning, else a simple operation."""
        if not row.exceeds or row.worst not in truth:
            return row
        port = next(iter(made.values())) if len(made) == 1 else made.get(row.worst)
        exact = truth[row.worst]
        if port is None or not np.issubdtype(exact.dtype, np.floating):
            return row

        def run(module: nn.Module) -> Array:
            args, kwargs = rebuilt(call, module.forward, {p: torch_from_numpy(v, "float64") for p, v in values.items()})
            return _float64(
                joint.of_reference({p: values_of(t) for p, t in leaves(module(*args, **kwargs)).items()})[row.worst]
            )

        known = ""
        if self.explain is not None and port.shape == exact.shape:
            known = self.explain(call.module, run, _float64(exact), _float64(port))
        inputs: dict[str, Array] = {p: _float64(v) for p, v in given.items() if np.issubdtype(v.dtype, np.floating)}
        return replace(row, signature=known or residual_signature(_float64(port), _float64(exact), inputs))

    def outside(
        self, model: Model, inputs: Outputs, reference: Mapping[str, Any], port: Mapping[str, Any]
    ) -> BlameRow | None:
        """A row for the call of the pair itself, where its outputs differ though no module errs.

        Where it calls the model itself once, hardly anything is left to it. Otherwise it has lines of its own between
        modules, and what rounding makes is found out as within a module.
        """
        if any(row.exceeds for row in self.rows):
            return None
        truth = {path: values_of(tensor) for path, tensor in reference.items()}
        made = {path: _numbers(array) for path, array in port.items()}
        roots = [row for row in self.rows if row.name == ""]
        if len(roots) == 1:
            found = compare_outputs(made, truth, None, self.rung)
            if not found.error > constant("outside") * self.rung.u * max(roots[0].total / self.rung.u, 1.0):
                return None
            found.ratio = float("inf")
        else:
            found = compare_outputs(made, truth, self._allowed_outside(model, inputs, truth), self.rung)
            if found.ratio <= 1:
                return None
        row = BlameRow(
            CALL, CALL, "what is called outside of modules", 0, 0.0, found.error, found.ratio, None, found.error
        )
        return replace(row, worst=found.worst, notes=tuple(found.notes))

    def _allowed_outside(self, model: Model, inputs: Outputs, truth: Outputs) -> Mapping[str, Noise]:
        runs = []
        for _ in range(DRAWS):
            given = {name: torch_from_numpy(array, "float64") for name, array in inputs.items()}
            with torch.no_grad(), perturbed(self.reference[""], self.rung, self.generator, self.factors):
                made = leaves(model.call(self.reference[""], given))
            runs.append({path: values_of(tensor) for path, tensor in made.items()})
        return {
            path: noise_of([_float64(run[path]) for run in runs], _float64(exact), self.rung)
            for path, exact in truth.items()
        }


class Comparison:
    """Error and ratio of that output of one call which exceeds its allowance most."""

    def __init__(self) -> None:
        self.error, self.ratio, self.worst = 0.0, 0.0, ""
        self.notes: list[str] = []

    def add(self, path: str, error: float, ratio: float) -> None:
        """Take in one output; the error is that of the output whose ratio is largest, of equal ones the largest."""
        error, ratio = largest([error]), largest([ratio])
        if not self.worst or (ratio, error) > (self.ratio, self.error):
            self.error, self.ratio, self.worst = error, ratio, path


def compare_outputs(made: Outputs, truth: Outputs, allowed: Mapping[str, Noise] | None, rung: Rung) -> Comparison:
    """Compare outputs by path; a single output on either side needs no path."""
    found = Comparison()
    if len(made) == len(truth) == 1:
        made = dict(zip(truth, made.values(), strict=True))
    for path, exact in truth.items():
        if path not in made:
            found.add(path, float("inf"), float("inf"))
            found.notes.append(f"the port gives no output {path or 'at all'}")
            continue
        error, ratio = _measured(made[path], exact, None if allowed is None else allowed[path], rung)
        found.add(path, error, ratio)
    empty = [path for path, exact in truth.items() if allowed is not None and not _comparable(exact)]
    if empty and found.ratio <= 1:
        found.error = found.ratio = float("nan")
    found.notes += [f"no element of {path or 'its output'} is finite, so nothing was compared" for path in empty]
    found.notes += [f"the port's output {path} has no counterpart" for path in made if path not in truth]
    if not truth:
        found.error = found.ratio = float("nan")
        found.notes.append("it gives out no tensor")
    return found


def _comparable(exact: AnyArray) -> bool:
    """Whether there is a number to compare, or nothing at all is right."""
    return not exact.size or not np.issubdtype(exact.dtype, np.floating) or bool(np.isfinite(exact).any())


def _measured(made: AnyArray, exact: AnyArray, noise: Noise | None, rung: Rung) -> tuple[float, float]:
    if made.shape != exact.shape:
        return float("inf"), float("inf")
    if not np.issubdtype(exact.dtype, np.floating):
        wrong = float(np.mean(made != exact)) if exact.size else 0.0
        return wrong, float("inf") if wrong else 0.0
    values, truth = np.asarray(made, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    if compare_special(values, truth, rung).fatal:
        return float("inf"), float("inf")
    finite = np.isfinite(truth) & np.isfinite(values)
    error, truth = values[finite] - truth[finite], truth[finite]
    if noise is None or not error.size:
        return relative(error, truth), 0.0
    expected = with_rounding(noise, truth, rung)
    limit = propagated(expected.rms, expected.maximum, rung, rung)
    rms, high = float(np.sqrt(np.mean(np.square(error)))), float(np.abs(error).max())
    return relative(error, truth), max(_over(rms, limit.rms), _over(high, limit.maximum))


def _over(error: float, allowed: float) -> float:
    if error == 0:
        return 0.0
    return error / allowed if allowed > 0 else float("inf")


def _gain(actual: Outputs, forced: Outputs, inherited: float) -> float | None:
    """How much larger, relatively, the change of the outputs is than that of the inputs."""
    if not 0 < inherited < float("inf") or actual.keys() != forced.keys():
        return None
    changes = [_relative(actual[path], forced[path]) for path in actual]
    return largest(changes) / inherited if changes else None


def _float64(values: AnyArray) -> Array:
    return np.asarray(values, dtype=np.float64)


def _relative(made: AnyArray, exact: AnyArray) -> float:
    return _measured(made, exact, None, RUNGS["f64"])[0]


def _numbers(array: mx.array) -> AnyArray:
    if mx.issubdtype(array.dtype, mx.floating):
        return numpy_from_mlx(array)[0]
    return np.asarray(array)
