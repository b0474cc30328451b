"""Gradients of one case: the port's against the reference's in float64, within what rounding makes of a backward pass.

A port whose forward pass is right can still have a wrong derivative: a custom vector-Jacobian product, or a gradient
that is stopped. At a tie of a maximum, or at the kink of a ReLU, a derivative is a matter of choice, and the frameworks
choose otherwise: a case that fails there is judged a little beside it.

Beside means 2^-20: an input whose spread is a hundredth of its mean stays as badly conditioned as it was, so that a
derivative that is wrong for that reason is not excused. float32 has 16 numbers within 2^-20, too few to part a tie of
many: what is a tie or a kink is asked at f64, and at f32 the case is then judged 2^-12 beside.
"""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from parity.backends.gradients import draw_cotangents, gradients_of_port, gradients_of_reference
from parity.backends.noise import perturbed, with_rounding
from parity.backends.shifts import Noise, noise_of
from parity.backends.uniform import Uniform
from parity.examine import Bench, out_of_range
from parity.pairs import Pair
from parity.spec.precision import BY_DTYPE, RUNGS, Rung, RungName
from parity.spec.profile import HyperProfile
from parity.tolerance import REFINE_FROM, REFINED_DRAWS, SCREENING_DRAWS, propagated
from parity.trace import TracedTensor
from parity.verdict import Judgement, failed, judge

GRADIENT_RUNGS: Final[tuple[RungName, ...]] = ("f64", "f32")
"""Rungs at which gradients are judged: nobody trains in sixteen bits without float32 beside them."""

NO_GRADIENT: Final = "no gradient of it comes out of the port"
"""Why a parameter's gradient is compared with nothing."""


KINK: Final = "gradients: judged beside the case, since they differ at a tie or a kink in it and agree beside it"
"""Why a case's gradients are not those of its own inputs."""

_ASIDE: Final[Mapping[str, float]] = {"f64": 2.0**-20, "f32": 2.0**-12}
"""How far beside a case its gradients are judged, as a share of an input's elements and of its root mean square."""

_UNDERIVED: Final = "is not implemented"
"""What torch says of a function without a derivative: `derivative for aten::... is not implemented`."""


@dataclass(frozen=True)
class GradientCheck:
    """Judgements of one case's gradients at one rung, or why there are none.

    `port` are the port's gradients that were judged. `beside` says that they are those beside a tie or a kink, where
    both sides agree. `unpaired` are the parameters of the reference whose gradients were compared with nothing, each
    with the reason.
    """

    judgements: Mapping[str, Judgement]
    skipped: str = ""
    unpaired: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False
    port: Mapping[str, TracedTensor] = field(default_factory=dict)


class GradientBench:
    """The reference's gradients and their predicted error in one case, computed once for all profiles and rungs.

    Args:
        bench: The case.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.cotangents = draw_cotangents(bench.truth, bench.case.seed)
        self.varied = varied_inputs(bench)
        self._gradients: dict[str, Mapping[str, TracedTensor]] = {}
        self._noise: dict[tuple[str, int, float], Mapping[str, Noise]] = {}
        self._beside: dict[str, GradientBench] = {}

    def with_pair(self, pair: Pair) -> GradientBench:
        """Return the same gradients and noise of the reference beside the port of `pair`, different in its port alone.

        What lies beside the case is not shared.
        """
        other = copy.copy(self)
        other.bench, other._beside = self.bench.with_pair(pair), {}
        return other

    @property
    def truth(self) -> Mapping[str, TracedTensor]:
        """The gradients in float64."""
        return self.reference(RUNGS["f64"])

    def reference(self, rung: Rung) -> Mapping[str, TracedTensor]:
        """Return the reference's gradients at `rung`."""
        if rung.name not in self._gradients:
            module = self.bench.module if rung.name == "f64" else self.bench.modules.reference(rung)
            self._gradients[rung.name] = gradients_of_reference(
                self.bench.pair, module, self.bench.inputs, rung, self.cotangents, self.varied
            )
        return self._gradients[rung.name]

    def port(self, profile: HyperProfile, rung: Rung) -> Mapping[str, TracedTensor]:
        """Return the port's gradients under `profile` at `rung`."""
        bench, module = self.bench, self.bench.modules.port(profile, rung)
        return gradients_of_port(bench.pair, module, bench.inputs, rung, self.cotangents, self.varied)

    def noise(self, rung: Rung, draws: int, products: float = 0.0) -> Mapping[str, Noise]:
        """Return the predicted error of every gradient at `rung`, from so many perturbed passes there and back.

        `products` is the unit roundoff of the factors of float32 products where that is coarser than float32's.
        """
        if (rung.name, draws, products) not in self._noise:
            bench, fine = self.bench, RUNGS["f64"]
            generator = Uniform(bench.case.seed)
            runs = []
            for _ in range(draws):
                with perturbed(bench.module, rung, generator, bench.pair.factors, products):
                    runs.append(
                        gradients_of_reference(
                            bench.pair, bench.module, bench.inputs, fine, self.cotangents, self.varied, perturbed=True
                        )
                    )
            self._noise[rung.name, draws, products] = {
                name: noise_of([run[name].values for run in runs], exact.values, rung)
                for name, exact in self.truth.items()
            }
        return self._noise[rung.name, draws, products]

    def beside(self, rung: Rung) -> GradientBench:
        """Return the gradients beside the case, as far as `aside` says."""
        if rung.name not in self._beside:
            self._beside[rung.name] = GradientBench(aside(self.bench, self.varied, rung))
        return self._beside[rung.name]


