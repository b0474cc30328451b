"""Reference and port against vectors of the original code, forward and gradients, float64 and float32.

A golden file is safetensors with `param:`, `input:` and `output:<name>.<f32|f64>` tensors and, as metadata, the
`component` and its `config`. Gradients are those of sum(y * w), w = linspace(-1, 1, y.numel()).

Gates, with their numbers in `parity.tolerance`:

* float64: rel L2 from the file's float64; of the reference at most 1e-12, or four times what rounding is predicted to
  make in float64 where that is more, and never more than the port's 1e-10: on another processor than the file's, sums
  come in another order;
* float32: error against the file's float64 over the noise floor, the error of the file's own float32. That is one draw,
  which may be right by luck, in an ill-conditioned file for all its tensors at once; so the floor is at least what
  rounding is predicted to make (`parity.backends.noise`). It is believed only as far as that prediction allows: a file
  whose float32 is farther off misses by itself. The median over the file's tensors has a gate of its own.

`grad_input` tensors come in float32 alone. In the files made so far they hold the sum of two backward passes, the
float32 one and the float64 one, since the input was the leaf of both: they are twice the gradient. So the number of
passes is read off against the reference's float64 gradient, after central differences of the reference's own output
have proven that gradient; it is never read off against the side under test, and it is reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from parity.backends.gradients import port_gradients, reference_gradients
from parity.backends.noise import perturbed
from parity.backends.port import build_port, run_port
from parity.backends.reference import (
    at_rung,
    build_reference,
    load_reference,
    run_reference,
    state_of,
)
from parity.environment import warm_up
from parity.errors import GoldenError, ParityError
from parity.pairs import Structure
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS, Rung, RungName
from parity.suites.m2_bert_golden import GoldenComponent, golden_component
from parity.tolerance import NOISE_DRAWS, constant

Side = Literal["reference", "port"]

CHECKED_RUNGS: Final[tuple[RungName, ...]] = ("f64", "f32")


@dataclass(frozen=True)
class GoldenFile:
    """The contents of one file, names without their prefixes."""

    component: GoldenComponent
    name: str
    config: Mapping[str, Any]
    parameters: Mapping[str, AnyArray]
    inputs: Mapping[str, AnyArray]
    outputs: Mapping[str, Mapping[str, Array]]

    @property
    def structure(self) -> Structure:
        """The pair's structure."""
        return self.component.build_structure(self.config, self.parameters)


@dataclass(frozen=True)
class Check:
    """One tensor of one side at one rung: `error` is rel L2 at f64, multiples of the noise floor at f32.

    Of the other kinds, `median` is that of all tensors' errors, `slope` the distance of a gradient from differences,
    `file` the distance of the file's own float32 from the truth.
    """

    tensor: str
    side: Side
    rung: RungName
    error: float
    allowed: float
    passed: bool
    kind: Literal["tensor", "median", "slope", "file"] = "tensor"


@dataclass(frozen=True)
class GoldenReport:
    """What was found in one file; `problem` says why nothing was, where the file is bad."""

    file: str
    component: str = ""
    checks: tuple[Check, ...] = field(default=())
    problem: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def status(self) -> Literal["ok", "MISS", "BAD"]:
        """`ok`, `MISS` where a tensor is off or nothing was compared, `BAD` where the file cannot be judged."""
        if self.problem:
            return "BAD"
        return "ok" if self.checks and all(check.passed for check in self.checks) else "MISS"

    def worst(self, side: Side, rung: RungName) -> Check | None:
        """Return the check nearest to, or farthest beyond, its allowance."""
        found = [
            check
            for check in self.checks
            if (check.side, check.rung) == (side, rung) and (check.kind == "tensor" or not check.passed)
        ]
        return max(found, key=lambda check: (not check.passed, check.error / check.allowed), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"status": self.status, **asdict(self)}


def golden_files(folder: Path) -> list[Path]:
    """Return the golden files of `folder`, sorted.

    Raises:
        GoldenError: There is no such folder.
    """
    if folder.is_file():
        raise GoldenError(f"{str(folder)!r} is a file; give the folder that holds the .safetensors files")
    if not folder.is_dir():
        raise GoldenError(f"no folder {str(folder)!r}; give the folder that holds the .safetensors files")
    return sorted(folder.glob("*.safetensors"))


