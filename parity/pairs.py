"""Pair: what puts two modules under test. The harness itself knows no model; a suite is a list of pairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hypothesis.strategies import SearchStrategy

from parity.errors import ConfigError
from parity.spec.arrays import Arrays
from parity.spec.devices import ON_CPU, Devices
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import SEMANTIC, HyperProfile
from parity.tolerance import NO_FACTORS, Factors, Scale

Structure = Mapping[str, Any]
"""Sizes and switches of one case: plain JSON values only."""

ParameterRule = Callable[[npt.NDArray[np.float64], np.random.Generator], npt.NDArray[np.float64]]
"""Draws a parameter's values from its freshly initialised ones and a generator."""


def every_knob(_structure: Structure) -> Collection[str]:
    """Return all knobs that change the meaning: what a reference reads of which nothing else is known."""
    return SEMANTIC


@dataclass(frozen=True)
class InputSpec:
    """One input of a pair.

    Args:
        shape: Its shape.
        kind: `float` (drawn from the case's family), `ids` (integers in [low, high)), `labels` (the same with 0 and
            -100, which are ignored, among them, and at least one that is not), `mask` (ones and zeros as integers:
            padding on the right, on the left, or holes, and at least a one in each row), `weight_mask` (the same as
            floats).
        positions: The axis along which a family varies; ignored for the other kinds.
        low, high: Range of `ids`.
    """

    shape: tuple[int, ...]
    kind: Literal["float", "ids", "labels", "mask", "weight_mask"] = "float"
    positions: int = -1
    low: int = 0
    high: int = 2


@dataclass(frozen=True)
class LengthClass:
    """Sizes of the cases of which port and reference are compared in accuracy.

    Args:
        name: What distinguishes them: full length, shorter than the filter's, wide sums.
        structure: The sizes; large enough that an error has many degrees of freedom.
        families: Names of the input families that are drawn for it, where the run asks for them; empty for all.
        margins: Names of constants of `parity.tolerance` that replace `margin`, by `rung`, `family` or `rung/family`.
    """

    name: str
    structure: Structure
    families: tuple[str, ...] = ()
    margins: Mapping[str, str] = field(default_factory=dict)

    def margin(self, rung: str, family: str) -> str:
        """Return the name of the constant that is the margin."""
        return next((self.margins[key] for key in (f"{rung}/{family}", family, rung) if key in self.margins), "margin")


@dataclass(frozen=True)
class Pair:
    """A reference module, its port, and how to put the same question to both.

    Args:
        name: What `parity run` and the report call it.
        structures: Strategy of structures: small sizes and switches, never floats or arrays.
        keys: Every key that a structure may have; a case written by hand with another one is refused. None leaves that
            to the builders.
        corpus: Structures that luck will not hit: length 1, odd, prime, shorter than the filter's.
        inputs: Inputs of a structure, by name.
        reference: Builds the torch module.
        port: Builds the MLX module; its last argument is the seam's primitives.
        call: Runs either module on its inputs; returns named outputs, the main one last.
        transfer: Fills a port from a state dict of MLX arrays, or raises `WeightsError`.
        to_state: Turns arrays under the port's names into a state dict; gradients are compared under its names.
        tap_name: Turns the port's name of a module into the reference's.
        parameters: (pattern, rule) in order of precedence; the first pattern that is found in a name draws it.
        scales: Explicit error models of outputs, from structure, profile, state dict and inputs, all in float64.
        fresh: Compare the freshly built parameters and buffers, not ones drawn by the harness; the explicit error
            models are then the only ones.
        narrow: Changes a structure to one of `structures`, and leaves those as they are: a pair that was narrowed, so
            that a law holds for it, refuses a case written by hand that this would change.
        strata: Length classes of the accuracy test; a pair without any has none.
        only_rungs: The rungs on which the pair means something; the others are reported as skipped.
        only_rungs_reason: Why.
        target: What a command line calls it where that is not its name: `FILE::NAME` or `MODULE:ATTR`.
        lifted: The port knows no seam: at f64 it is built and run inside `parity.float64.float64_forms`.
        same_tree: The port has the reference's modules under its names. Where it does not, an intermediate that has no
            counterpart is reported as unpaired; where it does, that is a failure. An output always needs one.
        inlined: Patterns of modules, of either side, that the other computes without a module.
        no_gradients: Why gradients are not judged; empty where they are.
        finite_only: Why NaN and infinities need not come out alike; empty where they must.
        reads_profile: The modules depend on the profile; where they do not, all profiles share their truth.
        reads: Those of the knobs that change the meaning which the reference of a structure looks at: profiles that
            agree in them share its truth. Too many cost time; one too few would judge a port by a truth that is not
            its own, so a test of every component holds it against what the reference is seen to read.
        devices: Where either side runs; a command chooses it, by `dataclasses.replace`.
        factors: By how much the port's device was measured to err more than the table of tolerances says.
    """

    name: str
    structures: SearchStrategy[dict[str, Any]]
    keys: frozenset[str] | None
    corpus: tuple[Structure, ...]
    inputs: Callable[[Structure], Mapping[str, InputSpec]]
    reference: Callable[[Structure, HyperProfile], Any]
    port: Callable[[Structure, HyperProfile, Any], Any]
    call: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
    transfer: Callable[[Any, Mapping[str, Any]], Any]
    to_state: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
    tap_name: Callable[[str], str]
    parameters: tuple[tuple[str, ParameterRule], ...] = field(default=())
    scales: Callable[[Structure, HyperProfile, Arrays, Arrays], Mapping[str, Scale]] | None = None
    fresh: bool = False
    narrow: Callable[[dict[str, Any]], dict[str, Any]] = dict
    strata: tuple[LengthClass, ...] = ()
    only_rungs: tuple[RungName, ...] = tuple(RUNGS)
    only_rungs_reason: str = ""
    target: str = ""
    lifted: bool = False
    same_tree: bool = True
    reads_profile: bool = True
    reads: Callable[[Structure], Collection[str]] = every_knob
    inlined: tuple[str, ...] = ()
    no_gradients: str = ""
    finite_only: str = ""
    devices: Devices = ON_CPU
    factors: Factors = NO_FACTORS

    @property
    def spelling(self) -> str:
        """What a command line calls the pair."""
        return self.target or self.name

    @property
    def words(self) -> list[str]:
        """The options of a command line that choose devices and constants; nothing for what is the default."""
        return [*self.devices.words, *(["--constants", self.factors.source] if self.factors.source else [])]

    def meaning(self, profile: HyperProfile, structure: Structure) -> tuple[tuple[str, object], ...]:
        """Return what the reference of `structure` reads of `profile`: where that is equal, the truth is shared.

        Raises:
            ConfigError: `reads` names a knob that changes no meaning.
        """
        read = self.reads(structure) if self.reads_profile else ()
        unknown = sorted(set(read) - set(SEMANTIC))
        if unknown:
            raise ConfigError(f"pair {self.name!r}: reads= names {unknown[0]!r}; allowed: {', '.join(SEMANTIC)}")
        return tuple((knob, getattr(profile, knob)) for knob in SEMANTIC if knob in read)
