"""The two sides of a row of the zoo: a model of `transformers` with drawn weights, and the port that its loader builds.

Neither library is imported before a side is built.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import mlx.core as mx
import mlx.nn as mlx_nn
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from parity.backends.convert import mlx_from_numpy, numpy_from_mlx, numpy_from_torch, torch_from_numpy
from parity.backends.widened import widened_reference
from parity.float64 import Leaks, float64_forms
from parity.float64.widened import widened_constants
from parity.spec.arrays import AnyArray, Array

BATCH, LENGTH = 2, 12

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
        culprits: How the names of the port's modules end that answer wrongly what they are given rightly, the deepest
            of them; none if it errs nowhere once it is built.
        kind: What went wrong.
        cause: In words.
        source: Which line of the port, which field of the reference.
        remedy: What turns it green.
    """

    culprits: tuple[str, ...]
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
        renamed: Beginnings of names of the reference's modules, and what stands for them in the port.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    port: str
    red: Red | None = None
    model: str = ""
    configuration: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_class(self) -> str:
        """Name of the reference's class in `transformers`."""
        return self.model or f"{self.family}ForCausalLM"

    @property
    def configuration_class(self) -> str:
        """Name of its configuration's class."""
        return self.configuration or f"{self.family}Config"


# --- the reference --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exhibit:
    """A reference with drawn weights, and what it computes.

    Attributes:
        config: Its configuration, as a dictionary.
        checkpoint: Its weights as it saves them, in float32.
        tokens: (batch, length).
        exact: The reference in float64, to be run inside `widened_reference`.
        truth: Its logits, in float64 throughout.
        reference_f64: Logits of the same in float64, as it is.
        reference_f32: Logits in float32.
        leaks: Where it asks for float32.
    """

    config: Mapping[str, Any]
    checkpoint: Mapping[str, AnyArray]
    tokens: npt.NDArray[np.int64]
    exact: Any
    truth: Array
    reference_f64: Array
    reference_f32: Array
    leaks: tuple[str, ...]


def exhibit(architecture: Architecture, seed: int, initial: bool = False) -> Exhibit:
    """Build a reference, draw its weights (unless they stay initial) and tokens, compute truth and its own errors."""
    generator = np.random.Generator(np.random.Philox(seed))
    with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _reference(architecture)
        if not initial:
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
    return Exhibit(model.config.to_dict(), checkpoint, tokens, exact, truth, double, single, sites)


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
        dtype: As `built_port` takes it.
        remedy: What is changed on the way.
        spoil: Changes the port after its weights are loaded.

    Returns:
        Logits (batch, length, vocabulary), and the precision leaks by operation.
    """
    with built_port(architecture, shown, dtype, remedy, spoil) as (model, leaks):
        logits, answered = numpy_from_mlx(model(mx.array(shown.tokens)))
        found = leaks.operations
    return logits, found if answered == dtype else (*found, f"logits in {answered}")


@contextmanager
def built_port(
    architecture: Architecture,
    shown: Exhibit,
    dtype: str,
    remedy: Remedy = NO_REMEDY,
    spoil: Callable[[Any], None] | None = None,
) -> Iterator[tuple[Any, Leaks]]:
    """Build the port, and keep it what it is for as long as the context lasts.

    Args:
        architecture: The row.
        shown: The reference's side of it.
        dtype: 'float64', within the float64 context and with the port's own requests for float32 widened, or 'float32'.
        remedy: What is changed on the way.
        spoil: Changes the port after its weights are loaded.

    Yields:
        The port, and its precision leaks so far; at float32 there are none.
    """
    with ExitStack() as stack:
        stack.enter_context(mx.stream(mx.cpu))
        leaks = Leaks()
        if dtype == "float64":
            leaks = stack.enter_context(float64_forms())
            stack.enter_context(widened_constants())
        for place, substitute in remedy.names.items():
            stack.enter_context(_renamed(place, substitute))
        model = _port(architecture, shown, dtype, remedy)
        if spoil is not None:
            spoil(model)
        yield model, leaks


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