def check_folder(folder: Path, on_file: Callable[[str], object] = str) -> list[GoldenReport]:
    """Check every golden file of `folder`; a bad file is reported, and the others are checked all the same."""
    warm_up()
    reports = []
    for path in golden_files(folder):
        try:
            reports.append(check_file(path))
        except ParityError as error:
            reports.append(GoldenReport(path.name, problem=str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a file makes the reference raise, the others are judged
            reason = f"it does not fit its component: {type(error).__name__}: {error}"
            reports.append(GoldenReport(path.name, problem=" ".join(reason.split())))
        on_file(path.name)
    return reports


def check_file(path: Path) -> GoldenReport:
    """Check reference and port against one file.

    Raises:
        ParityError: The file cannot be read, names something unknown, or its weights do not fit.
    """
    golden = read_golden(path)
    if golden.component.pair.fresh:
        return GoldenReport(path.name, golden.name, tuple(_buffer_checks(golden)))
    computed: dict[tuple[Side, RungName], dict[str, Array]] = {}
    notes = []
    for rung in CHECKED_RUNGS:
        computed["reference", rung] = _compute(golden, "reference", RUNGS[rung])
        try:
            computed["port", rung] = _compute(golden, "port", RUNGS[rung])
        except Exception as error:  # noqa: BLE001 - a port that raises misses, whatever it raises
            computed["port", rung] = {}
            notes.append(f"the port raised {type(error).__name__} at {rung}: {error}")
    expected, passes = _expected(golden, computed["reference", "f64"])
    slopes = list(_slope_checks(golden, computed["reference", "f64"])) if passes else []
    checks = [*slopes, *_checks(expected, computed, _predicted_noise(golden, computed["reference", "f64"]))]
    notes += [f"{name} holds {count} accumulated passes" for name, count in passes.items() if count > 1]
    return GoldenReport(path.name, golden.name, tuple(checks), notes=tuple(notes))


def read_golden(path: Path) -> GoldenFile:
    """Read one file.

    Raises:
        GoldenError: It is not such a file, or a tensor's name has no known prefix.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise GoldenError(f"{path.name} is not a readable safetensors file: {str(error).splitlines()[0]}") from None
    missing = [key for key in ("component", "config") if key not in metadata]
    if missing:
        raise GoldenError(f"{path.name} has no metadata {', '.join(missing)}; is it a golden file?")
    try:
        config = json.loads(metadata["config"])
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"{path.name}: config is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise GoldenError(f"{path.name}: config must be one JSON object; got {metadata['config'][:40]!r}")
    parts: dict[str, dict[str, AnyArray]] = {"param": {}, "input": {}, "output": {}}
    for name, array in tensors.items():
        prefix, _, rest = name.partition(":")
        if prefix not in parts or not rest:
            raise GoldenError(f"{path.name}: tensor {name!r} must begin with param:, input: or output:")
        parts[prefix][rest] = array
    return GoldenFile(
        golden_component(metadata["component"]),
        metadata["component"],
        config,
        parts["param"],
        parts["input"],
        _by_dtype(parts["output"]),
    )


def _by_dtype(outputs: Mapping[str, AnyArray]) -> dict[str, dict[str, Array]]:
    """Group `<name>.f32` and `<name>.f64`; a name without a suffix is float32."""
    grouped: dict[str, dict[str, Array]] = {}
    for name, array in outputs.items():
        base, _, suffix = name.rpartition(".")
        key, dtype = (base, suffix) if suffix in CHECKED_RUNGS and base else (name, "f32")
        grouped.setdefault(key, {})[dtype] = array.astype(np.float64)
    return grouped


Computed = Mapping[tuple[Side, RungName], Mapping[str, Array]]
Expected = Mapping[str, Mapping[str, Array]]


def _expected(golden: GoldenFile, reference: Mapping[str, Array]) -> tuple[Expected, dict[str, int]]:
    """Return the file's outputs, input gradients divided by the number of passes that they hold, and those numbers.

    An input gradient has its truth added as `f64`: the reference's, whose slope is checked beside it.
    """
    expected = dict(golden.outputs)
    passes = {}
    for name, by_dtype in golden.outputs.items():
        if name.startswith("grad_input.") and "f64" not in by_dtype and name in reference:
            held, truth = by_dtype["f32"], reference[name]
            passes[name] = min(
                (1, 2), key=lambda count: _norm(held / count - truth) if held.shape == truth.shape else count
            )
            expected[name] = {"f32": held / passes[name]}
    return expected, passes


def _predicted_noise(golden: GoldenFile, truth: Mapping[str, Array]) -> dict[str, float]:
    """Return the norm of the float32 error that faithful arithmetic makes at every output and gradient."""
    generator = torch.Generator().manual_seed(0)
    squares = dict.fromkeys(truth, 0.0)
    for _ in range(NOISE_DRAWS):
        run = _compute(golden, "reference", RUNGS["f64"], lambda module: perturbed(module, RUNGS["f32"], generator))
        for name, values in run.items():
            squares[name] += _norm(values - truth[name]) ** 2
    return {name: math.sqrt(square / NOISE_DRAWS) for name, square in squares.items()}


def _checks(expected: Expected, computed: Computed, noise: Mapping[str, float]) -> Iterator[Check]:
    """Checks of every output and gradient of the file, both sides, both rungs, and of the file's own float32."""
    truths = {name: by_dtype.get("f64", computed["reference", "f64"].get(name)) for name, by_dtype in expected.items()}
    for name, by_dtype in expected.items():
        truth = truths[name]
        if "f32" in by_dtype and truth is not None and by_dtype["f32"].shape == truth.shape:
            yield _file_check(name, by_dtype["f32"], truth, noise[name])
    for (side, rung), values in computed.items():
        found = []
        for name, by_dtype in expected.items():
            truth, actual = truths[name], values.get(name)
            if truth is None or actual is None or actual.shape != truth.shape:
                found.append(Check(name, side, rung, math.inf, 1.0, passed=False))
            elif rung == "f64" and side == "reference" and "f64" not in by_dtype:
                continue  # the truth is the reference's own: its slope and the file's float32 stand behind it
            elif rung == "f64":
                found.append(_float64_check(name, side, actual, truth, noise[name]))
            elif "f32" in by_dtype:
                found.append(_float32_check(name, side, actual, truth, by_dtype["f32"], noise[name]))
        yield from found
        if rung == "f32" and found:
            middle, allowed = median(check.error for check in found), constant("golden_f32_median")
            yield Check("median of all tensors", side, rung, middle, allowed, middle <= allowed, "median")


def _slope_checks(golden: GoldenFile, reference: Mapping[str, Array]) -> Iterator[Check]:
    """Reference float64 input gradients against central differences of sum(y * w) along one random direction.

    (f(x + h v) - f(x - h v)) / 2h, h = 2**-17: truncation h^2 and rounding u/h are both below 1e-9 of the scale.
    """
    component, pair, rung = golden.component, golden.component.pair, RUNGS["f64"]
    module = load_reference(build_reference(pair, golden.structure, component.profile), golden.parameters)
    step = 2.0**-17

    def value(inputs: Mapping[str, AnyArray]) -> float:
        trace = run_reference(pair, module, inputs, rung)
        y = trace[trace.outputs[-1]].values
        return float(np.sum(y * np.linspace(-1, 1, y.size).reshape(y.shape)))

    for name in (name for name in golden.outputs if name.startswith("grad_input.") and name in reference):
        key = name.removeprefix("grad_input.")
        x, gradient = golden.inputs[key].astype(np.float64), reference[name]
        direction = np.random.Generator(np.random.Philox(0)).standard_normal(x.shape)
        ends = [value({**golden.inputs, key: x + sign * step * direction}) for sign in (1, -1)]
        scale = _norm(gradient) * _norm(direction)
        error = abs((ends[0] - ends[1]) / (2 * step) - float(np.sum(gradient * direction))) / scale if scale else 0.0
        allowed = constant("golden_slope")
        yield Check(f"slope of {name}", "reference", "f64", error, allowed, error <= allowed, "slope")


def _compute(
    golden: GoldenFile,
    side: Side,
    rung: Rung,
    around: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Array]:
    """Outputs and gradients of one side under the file's names; gradients only if the file has any.

    `around` is entered while the reference runs.
    """
    component, pair, structure = golden.component, golden.component.pair, golden.structure
    module = load_reference(build_reference(pair, structure, component.profile), golden.parameters)
    if side == "reference":
        module = at_rung(module, rung)
        with around(module):
            trace = run_reference(pair, module, golden.inputs, rung)
    else:
        port = build_port(pair, structure, component.profile, rung, state_of(module))
        trace = run_port(pair, port, golden.inputs, rung)
    names = {name: component.trace_name(name) for name in golden.outputs}
    values = {name: trace[traced].values for name, traced in names.items() if traced in trace}
    if any(name.startswith("grad") for name in golden.outputs):
        if side == "reference":
            with around(module):
                by_name, by_input = reference_gradients(pair, module, golden.inputs, rung)
        else:
            by_name, by_input = port_gradients(pair, port, golden.inputs, rung)
        values |= {f"grad.{name}": array for name, array in by_name.items()}
        values |= {f"grad_input.{name}": array for name, array in by_input.items()}
    return values


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values))


