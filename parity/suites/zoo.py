"""Architectures of `transformers` against the ports of the same name in `mlx_lm`, tiny, random, nothing downloaded.

A row builds the model of `transformers` from a small configuration, draws its weights, hands configuration and
checkpoint to the port as its own loader would (`ModelArgs.from_dict`, `sanitize`, strict loading) and compares the
logits of a batch at every position: at float64, where both must agree, and at float32, where the port may lose no more
bits against the truth than the reference does. Truth is the reference in float64, its requests for float32 redirected.

A red row names its cause, and how little puts it right: that is run too, and must turn the row green.
Neither library is imported before a row is run: `requirements` says what is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import mlx.core as mx
import mlx.nn as mlx_nn
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from parity.accuracy import LOOKS, Assessment, Ratio, Stratum, error_bits, judge_ratios, settled
from parity.backends.convert import mlx_from_numpy, numpy_from_mlx, numpy_from_torch, torch_from_numpy
from parity.backends.widened import widened_reference
from parity.errors import TargetError
from parity.float64 import float64_forms
from parity.float64.widened import widened_constants
from parity.metrics.error import error_ratio, quantisation_error
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS
from parity.tolerance import constant

BATCH, LENGTH = 2, 12
SEEDS: Final = tuple(range(LOOKS[-1]))
"""As many as the accuracy test's last look has cases; most rows are settled by the first."""

REQUIRED: Final = ("transformers", "mlx_lm")
DISTRIBUTIONS: Final = ("transformers", "mlx-lm", "mlx", "torch")

Kind = Literal["field not carried", "field required", "weights not carried", "defect"]
Weights = dict[str, mx.array]


@dataclass(frozen=True)
class Remedy:
    """The least that turns a red row green; everything else stays as it was.

    Attributes:
        fields: Configuration fields handed to the port beside those of the reference.
        names: A function or dtype by its full name, and the one of the same module that stands in for it.
        repair: Changes the port's module before its weights are loaded.
        weights: Changes the checkpoint before the port's `sanitize`.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    repair: Callable[[Any], None] | None = None
    weights: Callable[[Weights], Weights] | None = None

    def lessened(self) -> dict[str, Remedy]:
        """Return the remedy without each of its parts in turn, by the name of what is left out."""
        less = {
            name: replace(self, fields={key: value for key, value in self.fields.items() if key != name})
            for name in self.fields
        }
        less |= {
            name: replace(self, names={key: value for key, value in self.names.items() if key != name})
            for name in self.names
        }
        if self.repair is not None:
            less["repair"] = replace(self, repair=None)
        if self.weights is not None:
            less["weights"] = replace(self, weights=None)
        return less


NO_REMEDY: Final = Remedy()


@dataclass(frozen=True)
class Red:
    """Why a row is red.

    Attributes:
        culprit: The deepest module of the port that answers wrongly what it is given rightly; '' if none is built.
        kind: What went wrong.
        cause: In words.
        source: Which line of the port, which field of the reference.
        remedy: What turns it green.
    """

    culprit: str
    kind: Kind
    cause: str
    source: str
    remedy: Remedy


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        name: The architecture, after a comma what is special about its configuration.
        family: Beginning of the names of the reference's classes: LlamaForCausalLM, LlamaConfig.
        config: Arguments of the configuration.
        port: Module of `mlx_lm.models`.
        red: Why it is known to be red; None if it is green.
        model: The reference's class, if it is not `<family>ForCausalLM`.
        configuration: The configuration's class, if it is not `<family>Config`.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    port: str
    red: Red | None = None
    model: str = ""
    configuration: str = ""

    @property
    def model_class(self) -> str:
        """Name of the reference's class in `transformers`."""
        return self.model or f"{self.family}ForCausalLM"

    @property
    def configuration_class(self) -> str:
        """Name of its configuration's class."""
        return self.configuration or f"{self.family}Config"


@dataclass(frozen=True)
class Figures:
    """What was measured of one port over the seeds of one or more looks.

    Attributes:
        seeds: How many sets of weights and inputs were drawn until the verdict was settled.
        f64: Largest relative L2 error of the port's float64 logits; None where the port refuses.
        f32: Largest relative L2 error of its float32 logits.
        reference_f32: The same of the reference's float32.
        bits: Mean of log2(port's error / reference's) at float32.
        bound: Upper confidence bound of that mean.
        largest: Largest of them.
        refusal: What the port said when it refused, else ''.
        problem: Why it is red, else ''.
        leaks: Precision leaks of the port at float64, by operation.
    """

    seeds: int
    f64: float | None
    f32: float | None
    reference_f32: float | None
    bits: float | None
    bound: float | None
    largest: float | None
    refusal: str
    problem: str
    leaks: tuple[str, ...]

    @property
    def green(self) -> bool:
        """Whether the port agrees at float64 and is no less accurate at float32."""
        return not self.problem