def varied_inputs(bench: Bench) -> frozenset[str]:
    """Return the names of the inputs that have gradients: no mask does."""
    specs = bench.pair.inputs(bench.case.options)
    return frozenset(name for name, spec in specs.items() if spec.kind == "float" and name in bench.inputs)


def aside(bench: Bench, varied: Collection[str], rung: Rung) -> Bench:
    """Return the case with its inputs `varied` moved by up to 2^-20 of themselves and of their root mean square.

    At f32 it is 2^-12, in numbers of float32.
    """
    generator = np.random.Generator(np.random.Philox(bench.case.seed))
    inputs = dict(bench.inputs)
    for name in sorted(varied):
        x = np.asarray(inputs[name], dtype=np.float64)
        size = float(np.sqrt(np.mean(np.square(x)))) if x.any() else 1.0
        moved = x + _ASIDE[rung.name] * (np.abs(x) + size) * generator.uniform(-1, 1, x.shape)
        inputs[name] = moved if rung.name == "f64" else moved.astype(np.float32).astype(np.float64)
    return Bench(bench.pair, bench.case, bench.profile, inputs, bench.modules, intermediates=False)


def examine_gradients(bench: GradientBench, profile: HyperProfile, rung: Rung) -> GradientCheck:
    """Differentiate the port under `profile` at `rung` and judge every gradient of the reference.

    Where one fails by a finite amount, inputs are moved off whatever tie or kink they may have met, and it counts what
    is found there. NaN or infinity where the reference has a number stays a failure.
    """
    found = _examined(bench, profile, rung)
    if not _differs(found) or not _is_kink(bench, profile, rung):
        return found
    beside = _examined(bench.beside(rung), profile, rung)
    return replace(beside, beside=True) if _agrees(beside) else found


def _differs(found: GradientCheck) -> bool:
    """Whether a gradient fails, and all that fail do by a finite amount."""
    wrong = [judgement for judgement in found.judgements.values() if not judgement.passed]
    return bool(wrong) and not any(judgement.special is None or judgement.special.fatal for judgement in wrong)


def _agrees(found: GradientCheck) -> bool:
    return bool(found.judgements) and all(judgement.passed for judgement in found.judgements.values())


def _is_kink(bench: GradientBench, profile: HyperProfile, rung: Rung) -> bool:
    """Whether gradients that differ at `rung` do so at f64, and no longer beside the case; true where no f64 is."""
    fine = RUNGS["f64"]
    if rung.name == "f64" or "f64" not in bench.bench.pair.only_rungs:
        return True  # what is found beside the case says it
    return _differs(_examined(bench, profile, fine)) and _agrees(_examined(bench.beside(fine), profile, fine))


def _examined(bench: GradientBench, profile: HyperProfile, rung: Rung) -> GradientCheck:
    """Judge every gradient of a case.

    Where one comes near its allowance or beyond it, the predicted error is drawn more often: next to a kink a gradient
    jumps, and only some of the draws fall on its other side.
    """
    skipped = out_of_range(bench.bench, rung)
    if skipped:
        return GradientCheck({}, skipped)
    try:
        truth = bench.truth
    except (NotImplementedError, RuntimeError) as error:
        if _UNDERIVED not in str(error):
            raise
        return GradientCheck({}, f"gradients: the reference has none: {str(error).splitlines()[0]}")
    if not truth:
        return GradientCheck({}, "gradients: no output of the reference has any")
    try:
        port = bench.port(profile, rung)
    except Exception as error:  # noqa: BLE001 - a port that raises is a port that fails, whatever it raises
        raised = failed(f"the port raised {type(error).__name__}: {error}", traceback.format_exc())
        return GradientCheck(dict.fromkeys(truth, raised))
    apart = {name: NO_GRADIENT for name in truth if name not in port}
    if len(apart) == len(truth):
        return GradientCheck(dict.fromkeys(truth, failed(f"nothing compared: {NO_GRADIENT}")))
    judgements = _judged(bench, rung, port, SCREENING_DRAWS)
    if any(REFINE_FROM < judgement.predicted_ratio < math.inf for judgement in judgements.values()):
        judgements = _judged(bench, rung, port, REFINED_DRAWS)
    return GradientCheck(judgements, unpaired=apart, port=port)


def _judged(bench: GradientBench, rung: Rung, port: Mapping[str, TracedTensor], draws: int) -> dict[str, Judgement]:
    found = {}
    reference, noises = bench.reference(rung), bench.noise(rung, draws)
    for name, truth in ((name, truth) for name, truth in bench.truth.items() if name in port):
        held = BY_DTYPE[reference[name].dtype]
        noise = with_rounding(noises[name], truth.values, held)
        allowance = propagated(noise.rms, noise.maximum, rung, held)
        found[name] = judge(truth, reference[name], port[name], rung, allowance, noise.rms, None)
    return found