def _float64_check(name: str, side: Side, actual: Array, truth: Array, noise: float) -> Check:
    """Rel L2 from the truth: the file's float64 or, where the file has none, the reference's.

    `noise` is the norm of the error predicted for float32; float64 makes it smaller by the ratio of their roundoffs.
    """
    allowed = constant("golden_port")
    if side == "reference":
        rounding = constant("golden_f32") * _relative_size(noise * RUNGS["f64"].u / RUNGS["f32"].u, truth)
        # What is predicted of the reference is predicted by it: it is allowed no more than the port.
        more = min(rounding, allowed) if math.isfinite(rounding) else 0.0
        allowed = max(constant("golden_reference"), more)
    error = _relative(actual - truth, truth)
    return Check(name, side, "f64", error, allowed, passed=error <= allowed)


def _file_check(name: str, golden32: Array, truth: Array, noise: float) -> Check:
    """Distance of the file's own float32 from the truth, over the predicted error.

    For a tensor that the file has in float32 alone the truth is the reference's, and this is what ties it to the file.
    """
    floor = max(noise, RUNGS["f32"].u * _norm(truth))
    error = _norm(golden32 - truth) / floor if floor > 0 else _norm(golden32)
    allowed = constant("golden_file")
    return Check(f"{name} of the file", "reference", "f32", error, allowed, error <= allowed, "file")


