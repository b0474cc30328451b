"""Metrics and tolerance to a verdict: pass or fail, by how much, and why. Decides; computes and prints nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from parity.metrics import (
    ErrorMetrics,
    ExactMetrics,
    SpecialValues,
    compare_exact,
    compare_special,
    error_of,
    error_ratio,
    quantisation_error,
)
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import BY_DTYPE, RUNGS, Rung
from parity.tolerance import MOST_VALUES, Allowance, Scale, constant
from parity.trace import TracedTensor, kind_of

SMALLEST_DIVISOR: Final = 2.0**-500
"""Below this an error is none: its square would underflow."""


@dataclass(frozen=True)
class Judgement:
    """Verdict on one tensor of one case.

    Args:
        passed: Whether every gate holds.
        reason: Which gate does not, in words; empty when passed.
        ratio: Error over allowance, the largest over the gates; infinite where a gate cannot be measured.
        predicted_ratio: The same over the gates of the predicted noise alone.
        scaled: rms error in units of u*g*S.
        conditioning: Predicted relative error in units of u: how the data amplify one rounding.
        port: Metrics of the port against truth.
        reference: Metrics of the reference against truth at the same rung.
        port_over_reference: Error ratio with the quantisation floor; None at f64, where the reference is the truth.
        kappa: Conditioning by jitter.
        powerless: Whether a tensor of zeros would pass as well: the case is ill-conditioned here and says nothing.
        special: NaN, infinities, zeros and subnormals of the port that differ from the reference's.
        detail: More for whoever mends it: the traceback of a port that raised.
        predicted: Predicted relative error: `conditioning` times the unit roundoff of the tensor's own dtype.
        exact: Of integers and booleans, what stands in place of all of the above; None for floats.
        undecided: Elements that were not compared, since the reference itself may choose another way there.
    """

    passed: bool
    reason: str
    ratio: float
    scaled: float
    conditioning: float
    port: ErrorMetrics | None
    reference: ErrorMetrics | None
    port_over_reference: float | None
    special: SpecialValues | None
    detail: str = ""
    kappa: float = 0.0
    powerless: bool = False
    predicted_ratio: float = 0.0
    predicted: float = 0.0
    exact: ExactMetrics | None = None
    undecided: int = 0


@dataclass(frozen=True)
class Known:
    """What a verdict needs that does not depend on the port.

    Args:
        reference: Metrics of the reference against truth at the rung.
        quantisation: `quantisation_error` of the truth in the format of the tensor; at f64 nobody looks at it.
    """

    reference: ErrorMetrics
    quantisation: float


def failed(reason: str, detail: str = "") -> Judgement:
    """Return the verdict on a tensor that cannot be measured at all."""
    return Judgement(False, reason, math.inf, math.inf, 0.0, None, None, None, None, detail)


def judge(
    truth: TracedTensor,
    reference: TracedTensor,
    port: TracedTensor | None,
    rung: Rung,
    allowance: Allowance | None,
    noise_rms: float,
    scale: Scale | None,
    kappa: float = 0.0,
    known: Known | None = None,
) -> Judgement:
    """Judge the port's tensor.

    Order of the gates: present; shape; dtype; something to compare; NaN and infinities; error against the allowance;
    error against the explicit scale, where there is one.

    Args:
        truth: The float64 tensor.
        reference: The reference's tensor at the rung: the port must have its shape, dtype and special values.
        port: The port's tensor, None if the port has none of that name.
        rung: The rung.
        allowance: From propagated noise, None if the explicit scale stands alone.
        noise_rms: Predicted rms error, for `scaled`.
        scale: Explicit error model of this tensor.
        kappa: Conditioning by jitter, for the record.
        known: What does not depend on the port, None to have it measured.
    """
    if port is None:
        return failed("the port has no such tensor")
    if port.values.shape != reference.values.shape:
        return failed(f"shape {port.values.shape}, the reference has {reference.values.shape}")
    if port.dtype != reference.dtype:
        return failed(f"dtype {port.dtype}, the reference has {reference.dtype}")
    if port.values.size == 0:
        return failed("nothing compared: the tensor has no elements")
    held = BY_DTYPE.get(port.dtype)
    if held is None:
        return failed(f"dtype {port.dtype} is no rung's")
    if allowance is None and scale is None:
        return failed("no error model: neither predicted noise nor an explicit scale stands behind it")
    special = compare_special(port.values, reference.values, held)
    metrics = error_of(port.values, truth.values, held)
    known = known or _known(truth, reference, rung, held)
    if metrics.count == 0 and not special.fatal:
        return failed("nothing compared: no element is finite")
    gates = {"finite": _finite_gate(port.values, truth.values, special, metrics.count)}
    if allowance is not None:
        gates["rms error"] = _over(metrics.rms, allowance.rms)
        gates["largest error"] = _over(metrics.max_abs, allowance.maximum)
    if scale is not None:
        gates |= _scale_gates(np.abs(port.values - truth.values), truth.values, scale, rung, held)
    gates = {gate: math.inf if math.isnan(value) else value for gate, value in gates.items()}
    gate, ratio = max(gates.items(), key=lambda item: item[1])
    passed = all(value <= 1 for value in gates.values())
    return Judgement(
        passed=passed,
        reason="" if passed else _explain(gate, ratio, special),
        ratio=ratio,
        scaled=_over(metrics.rms, noise_rms),
        conditioning=noise_rms / (held.u * metrics.truth_rms) if metrics.truth_rms > 0 else 0.0,
        port=metrics,
        reference=known.reference,
        port_over_reference=None
        if rung.name == "f64"
        else error_ratio(metrics.l2, known.reference.l2, known.quantisation),
        special=special,
        kappa=kappa,
        predicted_ratio=max(gates.get("rms error", 0.0), gates.get("largest error", 0.0)),
        predicted=noise_rms / metrics.truth_rms if metrics.truth_rms > 0 else 0.0,
        powerless=allowance is not None and _zeros_would_pass(truth.values, metrics.truth_rms, allowance),
    )


def judge_decided(
    judged: Judgement,
    truth: TracedTensor,
    reference: TracedTensor,
    port: TracedTensor,
    rung: Rung,
    allowance: Allowance,
    noise_rms: float,
    shifts: Array,
) -> Judgement:
    """Judge again a tensor that failed, without the elements that a tie decides: experts of a mixture, for example.

    Those are the ones that the perturbed reference moves by more than is allowed. They may differ by what is allowed of
    the largest such shift, and the others must be within the allowance as ever.

    Args:
        judged: The verdict on all elements, which stands where this one is no better.
        truth, reference, port, rung, allowance, noise_rms: As of `judge`.
        shifts: Largest shift of every element.
    """
    undecided = shifts > allowance.maximum
    apart = np.abs(port.values - truth.values)[undecided]
    if not apart.size or float(apart.max()) > constant("propagated_max") * float(shifts.max()):
        return judged
    # Allowances are those of the whole tensor, so its shape stays, without an error where nothing is decided.
    decided = replace(port, values=np.where(undecided, truth.values, port.values))
    rest = judge(truth, reference, decided, rung, allowance, noise_rms, None, judged.kappa)
    powerless = rest.powerless or bool(undecided.all())
    return replace(rest, undecided=apart.size, powerless=powerless) if rest.passed else judged


def judge_exact(
    truth: AnyArray, reference: AnyArray, port: AnyArray | None, draws: Sequence[AnyArray] = ()
) -> Judgement:
    """Judge the port's tensor of integers or booleans: each element is the truth's, or one that rounding gives as well.

    Order of the gates: present; kind; shape, which may depend on rounding too; elements. A mismatch is beyond what is
    allowed by an infinite ratio. Where every element may have any value, or there is none, passing says nothing.

    Args:
        truth: Of the float64 reference, int64 or bool.
        reference: Of the reference at the rung.
        port: The port's tensor, None if the port has none of that name.
        draws: Those of the perturbed reference.
    """
    if port is None:
        return failed("the port has no such tensor")
    if port.dtype != reference.dtype:
        return failed(f"{kind_of(port)}, the reference has {kind_of(reference)}")
    if port.shape not in {array.shape for array in (truth, reference, *draws)}:
        return failed(f"shape {port.shape}, the reference has {reference.shape}")
    found = compare_exact(port, truth, reference, draws, MOST_VALUES)
    return Judgement(
        passed=not found.mismatched,
        reason=_explain_exact(found) if found.mismatched else "",
        ratio=math.inf if found.mismatched else 0.0,
        scaled=0.0,
        conditioning=0.0,
        port=None,
        reference=None,
        port_over_reference=None,
        special=None,
        powerless=found.open == found.count,
        exact=found,
    )


def _explain_exact(found: ExactMetrics) -> str:
    allowed = " or ".join(map(str, found.allowed))
    return (
        f"{found.mismatched} of {found.count} elements are none that rounding allows: "
        f"at {list(found.index)} got {found.got}, expected {allowed}"
    )


def _zeros_would_pass(truth: Array, truth_rms: float, allowance: Allowance) -> bool:
    """Whether the allowance is larger than the truth, so that passing says nothing; never where the truth is 0."""
    return 0 < truth_rms < allowance.rms and float(np.abs(truth).max()) < allowance.maximum


def _over(error: float, allowed: float) -> float:
    """Return error / allowed; 0 where there is no error, whatever is allowed."""
    if error == 0:
        return 0.0
    return error / allowed if allowed > 0 else math.inf


def _known(truth: TracedTensor, reference: TracedTensor, rung: Rung, held: Rung) -> Known:
    quantisation = 0.0 if rung.name == "f64" else quantisation_error(truth.values, held)
    return Known(error_of(reference.values, truth.values, held), quantisation)


def _finite_gate(port: Array, truth: Array, special: SpecialValues, finite: int) -> float:
    """0 if the port is finite wherever the truth is, and as the reference elsewhere; else infinite.

    `finite` counts the elements where port and truth are both finite: with all of them there is nothing to look for.
    """
    if finite == port.size:
        return math.inf if special.fatal else 0.0
    return math.inf if special.fatal or bool((np.isfinite(truth) & ~np.isfinite(port)).any()) else 0.0


def _scale_gates(error: Array, truth: Array, scale: Scale, rung: Rung, held: Rung) -> dict[str, float]:
    """Gates of an explicit error model: C u g S in float32 at most, plus the rounding to sixteen bits.

    One quantum is allowed besides, at f64 a number whose square is not 0.
    """
    working = RUNGS["f32"] if rung.is_half else rung
    factor = working.u * (constant("float64") if rung.name == "f64" else 1.0)
    rounding = (held.u if rung.is_half else 0.0) * (np.abs(truth) + scale.passing) + max(held.quantum, SMALLEST_DIVISOR)
    largest = float(np.max(error / (factor * scale.maximum + rounding)))
    if scale.axes:
        spread = _rms(error, scale.axes) / (factor * scale.rms + _rms(rounding, scale.axes))
        return {"explicit rms error": float(spread.max()), "explicit largest error": largest}
    spread = _rms(error / (factor * scale.rms + rounding), tuple(range(error.ndim)))
    return {"explicit rms error": float(spread.max()), "explicit largest error": largest}


def _rms(values: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt(np.mean(np.square(values), axis=axes, keepdims=True)))


def _explain(gate: str, ratio: float, special: SpecialValues) -> str:
    if gate == "finite":
        return f"NaN or infinity where there should be none ({special.nan} NaN, {special.inf} infinite differ)"
    return f"{gate} is {ratio:.3g} times what is allowed"
