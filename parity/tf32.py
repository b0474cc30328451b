"""Whether a failure is TF32's: float32 products on a device that rounds their factors to 11 significant bits.

Where the probe saw such products and the profile did not ask for them, the error is predicted once more, with the
factors of every product that runs in float32 perturbed by 2^-11. A failure is attributed to TF32 if every failing
tensor lies within the allowance of that prediction, and the one that exceeds its own allowance most is as large as
predicted, by the same factor downwards: an error far smaller than TF32's would be something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from parity.backends.noise import Noise, with_rounding
from parity.environment.devices import TF32_U, multiplies_in_tf32, port_product_bits
from parity.examine import Bench
from parity.gradients import GradientBench
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
    if bench.pair.fresh or not tf32_may_explain(bench.pair, profile, rung):
        return ()
    noise = bench.noise(rung, REFINED_DRAWS, TF32_U)
    return _words(bench.pair, rung, bench.truth, noise, _failing(judgements))


def gradients_by_tf32(
    bench: GradientBench, profile: HyperProfile, rung: Rung, judgements: Mapping[str, Judgement]
) -> tuple[str, ...]:
    """Return what TF32 has to do with the failing gradients of a case, in words."""
    pair = bench.bench.pair
    if not tf32_may_explain(pair, profile, rung):
        return ()
    noise = bench.noise(rung, REFINED_DRAWS, TF32_U)
    return _words(pair, rung, bench.truth, noise, _failing(judgements))


def stratum_by_tf32(
    bench: Bench, profile: HyperProfile, rung: Rung, judgements: Mapping[str, Judgement]
) -> tuple[str, ...]:
    """Return what TF32 has to do with the lost accuracy of the main output in a stratum's worst case, in words."""
    if not tf32_may_explain(bench.pair, profile, rung) or bench.main not in judgements:
        return ()
    noise = bench.noise(rung, REFINED_DRAWS, TF32_U)
    return _words(bench.pair, rung, bench.truth, noise, {bench.main: judgements[bench.main]})


def _failing(judgements: Mapping[str, Judgement]) -> dict[str, Judgement]:
    return {name: judgement for name, judgement in judgements.items() if not judgement.passed}


def _words(
    pair: Pair,
    rung: Rung,
    truth: Mapping[str, TracedTensor],
    noise: Mapping[str, Noise],
    failing: Mapping[str, Judgement],
) -> tuple[str, ...]:
    if not failing:
        return ()
    device, bits = pair.devices.port_at(rung), port_product_bits(pair.devices.port_at(rung))
    ratios = {name: _ratio(truth, noise, name, judgement, rung) for name, judgement in failing.items()}
    name, largest = max(ratios.items(), key=lambda item: item[1])
    if largest > 1:
        return (
            f"not by TF32 alone: the {device} multiplies float32 in {bits:.0f} bits, but with factors of 11 bits the "
            f"error of {name} is still {largest:.3g} times what is allowed",
        )
    worst = max(failing, key=lambda name: failing[name].ratio)
    least = 1 / constant("propagated_rms") ** 2
    if ratios[worst] < least:
        return (
            f"not attributed to TF32, although the {device} multiplies float32 in {bits:.0f} bits: the error of "
            f"{worst} is {ratios[worst]:.3g} of what that allows, too small for it",
        )
    return (
        f"attributed to TF32: the {device} multiplies float32 in {bits:.0f} bits, and with factors of 11 bits every "
        f"failing tensor keeps within its allowance (at most {largest:.2g} of it); set MLX_ENABLE_TF32=0, or choose "
        "matmul_precision=tf32",
    )


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