@dataclass(frozen=True)
class ZooRow:
    """One architecture, measured.

    Attributes:
        name: Of the architecture.
        reference: The reference's class.
        port: Module of `mlx_lm.models`.
        given: The port as it is.
        remedied: The port with the remedy of a known cause; None if it is thought to be green.
        idle: Parts of the remedy without which the row is green as well: there should be none.
        reference_leak: Largest relative L2 error of the reference's own float64, its requests for float32 granted.
        reference_leaks: Where the reference asks for float32: function and line, how often.
        expected: 'green' or 'red'.
        culprit, kind, cause, source: As in `Red`; '' if it is green.
        versions: Of the libraries.
    """

    name: str
    reference: str
    port: str
    given: Figures
    remedied: Figures | None
    idle: tuple[str, ...]
    reference_leak: float
    reference_leaks: tuple[str, ...]
    expected: Literal["green", "red"]
    culprit: str
    kind: str
    cause: str
    source: str
    versions: Mapping[str, str]

    @property
    def verdict(self) -> Literal["green", "red"]:
        """Of the port as it is."""
        return "green" if self.given.green else "red"

    @property
    def explained(self) -> bool:
        """Whether the verdict is the expected one and a red row turns green by its remedy, and by no part of it."""
        return self.verdict == self.expected and (self.remedied is None or self.remedied.green) and not self.idle

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and both judgements as JSON knows them."""
        return {**asdict(self), "verdict": self.verdict, "explained": self.explained}


def requirements() -> str:
    """Return which of the two libraries are not installed, as a reason to skip; '' if none is missing."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: `pip install --group zoo`" if missing else ""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a row depends on."""
    return {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}


def run_zoo(
    architectures: Sequence[Architecture], seeds: Sequence[int] = SEEDS, spoil: Callable[[Any], None] | None = None
) -> list[ZooRow]:
    """Measure architectures, as they are and by the remedies of their known causes.

    Args:
        architectures: Rows of `parity.suites.zoo_architectures.ARCHITECTURES`, or others.
        seeds: One set of weights and inputs each, used up in the looks of `parity.accuracy`: further ones are drawn
            while the verdict at float32 is open. The confidence bound needs two or more.
        spoil: Changes every port after its weights are loaded: a fault planted in it, for the tests.

    Raises:
        TargetError: One of the libraries is not installed.
    """
    if reason := requirements():
        raise TargetError(reason)
    return [_row(architecture, seeds, spoil) for architecture in architectures]


def _row(architecture: Architecture, seeds: Sequence[int], spoil: Callable[[Any], None] | None) -> ZooRow:
    red = architecture.red
    exhibits = Exhibits(architecture, seeds)
    given = _figures(architecture, exhibits, NO_REMEDY, spoil)
    remedied = None if red is None else _figures(architecture, exhibits, red.remedy, spoil)
    return ZooRow(
        name=architecture.name,
        reference=architecture.model_class,
        port=architecture.port,
        given=given,
        remedied=remedied,
        idle=() if red is None else _idle(architecture, exhibits.first(1)[0], red.remedy),
        reference_leak=max(relative(each.reference_f64, each.truth) for each in exhibits.drawn),
        reference_leaks=tuple(sorted({leak for each in exhibits.drawn for leak in each.leaks})),
        expected="green" if red is None else "red",
        culprit=red.culprit if red else "",
        kind=red.kind if red else "",
        cause=red.cause if red else "",
        source=red.source if red else "",
        versions=versions(),
    )


# --- the reference --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exhibit:
    """A reference with drawn weights, and what it computes.

    Attributes:
        config: Its configuration, as a dictionary.
        checkpoint: Its weights as it saves them, in float32.
        tokens: (batch, length).
        truth: Logits in float64 throughout.
        reference_f64: Logits of the same in float64, as it is.
        reference_f32: Logits in float32.
        leaks: Where it asks for float32.
    """

    config: Mapping[str, Any]
    checkpoint: Mapping[str, AnyArray]
    tokens: npt.NDArray[np.int64]
    truth: Array
    reference_f64: Array
    reference_f32: Array
    leaks: tuple[str, ...]


class Exhibits:
    """The exhibits of an architecture, each built when it is first asked for.

    Attributes:
        drawn: Those built so far, in the order of the seeds.
    """

    def __init__(self, architecture: Architecture, seeds: Sequence[int]) -> None:
        self.drawn: list[Exhibit] = []
        self._architecture, self._seeds = architecture, seeds

    def first(self, count: int) -> list[Exhibit]:
        """Return the first `count` of them, fewer if there are fewer seeds."""
        for seed in self._seeds[len(self.drawn) : count]:
            self.drawn.append(exhibit(self._architecture, seed))
        return self.drawn[:count]

    def looks(self) -> Iterator[list[Exhibit]]:
        """Yield those of the first look, of the first and second, and so on until the seeds are used up."""
        for count in LOOKS:
            yield self.first(count)
            if count >= len(self._seeds):
                return


def exhibit(architecture: Architecture, seed: int) -> Exhibit:
    """Build a reference, draw its weights and tokens, and compute truth and its own errors."""
    generator = np.random.Generator(np.random.Philox(seed))
    with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _reference(architecture)
        _draw(model, generator)
        checkpoint = _saved(model)
        tokens = generator.integers(0, architecture.config["vocab_size"], (BATCH, LENGTH))
        with widened_reference() as leaks:
            exact = _reference(architecture).double()
            exact.load_state_dict(model.state_dict())
            truth = _reference_logits(exact, tokens)
        single = _reference_logits(model, tokens)
        double = _reference_logits(model.double(), tokens)
    sites = tuple(f"{leak.operation} at {leak.detail}" for leak in leaks)
    return Exhibit(model.config.to_dict(), checkpoint, tokens, truth, double, single, sites)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice about faster kernels while a reference is built and saved."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _reference(architecture: Architecture) -> Any:
    transformers: Any = importlib.import_module("transformers")
    config = getattr(transformers, architecture.configuration_class)(**architecture.config)
    # The plain loops: fused ones know no float64, and hide the order of their sums.
    config._attn_implementation = config._experts_implementation = "eager"
    return getattr(transformers, architecture.model_class)(config).eval()


def _draw(model: torch.nn.Module, generator: np.random.Generator) -> None:
    """Draw every parameter, so that none is at a value that hides it; what routes by a buffer draws that too."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch_from_numpy(_drawn(name, numpy_from_torch(parameter)[0], generator), "float32"))
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):
            buffer.copy_(torch_from_numpy(generator.normal(0, 0.3, tuple(buffer.shape)), "float32"))


