"""How far rounding may carry: the float64 reference with every operation's inputs perturbed by its own error model.

Each arithmetic operation's float inputs are multiplied by 1 + a xi, xi uniform in [-1, 1], before it runs in float64.
The amplitude is a = u * growth(operation, shape), u the rung's own unit roundoff, so that saturation is felt as well.
Results of sums are perturbed besides, by what their partial sums say (`parity.backends.summation`). At f64 u is taken
larger, and the response is scaled back. What arrives at a tensor is the error that a faithful implementation at that
rung makes there, whatever the conditioning in between. That is the S(data) of composites: it needs no constant per
layer or model.

Inputs rather than outputs are perturbed, since that is the backward-error view: relative noise on the factors of a
product sum gives u * sqrt(sum (x w)^2), also where the sum cancels, and relative noise on the samples of a transform
gives the white noise u * ||x|| that a transform makes.

Source: stochastic arithmetic, Vignes, Math. Comput. Simul. 35 (1993) 233; growth factors from `parity.tolerance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from parity.backends.reference import run_reference
from parity.backends.summation import sum_errors
from parity.backends.wide import WideAware, watch_wide
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS, Rung
from parity.tolerance import GELU_OUTPUT, LAYER_NORM_OUTPUT, growth_of
from parity.trace import Trace

F64_EPSILON: Final = 2.0**-32
"""Amplitude that stands for u at f64, whose own roundoff would drown it: squared it is below that, 2**20 above it."""

EXACT: Final = frozenset(
    {
        "_conj",
        "_conj_physical",
        "_reshape_alias",
        "_to_copy",
        "_unsafe_view",
        "abs",
        "alias",
        "as_strided",
        "cat",
        "chunk",
        "clone",
        "conj",
        "constant_pad_nd",
        "copy_",
        "detach",
        "embedding",
        "empty_like",
        "eq",
        "expand",
        "flip",
        "full_like",
        "gt",
        "index",
        "lift_fresh",
        "neg",
        "ones_like",
        "permute",
        "reshape",
        "resolve_conj",
        "select",
        "slice",
        "split",
        "squeeze",
        "stack",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
        "view_as_complex",
        "view_as_real",
        "zeros_like",
    }
)
"""Operations that move or copy numbers and round nothing."""


@dataclass(frozen=True)
class Noise:
    """Predicted error of one tensor at one rung: root mean square over elements and draws, and the largest seen."""

    rms: float
    maximum: float


class _Perturb(WideAware):
    """Perturb the float inputs of every operation that rounds."""

    def __init__(self, rung: Rung, generator: torch.Generator) -> None:
        super().__init__()
        self.rung, self.generator = rung, generator
        self.epsilon = F64_EPSILON if rung.name == "f64" else rung.u

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in EXACT:
            return func(*args, **(kwargs or {}))
        narrow = self.rung.is_half and not self.wide
        growth = growth_of(name, [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)], narrow)
        unit = self.epsilon if narrow or not self.rung.is_half else RUNGS["f32"].u
        floor = self.rung.tiny if narrow or not self.rung.is_half else RUNGS["f32"].tiny
        if func._schema.is_mutable:  # its first operand must stay the very tensor that others see change
            result = func(*args, **(kwargs or {}))
            return result.copy_(self._noisy(result, unit * growth, floor))
        result = func(*(self._noisy(a, unit * growth, floor) for a in args), **(kwargs or {}))
        if name == "native_layer_norm":
            result = (self._noisy_norm(result, args[3], unit), *result[1:])
        if name == "gelu":
            result = result + GELU_OUTPUT * unit * args[0].abs() * self._uniform(result)
        return self._noisy_sums(name, args, result, RUNGS["f32"].u if self.rung.is_half else self.epsilon)

    def _noisy_norm(self, result: Any, bias: torch.Tensor, unit: float) -> torch.Tensor:
        """Perturb the steps of a LayerNorm's x_hat * weight + bias, for which noise on its input cannot stand.

        Of two channels the normalised values are +-1 whatever the input.
        """
        out: torch.Tensor = result[0]
        steps = (out - bias).abs() + bias.abs()
        return out + LAYER_NORM_OUTPUT * unit * steps * self._uniform(steps)

    def _noisy_sums(self, name: str, args: Any, result: Any, unit: float) -> Any:
        """Perturb what the operation's sums leave in its results; with sixteen bits sums run in float32."""
        errors = sum_errors(name, args, result)
        if not errors:
            return result
        parts = list(result) if isinstance(result, tuple) else [result]
        for error in errors:
            random = self._random(error.shape)
            if parts[error.output].is_complex():
                random = torch.complex(random, self._random(error.shape))
            parts[error.output] = parts[error.output] + unit * error.scale * random
        return tuple(parts) if isinstance(result, tuple) else parts[0]

    def _noisy(self, value: Any, amplitude: float, floor: float) -> Any:
        if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        size = value.abs().clamp_(min=floor).mul_(amplitude)
        if value.is_complex():
            return value + size * torch.complex(self._uniform(size), self._uniform(size))
        return value + size.mul_(self._uniform(size))

    def _uniform(self, like: torch.Tensor) -> torch.Tensor:
        return self._random(tuple(like.shape))

    def _random(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).mul_(2).sub_(1)


def predict_noise(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    truth: Trace,
    rung: Rung,
    draws: int,
    seed: int,
) -> dict[str, Noise]:
    """Return the error that faithful arithmetic at `rung` makes at every tensor of `truth`.

    Args:
        pair: The pair.
        module: The float64 reference that made `truth`.
        inputs: Its inputs.
        truth: Its unperturbed trace.
        rung: Sixteen bits accumulate in float32, and modules that stay in float32 are perturbed at float32's level.
        draws: Number of perturbed runs.
        seed: Seed of the perturbations.
    """
    generator = torch.Generator().manual_seed(seed)
    runs = [_perturbed_trace(pair, module, inputs, rung, generator) for _ in range(draws)]
    factor = rung.u / F64_EPSILON if rung.name == "f64" else 1.0
    return {name: _spread([run[name].values for run in runs], truth[name].values, factor) for name in truth}


@contextmanager
def perturbed(module: nn.Module, rung: Rung, generator: torch.Generator) -> Iterator[None]:
    """Perturb every operation that rounds, of forward and backward passes through `module`, while the context lasts."""
    mode = _Perturb(rung, generator)
    with watch_wide(module, mode), mode:
        yield


def _perturbed_trace(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    generator: torch.Generator,
) -> Trace:
    with perturbed(module, rung, generator):
        return run_reference(pair, module, inputs, RUNGS["f64"])


def _spread(perturbed: list[Array], truth: Array, factor: float) -> Noise:
    if truth.size == 0:
        return Noise(0.0, 0.0)
    shifts = np.abs(np.stack(perturbed) - truth)
    largest = float(shifts.max())
    if largest == 0.0:
        return Noise(0.0, 0.0)
    return Noise(largest * float(np.sqrt(np.mean(np.square(shifts / largest)))) * factor, largest * factor)
