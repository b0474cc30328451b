"""Whether a failure is TF32's: float32 products on a device that rounds their factors to 11 significant bits.

Where the probe saw such products and the profile did not ask for them, two questions decide. The error is predicted
once more, with the factors of every product that runs in float32 perturbed by 2^-11: a tensor that errs more than that
allows has another fault besides. And the port is run again on the CPU, which multiplies float32 whole: what fails there
as well is not the device's doing. A prediction cannot tell how small TF32's error may be, since factors of few bits
pass unchanged (a bfloat16 number has eight) and small products take kernels without matrix units; the second run can.

What remains hidden is a fault of the device's own below TF32's noise. It is seen once TF32 is off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from parity.backends.noise import with_rounding
from parity.backends.shifts import Noise
from parity.environment.devices import TF32_U, multiplies_in_tf32, port_product_bits
from parity.examine import Bench, examine
from parity.gradients import GradientBench, examine_gradients
from parity.pairs import Pair
from parity.spec.precision import BY_DTYPE, Rung
from parity.spec.profile import HyperProfile
from parity.tolerance import REFINED_DRAWS, constant, propagated
from parity.trace import TracedTensor
from parity.verdict import Judgement


def tf32_may_explain(pair: Pair, profile: HyperProfile, rung: Rung) -> bool:
    """Whether the port at `rung` multiplies float32 in TF32 although its profile asks for IEEE's products."""
    if rung.name == "f64" or profile.matmul_precision != "ieee":
        return False
    return multiplies_in_tf32(pair.devices.port_at(rung))


def tensors_by_tf32(
    bench: Bench, profile: HyperProfile, rung: Rung, judgements: Mapping[str, Judgement]
) -> tuple[str, ...]:
    """Return what TF32 has to do with the failing tensors of a case, in words; nothing where it cannot be the cause."""
    failing = _failing(judgements)
    if bench.pair.fresh or not failing or not tf32_may_explain(bench.pair, profile, rung):
        return ()
    exceeds = _exceeds(bench.pair, rung, bench.truth, bench.noise(rung, REFINED_DRAWS, TF32_U), failing)
    if exceeds:
        return (exceeds,)
    there = examine(bench.with_pair(_on_the_cpu(bench.pair)), profile, rung).judgements
    return (_compared(bench.pair, rung, failing, there),)


def gradients_by_tf32(
    bench: GradientBench, profile: HyperProfile, rung: Rung, judgements: Mapping[str, Judgement]
) -> tuple[str, ...]:
    """Return what TF32 has to do with the failing gradients of a case, in words."""
    pair, failing = bench.bench.pair, _failing(judgements)
    if not failing or not tf32_may_explain(pair, profile, rung):
        return ()
    exceeds = _exceeds(pair, rung, bench.truth, bench.noise(rung, REFINED_DRAWS, TF32_U), failing)
    if exceeds:
        return (exceeds,)
    there = examine_gradients(bench.with_pair(_on_the_cpu(pair)), profile, rung).judgements
    return (_compared(pair, rung, failing, there),)


def stratum_by_tf32(
    bench: Bench, profile: HyperProfile, rung: Rung, judgements: Mapping[str, Judgement]
) -> tuple[str, ...]:
    """Return what TF32 has to do with the lost accuracy of the main output in a stratum's worst case, in words.

    No tensor need fail in that case; it is TF32's if the CPU leaves at most `tf32_share` of the error.
    """
    if not tf32_may_explain(bench.pair, profile, rung) or bench.main not in judgements:
        return ()
    here = {bench.main: judgements[bench.main]}
    exceeds = _exceeds(bench.pair, rung, bench.truth, bench.noise(rung, REFINED_DRAWS, TF32_U), here)
    if exceeds:
        return (exceeds,)
    there = examine(bench.with_pair(_on_the_cpu(bench.pair)), profile, rung).judgements
    share = _error(there.get(bench.main)) / _error(here[bench.main])
    if share > constant("tf32_share"):
        return (_not_attributed(bench.pair, rung, f"of the error of {bench.main} the CPU leaves {share:.3g}"),)
    return (_attributed(bench.pair, rung, f"of the error of {bench.main} the CPU leaves {share:.2g}"),)


def _on_the_cpu(pair: Pair) -> Pair:
    return replace(pair, devices=replace(pair.devices, port="cpu"))


def _failing(judgements: Mapping[str, Judgement]) -> dict[str, Judgement]:
    return {name: judgement for name, judgement in judgements.items() if not judgement.passed}


def _exceeds(
    pair: Pair,
    rung: Rung,
    truth: Mapping[str, TracedTensor],
    noise: Mapping[str, Noise],
    found: Mapping[str, Judgement],
) -> str:
    """Say which error is beyond what TF32 allows; nothing if none is."""
    ratios = {name: _ratio(truth, noise, name, judgement, rung) for name, judgement in found.items()}
    name, largest = max(ratios.items(), key=lambda item: item[1])
    if largest <= 1:
        return ""
    return (
        f"not by TF32 alone: the {_device(pair, rung)}, but with factors of 11 bits the error of {name} is still "
        f"{largest:.3g} times what is allowed"
    )


def _compared(pair: Pair, rung: Rung, failing: Mapping[str, Judgement], there: Mapping[str, Judgement]) -> str:
    """Say whether what fails on the device fails on the CPU."""
    also = [name for name in failing if name not in there or not there[name].passed]
    if also:
        why = f"{also[0]} fails on the CPU as well, which multiplies float32 whole"
        return _not_attributed(pair, rung, why)
    return _attributed(pair, rung, "on the CPU, which multiplies float32 whole, all that fails here passes")


def _attributed(pair: Pair, rung: Rung, why: str) -> str:
    return (
        f"attributed to TF32: the {_device(pair, rung)}, no error is beyond what factors of 11 bits allow, and {why}; "
        "set MLX_ENABLE_TF32=0, or choose matmul_precision=tf32"
    )


def _not_attributed(pair: Pair, rung: Rung, why: str) -> str:
    return f"not attributed to TF32, although the {_device(pair, rung)}: {why}"


def _device(pair: Pair, rung: Rung) -> str:
    device = pair.devices.port_at(rung)
    return f"{device} multiplies float32 in {port_product_bits(device):.0f} bits"


def _error(judgement: Judgement | None) -> float:
    """Root mean square error; infinite where nothing was measured, and never 0."""
    metrics = judgement.port if judgement is not None else None
    return math.inf if metrics is None else max(metrics.rms, math.ulp(0.0))


def _ratio(
    truth: Mapping[str, TracedTensor], noise: Mapping[str, Noise], name: str, judgement: Judgement, rung: Rung
) -> float:
    """Return error over the allowance that the noise with TF32's products makes; infinite where there is no error."""
    metrics, special = judgement.port, judgement.special
    if metrics is None or name not in noise or (special is not None and special.fatal):
        return math.inf
    held = BY_DTYPE[rung.dtype]
    predicted = with_rounding(noise[name], truth[name].values, held)
    allowed = propagated(predicted.rms, predicted.maximum, rung, held)
    return max(metrics.rms / allowed.rms, metrics.max_abs / allowed.maximum)