def _drawn(name: str, initial: Array, generator: np.random.Generator) -> Array:
    """N(0, 1/fan-in); vectors 0.3 about their initial value, and what sets a decay or a step 0.1 about it."""
    normal = generator.standard_normal(initial.shape)
    if "A_log" in name or "dt_bias" in name:
        return initial + 0.1 * normal
    if initial.ndim <= 1:
        return initial + 0.3 * normal
    fan_in = math.prod(initial.shape[1:]) if "conv" in name else initial.shape[-1]
    return normal / math.sqrt(fan_in)


def _saved(model: Any) -> dict[str, AnyArray]:
    """The checkpoint as it would be published: names and layouts differ from those of the modules."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = sorted(Path(folder).glob("*.safetensors"))
        return {name: value.numpy() for path in files for name, value in load_file(path).items()}


def _reference_logits(model: torch.nn.Module, tokens: npt.NDArray[np.int64]) -> Array:
    return numpy_from_torch(model(input_ids=torch.from_numpy(tokens), use_cache=False).logits)[0]


# --- the port -------------------------------------------------------------------------------------------------------


REFUSALS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""How a port says that it does not take a configuration or a checkpoint; its words are the row's."""


def port_logits(
    architecture: Architecture,
    shown: Exhibit,
    dtype: str,
    remedy: Remedy = NO_REMEDY,
    spoil: Callable[[Any], None] | None = None,
) -> tuple[Array, tuple[str, ...]]:
    """Build the port from the reference's configuration and checkpoint, and run it on the CPU.

    Args:
        architecture: The row.
        shown: The reference's side of it.
        dtype: 'float64', within the float64 context and with the port's own requests for float32 widened, or 'float32'.
        remedy: What is changed on the way.
        spoil: Changes the port after its weights are loaded.

    Returns:
        Logits (batch, length, vocabulary), and the precision leaks by operation.
    """
    leaks: tuple[str, ...] = ()
    with ExitStack() as stack:
        stack.enter_context(mx.stream(mx.cpu))
        if dtype == "float64":
            found = stack.enter_context(float64_forms())
            stack.enter_context(widened_constants())
        for place, substitute in remedy.names.items():
            stack.enter_context(_renamed(place, substitute))
        model = _port(architecture, shown, dtype, remedy)
        if spoil is not None:
            spoil(model)
        logits, answered = numpy_from_mlx(model(mx.array(shown.tokens)))
        if dtype == "float64":
            leaks = found.operations
    if answered != dtype:
        leaks = (*leaks, f"logits in {answered}")
    return logits, leaks


