"""Own errors of port and reference on the very same numbers, against the same module in float64.

Every module of the port runs on what the reference's module was given, in the reference's own pass at the rung. Truth
is the reference's module in float64 on those numbers, with the weights rounded to the rung as both have them. So

    own        = |port(x) - truth(x)|,  allowed = 2^(margin + margin_beyond) max(|reference(x) - truth(x)|, rounding)

as root mean square and as largest element: three bits more than the reference itself loses, or than rounding the
result does. A reference may be lucky: what exceeds that is compared as well with what faithful arithmetic leaves
there, `parity.backends.noise`, and exceeds only if it is beyond both. At f64 the reference is the truth, and its error
is taken from f32, in units of u.

An error that both share, such as that of a matrix product which MLX and torch take from one library, would stretch the
allowance itself. So at f32 a linear layer's is never larger than what products of any order of summation may lose,
`parity.tolerance.matmul_scale`: the truth comes from another routine, that for float64.

The errors are measured piece by piece, and a module that treats positions alone is asked some positions at a time: in
float64 memory would otherwise be twice a layer's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from torch import nn

from parity.backends.convert_mlx import MLX_DTYPES
from parity.backends.noise import perturbed, with_rounding
from parity.backends.shifts import noise_of
from parity.backends.true_transforms import TrueTransforms
from parity.blame.forced import rebuilt, shared_inputs
from parity.blame.table import BlameRow
from parity.spec.arrays import AnyArray
from parity.spec.precision import BY_DTYPE, Rung
from parity.tolerance import REFINE_TO, constant, propagated, rounding_of
from parity.trace.calls import Call, leaves
from parity.verify.parts import Port, Reference

DRAWS: Final = 16
"""Perturbed runs behind a prediction, as in `parity.blame.forward`."""

COMPARED: Final = 2**18
"""Numbers that are compared at once: two megabytes of float64, several times."""

PIECE: Final = 2**20
"""Numbers that a module is given at once where positions do not meet; inside it they are up to eight times as many."""

BY_POSITION: Final = frozenset(
    {"BlockdiagLinear", "GatedMlp", "Gelu", "LayerNorm", "Linear", "MaskedLMHead", "MaskedLMPredictions", "Mlp"}
    | {"PredictionTransform"}
)
"""Classes of the reference that map (b, l, d) to (b, l, e), each position by itself."""


LINEAR: Final = frozenset({"BlockdiagLinear", "Linear"})
"""Classes of the reference that are a matrix product and a bias."""


@dataclass(frozen=True)
class Error:
    """Distance of a tensor from another: root mean square, largest element, and relative to the other's norm."""

    rms: float
    largest: float
    relative: float
    size: float
    peak: float


def distance(made: AnyArray, exact: AnyArray) -> Error:
    """Measure `made` against `exact` in pieces.

    An element that is finite on one side alone, or not the same infinity, counts as an infinite error.
    """
    if made.shape != exact.shape:
        return Error(math.inf, math.inf, math.inf, 0.0, 0.0)
    squares = truth = largest = peak = 0.0
    one, other = made.reshape(-1), exact.reshape(-1)
    for start in range(0, one.size, COMPARED):
        mine = one[start : start + COMPARED].astype(np.float64)
        theirs = other[start : start + COMPARED].astype(np.float64)
        finite = np.isfinite(theirs)
        if not finite.all():
            if not np.array_equal(mine[~finite], theirs[~finite], equal_nan=True):
                return Error(math.inf, math.inf, math.inf, 0.0, 0.0)
            mine, theirs = mine[finite], theirs[finite]
        error = np.abs(np.subtract(mine, theirs, out=mine), out=mine)
        largest = max(largest, float(error.max(initial=0.0)))
        peak = max(peak, float(max(theirs.max(initial=0.0), -theirs.min(initial=0.0))))
        # Not np.dot: NumPy's own BLAS would wake a thread a core for it, against torch's and MLX's.
        squares += float(np.square(error, out=error).sum())
        truth += float(np.square(theirs, out=theirs).sum())
    if not math.isfinite(largest) or math.isnan(squares):
        return Error(math.inf, math.inf, math.inf, 0.0, 0.0)
    relative = 0.0 if squares == 0 else math.sqrt(squares / truth) if truth > 0 else math.inf
    count = max(one.size, 1)
    return Error(math.sqrt(squares / count), largest, relative, math.sqrt(truth / count), peak)


