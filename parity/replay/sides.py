"""One side run again: its tensors against those of the bundle, in bits and in units of u. No framework is imported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.metrics import ErrorMetrics, compare_special, measure
from parity.replay.bundle import Bundle, Errors, HeldTensor, OffendingTensor, Side, cut, digest
from parity.spec.arrays import Array
from parity.spec.precision import BY_DTYPE
from parity.trace import Trace, TracedTensor


@dataclass(frozen=True)
class SideReplay:
    """One side of one offending tensor, stored and run again.

    Attributes:
        tensor: Its name.
        side: `truth`, `reference` or `port`.
        same: Whether every bit is the same, of the whole tensor.
        stored: Error of what is stored against the stored truth; None where there is nothing to measure.
        now: Error of what came out now, over the same elements against the same truth.
        moved: ||now - stored|| / (u ||truth||), u that of the stored dtype; None where there is nothing to measure.
        note: What cannot be told by numbers; empty where there is nothing to say.
    """

    tensor: str
    side: Side
    same: bool
    stored: Errors | None = None
    now: Errors | None = None
    moved: float | None = None
    note: str = ""


def errors_of(metrics: ErrorMetrics) -> Errors:
    """Return the part of `metrics` that a bundle keeps."""
    return Errors(**{name: getattr(metrics, name) for name in Errors.model_fields})


def compare_side(bundle: Bundle, side: Side, trace: Mapping[str, TracedTensor]) -> tuple[SideReplay, ...]:
    """Compare what came out now with every offending tensor of the bundle."""
    held = trace.everything if isinstance(trace, Trace) else trace
    return tuple(_compare(bundle, tensor, side, held.get(tensor.name)) for tensor in bundle.record.tensors)


def show_side(replays: Sequence[SideReplay]) -> Iterator[str]:
    """Yield lines to print: for every tensor the stored numbers and those of now, once if they are the same."""
    for replay in replays:
        verdict = "same bits" if replay.same else f"differs{_moved(replay.moved)}"
        yield f"{replay.side} {replay.tensor}: {verdict}{f'; {replay.note}' if replay.note else ''}"
        both = (("both", replay.now),) if replay.same else (("stored", replay.stored), ("now", replay.now))
        for when, errors in both:
            if errors is not None:
                yield f"  {when:6} rms {errors.rms:.9g} max {errors.max_abs:.9g} rel L2 {errors.rel_l2:.9g}"


def _moved(moved: float | None) -> str:
    return "" if moved is None else f", moved by {moved:.3g} u"


def _compare(bundle: Bundle, tensor: OffendingTensor, side: Side, now: TracedTensor | None) -> SideReplay:
    about = tensor.side(side)
    if about is None:
        return SideReplay(tensor.name, side, now is None, note="" if now is None else "there was none")
    if now is None:
        return SideReplay(tensor.name, side, False, note="there is none now")
    same = now.dtype == about.dtype and digest(now.values) == about.sha256
    if now.dtype != about.dtype or now.values.shape != about.shape:
        return SideReplay(tensor.name, side, same, note=_form(about, now))
    held, truth = bundle.held(tensor, side), bundle.held(tensor, "truth")
    if held is None:
        return SideReplay(tensor.name, side, same, note="too large for the bundle: only its digest is compared")
    note = f"over the {held.size} elements in the bundle" if tensor.kept == "windows" else ""
    if truth is None or truth.shape != held.shape or about.dtype not in BY_DTYPE:
        return SideReplay(tensor.name, side, same, note=note)
    rung, part = BY_DTYPE[about.dtype], cut(now.values, tensor.windows)
    moved = _distance(part, held, truth, rung.u)
    if compare_special(part, held, rung).fatal:
        moved = math.inf
    if side == "truth":
        return SideReplay(tensor.name, side, same, moved=moved, note=note)
    stored, again = (errors_of(measure(values, truth, rung)) for values in (held, part))
    return SideReplay(tensor.name, side, same, stored, again, moved, note)


def _form(about: HeldTensor, now: TracedTensor) -> str:
    return f"{about.dtype} {about.shape} was stored, now it is {now.dtype} {now.values.shape}"


def _distance(now: Array, stored: Array, truth: Array, u: float) -> float:
    """||now - stored|| / (u ||truth||) over the finite elements; infinite where only the truth is 0."""
    finite = np.isfinite(now) & np.isfinite(stored)
    with np.errstate(over="ignore"):
        moved = float(np.linalg.norm(now[finite] - stored[finite]))
        size = float(np.linalg.norm(truth[np.isfinite(truth)]))
    if moved == 0.0:
        return 0.0
    return moved / (u * size) if size > 0.0 else math.inf
