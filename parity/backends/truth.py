"""Truth: the reference in float64 from the case's own numbers, computed twice and required to be equal bit by bit.

The first call of a vector-math kernel in a process can come out of a low-accuracy variant (pytorch/pytorch#188792),
so every unary kernel is warmed up first, and two runs that differ in one bit are an error, not a retry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from parity.backends.reference import run_reference, run_reference_outputs
from parity.backends.wide import WideAware, watch_wide
from parity.environment import warm_up
from parity.pairs import Pair
from parity.spec.arrays import AnyArray
from parity.spec.precision import RUNGS
from parity.trace import Trace


class UnstableTruthError(RuntimeError):
    """Two float64 runs of the same reference on the same numbers gave different bits."""


@dataclass(frozen=True)
class Truth:
    """The float64 trace, and the largest absolute value that any operation made.

    `largest` is over all operations, `largest_narrow` over those outside the modules that stay in float32: what a
    sixteen-bit format would have to carry.
    """

    trace: Trace
    largest: float
    largest_narrow: float


class _Largest(WideAware):
    """Note the largest absolute value of every operation's result."""

    def __init__(self) -> None:
        super().__init__()
        self.everywhere = 0.0
        self.narrow = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result  # its values were seen where they were made
        parts = result if isinstance(result, tuple | list) else (result,)
        if func._schema.name == "aten::nll_loss_forward":
            parts = parts[:1]  # the second counts labels, which no implementation needs to hold in sixteen bits
        size = _largest(parts)
        self.everywhere = max(self.everywhere, size)
        self.narrow = self.narrow if self.wide else max(self.narrow, size)
        return result

    def left(self, output: Any) -> None:
        """Note what leaves float32 for the narrow format."""
        self.narrow = max(self.narrow, _largest(output if isinstance(output, tuple | list) else (output,)))


def _largest(parts: Iterable[Any]) -> float:
    """Return the largest absolute value among the floating or complex tensors of `parts`, 0 where there is none."""
    return max((float(part.abs().max()) for part in parts if _measurable(part)), default=0.0)


def _measurable(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and (part.is_floating_point() or part.is_complex()) and part.numel() > 0


def compute_truth(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    intermediates: bool = True,
    extent: bool = True,
) -> Truth:
    """Return the trace of the float64 reference `module`, and how large numbers grow in it.

    Args:
        pair: The pair.
        module: The reference in float64.
        inputs: Its inputs.
        intermediates: Whether the trace has them, or the outputs alone.
        extent: Whether to look at every operation's result; if not, the largest values are given as 0.

    Raises:
        UnstableTruthError: The second run differs from the first in a bit.
    """
    warm_up()
    run = run_reference if intermediates else run_reference_outputs
    first = run(pair, module, inputs, RUNGS["f64"])
    mode = _Largest()
    with ExitStack() as watching:
        if extent:
            watching.enter_context(watch_wide(module, mode))
            watching.enter_context(mode)
        second = run(pair, module, inputs, RUNGS["f64"])
    for name, tensor in first.items():
        if tensor.values.tobytes() != second[name].values.tobytes():
            raise _unstable(pair, name)
    for name, array in first.exact.items():
        if array.tobytes() != second.exact[name].tobytes():
            raise _unstable(pair, name)
    return Truth(first, mode.everywhere, mode.narrow)


def _unstable(pair: Pair, name: str) -> UnstableTruthError:
    return UnstableTruthError(
        f"{pair.name}: {name} differs between two float64 runs on the same numbers; no verdict can rest on it. "
        "Set the number of threads to 1 and report the processor and the versions of torch and its libraries"
    )
