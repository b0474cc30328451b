"""Blame forwards: reference and port advance together, and each pair of calls is judged and dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from torch import nn

from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import torch_from_numpy
from parity.backends.noise import Noise, noise_of, perturbed, with_rounding
from parity.blame.forced import Shared, in_port, rebuilt, relative, shared_inputs, values_of
from parity.blame.signature import residual_signature
from parity.blame.table import CALL, BlameRow, BlameTable, largest
from parity.metrics import compare_special
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS, Rung
from parity.tolerance import propagated
from parity.trace.calls import Call, leaves
from parity.trace.mlx_capture import mlx_side
from parity.trace.together import advance_together
from parity.trace.torch_capture import torch_side

DRAWS: Final = 16
"""Perturbed runs of each module behind the allowance of its own error."""

Outputs = Mapping[str, AnyArray]


def partners(pair: Pair, reference: nn.Module, port: mlx_nn.Module) -> dict[str, str]:
    """Return the port's module for each of the reference's, by the pair's names; the root is the root's."""
    names = {pair.tap_name(name): name for name, _ in reversed(port.named_modules()) if name}
    return {"": ""} | {name: names[name] for name, _ in reference.named_modules() if name in names}


def trace_forward(
    pair: Pair,
    reference: nn.Module,
    port: mlx_nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    seed: int = 0,
    partner: Mapping[str, str] | None = None,
    on_row: Callable[[BlameRow], object] = bool,
) -> BlameTable:
    """Run both sides together and blame every paired call.

    Args:
        pair: The pair: how a module is called, and its names.
        reference: The reference in float64.
        port: The port at `rung`, with the same weights.
        inputs: Their inputs.
        rung: Where the port runs.
        seed: Of the perturbations behind the allowances.
        partner: The port's module for each of the reference's; by the pair's names if not given.
        on_row: Called with every row as soon as it is known.

    Raises:
        CaptureError: A side cannot be captured.
    """
    known = partners(pair, reference, port) if partner is None else dict(partner)
    judge = _Judge(reference, port, rung, seed, on_row)
    outputs: dict[str, Mapping[str, Any]] = {}

    def run_reference() -> None:
        outputs["reference"] = pair.call(reference, {n: torch_from_numpy(a, "float64") for n, a in inputs.items()})

    def run_port() -> None:
        outputs["port"] = pair.call(port, {n: mlx_from_numpy(a, rung.dtype) for n, a in inputs.items()})

    with mx.stream(mx.cpu):
        unmatched = advance_together(torch_side(reference, run_reference), mlx_side(port, run_port), judge, known)
        last = judge.outside(leaves(outputs["reference"]), leaves(outputs["port"]))
    rows = (*judge.rows, *((last,) if last is not None else ()))
    return BlameTable(rung.name, rows, unmatched.reference, unmatched.port)


class _Judge:
    """Judges pairs of calls as they come."""

    def __init__(
        self, reference: nn.Module, port: mlx_nn.Module, rung: Rung, seed: int, on_row: Callable[[BlameRow], object]
    ) -> None:
        self.reference, self.port = dict(reference.named_modules()), dict(port.named_modules())
        self.rung, self.generator, self.on_row = rung, torch.Generator().manual_seed(seed), on_row
        self.rows: list[BlameRow] = []

    def __call__(self, reference: Call, port: Call) -> None:
        with torch.no_grad():
            row = self._row(reference, port)
        self.rows.append(row)
        self.on_row(row)

    def _row(self, reference: Call, port: Call) -> BlameRow:
        shared = shared_inputs(reference, port)
        given = {path: values_of(reference.inputs[other]) for path, other in shared.paths.items()}
        arrays = {path: in_port(values, port.inputs[path]) for path, values in given.items()}
        theirs = {path: _numbers(port.inputs[path]) for path in shared.paths}
        forced = self._forced(port, arrays)
        truth = self._truth(reference, {shared.paths[path]: _numbers(array) for path, array in arrays.items()})
        own = compare_outputs(forced, truth, self._allowed(reference, shared, arrays, truth), self.rung)
        inherited = largest([_relative(theirs[path], given[path]) for path in shared.paths])
        actual = {path: _numbers(array) for path, array in port.outputs.items()}
        total = compare_outputs(actual, {path: values_of(t) for path, t in reference.outputs.items()}, None, self.rung)
        row = BlameRow(
            module=reference.name,
            port=port.name,
            kind=reference.kind,
            depth=reference.depth,
            inherited=inherited,
            own=own.error,
            ratio=own.ratio,
            gain=_gain(actual, forced, inherited),
            total=total.error,
            worst=own.worst,
            notes=(*shared.notes, *own.notes),
            aliases=reference.aliases,
        )
        return _with_signature(row, forced, truth, given)

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
        return module(*args, **kwargs)

    def _allowed(self, call: Call, shared: Shared, arrays: Mapping[str, Any], truth: Outputs) -> Mapping[str, Noise]:
        """The error that rounding makes within the module, by perturbing every one of its operations."""
        values = {shared.paths[path]: _numbers(array) for path, array in arrays.items()}
        runs = []
        for _ in range(DRAWS):
            with perturbed(self.reference[call.module], self.rung, self.generator):
                result = self._run(call, values)
            runs.append({path: values_of(tensor) for path, tensor in leaves(result).items()})
        return {
            path: noise_of([_float64(run[path]) for run in runs], _float64(exact), self.rung)
            for path, exact in truth.items()
        }

    def outside(self, reference: Mapping[str, Any], port: Mapping[str, Any]) -> BlameRow | None:
        """A row for the call of the pair itself, where its outputs differ though no module errs."""
        if any(row.exceeds for row in self.rows):
            return None
        truth = {path: values_of(tensor) for path, tensor in reference.items()}
        made = {path: _numbers(array) for path, array in port.items()}
        found = compare_outputs(made, truth, None, self.rung)
        beyond = found.error > OUTSIDE * self.rung.u * max(self._loudest, 1.0)
        if not beyond:
            return None
        row = BlameRow(
            CALL, CALL, "what is called outside of modules", 0, 0.0, found.error, float("inf"), None, found.error
        )
        return replace(row, worst=found.worst, notes=tuple(found.notes))

    @property
    def _loudest(self) -> float:
        """The largest error that any module gave out, in units of u."""
        return max((row.total / self.rung.u for row in self.rows), default=0.0)


OUTSIDE: Final = 100.0
"""Factor on the largest error inside that what is done outside of all modules may add: sums, a loss, a slice."""


class Comparison:
    """Error and ratio over the outputs of one call."""

    def __init__(self) -> None:
        self.error, self.ratio, self.worst = 0.0, 0.0, ""
        self.notes: list[str] = []

    def add(self, path: str, error: float, ratio: float) -> None:
        """Take in one output."""
        self.error = largest([self.error, error])
        if not ratio <= self.ratio or not self.worst:
            self.ratio, self.worst = largest([ratio]), path


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
    found.notes += [f"the port's output {path} has no counterpart" for path in made if path not in truth]
    if not truth:
        found.error = found.ratio = float("nan")
        found.notes.append("it gives out no tensor")
    return found


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


def _with_signature(row: BlameRow, made: Outputs, truth: Outputs, given: Mapping[str, AnyArray]) -> BlameRow:
    if not row.exceeds or row.worst not in truth:
        return row
    values = next(iter(made.values())) if len(made) == 1 else made.get(row.worst)
    exact = truth[row.worst]
    if values is None or not np.issubdtype(exact.dtype, np.floating):
        return row
    inputs: dict[str, Array] = {path: _float64(v) for path, v in given.items() if np.issubdtype(v.dtype, np.floating)}
    return replace(row, signature=residual_signature(np.asarray(values), np.asarray(exact), inputs))
