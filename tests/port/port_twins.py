"""A reference and its port with one set of drawn parameters, on a structure of the suite's corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from mlx import nn as mlx_nn
from torch import nn

from parity.backends.port import build_port, run_port
from parity.backends.reference import build_reference, fill_reference, fresh_parameters, state_of
from parity.cases import Case, draw_inputs, draw_parameters
from parity.pairs import Pair
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import CANONICAL, HyperProfile

AnyArray = npt.NDArray[np.generic]


class Twins(NamedTuple):
    """Both sides of a pair, the state dict that fills them, and inputs."""

    pair: Pair
    case: Case
    reference: nn.Module
    state: dict[str, AnyArray]
    inputs: dict[str, AnyArray]

    def port(self, rung: RungName, profile: HyperProfile = CANONICAL) -> mlx_nn.Module:
        """The port at `rung`, filled."""
        return build_port(self.pair, self.case.options, profile, RUNGS[rung], self.state)

    def outputs(self, rung: RungName, profile: HyperProfile = CANONICAL) -> dict[str, npt.NDArray[np.float64]]:
        """What the port returns at `rung` under `profile`."""
        trace = run_port(self.pair, self.port(rung, profile), self.inputs, RUNGS[rung])
        return {name: trace[name].values for name in trace.outputs}


def twins(pair: Pair, structure: Mapping[str, Any], seed: int = 0, profile: HyperProfile = CANONICAL) -> Twins:
    """Build the reference in float64 with parameters that float32 holds exactly, and draw inputs."""
    case = Case.make(pair.name, structure, seed=seed, ladder=("f64", "f32"))
    reference = build_reference(pair, case.options, profile)
    fill_reference(reference, draw_parameters(pair, case, fresh_parameters(reference)))
    return Twins(pair, case, reference, state_of(reference), draw_inputs(pair, case))
