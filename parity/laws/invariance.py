"""Laws of what an answer may depend on: other batch rows, the order of channels, the future, padding, the length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parity.laws.law import EXACT, Claim
from parity.laws.subject import Subject, total
from parity.spec.arrays import AnyArray, Array


def apart(subject: Subject, axis: int) -> Iterable[Claim]:
    """Claim y(x)[i] = y(x[i]): each slice along an axis of inputs and outputs gives the same alone.

    An output that lacks the axis, since it depends on parameters alone, has to be the same for each slice.

    Args:
        subject: The side under test.
        axis: 0 for batch rows, 1 for positions.
    """
    together, allowed = subject.outputs(), subject.allowance()
    size = next(iter(subject.inputs.values())).shape[axis]
    alone = [subject.outputs({name: x.take([i], axis) for name, x in subject.inputs.items()}) for i in range(size)]
    for name, y in together.items():
        if y.ndim <= axis:
            continue
        parts = [part[name] for part in alone]
        joined = np.concatenate(parts, axis) if y.shape[axis] == size else None
        for expected in [joined] if joined is not None else parts:
            yield Claim(f"{name} of one slice alone", y, expected, total(allowed[name], allowed[name]))


@dataclass(frozen=True)
class ChannelAxis:
    """How one axis of a tensor carries the channels: `repeat` copies of all channels, each channel `group` wide."""

    axis: int
    repeat: int = 1
    group: int = 1

    def permuted(self, array: AnyArray, order: npt.NDArray[np.int64]) -> AnyArray:
        """Return `array` with its channels in another order."""
        units = order.size
        places = (
            np.arange(self.repeat)[:, None, None] * units * self.group
            + order[None, :, None] * self.group
            + np.arange(self.group)
        )
        return np.asarray(array.take(places.ravel(), self.axis))


@dataclass(frozen=True)
class Channels:
    """Where a component keeps its channels: their number, and the axes of inputs, parameters and outputs."""

    count: int
    inputs: Mapping[str, ChannelAxis]
    parameters: tuple[tuple[str, ChannelAxis], ...]
    outputs: Mapping[str, ChannelAxis]


def permutation(subject: Subject, channels: Callable[[Subject], Channels]) -> Iterable[Claim]:
    """Claim y(P x; P theta) = P y(x; theta): channels carry no order but that of their parameters.

    Args:
        subject: The side under test.
        channels: Where its channels are.
    """
    places = channels(subject)
    order = subject.generator("order").permutation(places.count)
    if np.array_equal(order, np.arange(places.count)):
        order = order[::-1]
    state = dict(subject.state)
    for name, axis in places.parameters:
        state[name] = axis.permuted(state[name], order)
    inputs = dict(subject.inputs)
    for name, axis in places.inputs.items():
        inputs[name] = axis.permuted(inputs[name], order)
    plain, moved = subject.outputs(), subject.outputs(inputs, state)
    allowed = subject.allowance()
    for name, axis in places.outputs.items():
        expected = np.asarray(axis.permuted(plain[name], order), dtype=np.float64)
        yield Claim(f"{name} with permuted channels", moved[name], expected, total(allowed[name], allowed[name]))


def causal(subject: Subject, signal: str, output: str, axis: int) -> Iterable[Claim]:
    """Claim y[t] for t < t0 is the same whatever u[t] is for t >= t0.

    Args:
        subject: The side under test, looking ahead nowhere.
        signal: The input u.
        output: The output y.
        axis: The axis of positions, of both.
    """
    u = np.asarray(subject.inputs[signal], dtype=np.float64)
    length = u.shape[axis]
    t0 = _place(subject, length)
    other = {**subject.inputs, signal: _joined(u, subject.normal("future", u.shape), t0, axis)}
    yield Claim(
        f"{output} before t = {t0} with another future",
        subject.outputs(other)[output].take(range(t0), axis),
        subject.outputs()[output].take(range(t0), axis),
        total(subject.allowance()[output], subject.allowance(other)[output]),
    )


def prefix(
    subject: Subject, inputs: Mapping[str, int], outputs: Mapping[str, int], silence: bool = False
) -> Iterable[Claim]:
    """Claim y(x[:l]) = y(x)[:l]: a shorter input gets the beginning of the longer one's answer.

    Args:
        subject: The side under test.
        inputs: Inputs with their axes of positions.
        outputs: Outputs with their axes of positions.
        silence: The longer input is 0 from l on, for a component that looks ahead.
    """
    length = next(subject.inputs[name].shape[axis] for name, axis in inputs.items())
    l = _place(subject, length)
    shorter = {name: x.take(range(l), inputs[name]) for name, x in subject.inputs.items()}
    longer = dict(subject.inputs)
    if silence:
        longer = {
            name: _joined(np.asarray(x, dtype=np.float64), np.zeros(x.shape), l, inputs[name])
            for name, x in longer.items()
        }
    long, short = subject.outputs(longer), subject.outputs(shorter)
    long_allowed, short_allowed = subject.allowance(longer), subject.allowance(shorter)
    for name, axis in outputs.items():
        yield Claim(
            f"{name} of the first {l} of {length} positions",
            short[name],
            long[name].take(range(l), axis),
            total(long_allowed[name], short_allowed[name]),
        )


Change = Callable[[Subject], Mapping[str, AnyArray]]
"""Makes other inputs that must not change the answer; an input that is left out is not given at all."""


def unmoved(subject: Subject, outputs: tuple[str, ...], change: Change, exact: bool) -> Iterable[Claim]:
    """Claim y(x') = y(x), x' differing from x only where the specification does not look.

    Args:
        subject: The side under test.
        outputs: The outputs that must stay.
        change: Makes x'.
        exact: The arithmetic is the same number by number, so the answers must be.
    """
    other = change(subject)
    before, after = subject.outputs(), subject.outputs(other)
    for name in outputs:
        allowed = EXACT if exact else total(subject.allowance()[name], subject.allowance(other)[name])
        yield Claim(f"{name} with other contents where nothing is read", after[name], before[name], allowed)


def moved(subject: Subject, outputs: tuple[str, ...], change: Change) -> Iterable[Claim]:
    """Claim y(x') != y(x), x' differing from x where the specification does look: the partner of `unmoved`."""
    before, after = subject.outputs(), subject.outputs(change(subject))
    for name in outputs:
        yield Claim(f"{name} with other contents where something is read", after[name], before[name], distinct=True)


def _place(subject: Subject, length: int) -> int:
    """Return the position at which a case is cut: after the first, in the middle or before the last."""
    return int(subject.generator("place").choice(sorted({1, length // 2, length - 1} - {0})))


def _joined(past: Array, future: Array, t0: int, axis: int) -> Array:
    """Positions before `t0` of one array, from `t0` on of the other."""
    length = past.shape[axis]
    return np.concatenate([past.take(range(t0), axis), future.take(range(t0, length), axis)], axis)
