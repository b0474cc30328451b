"""Both models of a checkpoint, whole in structure and empty of numbers, whose parts are filled as they are called.

A *part* is what is filled at once: the embeddings, a layer, a head. The reference is built on torch's meta device, and
MLX evaluates no initial weight that nobody looks at: so neither takes memory for depth. What runs is each model's own
forward pass, from ids to answers; a part's weights come as its call begins and go once it has been judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from mlx import nn as mlx_nn
from mlx.utils import tree_unflatten
from torch import nn

import mlx_impl
import reference_torch
from mlx_impl.ops import Ops
from mlx_impl.precision import cast as cast_port
from mlx_impl.weights import move_axes, parameters, port_name
from parity.backends.convert_mlx import MLX_DTYPES
from parity.backends.convert_torch import TORCH_DTYPES
from parity.backends.mlx_float64 import float64_ops
from parity.checkpoint import Checkpoint
from parity.checkpoint.layout import LAYER, MASKED_LM
from parity.errors import CheckpointError
from parity.spec.arrays import AnyArray
from parity.spec.config import ModelConfig
from parity.spec.precision import Rung
from parity.spec.profile import HyperProfile
from parity.verify.exact import ExactCopy
from reference_torch.precision import cast as cast_reference

EMBEDDINGS: Final = "bert.embeddings"
MASKED_LM_HEAD: Final = "cls"
CLASSIFIER_HEADS: Final = ("bert.pooler", "classifier")


def parts_of(head: str, layers: int) -> tuple[str, ...]:
    """Return the parts of a model in the order in which they are called."""
    heads = (MASKED_LM_HEAD,) if head == MASKED_LM else CLASSIFIER_HEADS
    return (EMBEDDINGS, *(f"{LAYER}{number}" for number in range(layers)), *heads)


def part_of(name: str, parts: tuple[str, ...]) -> str | None:
    """Return the part that a module is, or is inside of; None for what holds parts."""
    return next((part for part in parts if name == part or name.startswith(f"{part}.")), None)


def read_part(checkpoint: Checkpoint, part: str, wide: bool = False) -> dict[str, AnyArray]:
    """Read every tensor of a part by its whole name, aliases included.

    float64 stays as it is, all else is float32, or float64 too where `wide`: then the reference at f64 takes the very
    arrays, and no copy.

    Raises:
        CheckpointError: A number is NaN or infinite, or cannot be read.
    """
    found: dict[str, AnyArray] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(f"{part}."):
            stored = checkpoint.ties.get(name)
            if stored in found:
                found[name] = found[stored]
                continue
            values = tensor.numpy()
            kept = np.float64 if wide or values.dtype == np.float64 else np.float32
            found[name] = np.asarray(values, dtype=kept)
            del values
            if not np.isfinite(found[name]).all():
                raise CheckpointError(f"NaN or infinity in {name}: no model computes anything with it")
    return found


class Reference:
    """The reference, empty; and of the part that is filled a copy in float64, by which truth is made.

    Args:
        head: The model's class.
        config: Its configuration.
        profile: What it means.
        dtype: Name of the numbers that it computes in.
        unrounded: Make of every part that is filled another copy in float64, with numbers of float64 as they are.
    """

    def __init__(
        self, head: str, config: ModelConfig, profile: HyperProfile, dtype: str, unrounded: bool = False
    ) -> None:
        with torch.device("meta"):
            self.model: nn.Module = getattr(reference_torch, head)(config, profile=profile).eval()
        cast_reference(self.model, TORCH_DTYPES[dtype])
        self.dtype = dtype
        self.exact: dict[str, nn.Module] = {}
        self.unrounded: nn.Module | None = None
        self._unrounded = unrounded

    def fill(self, part: str, state: Mapping[str, AnyArray]) -> None:
        """Give a part its numbers, rounded to what each of its tensors is held in."""
        module = self.model.get_submodule(part)
        exact = None if self.dtype == "float64" else ExactCopy(module)
        second = ExactCopy(module) if self._unrounded else None
        for name, values in state.items():
            owner, leaf = _owner(self.model, name)
            tensor = torch.from_numpy(values).to(getattr(owner, leaf).dtype)
            if leaf in owner._parameters:
                owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
            else:
                owner._buffers[leaf] = tensor
        for name, buffer in list(module.named_buffers()):
            if buffer.is_meta and name.endswith("position_ids"):  # set aside in the file: both models count themselves
                owner, leaf = _owner(module, name)
                owner._buffers[leaf] = torch.arange(buffer.numel()).reshape(buffer.shape)
        missing = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
        if missing:
            raise CheckpointError(f"the reference has a tensor {part}.{missing[0]}, which the checkpoint does not fill")
        wide = module if exact is None else exact.filled(module)
        self.exact = {f"{part}.{name}" if name else part: one for name, one in wide.named_modules()}
        if second is not None:
            self.unrounded = second.filled(module)
            for name, values in state.items():
                owner, leaf = _owner(self.unrounded, name.removeprefix(f"{part}."))
                if values.dtype == np.float64:
                    kept = owner._parameters if leaf in owner._parameters else owner._buffers
                    kept[leaf] = nn.Parameter(torch.from_numpy(values), requires_grad=False)

    def empty(self, part: str) -> None:
        """Take a part's numbers away."""
        self.model.get_submodule(part).to("meta")
        self.exact = {}
        self.unrounded = None


class Port:
    """The port, empty: its weights are drawn by MLX when somebody looks at them, which nobody does.

    Args:
        head: The model's class.
        config: Its configuration.
        profile: What it means and how.
        rung: Where it runs.
        budget_bytes: See `mlx_impl.Ops`.
    """

    def __init__(
        self, head: str, config: ModelConfig, profile: HyperProfile, rung: Rung, budget_bytes: int | None
    ) -> None:
        ops = float64_ops(profile) if rung.name == "f64" else Ops(profile, budget_bytes=budget_bytes)
        with mx.stream(mx.cpu):
            mx.random.seed(0)
            self.model: mlx_nn.Module = getattr(mlx_impl, head)(config, profile=profile, ops=ops)
            cast_port(self.model, MLX_DTYPES[rung.dtype])
            self.model.eval()
            self._hollow = parameters(self.model)
        self._filled: tuple[str, ...] = ()

    def fill(self, state: Mapping[str, AnyArray], ties: Mapping[str, str]) -> None:
        """Give the tensors of one part their numbers; an alias fills what it is a name of."""
        taken: dict[str, mx.array] = {}
        for name, values in state.items():
            stored = port_name(ties.get(name, name))
            if stored not in self._hollow:
                raise CheckpointError(f"the port has no parameter {stored}, which {name} should fill")
            if stored not in taken:
                exact = mx.array(values, dtype=mx.float64 if values.dtype == np.float64 else mx.float32)
                taken[stored] = move_axes(name, exact).astype(self._hollow[stored].dtype)
                if taken[stored].shape != self._hollow[stored].shape:
                    raise CheckpointError(
                        f"{name} has shape {taken[stored].shape} in the port's layout, the port "
                        f"{self._hollow[stored].shape}"
                    )
        mx.eval(taken)
        self._put(taken)
        self._filled = tuple(taken)

    def empty(self) -> None:
        """Take the numbers of what was filled away."""
        self._put({name: self._hollow[name] for name in self._filled})
        self._filled = ()

    def _put(self, arrays: Mapping[str, mx.array]) -> None:
        self.model.update(tree_unflatten(list(arrays.items())))


def _owner(model: nn.Module, name: str) -> tuple[Any, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
