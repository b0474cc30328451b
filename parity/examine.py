"""One case examined: truth, predicted noise, reference and port at each rung, and a judgement of every tensor."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn

from parity.backends.noise import Noise, predict_noise
from parity.backends.port import build_port, run_port
from parity.backends.reference import (
    at_rung,
    build_reference,
    fill_reference,
    fresh_parameters,
    run_reference,
    state_of,
)
from parity.backends.truth import compute_truth
from parity.cases import Case, draw_inputs, draw_parameters
from parity.metrics import measure
from parity.pairs import Pair
from parity.spec.precision import BY_DTYPE, RUNGS, Rung
from parity.spec.profile import HyperProfile
from parity.tolerance import NOISE_DRAWS, Scale, propagated, rounding_of
from parity.trace import Trace
from parity.verdict import Judgement, failed, judge

LARGEST_VALUE: Final[Mapping[str, float]] = {"f16": 65504.0 / 8, "bf16": 2.0**60, "f32": 2.0**60}
"""A case is judged at a rung only if every operation of the float64 reference stays below this.

float16 overflows beyond 65504, with a factor 8 left for partial sums; a LayerNorm squares in float32, which holds
2**120 and a sum of 256 such squares. What implementations make of larger numbers is no question of accuracy.
"""


@dataclass(frozen=True)
class Examination:
    """Judgements of one case at one rung, by tensor in execution order, or the reason why there are none."""

    judgements: Mapping[str, Judgement]
    skipped: str = ""


class Bench:
    """Truth, noise and references of one case under one meaning, computed once for all profiles and rungs.

    Args:
        pair: The pair.
        case: The case.
        profile: Any profile of that meaning.
    """

    def __init__(self, pair: Pair, case: Case, profile: HyperProfile) -> None:
        self.pair, self.case, self.profile = pair, case, profile
        self.inputs = draw_inputs(pair, case)
        self.module = self._build()
        self.state = state_of(self.module)
        truth = compute_truth(pair, self.module, self.inputs)
        self.truth, self.largest, self.largest_narrow = truth.trace, truth.largest, truth.largest_narrow
        self._references: dict[str, Trace] = {}
        self._noise: dict[str, Mapping[str, Noise]] = {}

    def reference(self, rung: Rung) -> Trace:
        """Return the reference's trace at `rung`; at f64 it is the truth."""
        if rung.name == "f64":
            return self.truth
        if rung.name not in self._references:
            module = (
                build_reference(self.pair, self.case.options, self.profile)
                if self.pair.fresh
                else at_rung(copy.deepcopy(self.module), rung)
            )
            self._references[rung.name] = run_reference(self.pair, module, self.inputs, rung)
        return self._references[rung.name]

    def noise(self, rung: Rung) -> Mapping[str, Noise]:
        """Return the predicted error of every tensor at `rung`."""
        if rung.name not in self._noise:
            self._noise[rung.name] = predict_noise(
                self.pair, self.module, self.inputs, self.truth, rung, NOISE_DRAWS, self.case.seed
            )
        return self._noise[rung.name]

    def scales(self, profile: HyperProfile) -> Mapping[str, Scale]:
        """Return the explicit error models of the outputs."""
        if self.pair.scales is None:
            return {}
        return self.pair.scales(self.case.options, profile, self.state, self.inputs)

    def _build(self) -> nn.Module:
        if self.pair.fresh:
            return build_reference(self.pair, self.case.options, self.profile, dtype="float64")
        module = build_reference(self.pair, self.case.options, self.profile)
        return fill_reference(module, draw_parameters(self.pair, self.case, fresh_parameters(module)))


def examine(bench: Bench, profile: HyperProfile, rung: Rung) -> Examination:
    """Run the port under `profile` at `rung` and judge every tensor of the reference, in execution order.

    A port that raises fails in its outputs, with what it raised as the reason.
    """
    largest = bench.largest_narrow if rung.name == "f16" else bench.largest
    if largest > LARGEST_VALUE.get(rung.name, np.inf):
        return Examination({}, f"the truth passes through numbers above {LARGEST_VALUE[rung.name]:g}: out of range")
    pair, case = bench.pair, bench.case
    try:
        port = run_port(pair, build_port(pair, case.options, profile, rung, bench.state), bench.inputs, rung)
    except Exception as error:  # noqa: BLE001 - a port that raises is a port that fails, whatever it raises
        raised = failed(f"the port raised {type(error).__name__}: {error}", traceback.format_exc())
        return Examination(dict.fromkeys(bench.truth.outputs, raised))
    reference, scales = bench.reference(rung), bench.scales(profile)
    judgements = {}
    for name, truth in bench.truth.items():
        held = BY_DTYPE[reference[name].dtype]
        noise = _predicted(Noise(0.0, 0.0) if pair.fresh else bench.noise(rung)[name], truth.values, held)
        allowance = None if pair.fresh else propagated(noise.rms, noise.maximum, rung, held)
        judgements[name] = judge(truth, reference[name], port.get(name), rung, allowance, noise.rms, scales.get(name))
    unpaired = [name for name in port if name not in bench.truth]
    judgements |= dict.fromkeys(unpaired, failed("the reference has no such tensor: it is compared with nothing"))
    return Examination(judgements)


def fidelity(bench: Bench, canonical: Bench) -> float:
    """Return the rel L2 between the main outputs of two meanings' float64 references."""
    main = list(canonical.truth)[-1]
    return measure(bench.truth[main].values, canonical.truth[main].values, RUNGS["f64"]).rel_l2


def first_bad(judgements: Mapping[str, Judgement]) -> str | None:
    """Return the first tensor, in execution order, that failed."""
    return next((name for name, judgement in judgements.items() if not judgement.passed), None)


def _predicted(noise: Noise, truth: npt.NDArray[Any], held: Rung) -> Noise:
    """Add the tensor's own rounding to the noise that reaches it."""
    size = np.abs(truth)
    rms, largest = rounding_of(
        float(np.sqrt(np.mean(np.square(size)))) if size.size else 0.0, float(size.max(initial=0.0)), held
    )
    return Noise(float(np.hypot(noise.rms, rms)), noise.maximum + largest)