@dataclass(frozen=True)
class Natural:
    """A module's error that the reference itself makes, in units of the rung's u: root mean square and largest."""

    rms: float
    largest: float


class Judge:
    """Judges pairs of calls as they come.

    Args:
        reference, port: The models, the part in question filled.
        rung: Where both run; at f64 the reference is the truth.
        natural: Of every call, by name, what the reference loses; filled at f32, read at f64.
        seed: Of the perturbations.
        on_row: Called with every row.
    """

    def __init__(
        self,
        reference: Reference,
        port: Port,
        rung: Rung,
        natural: dict[str, Natural],
        seed: int,
        on_row: Callable[[BlameRow], object],
    ) -> None:
        self.reference, self.rung, self.natural, self.on_row = reference, rung, natural, on_row
        self.port = dict(port.model.named_modules())
        self.generator = torch.Generator().manual_seed(seed)
        self.rows: list[BlameRow] = []
        self.own: dict[str, float] = {}

    def __call__(self, reference: Call, port: Call) -> BlameRow:
        """Judge two calls of one module; returns the row."""
        with torch.no_grad():
            row = self._row(reference, port)
        self.rows.append(row)
        self.on_row(row)
        return row

    def _row(self, reference: Call, port: Call) -> BlameRow:
        shared = shared_inputs(reference, port, {})
        inputs = {path: reference.inputs[other] for path, other in shared.paths.items()}
        forced = self._forced(port, inputs)
        truth = reference.outputs if self.rung.name == "f64" else self._truth(reference)
        worst, own, theirs, ratio, notes = "", 0.0, 0.0, 0.0, [*shared.notes]
        for path, exact in truth.items():
            other = path if path in forced else next(iter(forced)) if len(forced) == len(truth) == 1 else None
            if other is None:
                worst, own, ratio = path, math.inf, math.inf
                notes.append(f"the port gives no output {path or 'at all'}")
                continue
            mine = distance(numbers_of_mlx(forced[other]), numbers_of_torch(exact))
            base = distance(numbers_of_torch(reference.outputs[path]), numbers_of_torch(exact))
            found = self._ratio(reference, path, mine, base, forced[other], exact)
            if not worst or found > ratio or math.isnan(found):
                worst, own, theirs, ratio = path or "output", mine.relative, base.relative, found
        self.own[reference.name] = theirs
        inherited = max((_between(port.inputs[path], tensor) for path, tensor in inputs.items()), default=0.0)
        total = max(
            (_between(a, b) for a, b in zip(port.outputs.values(), reference.outputs.values(), strict=False)),
            default=0.0,
        )
        return BlameRow(
            module=reference.name,
            port=port.name,
            kind=reference.kind,
            depth=reference.depth,
            inherited=inherited,
            own=own,
            ratio=ratio,
            gain=None,
            total=total,
            worst=worst,
            notes=tuple(notes),
            aliases=reference.aliases,
        )

    def _forced(self, call: Call, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the port's module makes of the reference's inputs."""
        module = self.port[call.module]
        arrays = {path: to_mlx(tensor, call.inputs[path].dtype) for path, tensor in inputs.items()}
        args, kwargs = rebuilt(call, type(module).__call__.__get__(module), arrays)
        outputs = leaves(module(*args, **kwargs))
        mx.eval(list(outputs.values()))
        return outputs

    def _truth(self, call: Call) -> Mapping[str, torch.Tensor]:
        wide = {path: t.double() if t.is_floating_point() else t for path, t in call.inputs.items()}
        return leaves(self._exactly(call, wide))

    def _exactly(self, call: Call, inputs: Mapping[str, torch.Tensor]) -> Any:
        module = self.reference.exact[call.module]
        with TrueTransforms():
            return by_pieces(module, call, inputs)

    def _ratio(self, call: Call, path: str, mine: Error, base: Error, made: mx.array, exact: torch.Tensor) -> float:
        """Error over allowance, the larger of root mean square and largest element."""
        if not exact.is_floating_point():
            return 0.0 if mine.largest == 0 else math.inf
        held = BY_DTYPE.get(str(made.dtype).removeprefix("mlx.core."))
        if held is None or mine.largest == math.inf:
            return math.inf
        rounding = rounding_of(mine.size, mine.peak, held)
        if self.rung.name == "f64":
            known = self.natural.get(call.name, Natural(0.0, 0.0))
            unit = held.u * constant("float64")
            floor = (max(known.rms * unit, rounding[0]), max(known.largest * unit, rounding[1]))
        else:
            floor = (max(base.rms, rounding[0]), max(base.largest, rounding[1]))
            bound = self._bound(call) if self.rung.name == "f32" else None
            if bound is not None:
                floor = (min(floor[0], bound.rms + rounding[0]), min(floor[1], bound.largest + rounding[1]))
            if self.rung.name == "f32":
                self.natural[call.name] = Natural(floor[0] / held.u, floor[1] / held.u)
        factor = 2 ** (constant("margin") + constant("margin_beyond"))
        ratio = max(
            over(mine.rms, factor * floor[0] + held.quantum), over(mine.largest, factor * floor[1] + held.quantum)
        )
        return min(ratio, self._predicted(call, path, mine, exact, held)) if 1 < ratio < REFINE_TO else ratio

    def _bound(self, call: Call) -> Natural | None:
        """What the products of a linear layer lose at most, whoever computes them; None of any other module."""
        if call.kind not in LINEAR or len(call.inputs) != 1:
            return None
        weight = self.reference.exact[call.module].get_parameter("weight")
        x = next(iter(call.inputs.values()))
        rows, columns = (torch.linalg.vector_norm(one, dim=-1).double().square() for one in (x, weight))
        scale = self.rung.u * math.sqrt(weight.shape[-1])
        # Of a block-diagonal layer a block sees a part of each row: the whole row's norm bounds it.
        return Natural(
            constant("matmul_rms") * scale * math.sqrt(float(rows.mean()) * float(columns.mean())),
            constant("matmul_max") * scale * math.sqrt(float(rows.max()) * float(columns.max())),
        )

    def _predicted(self, call: Call, path: str, mine: Error, exact: torch.Tensor, held: Rung) -> float:
        """Error over what faithful arithmetic leaves within the module."""
        wide = {p: t.double() if t.is_floating_point() else t for p, t in call.inputs.items()}
        runs = []
        module = self.reference.exact[call.module]
        for _ in range(DRAWS):
            with perturbed(module, self.rung, self.generator):
                runs.append(numbers_of_torch(leaves(by_pieces(module, call, wide))[path]).astype(np.float64))
        truth = numbers_of_torch(exact).astype(np.float64)
        expected = with_rounding(noise_of(runs, truth, self.rung), truth, held)
        limit = propagated(expected.rms, expected.maximum, self.rung, held)
        return max(over(mine.rms, limit.rms), over(mine.largest, limit.maximum))


def by_pieces(module: nn.Module, call: Call, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Call a module as `call` did with other numbers: some positions at a time where they do not meet."""
    args, kwargs = rebuilt(call, module.forward, inputs)
    only = next(iter(inputs.values())) if len(inputs) == 1 else None
    if call.kind not in BY_POSITION or only is None or only.ndim != 3 or only.numel() <= PIECE:
        return module(*args, **kwargs)
    rows = only.reshape(1, -1, only.shape[-1])
    step = max(1, PIECE // only.shape[-1])
    parts = [module(rows[:, start : start + step]) for start in range(0, rows.shape[1], step)]
    return torch.cat(parts, dim=1).reshape(*only.shape[:-1], -1)


def to_mlx(tensor: torch.Tensor, dtype: mx.Dtype) -> mx.array:
    """Return a tensor's numbers in MLX, in the dtype of what the port was given at that place."""
    if not tensor.is_floating_point():
        return mx.array(tensor.numpy()).astype(dtype)
    if tensor.dtype == torch.float64:
        return mx.array(tensor.numpy(), dtype=mx.float64).astype(dtype)
    return mx.array(tensor.float().numpy()).astype(dtype)


def numbers_of_torch(tensor: torch.Tensor) -> AnyArray:
    """Return a tensor's numbers without a copy where NumPy has the kind."""
    plain = tensor.detach()
    return np.asarray((plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain).numpy())


def numbers_of_mlx(array: mx.array) -> AnyArray:
    """Return an array's numbers; sixteen bits as float32."""
    halves = array.dtype in (MLX_DTYPES["bfloat16"], MLX_DTYPES["float16"])
    return np.asarray(array.astype(mx.float32) if halves else array)


def _between(port: mx.array, reference: torch.Tensor) -> float:
    return distance(numbers_of_mlx(port), numbers_of_torch(reference)).relative


def over(error: float, allowed: float) -> float:
    """Return an error over what is allowed; none is within everything, and any is beyond nothing."""
    if error == 0:
        return 0.0
    return error / allowed if allowed > 0 else math.inf
