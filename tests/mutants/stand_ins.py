"""Catalogues of a few mutants, which worker processes import by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import mlx.core as mx

from mlx_impl import activations, ops
from parity import run
from parity.attribution import replaced
from parity.mutants import Mutant

Context = AbstractContextManager[object]


def _mutant(name: str, patch: Any, **changes: Any) -> Mutant:
    given = {"says": name, "source": "a test", "component": "mlp", "blamed": ("act",), "kind": "arithmetic"}
    return Mutant(name=name, patch=patch, **{**given, **changes})


def tanh() -> Context:
    """GELU by tanh: seen at every rung, in `act`."""
    return replaced((ops.Ops, "gelu_erf", ops.Ops.gelu_tanh))


def tiny() -> Context:
    """GELU off by 1e-10: seen at f64 alone."""
    original = ops.Ops.gelu_erf

    def gelu(self: ops.Ops, x: mx.array) -> mx.array:
        return original(self, x) + original(self, x) / 2.0**33

    return replaced((ops.Ops, "gelu_erf", gelu))


def raising() -> Context:
    """A port that raises."""

    def gelu(self: ops.Ops, x: mx.array) -> mx.array:
        raise ValueError("planted")

    return replaced((ops.Ops, "gelu_erf", gelu))


def other_half() -> Context:
    """GELU computed as x/2 (1 + erf): the same."""

    def gelu(self: ops.Ops, x: mx.array) -> mx.array:
        return x / 2 * (1 + self.erf(x / 2**0.5))

    return replaced((ops.Ops, "gelu_erf", gelu))


def wrong_vjp() -> Context:
    """GELU whose values are right and whose gradient is off by a thousandth."""
    original = activations.Gelu.__call__

    def call(self: activations.Gelu, x: mx.array) -> mx.array:
        @mx.custom_function
        def gelu(y: mx.array) -> mx.array:
            return original(self, y)

        @gelu.vjp
        def backward(primal: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
            _, (right,) = mx.vjp(lambda y: original(self, y), [primal], [cotangent])
            return right * 1.001

        return gelu(x)

    return replaced((activations.Gelu, "__call__", call))


def no_nan() -> Context:
    """GELU that makes 0 of NaN: right on numbers."""
    original = ops.Ops.gelu_erf

    def gelu(self: ops.Ops, x: mx.array) -> mx.array:
        return mx.where(mx.isnan(x), mx.zeros_like(x), original(self, x))

    return replaced((ops.Ops, "gelu_erf", gelu))


def erf_always() -> Context:
    """A knob that is ignored: right where the knob says so anyhow."""
    return replaced((ops.Ops, "gelu_tanh", ops.Ops.gelu_erf))


def missing_name() -> Context:
    """A patch of what does not exist: the harness's own mistake."""
    return replaced((ops.Ops, "no_such_operation", None))


TANH = _mutant("tanh", tanh)
TINY = _mutant("tiny", tiny, kind="dtype", unseen_at_f32="2^-33 is below float32's last digit")
RAISING = _mutant("raising", raising)
SAME = _mutant("other-half", other_half, equivalent="a factor of a half moves")
VJP = _mutant("wrong-vjp", wrong_vjp, kind="gradient", seen_by="gradients")
NO_NAN = _mutant("no-nan", no_nan, kind="special", seen_by="extremes", blamed=("gelu_erf",))
IDLE = _mutant("idle", nullcontext)
FALSE_EQUIVALENT = _mutant("not-the-same", tanh, equivalent="so it is said")
BROKEN = _mutant("broken", missing_name)
KNOB = _mutant("knob", erf_always, kind="profile", knobs={"gelu_mode": "tanh"})
ELSEWHERE = _mutant("elsewhere", tanh, blamed=("wo",))

GOOD = (TANH, TINY, SAME)
SURVIVING = (TANH, IDLE)
EVERY = (TANH, TINY, RAISING, SAME, VJP, NO_NAN)
TWICE = (TANH, TANH)
NONE_OF_THEM = (1, 2)
LYING = (FALSE_EQUIVALENT,)
ERRING = (BROKEN,)


class BrokenOffError(Exception):
    """Ends a run in its middle."""


@contextmanager
def interrupted() -> Iterator[None]:
    """Let every run end before it has a result."""

    def broken(*_: object) -> None:
        raise BrokenOffError

    with replaced((run, "execute", broken)):
        yield