def _port(architecture: Architecture, shown: Exhibit, dtype: str, remedy: Remedy) -> Any:
    source: Any = importlib.import_module(f"mlx_lm.models.{architecture.port}")
    model = source.Model(source.ModelArgs.from_dict({**shown.config, **remedy.fields}))
    if remedy.repair is not None:
        remedy.repair(model)
    weights = {name: mlx_from_numpy(value, dtype) for name, value in shown.checkpoint.items()}
    if remedy.weights is not None:
        weights = remedy.weights(weights)
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    model.load_weights(list(weights.items()), strict=True)
    model.eval()
    return model


@contextmanager
def _renamed(place: str, substitute: str) -> Iterator[None]:
    module_name, _, name = place.rpartition(".")
    module = importlib.import_module(module_name)
    original = getattr(module, name)
    setattr(module, name, getattr(module, substitute))
    try:
        yield
    finally:
        setattr(module, name, original)


# --- figures --------------------------------------------------------------------------------------------------------


def _figures(
    architecture: Architecture, exhibits: Exhibits, remedy: Remedy, spoil: Callable[[Any], None] | None
) -> Figures:
    doubles: list[float] = []
    singles: list[float] = []
    ratios: list[Ratio] = []
    leaks: dict[str, None] = {}
    for look in exhibits.looks():
        try:
            for place, shown in enumerate(look[len(doubles) :], start=len(doubles)):
                logits, found = port_logits(architecture, shown, "float64", remedy, spoil)
                leaks |= dict.fromkeys(found)
                doubles.append(relative(logits, shown.truth))
                logits, _ = port_logits(architecture, shown, "float32", remedy, spoil)
                singles.append(relative(logits, shown.truth))
                ratios.append(Ratio(_bits(logits, shown), exceeds_prediction=True, case=str(place)))
        except REFUSALS as refusal:
            words = f"{type(refusal).__name__}: {' '.join(str(refusal).split())}"
            return Figures(len(look), None, None, None, None, None, None, words, f"the port refuses: {words}", ())
        judged = judge_ratios(
            Stratum(architecture.name, "zoo", "f32", str(LENGTH), "normal"), constant("margin"), ratios
        )
        problem = _problem(max(doubles), tuple(leaks), judged)
        if settled(judged) or problem != judged.reason:
            break
    return Figures(
        seeds=len(look),
        f64=max(doubles),
        f32=max(singles),
        reference_f32=max(relative(shown.reference_f32, shown.truth) for shown in look),
        bits=judged.mean,
        bound=judged.bound,
        largest=judged.largest,
        refusal="",
        problem=problem,
        leaks=tuple(leaks),
    )


def _idle(architecture: Architecture, shown: Exhibit, remedy: Remedy) -> tuple[str, ...]:
    def agrees(less: Remedy) -> bool:
        try:
            logits, _ = port_logits(architecture, shown, "float64", less)
        except REFUSALS:
            return False
        return relative(logits, shown.truth) <= constant("zoo_float64")

    return tuple(part for part, less in remedy.lessened().items() if agrees(less))


def _problem(f64: float, leaks: tuple[str, ...], judged: Assessment) -> str:
    bound = constant("zoo_float64")
    if not f64 <= bound:
        return f"differs at float64: relative L2 error {f64:.1e}, allowed {bound:.0e}"
    if leaks:
        return f"precision leaks at float64: {', '.join(leaks)}"
    return judged.reason


def _bits(logits: Array, shown: Exhibit) -> float:
    """log2 of the error ratio at float32, neither error taken below that of rounding the truth."""
    if logits.shape != shown.truth.shape or not np.isfinite(logits).all():
        return error_bits(math.inf)
    rounded = quantisation_error(shown.truth, RUNGS["f32"])
    port, reference = (float(np.linalg.norm(side - shown.truth)) for side in (logits, shown.reference_f32))
    return error_bits(error_ratio(port, reference, rounded))


def relative(actual: Array, truth: Array) -> float:
    """Relative L2 error; infinite where the shapes differ or a value is not finite."""
    if actual.shape != truth.shape:
        return math.inf
    error = float(np.linalg.norm(actual - truth) / np.linalg.norm(truth))
    return error if math.isfinite(error) else math.inf


def windowed(layer: Any, window: int) -> None:
    """Let a layer of a port see `window` keys and no more, whatever mask it is given."""

    class Windowed(type(layer)):  # type: ignore[misc]
        def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> Any:  # noqa: ARG002
            place = mx.arange(x.shape[1])
            distance = place[:, None] - place[None]
            return super().__call__(x, (distance >= 0) & (distance < window), cache)

    layer.__class__ = Windowed


def without_biases(module: mlx_nn.Module, *ends: str) -> None:
    """Take the bias off every layer of a port whose name ends so."""
    for name, part in module.named_modules():
        if name.endswith(ends):
            part.pop("bias")
