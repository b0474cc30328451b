"""Truth: the reference in float64 from the case's own numbers, computed twice and required to be equal bit by bit.

The first call of a vector-math kernel in a process can come out of a low-accuracy variant (pytorch/pytorch#188792),
so every unary kernel is warmed up first, and two runs that differ in one bit are an error, not a retry.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from parity.backends.reference import run_reference
from parity.environment import warm_up
from parity.pairs import Pair
from parity.spec.arrays import AnyArray
from parity.spec.precision import RUNGS
from parity.trace import Trace


class UnstableTruthError(RuntimeError):
    """Two float64 runs of the same reference on the same numbers gave different bits."""


def compute_truth(pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray]) -> Trace:
    """Return the trace of the float64 reference `module`.

    Raises:
        UnstableTruthError: The second run differs from the first in a bit.
    """
    warm_up()
    first, second = (run_reference(pair, module, inputs, RUNGS["f64"]) for _ in range(2))
    for name, tensor in first.items():
        if tensor.values.tobytes() != second[name].values.tobytes():
            raise UnstableTruthError(
                f"{pair.name}: {name} differs between two float64 runs on the same numbers; no verdict can rest on it. "
                "Set the number of threads to 1 and report the processor and the versions of torch and its libraries"
            )
    return first
