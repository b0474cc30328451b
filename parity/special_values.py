"""What a pair makes of NaN and infinities: one such value in an input, and the classes of both sides' outputs.

`parity run` draws finite numbers alone. A port that turns NaN into 0, or saturates what is infinite, computes the same
until a run goes wrong, and then hides it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from parity.backends.port import arithmetic, run_port_outputs
from parity.backends.reference import run_reference_outputs
from parity.cases import FINE_LADDER, Case, draw_inputs, largest_structures
from parity.examine import Modules
from parity.metrics import compare_special
from parity.pairs import Pair
from parity.spec.arrays import AnyArray
from parity.spec.precision import BY_DTYPE, Rung
from parity.spec.profile import HyperProfile
from parity.trace import Trace

PLANTED: Final[Mapping[str, float]] = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}

MOST_STRUCTURES: Final = 3
"""The largest structures of a pair: in a small one everything is next to the value that is planted."""


@dataclass(frozen=True)
class PlantedAnswer:
    """What became of one value in one element of one input.

    Args:
        component: The pair.
        rung: The rung.
        case: Structure and seed.
        what: `NaN`, `inf` or `-inf`.
        where: The input and the index of the element.
        differs: Of every output whose NaN and infinities lie elsewhere in the port, its name and how many; empty if
            both sides agree, NaN on one side and an infinity on the other being agreement. What the port raises is one
            of them, under the main output's name.
    """

    component: str
    rung: str
    case: str
    what: str
    where: str
    differs: Mapping[str, str]

    @property
    def line(self) -> str:
        """The answer in words."""
        asked = f"{self.component} {self.rung}: {self.what} in {self.where} of {self.case}"
        return asked if not self.differs else f"{asked}: {'; '.join(map(': '.join, self.differs.items()))}"


def ask_pair(pair: Pair, profile: HyperProfile, rung: Rung, seed: int) -> Iterator[PlantedAnswer]:
    """Plant each value of `PLANTED` in one element of each float input, for the largest structures of a pair.

    Args:
        pair: The pair; one without float inputs has no answer.
        profile: The profile.
        rung: Where both sides run; at f64 the port is lifted as in a run.
        seed: Seed of parameters, inputs and places.
    """
    for structure in largest_structures(pair, seed, MOST_STRUCTURES):
        case = Case.make(pair.name, structure, seed=seed, ladder=FINE_LADDER)
        modules = Modules(pair, case, profile)
        inputs, specs = draw_inputs(pair, case), pair.inputs(case.options)
        rng = np.random.Generator(np.random.Philox(seed))
        for name in (name for name, spec in specs.items() if spec.kind == "float" and inputs[name].size):
            index = np.unravel_index(int(rng.integers(inputs[name].size)), inputs[name].shape)
            where = f"{name}[{', '.join(map(str, index))}]"
            for what, value in PLANTED.items():
                spoilt = inputs[name].copy()
                spoilt[index] = value
                differs = _differences(modules, profile, rung, {**inputs, name: spoilt})
                yield PlantedAnswer(pair.name, rung.name, case.to_json(), what, where, differs)


def _differences(modules: Modules, profile: HyperProfile, rung: Rung, inputs: Mapping[str, AnyArray]) -> dict[str, str]:
    pair = modules.pair
    reference = run_reference_outputs(pair, modules.reference(rung), inputs, rung)
    try:
        with arithmetic(pair, rung):
            port = run_port_outputs(pair, modules.port(profile, rung), inputs, rung)
    except Exception as error:  # noqa: BLE001 - a port that raises is a port that fails, whatever it raises
        return {[*reference.exact, *reference.outputs][-1]: f"the port raised {type(error).__name__}: {error}"}
    found = {name: _difference(reference, port, name) for name in reference.outputs}
    return {name: words for name, words in found.items() if words}


def _difference(reference: Trace, port: Trace, name: str) -> str:
    if name not in port:
        return "the port has no such output"
    here, there = port[name].values, reference[name].values
    if here.shape != there.shape:
        return f"shape {here.shape}, the reference has {there.shape}"
    lost = ~np.isfinite(here) & ~np.isfinite(there) & (np.isnan(here) | np.isnan(there))
    # inf - inf and 0 * inf are NaN, so which of the two stands there depends on the order of operations alone.
    here, there = np.where(lost, math.nan, here), np.where(lost, math.nan, there)
    special = compare_special(here, there, BY_DTYPE[reference[name].dtype])
    return f"{special.nan} NaN and {special.inf} infinities are misplaced" if special.fatal else ""
