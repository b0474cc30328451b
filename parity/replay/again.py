"""Running a bundle again: the stored numbers, those of now, and what else is different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from parity.backends.port import build_port, run_port
from parity.backends.reference import build_reference, fresh_parameters
from parity.environment import collect, require_devices
from parity.errors import ReplayError
from parity.examine import Bench, Examination, Modules, examine
from parity.pairs import Pair
from parity.replay.bundle import Bundle, Numbers, Side
from parity.replay.pack import failing, numbers_of
from parity.replay.sides import SideReplay, compare_side
from parity.spec.arrays import Array
from parity.spec.precision import RUNGS
from parity.trace import Trace, TracedTensor

Sides = Literal["reference", "port", "both"]


@dataclass(frozen=True)
class Change:
    """A field of the environment that is not what it was; None where it is not there."""

    field: str
    stored: str | None
    now: str | None


@dataclass(frozen=True)
class TensorReplay:
    """One offending tensor: its stored judgement, that of now (None unless both sides ran), and each side that ran."""

    name: str
    stored: Numbers
    now: Numbers | None
    sides: tuple[SideReplay, ...]


@dataclass(frozen=True)
class ReplayResult:
    """What a replay found.

    Attributes:
        ran: Which side was asked for.
        first_bad, failed: The stored verdict: first failing tensor, empty if there was none, and how many failed.
        first_bad_now, failed_now: Those of now; None unless both sides ran.
        tensors: Every offending tensor that the bundle describes.
        environment: What has changed since.
        raised: What the port raised, if it ran alone and did.
    """

    ran: Sides
    first_bad: str
    failed: int
    first_bad_now: str | None
    failed_now: int | None
    tensors: tuple[TensorReplay, ...]
    environment: tuple[Change, ...]
    raised: str = ""

    @property
    def same(self) -> bool:
        """Whether every bit of every tensor that ran and, where it was judged again, every number is as stored."""
        sides = all(side.same for tensor in self.tensors for side in tensor.sides)
        if self.ran != "both":
            return sides
        verdict = (self.first_bad, self.failed) == (self.first_bad_now, self.failed_now)
        return sides and verdict and all(tensor.now == tensor.stored for tensor in self.tensors)


def replay(bundle: Bundle, pair: Pair, sides: Sides = "both") -> ReplayResult:
    """Run a bundle again, on its own numbers.

    Args:
        bundle: The bundle.
        pair: The pair of its component.
        sides: `reference` runs truth and reference, `port` the port, `both` all of them and judges the port again.

    Raises:
        ReplayError: The numbers that failed cannot be had any more, or the case is not judged at its rung any more.
        DeviceError: A device on which it failed is not here.
    """
    pair = replace(pair, devices=bundle.devices)
    require_devices(pair.devices)
    if sides == "port":
        trace, raised = _port_alone(bundle, pair)
        return _result(bundle, pair, sides, {"port": trace}, None, raised)
    case, profile, rung = bundle.case, bundle.record.profile, RUNGS[bundle.record.rung]
    state = bundle.state(pair, lambda: _fresh(bundle, pair))
    bench = Bench(pair, case, profile, bundle.inputs(pair), Modules(pair, case, profile, state))
    traces: dict[Side, Mapping[str, TracedTensor]] = {"truth": bench.truth, "reference": bench.reference(rung)}
    if sides == "reference":
        return _result(bundle, pair, sides, traces, None)
    examination = examine(bench, profile, rung)
    if examination.skipped:
        raise ReplayError(f"{pair.name} is not judged at {rung.name} any more on this case: {examination.skipped}")
    traces["port"] = {} if examination.port is None else examination.port
    return _result(bundle, pair, sides, traces, examination)


def environment_changes(stored: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return every field that differs, nested ones joined by dots, in order of name."""
    before, after = dict(_flat(stored)), dict(_flat(now))
    fields = sorted(before.keys() | after.keys())
    return tuple(
        Change(name, before.get(name), after.get(name)) for name in fields if before.get(name) != after.get(name)
    )


def _result(
    bundle: Bundle,
    pair: Pair,
    sides: Sides,
    traces: Mapping[Side, Mapping[str, TracedTensor]],
    examination: Examination | None,
    raised: str = "",
) -> ReplayResult:
    record = bundle.record
    by_side = [compare_side(bundle, side, trace) for side, trace in traces.items()]
    judgements = examination.judgements if examination is not None else {}
    bad = failing(examination) if examination is not None else None
    return ReplayResult(
        ran=sides,
        first_bad=record.first_bad,
        failed=record.failed,
        first_bad_now=None if bad is None else next(iter(bad), ""),
        failed_now=None if bad is None else len(bad),
        tensors=tuple(
            TensorReplay(
                tensor.name,
                tensor.numbers,
                numbers_of(judgements[tensor.name]) if tensor.name in judgements else None,
                tuple(replays[place] for replays in by_side),
            )
            for place, tensor in enumerate(record.tensors)
        ),
        environment=environment_changes(record.environment, collect(pair.devices).to_dict()),
        raised=raised,
    )


def _port_alone(bundle: Bundle, pair: Pair) -> tuple[Trace, str]:
    """Run the port; one that raises has no tensors."""
    rung = RUNGS[bundle.record.rung]
    inputs, state = bundle.inputs(pair), bundle.state(pair, lambda: _fresh(bundle, pair))
    try:
        module = build_port(pair, bundle.case.options, bundle.record.profile, rung, state or {})
        return run_port(pair, module, inputs, rung), ""
    except Exception as error:  # noqa: BLE001 - a port that raises is a port that fails, whatever it raises
        return Trace({}, ()), f"the port raised {type(error).__name__}: {error}"


def _fresh(bundle: Bundle, pair: Pair) -> dict[str, Array]:
    return fresh_parameters(build_reference(pair, bundle.case.options, bundle.record.profile))


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
