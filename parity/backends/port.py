"""The MLX side: build, fill and run a port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_impl.ops import Ops, require_device
from mlx_impl.precision import cast
from parity.backends.convert_mlx import MLX_DTYPES, exact_from_mlx, is_exact, mlx_from_numpy, numpy_from_mlx
from parity.backends.mlx_float64 import float64_ops
from parity.float64 import Leak, float64_forms
from parity.pairs import Pair, Structure
from parity.spec.arrays import AnyArray
from parity.spec.devices import Devices
from parity.spec.precision import Rung
from parity.spec.profile import HyperProfile
from parity.trace import Trace, TracedTensor
from parity.trace.mlx_calls import record_mlx

__all__ = [
    "arithmetic",
    "build_port",
    "fill_port",
    "on_device",
    "port_device",
    "require_device",
    "run_port",
    "run_port_outputs",
]


@contextmanager
def arithmetic(pair: Pair, rung: Rung) -> Iterator[Iterable[Leak]]:
    """Compute as `rung` asks while the context lasts, on the pair's device; at f64 on the CPU, as no GPU has float64.

    At f64 a port without a seam has MLX's functions exchanged.

    Yields:
        The precision leaks met so far, filled while the context lasts.
    """
    with on_device(pair.devices, rung):
        if pair.lifted and rung.name == "f64":
            with float64_forms() as leaks:
                yield leaks
        else:
            yield ()


def on_device(devices: Devices, rung: Rung) -> AbstractContextManager[object]:
    """Return a context in which MLX's default device and its default stream are those of the port at `rung`."""
    return mx.stream(port_device(devices, rung))


def port_device(devices: Devices, rung: Rung) -> mx.DeviceType:
    """Return MLX's device of the port at `rung`."""
    return mx.gpu if devices.port_at(rung) == "gpu" else mx.cpu


def build_port(
    pair: Pair, structure: Structure, profile: HyperProfile, rung: Rung, state: Mapping[str, AnyArray]
) -> nn.Module:
    """Build the port at `rung` from a state dict: at `f64` with the float64 primitives, elsewhere with MLX's own.

    Initialisation is seeded, and MLX's random state is that seed's afterwards.

    Raises:
        WeightsError: The state dict does not map one to one onto the port.
        NotImplementedYetError: The profile names a kernel that does not exist yet.
    """
    ops = float64_ops(profile) if rung.name == "f64" else Ops(profile)
    with arithmetic(pair, rung):
        # Weights drawn and never looked at would leave the random state an ever longer chain of splits.
        mx.random.seed(0)
        return fill_port(pair, pair.port(structure, profile, ops), rung, state)


def fill_port(pair: Pair, module: nn.Module, rung: Rung, state: Mapping[str, AnyArray]) -> nn.Module:
    """Cast a port to `rung` and fill it from a state dict, unless the pair compares freshly built ones.

    On the CPU, wherever the port is going to run: weights arrive in float64.

    Raises:
        WeightsError: The state dict does not map one to one onto the port.
    """
    with mx.stream(mx.cpu):
        cast(module, MLX_DTYPES[rung.dtype])
        if not pair.fresh:
            arrays = {id(array): mlx_from_numpy(array, "float64") for array in state.values()}
            pair.transfer(module, {name: arrays[id(array)] for name, array in state.items()})  # an alias stays one
            cast(module, MLX_DTYPES[rung.dtype])
    return module.eval()


def run_port(pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], rung: Rung) -> Trace:
    """Run `module` and return its floating intermediates, under the reference's names, and then its outputs.

    Outputs of integers or booleans stand beside them.
    """
    with arithmetic(pair, rung):
        arrays = {name: mlx_from_numpy(array, rung.dtype) for name, array in inputs.items()}
        with record_mlx(module) as taken:
            outputs = pair.call(module, arrays)
        return _traced(outputs, {_tap_name(pair, name): part for name, part in taken.items() if _is_array(part)})


def run_port_outputs(pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], rung: Rung) -> Trace:
    """Run `module` and return its outputs alone."""
    with arithmetic(pair, rung):
        outputs = pair.call(module, {name: mlx_from_numpy(array, rung.dtype) for name, array in inputs.items()})
        return _traced(outputs, {})


def _traced(outputs: Mapping[str, mx.array], taken: Mapping[str, mx.array]) -> Trace:
    """Part outputs and what submodules gave into floats, and integers or booleans."""
    floating = {name: array for name, array in outputs.items() if not is_exact(array)}
    everything = {**{name: part for name, part in taken.items() if _is_floating(part)}, **floating}
    exact = {name: array for name, array in outputs.items() if is_exact(array)}
    mx.eval(everything, exact)
    # A module that returns what a submodule gave has the same array under its own name: one copy serves both.
    values = {id(array): TracedTensor(*numpy_from_mlx(array)) for array in everything.values()}
    return Trace(
        {name: values[id(array)] for name, array in everything.items()},
        tuple(floating),
        {name: exact_from_mlx(array) for name, array in exact.items()},
        tuple(name for name, part in taken.items() if is_exact(part)),
    )


def _is_array(value: Any) -> bool:
    """Whether a submodule's output is an array: a cache is none."""
    return isinstance(value, mx.array)


def _is_floating(value: mx.array) -> bool:
    """Whether an array can be compared within a tolerance: a mask cannot."""
    return bool(mx.issubdtype(value.dtype, mx.floating))


def _tap_name(pair: Pair, name: str) -> str:
    """Translate a module's name and keep the call's suffix, `#2` or `[0]`."""
    end = min((name.find(mark) for mark in "#[" if mark in name), default=len(name))
    return pair.tap_name(name[:end]) + name[end:]
