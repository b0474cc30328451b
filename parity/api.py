"""`Pair`: what somebody else's model says of itself to be put under test, completed to what the harness knows.

Nothing of torch or MLX is imported before a model is built.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, Literal

import hypothesis.strategies as st
import numpy as np
from hypothesis.strategies import SearchStrategy

from parity import pairs
from parity.errors import CaseError, ConfigError, ParityError
from parity.pairs import InputSpec, LengthClass, ParameterRule
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import HyperProfile

__all__ = ["InputSpec", "LengthClass", "Pair", "complete"]

Side = Literal["reference", "port"]
SIDES: Final[tuple[Side, ...]] = ("reference", "port")

Configuration = Any
"""A mapping of plain values by name, or one plain value: a number, text, true or false."""

PLAIN: Final = "CONFIGURATION"
"""The key under which a case holds a configuration that is one plain value."""

AS_BUILT: Final = "as built"
LONGEST: Final = 100
"""Characters of a pair's name: files are called by it."""
_NAME: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}")


@dataclass(frozen=True)
class Pair:
    """A model in PyTorch, its port to MLX, and how to put the same question to both.

    Everything but the first five arguments has a default.

    Args:
        name: What `parity run` and the report call it: letters, digits, `_`, `.` and `-`.
        reference: Builds the `torch.nn.Module`, called as `reference(configuration)`; one that has a parameter called
            `profile` gets the `HyperProfile` as well. A parameter of any other name is refused.
        port: Builds the `mlx.nn.Module`, in the same way; one that has a parameter called `ops` gets the primitives of
            `mlx_impl.ops`, and is then not lifted at f64 but given those of float64.
        configurations: A Hypothesis strategy of configurations, or a list of them. A configuration is a dictionary of
            plain values, or one plain value; a builder gets it as it is.
        inputs: Inputs by name, or a function from the configuration to them. Each is an `InputSpec`, or a shape, which
            means floats.
        weights: How weights go across if not by name: `weights(port, state)`, the state being arrays of MLX under the
            reference's names, returns the port's arrays by name, or fills the port itself and returns None. A port's
            own `sanitize` is one such: `lambda port, state: port.sanitize(state)`.
        renames: Regular expressions on the reference's names, and what replaces them, in order.
        layouts: Regular expressions on the reference's names, and the port's axes as numbers of the reference's.
            Convolutions of mlx.nn need none.
        reference_only: Regular expressions of tensors that the port does not store: a tied head, a constant.
        port_only: Regular expressions of arrays that the reference does not store.
        inlined: Regular expressions of modules that the other side computes without a module: an activation, a
            projection that a fused function reads, a tied head. `parity trace` judges them as parts of what is around
            them, and fails where a module without a partner is not named here.
        call: Runs either module: `call(module, inputs)`, or one function for each of `reference` and `port`. By
            default inputs are passed by name where the module names all of them, else by position.
        main: Name of the output that accuracy is measured on; the first one by default. A port that returns a tensor
            alone answers for it.
        parameters: `drawn`: matrices N(0, 1/fan-in), vectors N(0, 0.3^2), what starts as ones around 1. `as built`:
            what the reference's constructor made. Or regular expressions on the reference's names, each with
            `as built` or a function (built values, generator) to new ones; what matches none is drawn.
        corpus: Configurations that a strategy would seldom draw: they run in every run.
        strata: Length classes of the accuracy test, their `structure` a configuration; none by default.
        rungs: The rungs on which the pair means something.
        rungs_reason: Why the others do not.
        no_gradients: Why gradients are not judged, if they are not: a port that is never differentiated. The run says
            so among what it skipped.
        finite_only: Why NaN and infinities need not come out alike, if they need not: a mask that multiplies on one
            side and selects on the other, for example. The run says so among what it skipped.

    Raises:
        ConfigError: An argument is not as above.

    Example:
        >>> Pair("mlp", reference=build_torch, port=build_mlx, configurations=[{"d": 8}, {"d": 13}],
        ...      inputs=lambda c: {"x": (2, 5, c["d"])})  # doctest: +SKIP
    """

    name: str
    reference: Callable[..., Any]
    port: Callable[..., Any]
    configurations: SearchStrategy[Any] | Sequence[Configuration]
    inputs: Mapping[str, Any] | Callable[[Configuration], Mapping[str, Any]]
    weights: Callable[[Any, Any], Any] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reference_only: Sequence[str] = ()
    port_only: Sequence[str] = ()
    inlined: Sequence[str] = ()
    call: Callable[[Any, Mapping[str, Any]], Any] | Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] | None = None
    main: str = ""
    parameters: str | Mapping[str, str | ParameterRule] = "drawn"
    corpus: Sequence[Configuration] = ()
    strata: Sequence[LengthClass] = ()
    rungs: Sequence[RungName] = tuple(RUNGS)
    rungs_reason: str = ""
    no_gradients: str = ""
    finite_only: str = ""

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"the name of a pair is made of letters, digits, '_', '.' and '-', {LONGEST} at most; got {name!r}"
            )
        for problem in _problems(self):
            raise ConfigError(f"pair {self.name!r}: {problem}")


