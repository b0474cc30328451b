"""Truth: the reference in float64 from the case's own numbers, computed twice and required to be equal bit by bit.

The first call of a vector-math kernel in a process can come out of a low-accuracy variant (pytorch/pytorch#188792),
so every unary kernel is warmed up first, and two runs that differ in one bit are an error, not a retry. One that was
computed twice before, of the same numbers by the same code, is computed once and held against the hash of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from parity.backends.reference import run_reference, run_reference_outputs
from parity.backends.wide import WideAware, watch_wide
from parity.environment import warm_up
from parity.metrics.engine.engine import default_threads
from parity.pairs import Pair
from parity.predictions import bytes_of
from parity.spec.arrays import AnyArray
from parity.spec.precision import RUNGS
from parity.trace import Trace, same_bits

_REPORT: Final = "Set the number of threads to 1 and report the processor and the versions of torch and its libraries"


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


class Confirmed(NamedTuple):
    """What is known of a truth that was computed twice: its hash, and the largest values as of `Truth`."""

    digest: str
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
    first = _runner(intermediates)(pair, module, inputs, RUNGS["f64"])
    return _twice(first, pair, module, inputs, intermediates, extent)


def _runner(intermediates: bool) -> Callable[..., Trace]:
    return run_reference if intermediates else run_reference_outputs


def _twice(
    first: Trace, pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], intermediates: bool, extent: bool
) -> Truth:
    """Compute it again, and require the same bits."""
    mode = _Largest()
    with ExitStack() as watching:
        if extent:
            watching.enter_context(watch_wide(module, mode))
            watching.enter_context(mode)
        second = _runner(intermediates)(pair, module, inputs, RUNGS["f64"])
    for name, tensor in first.items():
        if not same_bits(tensor.values, second[name].values):
            raise _unstable(pair, name)
    for name, array in first.exact.items():
        if not same_bits(array, second.exact[name]):
            raise _unstable(pair, name)
    return Truth(first, mode.everywhere, mode.narrow)


def confirm_truth(pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], known: Confirmed) -> Truth:
    """Return the trace of the float64 reference, computed once, which has to be the one that is known.

    Args:
        pair, module, inputs: As of `compute_truth`.
        known: Of the same numbers, reference, machine and libraries.

    Raises:
        UnstableTruthError: It differs in a bit.
    """
    warm_up()
    trace = run_reference(pair, module, inputs, RUNGS["f64"])
    if digest_of(trace) != known.digest:
        raise UnstableTruthError(
            f"{pair.name}: the float64 reference is not what the same code made of the same numbers on this machine "
            "before; no verdict can rest on it. If it reads a file that has changed, delete the file of predictions, "
            f"which knows of code alone. Else: {_REPORT}"
        )
    return Truth(trace, known.largest, known.largest_narrow)


def digest_of(trace: Trace) -> str:
    """Return 64 hexadecimal digits of SHA-256 over every tensor of a trace; one under two names is read once."""
    arrays = [*((name, it.values) for name, it in trace.items()), *trace.exact.items()]
    places = {_memory_of(array): array for _, array in arrays}
    with ThreadPoolExecutor(default_threads()) as pool:  # hashing leaves Python's lock to others
        digests = dict(zip(places, pool.map(_digest_of_array, places.values()), strict=True))
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {array.shape} {digests[_memory_of(array)]}\n".encode())
    dtypes = [tensor.dtype for tensor in trace.values()]
    digest.update(f"{dtypes} {trace.outputs} {trace.inner}".encode())
    return digest.hexdigest()


def _memory_of(array: AnyArray) -> tuple[Any, ...]:
    """Return what tells two arrays apart that do not share their numbers; arrays without elements are all alike."""
    return (array.__array_interface__["data"][0] if array.size else 0, array.shape, array.strides, array.dtype)


def _digest_of_array(array: AnyArray) -> str:
    return hashlib.sha256(bytes_of(array)).hexdigest()


def _unstable(pair: Pair, name: str) -> UnstableTruthError:
    return UnstableTruthError(
        f"{pair.name}: {name} differs between two float64 runs on the same numbers; no verdict can rest on it. "
        f"{_REPORT}"
    )
