"""The one under test: a side of a pair, built for a case, that answers questions; and what rounding may do to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import numpy as np

from parity.backends.noise import predict_noise
from parity.backends.port import build_port, run_port
from parity.backends.reference import (
    at_rung,
    build_reference,
    fill_reference,
    fresh_parameters,
    load_reference,
    run_reference,
    state_of,
)
from parity.backends.shared import double_in_port, double_in_reference, port_storages, reference_storages
from parity.cases import Case, draw_inputs, draw_parameters
from parity.cases.arrays import generator, to_grid
from parity.pairs import Pair, Structure
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import HyperProfile
from parity.tolerance import NOISE_DRAWS, Allowance, propagated, rounding_of
from parity.trace import Trace

Side = Literal["reference", "port"]
SIDES: Final[tuple[Side, ...]] = get_args(Side)
Inputs = Mapping[str, AnyArray]
State = Mapping[str, AnyArray]


class Ground:
    """What both sides of a case share: parameters, inputs, and the errors that rounding is predicted to make.

    Args:
        pair: The pair.
        case: The case.
        profile: The profile under which both sides run.
    """

    def __init__(self, pair: Pair, case: Case, profile: HyperProfile) -> None:
        self.pair, self.case, self.profile = pair, case, profile
        self.inputs = draw_inputs(pair, case)
        module = build_reference(pair, case.options, profile)
        fill_reference(module, draw_parameters(pair, case, fresh_parameters(module)))
        self.state = state_of(module)
        self._allowances: dict[tuple[Any, ...], dict[str, Allowance]] = {}

    def allowance(self, inputs: Inputs, state: State, rung: Rung) -> dict[str, Allowance]:
        """Return what each output's error may be on these inputs: predicted noise times the table's constants."""
        key = (rung.name, _digest(inputs), _digest(state))
        if key not in self._allowances:
            module = load_reference(build_reference(self.pair, self.case.options, self.profile), state)
            truth = run_reference(self.pair, module, inputs, RUNGS["f64"])
            noise = predict_noise(self.pair, module, inputs, truth, rung, NOISE_DRAWS, self.case.seed)
            self._allowances[key] = {
                name: _allowance(truth[name].values, noise[name].rms, noise[name].maximum, rung)
                for name in truth.outputs
            }
        return self._allowances[key]


class Subject:
    """One side of a case at a rung.

    Args:
        ground: The case, its parameters and inputs.
        side: `reference` or `port`.
        rung: `f64` or `f32`.
    """

    def __init__(self, ground: Ground, side: Side, rung: Rung) -> None:
        self.ground, self.side, self.rung = ground, side, rung

    @property
    def structure(self) -> Structure:
        """Sizes and switches of the case."""
        return self.ground.case.options

    @property
    def profile(self) -> HyperProfile:
        """The profile under which the side runs."""
        return self.ground.profile

    @property
    def inputs(self) -> dict[str, AnyArray]:
        """The case's inputs, by name."""
        return self.ground.inputs

    @property
    def state(self) -> dict[str, AnyArray]:
        """The case's parameters as a state dict, aliases included."""
        return self.ground.state

    def generator(self, what: str) -> np.random.Generator:
        """Return the generator of something that the law draws besides."""
        return generator(self.ground.case.seed, f"law:{what}")

    def normal(self, what: str, shape: tuple[int, ...]) -> Array:
        """Draw N(0, 1) at the case's scale, rounded until every rung of its ladder holds it."""
        case = self.ground.case
        return to_grid(np.ldexp(self.generator(what).standard_normal(shape), case.scale), case)

    def outputs(self, inputs: Inputs | None = None, state: State | None = None) -> dict[str, Array]:
        """Return the side's outputs, on the case's own inputs and parameters unless others are given."""
        return self._run(self._build(state), inputs)

    def allowance(self, inputs: Inputs | None = None, state: State | None = None) -> dict[str, Allowance]:
        """Return what each output's error may be on these inputs."""
        return self.ground.allowance(
            self.inputs if inputs is None else inputs, self.state if state is None else state, self.rung
        )

    def storages(self, names: list[str], state: State) -> list[str]:
        """Return where this side lets one assign any of `names`, which the specification calls one parameter."""
        module = self._build(state)
        if self.side == "reference":
            return reference_storages(module, names)
        return port_storages(self.ground.pair, module, names)

    def outputs_doubled_at(self, storage: str, state: State) -> dict[str, Array]:
        """Return the outputs after doubling, in the module built from `state`, what is stored at `storage` alone."""
        module = self._build(state)
        (double_in_reference if self.side == "reference" else double_in_port)(module, storage)
        return self._run(module, None)

    def _build(self, state: State | None) -> Any:
        pair, options = self.ground.pair, self.structure
        state = self.state if state is None else state
        if self.side == "port":
            return build_port(pair, options, self.profile, self.rung, state)
        return at_rung(load_reference(build_reference(pair, options, self.profile), state), self.rung)

    def _run(self, module: Any, inputs: Inputs | None) -> dict[str, Array]:
        run = run_reference if self.side == "reference" else run_port
        trace: Trace = run(self.ground.pair, module, self.inputs if inputs is None else inputs, self.rung)
        return {name: trace[name].values for name in trace.outputs}


def _allowance(truth: Array, rms: float, maximum: float, rung: Rung) -> Allowance:
    """Allowance of a tensor from the noise that reaches it and its own rounding."""
    size = np.abs(truth)
    own_rms, own_max = rounding_of(float(np.sqrt(np.mean(np.square(size)))), float(size.max(initial=0.0)), rung)
    return propagated(float(np.hypot(rms, own_rms)), maximum + own_max, rung, rung)


def total(*allowances: Allowance) -> Allowance:
    """Return what a sum of tensors may err by: the sum of what each may."""
    return Allowance(sum(each.rms for each in allowances), sum(each.maximum for each in allowances))


def scaled(allowance: Allowance, factor: float) -> Allowance:
    """Return what `factor` times a tensor may err by."""
    return Allowance(abs(factor) * allowance.rms, abs(factor) * allowance.maximum)


def _digest(arrays: Mapping[str, AnyArray]) -> tuple[tuple[str, tuple[int, ...], bytes], ...]:
    return tuple((name, array.shape, array.tobytes()) for name, array in sorted(arrays.items()))