def _problems(pair: Any) -> Iterator[str]:
    """Say what is wrong with the arguments of a pair, which may be anything."""
    yield from _builder_problems(pair)
    if not isinstance(pair.configurations, SearchStrategy):
        if not isinstance(pair.configurations, list | tuple) or not pair.configurations:
            got = repr(pair.configurations)[:80]
            yield f"configurations= is a Hypothesis strategy, or a list of at least one configuration; got {got}"
        else:
            yield from filter(None, map(_configuration_problem, pair.configurations))
    yield from filter(None, map(_configuration_problem, pair.corpus))
    if not callable(pair.inputs) and not isinstance(pair.inputs, Mapping):
        yield f"inputs= is a mapping by name, or a function of the configuration; got {pair.inputs!r}"
    yield from _weight_problems(pair)
    if isinstance(pair.call, Mapping):
        if set(pair.call) != set(SIDES):
            yield f"call= has one function for each of {', '.join(SIDES)}; got {', '.join(map(repr, pair.call))}"
    elif pair.call is not None and not callable(pair.call):
        yield f"call= is a function, or one for each of {', '.join(SIDES)}; got {pair.call!r}"
    yield from _parameter_problems(pair)
    for name, why in (("no_gradients", "gradients are not judged"), ("finite_only", "NaN and infinities may differ")):
        if not isinstance(getattr(pair, name), str):
            yield f"{name}= is the reason why {why}, in words; got {getattr(pair, name)!r}"
    unknown = [rung for rung in pair.rungs if rung not in RUNGS]
    if unknown or not pair.rungs:
        got = repr(unknown[0]) if unknown else "none"
        yield f"unknown rung {got} in rungs=; allowed: {', '.join(RUNGS)}"


def _builder_problems(pair: Any) -> Iterator[str]:
    for side, extra in (("reference", ("profile",)), ("port", ("profile", "ops"))):
        builder = getattr(pair, side)
        if not callable(builder):
            yield f"{side}= is a function that builds the module from a configuration; got {builder!r}"
            continue
        required = [p.name for p in _parameters(builder) if p.default is p.empty and p.kind not in _VARIADIC]
        unknown = [name for name in required[1:] if name not in extra]
        if unknown or not required:
            got = f"a parameter {unknown[0]!r}" if unknown else "no parameter that must be given"
            allowed = " and ".join(extra)
            yield f"{side}= takes the configuration, then if it wants {allowed}; it has {got}"