def _float32_check(name: str, side: Side, actual: Array, truth: Array, golden32: Array, noise: float) -> Check:
    """Error over the noise floor: the error of the file's own float32, and no less than the predicted one."""
    scale = max(_norm(golden32 - truth), noise, RUNGS["f32"].u * _norm(truth))
    error = _norm(actual - truth) / scale if scale > 0 else (0.0 if not np.any(actual) else math.inf)
    allowed = constant("golden_f32")
    return Check(name, side, "f32", error, allowed, passed=error <= allowed)


def _relative(error: Array, truth: Array) -> float:
    size = _norm(truth)
    if size == 0:
        return 0.0 if _norm(error) == 0 else math.inf
    return _norm(error) / size


def _relative_size(error: float, truth: Array) -> float:
    """Return the norm of an error over that of the truth; 0 where the truth is 0, of which nothing is relative."""
    size = _norm(truth)
    return error / size if size > 0 else 0.0


def _buffer_checks(golden: GoldenFile) -> Iterator[Check]:
    """Freshly built buffers of both sides against the file's float32, within their explicit error models."""
    component, pair, structure = golden.component, golden.component.pair, golden.structure
    rung = RUNGS["f32"]
    module = build_reference(pair, structure, component.profile)
    traces = {
        "reference": run_reference(pair, module, {}, rung),
        "port": run_port(pair, build_port(pair, structure, component.profile, rung, {}), {}, rung),
    }
    if pair.scales is None:
        raise GoldenError(f"{golden.name}: freshly built buffers need an explicit error model")
    state = {name: array.astype(np.float64) for name, array in state_of(module).items()}
    scales = pair.scales(structure, component.profile, state, {})
    for side, trace in traces.items():
        for name, by_dtype in golden.outputs.items():
            error = np.abs(trace[name].values - by_dtype["f32"]).max() / (rung.u * scales[name].maximum.max())
            yield Check(name, side, "f32", float(error), 1.0, passed=bool(error <= 1))  # type: ignore[arg-type]
