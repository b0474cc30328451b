"""The torch side: build, fill and run a reference."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.backends.convert_torch import TORCH_DTYPES, exact_from_torch, is_exact, numpy_from_torch, torch_from_numpy
from parity.backends.true_transforms import TrueTransforms
from parity.errors import WeightsError
from parity.pairs import Pair, Structure
from parity.spec.arrays import AnyArray, Array
from parity.spec.checkpoint import set_aside_reason
from parity.spec.precision import Rung
from parity.spec.profile import HyperProfile
from parity.torch_switches import ieee_products
from parity.trace import Trace, TracedTensor
from parity.trace.torch_hooks import record_torch
from reference_torch.precision import cast


def build_reference(pair: Pair, structure: Structure, profile: HyperProfile, dtype: str = "float32") -> nn.Module:
    """Build the reference in evaluation mode, its parameters and buffers computed in `dtype`, initialisation seeded."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(TORCH_DTYPES[dtype])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module: nn.Module = pair.reference(structure, profile)
    finally:
        torch.set_default_dtype(before)
    return module.eval()


def fresh_parameters(module: nn.Module) -> dict[str, Array]:
    """Return floating parameters and buffers as initialised, each once, under its first name."""
    return {name: numpy_from_torch(tensor)[0] for name, tensor in named_tensors(module).items()}


def fill_reference(module: nn.Module, values: Mapping[str, Array]) -> nn.Module:
    """Copy `values`, one for every floating parameter and buffer by its first name, into the module, made float64.

    Raises:
        WeightsError: A value is missing, left over, mis-shaped or not finite; the message lists all of them.
    """
    module.double()
    targets = named_tensors(module)
    _require(_problems({name: tuple(tensor.shape) for name, tensor in targets.items()}, values))
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(values[name])))
    return module


def copy_values(source: nn.Module, target: nn.Module) -> None:
    """Copy every parameter and buffer of `source` into `target`, a cast copy of it, rounding to the target's dtypes."""
    values = named_tensors(source)
    with torch.no_grad():
        for name, tensor in named_tensors(target).items():
            tensor.copy_(values[name])


def load_reference(module: nn.Module, state: Mapping[str, AnyArray]) -> nn.Module:
    """Load a whole state dict, every alias included, into the module, made float64.

    Constants that are set aside by name (`parity.spec.checkpoint`) may be there or not.

    Raises:
        WeightsError: A tensor is missing, left over, mis-shaped or not finite, or two aliases disagree; the message
            lists all of them.
    """
    module.double()
    targets = {name: tensor for name, tensor in module.state_dict().items() if set_aside_reason(name) is None}
    used = {name: array for name, array in state.items() if set_aside_reason(name) is None}
    _require(_problems({name: tuple(tensor.shape) for name, tensor in targets.items()}, used))
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(torch.from_numpy(np.array(used[name], dtype=np.float64)))
    _require(
        [
            f"{name} differs from another alias of the same parameter"
            for name, tensor in targets.items()
            if not np.array_equal(tensor.numpy(), used[name])
        ]
    )
    return module


def _problems(targets: Mapping[str, tuple[int, ...]], values: Mapping[str, AnyArray]) -> list[str]:
    problems = [f"missing {name}" for name in sorted(targets.keys() - values.keys())]
    problems += [f"left over {name}" for name in sorted(values.keys() - targets.keys())]
    for name in sorted(targets.keys() & values.keys()):
        if values[name].shape != targets[name]:
            problems.append(f"shape of {name} is {values[name].shape}, the reference has {targets[name]}")
        elif not np.isfinite(values[name]).all():
            problems.append(f"NaN or infinity in {name}")
    return problems


def _require(problems: list[str]) -> None:
    if problems:
        raise WeightsError(f"{len(problems)} problem(s) with the weights: {'; '.join(problems)}")


def state_of(module: nn.Module) -> dict[str, AnyArray]:
    """Return the whole state dict as NumPy arrays; aliases of one parameter are the very same array."""
    tensors = module.state_dict(keep_vars=True)
    arrays = {id(tensor): tensor.detach().cpu().numpy().copy() for tensor in tensors.values()}
    return {name: arrays[id(tensor)] for name, tensor in tensors.items()}


def run_reference(
    pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], rung: Rung, perturbed: bool = False
) -> Trace:
    """Run `module`, already cast to the rung, and return its floating intermediates and then its outputs.

    Outputs of integers or booleans stand beside them.

    A `perturbed` run needs no better transforms than torch's own.
    """
    tensors = inputs_at(pair, inputs, rung)
    modes = nullcontext() if perturbed else TrueTransforms()
    with torch.no_grad(), ieee_products(pair.devices.reference_at(rung)), modes, record_torch(module) as taken:
        outputs = pair.call(module, tensors)
    return _traced(outputs, taken)


def at_rung(module: nn.Module, rung: Rung) -> nn.Module:
    """Cast `module` to the rung's dtype, in place."""
    return cast(module, TORCH_DTYPES[rung.dtype])


def on_device(pair: Pair, module: nn.Module, rung: Rung) -> nn.Module:
    """Move `module`, already cast to the rung, to the reference's device there, in place."""
    return module.to(pair.devices.reference_at(rung))


def inputs_at(pair: Pair, inputs: Mapping[str, AnyArray], rung: Rung) -> dict[str, torch.Tensor]:
    """Return inputs as the reference takes them at `rung`, on its device."""
    device = pair.devices.reference_at(rung)
    return {name: torch_from_numpy(array, rung.dtype).to(device) for name, array in inputs.items()}


def run_reference_outputs(
    pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], rung: Rung, perturbed: bool = False
) -> Trace:
    """Run `module`, already cast to the rung, and return its outputs alone; `perturbed` as for `run_reference`."""
    tensors = inputs_at(pair, inputs, rung)
    with (
        torch.no_grad(),
        ieee_products(pair.devices.reference_at(rung)),
        nullcontext() if perturbed else TrueTransforms(),
    ):
        outputs = pair.call(module, tensors)
    return _traced(outputs, {})


def _traced(outputs: Mapping[str, torch.Tensor], taken: Mapping[str, Any]) -> Trace:
    """Part outputs and what submodules gave into floats, and integers or booleans."""
    floating = {name: tensor for name, tensor in outputs.items() if not is_exact(tensor)}
    everything = {**{name: part for name, part in taken.items() if _is_floating(part)}, **floating}
    # A module that returns what a submodule gave has the same tensor under its own name: one copy serves both.
    values = {id(tensor): TracedTensor(*numpy_from_torch(tensor)) for tensor in everything.values()}
    return Trace(
        {name: values[id(tensor)] for name, tensor in everything.items()},
        tuple(floating),
        {name: exact_from_torch(tensor) for name, tensor in outputs.items() if is_exact(tensor)},
        tuple(name for name, part in taken.items() if is_exact(part)),
    )


def _is_floating(value: Any) -> bool:
    """Whether a submodule's output can be compared: a cache or a mask cannot."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Floating parameters and buffers; a buffer outside the state dict is a constant of the module, not of the case."""
    kept = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in kept}
    named: dict[str, Any] = {**dict(module.named_parameters()), **buffers}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