def _weight_problems(pair: Any) -> Iterator[str]:
    table = [name for name in ("renames", "layouts", "reference_only", "port_only") if getattr(pair, name)]
    if pair.weights is not None and not callable(pair.weights):
        yield f"weights= is a function of the port and the state dict; got {pair.weights!r}"
    if pair.weights is not None and set(table) - {"port_only"}:
        yield f"weights= does all of it, so {table[0]}= would be ignored: give one of the two"
    for name in ("reference_only", "port_only", "inlined"):
        if isinstance(getattr(pair, name), str):
            yield f"{name}= is a list of regular expressions; got the text {getattr(pair, name)!r}"
    for pattern in (pattern for name in (*table, "inlined") for pattern in getattr(pair, name)):
        yield from _pattern_problems(pattern)


def _pattern_problems(pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"{pattern!r} is no regular expression: {error}"


def _parameter_problems(pair: Any) -> Iterator[str]:
    if isinstance(pair.parameters, Mapping):
        for pattern, rule in pair.parameters.items():
            yield from _pattern_problems(pattern)
            if rule != AS_BUILT and not callable(rule):
                yield f"parameters[{pattern!r}] is {AS_BUILT!r} or a function; got {rule!r}"
    elif pair.parameters not in ("drawn", AS_BUILT):
        yield f"parameters= is 'drawn', {AS_BUILT!r} or a mapping of patterns; got {pair.parameters!r}"


def _configuration_problem(configuration: Configuration) -> str:
    """Say why a configuration cannot be written on a command line; empty if it can."""
    items = configuration.items() if isinstance(configuration, Mapping) else [(PLAIN, configuration)]
    for key, value in items:
        if not isinstance(key, str):
            return f"the keys of a configuration are text; got {key!r}"
        if not isinstance(value, int | float | str):
            where = f"configuration key {key!r}" if key != PLAIN else "a configuration"
            return (
                f"{where} is a {type(value).__name__}; plain values alone (numbers, text, true, false) can be "
                "printed and run again: build anything else from them inside the builders"
            )
        if key in _RESERVED:
            return f"configuration key {key!r} is taken: a case has a {key} of its own"
    return ""


_RESERVED: Final = ("family", "scale", "seed", "ladder")
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _parameters(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature: taken as a function of the configuration
        return [inspect.Parameter("configuration", inspect.Parameter.POSITIONAL_ONLY)]


# --- completion -----------------------------------------------------------------------------------------------------


def complete(pair: Pair, target: str = "") -> pairs.Pair:
    """Return what the harness knows as the pair.

    Args:
        pair: What its author says.
        target: What a command line calls it.
    """
    parts = _Parts(pair)
    given, corpus = pair.configurations, [_structure(configuration) for configuration in pair.corpus]
    keys: frozenset[str] | None = None
    if isinstance(given, SearchStrategy):
        structures = given.map(parts.drawn)
    else:
        corpus = [*map(_structure, given), *corpus]
        structures = st.sampled_from(corpus)
        keys = frozenset(key for structure in corpus for key in structure)
    named = {p.name for builder in (pair.reference, pair.port) for p in _parameters(builder)}
    return pairs.Pair(
        name=pair.name,
        structures=structures,
        keys=keys,
        corpus=tuple(corpus),
        inputs=parts.inputs,
        reference=parts.reference,
        port=parts.port,
        call=parts.call,
        transfer=parts.transfer,
        to_state=parts.to_state,
        tap_name=parts.tap_name,
        parameters=_rules(pair.parameters),
        strata=tuple(replace(sizes, structure=_structure(sizes.structure)) for sizes in pair.strata),
        only_rungs=tuple(rung for rung in RUNGS if rung in pair.rungs),
        only_rungs_reason=pair.rungs_reason or "its author leaves this rung out",
        target=target,
        lifted="ops" not in {p.name for p in _parameters(pair.port)},
        same_tree=False,
        reads_profile="profile" in named,
        inlined=tuple(pair.inlined),
        no_gradients=pair.no_gradients,
        finite_only=pair.finite_only,
    )


class _Parts:
    """The functions of one pair, with its name on every mistake of its author."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._table: Any = None

    @property
    def table(self) -> Any:
        """How weights go across; made when it is needed, since it knows MLX."""
        if self._table is None:
            from parity.weights import Table

            pair = self.pair
            self._table = Table(
                renames=tuple(pair.renames.items()),
                layouts=tuple((pattern, tuple(axes)) for pattern, axes in pair.layouts.items()),
                reference_only=tuple(pair.reference_only),
                port_only=tuple(pair.port_only),
                own=pair.weights,
            )
        return self._table

    def drawn(self, configuration: Configuration) -> dict[str, Any]:
        problem = _configuration_problem(configuration)
        if problem:
            raise ConfigError(f"pair {self.pair.name!r}: {problem}")
        return _structure(configuration)

    def inputs(self, structure: Mapping[str, Any]) -> dict[str, InputSpec]:
        given = self.pair.inputs
        found = self._asked("inputs=", given, structure) if callable(given) else given
        if not isinstance(found, Mapping) or not found:
            raise CaseError(f"{self.pair.name}: inputs= gives at least one input by name; got {found!r}")
        return {name: self._input(name, spec) for name, spec in found.items()}

    def _input(self, name: str, spec: Any) -> InputSpec:
        if isinstance(spec, InputSpec):
            return spec
        if isinstance(spec, list | tuple) and all(isinstance(size, int) and size >= 0 for size in spec):
            return InputSpec(tuple(spec), positions=max(len(spec) - 2, 0))
        raise CaseError(f"{self.pair.name}: input {name!r} is an InputSpec or a shape; got {spec!r}")

    def reference(self, structure: Mapping[str, Any], profile: HyperProfile) -> Any:
        import torch

        module = self._asked("reference=", self.pair.reference, structure, profile=profile)
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"{self.pair.name}: reference= builds a torch.nn.Module; got {type(module).__name__}")
        return module

    def port(self, structure: Mapping[str, Any], profile: HyperProfile, ops: Any) -> Any:
        from mlx import nn

        module = _called(self.pair.port, structure, profile=profile, ops=ops)
        if not isinstance(module, nn.Module):
            raise ConfigError(f"{self.pair.name}: port= builds an mlx.nn.Module; got {type(module).__name__}")
        return module

    def call(self, module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        side: Side = "reference" if _is_torch(module) else "port"
        given = self.pair.call
        function = _by_signature if given is None else given[side] if isinstance(given, Mapping) else given
        if side == "port":  # what a port raises is the port's failure, in its own words
            return named_outputs(function(module, inputs), self.pair.main)
        try:
            return named_outputs(function(module, inputs), self.pair.main)
        except ParityError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
            raise CaseError(f"{self.pair.name}: the reference cannot be run on {shapes}: {_words(error)}") from error

    def transfer(self, module: Any, state: Mapping[str, Any]) -> Any:
        return self.table.load(module, state)

    def to_state(self, module: Any, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self.table.to_state(module, arrays)
        return state

    def tap_name(self, name: str) -> str:
        return str(self.table.module_name(name))

    def _asked(self, what: str, function: Callable[..., Any], structure: Mapping[str, Any], **more: Any) -> Any:
        """What a function of the pair's author answers; what it raises becomes one line."""
        try:
            return _called(function, structure, **more)
        except ParityError:
            raise
        except Exception as error:
            given = _configuration(structure)
            raise CaseError(f"{self.pair.name}: {what} raised on configuration {given!r}: {_words(error)}") from error


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _structure(configuration: Configuration) -> dict[str, Any]:
    return dict(configuration) if isinstance(configuration, Mapping) else {PLAIN: configuration}


def _configuration(structure: Mapping[str, Any]) -> Configuration:
    return structure[PLAIN] if set(structure) == {PLAIN} else dict(structure)


def _called(function: Callable[..., Any], structure: Mapping[str, Any], **more: Any) -> Any:
    """Call a function of the configuration, with those of `more` that it names."""
    named = {parameter.name for parameter in _parameters(function)}
    return function(_configuration(structure), **{name: value for name, value in more.items() if name in named})


def _is_torch(module: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(module, torch.nn.Module)


def _by_signature(module: Any, inputs: Mapping[str, Any]) -> Any:
    """Call a module by name where it names every input, else by position."""
    function = module.forward if _is_torch(module) else module.__call__
    named = {p.name for p in _parameters(function) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return module(**inputs) if inputs.keys() <= named else module(*inputs.values())


# --- outputs --------------------------------------------------------------------------------------------------------


def named_outputs(result: Any, main: str = "") -> dict[str, Any]:
    """Return the tensors of what a module returned, by name, the main one last.

    A tensor is `y`, or `main`; the parts of a tuple are `y[0]`, `y[1]`, ..., those of a mapping, a named tuple or a
    dataclass have its keys; what lies deeper has both, `cache[0].keys`. What is no tensor, and complex ones, are left
    out.

    Args:
        result: A tensor of either framework, or tuples, lists, mappings and dataclasses of them.
        main: Name of the main output, of floats where there are any; the first such one if empty.

    Raises:
        ValueError: There is no tensor, none called `main`, or that one is not the one to measure.
    """
    if _is_judged(result):
        return {main or "y": result}
    found = dict(_leaves("", result))
    if not found:
        raise ValueError(f"the module returned no tensor of floats, integers or booleans; got {type(result).__name__}")
    if main and main not in found:
        raise ValueError(f"the module returned no output called {main!r}; got {', '.join(found)}")
    floating = [name for name, tensor in found.items() if _is_floating(tensor)]
    last = main or next(iter(floating or found))
    if floating and last not in floating:
        raise ValueError(f"main= names floats, on which accuracy is measured: {', '.join(floating)}; got {main!r}")
    return {**{name: tensor for name, tensor in found.items() if name != last}, last: found[last]}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if _is_judged(value):
        yield name, value
        return
    for key, part in _items(value):
        inner = f"{name or 'y'}[{key}]" if isinstance(key, int) else f"{name}.{key}" if name else str(key)
        yield from _leaves(inner, part)


def _items(value: Any) -> Iterator[tuple[int | str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((entry.name, getattr(value, entry.name)) for entry in fields(value))


def _is_floating(value: Any) -> bool:
    torch, mlx = sys.modules.get("torch"), sys.modules.get("mlx.core")
    if torch is not None and isinstance(value, torch.Tensor):
        return bool(value.is_floating_point())
    return mlx is not None and isinstance(value, mlx.array) and bool(mlx.issubdtype(value.dtype, mlx.floating))


def _is_judged(value: Any) -> bool:
    """Whether a value is a tensor that is not complex."""
    torch, mlx = sys.modules.get("torch"), sys.modules.get("mlx.core")
    if torch is not None and isinstance(value, torch.Tensor):
        return not value.is_complex()
    return mlx is not None and isinstance(value, mlx.array) and value.dtype != mlx.complex64


# --- parameters -----------------------------------------------------------------------------------------------------


def _rules(parameters: str | Mapping[str, str | ParameterRule]) -> tuple[tuple[str, ParameterRule], ...]:
    if isinstance(parameters, Mapping):
        named = ((pattern, _as_built if isinstance(rule, str) else rule) for pattern, rule in parameters.items())
        return (*named, ("", _likely))
    return (("", _likely if parameters == "drawn" else _as_built),)


def _as_built(built: Array, rng: np.random.Generator) -> Array:  # noqa: ARG001
    return built


def _likely(built: Array, rng: np.random.Generator) -> Array:
    """Values such as training leaves: positive around 1 for what starts as ones, the scales and variances of norms."""
    noise: Array = rng.standard_normal(built.shape)
    if built.ndim < 2:
        return np.asarray(np.exp(0.2 * noise) if built.size and (built == 1).all() else 0.3 * noise)
    return np.asarray(noise / np.sqrt(max(math.prod(built.shape[1:]), 1)))
