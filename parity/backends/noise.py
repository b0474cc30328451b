"""How far rounding may carry: the float64 reference with every operation's inputs perturbed by its own error model.

Each arithmetic operation's float inputs are multiplied by 1 + a xi, xi uniform in [-1, 1], before it runs in float64.
The amplitude is a = u * growth(operation, shape), u the rung's own unit roundoff, so that saturation is felt as well.
Results of sums are perturbed besides, by what their partial sums say (`parity.backends.sum_models`); fused operations
are taken apart (`parity.backends.steps`). At f64 u is taken larger, and the response is scaled back. What arrives at a
tensor is the error that a faithful implementation at that rung makes there, whatever the conditioning in between. That
is the S(data) of composites: it needs no constant per layer or model.

Inputs rather than outputs are perturbed, since that is the backward-error view: relative noise on the factors of a
product sum gives u * sqrt(sum (x w)^2), also where the sum cancels, and relative noise on the samples of a transform
gives the white noise u * ||x|| that a transform makes.

An operation that none of these tables knows and that returns fewer numbers than it is given reduces them, and one
rounding would understate it. Of a sum in order, sum_k delta_k S_k = sum_i t_i sum_(k >= i) delta_k: the factors on its
terms are a random walk along the axis that is summed, whatever the data; of a product likewise. Which axes those are is
not known, so its inputs are multiplied by such a walk along every one (`_Perturb._walked`).

Source: stochastic arithmetic, Vignes, Math. Comput. Simul. 35 (1993) 233; growth factors from `parity.tolerance`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from parity.backends.reference import run_reference, run_reference_outputs
from parity.backends.shifts import F64_EPSILON, Noise, Shifts
from parity.backends.steps import STEPS
from parity.backends.sum_models import MODELS, NO_OPTIONS, Options, sum_errors
from parity.backends.uniform import Source, Uniform, draw
from parity.backends.wide import WideAware, watch_wide
from parity.pairs import Pair
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS, Rung
from parity.tolerance import (
    GELU_OUTPUT,
    GROWTH,
    LAYER_NORM_OUTPUT,
    NO_FACTORS,
    Factors,
    constant,
    growth_of,
    rounding_of,
)
from parity.trace import Trace

COMPOSITE: Final = torch._C.DispatchKey.CompositeImplicitAutograd

EXACT: Final = frozenset(
    {
        "_conj",
        "_conj_physical",
        "_reshape_alias",
        "_to_copy",
        "_unsafe_view",
        "abs",
        "alias",
        "amax",
        "amin",
        "aminmax",
        "as_strided",
        "cat",
        "chunk",
        "clone",
        "conj",
        "constant_pad_nd",
        "copy_",
        "detach",
        "diagonal",
        "embedding",
        "empty_like",
        "eq",
        "expand",
        "flip",
        "full_like",
        "gather",
        "gt",
        "index",
        "index_select",
        "kthvalue",
        "lift_fresh",
        "masked_select",
        "max",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "median",
        "min",
        "mode",
        "neg",
        "ones_like",
        "permute",
        "reshape",
        "resolve_conj",
        "select",
        "slice",
        "sort",
        "split",
        "squeeze",
        "stack",
        "t",
        "take",
        "topk",
        "transpose",
        "tril",
        "triu",
        "unbind",
        "unsafe_split",
        "unsqueeze",
        "view",
        "view_as_complex",
        "view_as_real",
        "zeros_like",
    }
)
"""Operations that move, copy or choose numbers and round nothing."""

CHOOSING: Final = frozenset(
    {
        "kthvalue",
        "max",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "median",
        "min",
        "mode",
        "sort",
        "topk",
    }
)
"""Those of them that say where they found a number: among equal ones implementations find others."""

PLACING: Final = CHOOSING | {"argmax", "argmin", "argsort", "bucketize", "searchsorted"}
"""Operations whose result can jump where their operands move a little, CHOOSING and those that are no part of EXACT."""

PLAIN: Final = frozenset(
    {
        "max_pool2d_with_indices_backward",
        "max_pool3d_with_indices_backward",
        "prod",
        "select_backward",
        "slice_backward",
    }
)
"""Operations that are no sums although they return fewer numbers, or others, than they are given.

Of a product of n factors, noise on each factor is what the n - 1 roundings amount to.
"""

INNER: Final = frozenset(
    {
        "_cdist_forward",
        "_linalg_det",
        "_linalg_solve_ex",
        "_pdist_forward",
        "_trilinear",
        "linalg_cholesky_ex",
        "linalg_inv_ex",
        "linalg_lu_solve",
        "linalg_solve_triangular",
    }
)
"""Operations whose sums run over the last axis of their operands, which the number of results does not show."""


PRODUCTS: Final = frozenset({"addmm", "baddbmm", "bmm", "convolution", "convolution_backward", "mm"})
"""Operations that matrix units compute, whose factors a device may round to fewer bits than float32 has."""


@functools.cache
def _about(func: Any) -> tuple[str, bool, bool]:
    """Return an operation's name, whether it rounds nothing, and whether it is made of others and has no model."""
    name = func._schema.name.removeprefix("aten::")
    return name, name in EXACT, name not in MODELS and func.has_kernel_for_dispatch_key(COMPOSITE)


class _Perturb(WideAware):
    """Perturb the float inputs of every operation that rounds."""

    def __init__(self, rung: Rung, generator: Source, factors: Factors = NO_FACTORS, products: float = 0.0) -> None:
        super().__init__()
        self.rung, self.generator, self.factors, self.products = rung, generator, factors.at(rung), products
        self.epsilon = F64_EPSILON if rung.name == "f64" else rung.u
        self.sums = RUNGS["f32"].u if rung.is_half else self.epsilon

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, exact, composite = _about(func)
        if exact:
            return func(*args, **kwargs) if kwargs else func(*args)
        if name in STEPS:
            with self:
                return STEPS[name](*args, **(kwargs or {}))
        if composite:  # met among those steps only: autograd takes it apart before
            with self:
                return func.decompose(*args, **(kwargs or {}))
        narrow = self.rung.is_half and not self.wide
        growth = growth_of(name, [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)], narrow)
        unit = (self.epsilon if narrow else self.sums) * self.factors.of_operation(name)
        if name in PRODUCTS and not narrow:
            growth = max(growth, self.products / unit)
        floor = self.rung.tiny if narrow or not self.rung.is_half else RUNGS["f32"].tiny
        if func._schema.is_mutable:  # its first operand must stay the very tensor that others see change
            result = func(*args, **(kwargs or {}))
            return result.copy_(self._noisy(result, unit * growth, floor))
        result = func(*(self._noisy(a, unit * growth, floor) for a in args), **(kwargs or {}))
        length = self._reduced(name, func, args, result)
        if length > 1:
            walked = (self._walked(self._noisy(a, unit * growth, floor), length) for a in args)
            return func(*walked, **(kwargs or {}))
        if name == "native_layer_norm":
            result = (self._noisy_norm(result, args[3], unit), *result[1:])
        if name == "gelu":
            result = result + GELU_OUTPUT * unit * args[0].abs() * self._uniform(result)
        return self._noisy_sums(name, args, result, kwargs or NO_OPTIONS)

    def _reduced(self, name: str, func: Any, args: Any, result: Any) -> int:
        """Numbers that an operation without a model makes one of; 1 where it reduces nothing."""
        if name in MODELS or name in GROWTH or name in PLAIN or torch.Tag.pointwise in func.tags:
            return 1
        given = [a for a in args if _rounds(a)]
        if name in INNER:
            return max((a.shape[-1] for a in given if a.ndim), default=1)
        returned = max((part.numel() for part in _parts(result) if _rounds(part)), default=0)
        return max((math.ceil(a.numel() / returned) for a in given), default=1) if returned else 1

    def _walked(self, value: Any, length: int) -> Any:
        """Multiply by 1 + u W, W a random walk along every axis with as many steps as numbers are reduced to one.

        Sums in sixteen bits run in float32.
        """
        if not _rounds(value):
            return value
        for axis, size in enumerate(value.shape):
            if size > 1:
                walk = self._random((size,)).cumsum(0).mul_(math.sqrt(length / size))
                value = value * (1 + self.sums * walk).reshape(-1, *(1,) * (value.ndim - 1 - axis))
        return value

    def _noisy_norm(self, result: Any, bias: torch.Tensor | None, unit: float) -> torch.Tensor:
        """Perturb the steps of a LayerNorm's x_hat * weight + bias, for which noise on its input cannot stand.

        Of two channels the normalised values are +-1 whatever the input.
        """
        out: torch.Tensor = result[0]
        steps = out.abs() if bias is None else (out - bias).abs() + bias.abs()
        return out + LAYER_NORM_OUTPUT * unit * steps * self._uniform(steps)

    def _noisy_sums(self, name: str, args: Any, result: Any, options: Options) -> Any:
        """Perturb what the operation's sums leave in its results; with sixteen bits sums run in float32."""
        errors = sum_errors(name, args, result, options)
        if not errors:
            return result
        parts = _parts(result)
        for error in errors:
            random = self._random(error.shape)
            if parts[error.output].is_complex():
                random = torch.complex(random, self._random(error.shape))
            parts[error.output] = error.added(parts[error.output], self.sums * self.factors.of_operation(name), random)
        return tuple(parts) if isinstance(result, tuple) else parts[0]

    def _noisy(self, value: Any, amplitude: float, floor: float) -> Any:
        if not _rounds(value):
            return value
        magnitude = value.abs()
        size = magnitude.clamp_(min=floor, max=torch.finfo(magnitude.dtype).max)  # an infinity stays what it is
        size.mul_(amplitude)
        if value.is_complex():
            return value + size * torch.complex(self._uniform(size), self._uniform(size))
        return value + size.mul_(self._uniform(size))

    def _uniform(self, like: torch.Tensor) -> torch.Tensor:
        return self._random(tuple(like.shape))

    def _random(self, shape: tuple[int, ...]) -> torch.Tensor:
        return draw(self.generator, shape)


class _Waver(_Perturb):
    """Perturb as far as floats may err, and what chooses among numbers too, so that equal ones change places.

    At f64 the amplitude is that of its own roundoff: what is chosen is no difference that it could drown.
    """

    def __init__(self, rung: Rung, generator: Source, factors: Factors = NO_FACTORS) -> None:
        super().__init__(rung, generator, factors)
        factor = constant("propagated_max") * (constant("float64") if rung.name == "f64" else 1.0)
        self.epsilon = factor * rung.u
        self.sums = factor * (RUNGS["f32"].u if rung.is_half else rung.u)
        self.chose = False
        """Whether a place was chosen by numbers that round."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.chose = self.chose or (name in PLACING and _rounds(args[0]) and len(func._schema.arguments) > 1)
        if name in CHOOSING:
            unit = self.epsilon if self.rung.is_half and not self.wide else self.sums
            args = (self._noisy(args[0], unit, self.rung.tiny), *args[1:])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _noisy(self, value: Any, amplitude: float, floor: float) -> Any:
        """Perturb by the smallest normal number at least where that is float32's: many devices flush what is below."""
        return super()._noisy(value, amplitude, floor / amplitude if floor == RUNGS["f32"].tiny else floor)


def _rounds(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _parts(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple | list) else [result]


def predict_noise(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    truth: Trace,
    rung: Rung,
    draws: int,
    seed: int,
    products: float = 0.0,
) -> dict[str, Noise]:
    """Return the error that faithful arithmetic at `rung` makes at every tensor of `truth`.

    A tensor whose shape depends on rounding, as what reaches one expert of a mixture does, has none and is left out.

    Args:
        pair: The pair.
        module: The float64 reference that made `truth`.
        inputs: Its inputs.
        truth: Its unperturbed trace.
        rung: Sixteen bits accumulate in float32, and modules that stay in float32 are perturbed at float32's level.
        draws: Number of perturbed runs.
        seed: Seed of the perturbations.
        products: Unit roundoff to which factors of float32 products are rounded, where that is coarser than float32's.
    """
    generator = Uniform(seed)
    shifts = {name: Shifts(tensor.values, rung) for name, tensor in truth.items()}
    for _ in range(draws):
        run = _perturbed_trace(pair, module, inputs, rung, generator, products)
        shifts = {name: moved for name, moved in shifts.items() if same_shape(run, truth, name)}
        for name, moved in shifts.items():
            moved.add(run[name].values)
    return {name: moved.noise() for name, moved in shifts.items()}


def draw_exact(
    pair: Pair, module: nn.Module, inputs: Mapping[str, AnyArray], rung: Rung, draws: int, seed: int
) -> list[Mapping[str, AnyArray]]:
    """Return the integers and booleans that the reference gives out where floats err as far as they may at `rung`.

    Args:
        pair: The pair.
        module: The float64 reference.
        inputs: Its inputs.
        rung: The rung.
        draws: Number of perturbed runs.
        seed: Seed of the perturbations.
    """
    mode = _Waver(rung, Uniform(seed), pair.factors)
    found = []
    for _ in range(draws):
        with watch_wide(module, mode), mode:
            found.append(run_reference_outputs(pair, module, inputs, RUNGS["f64"], perturbed=True).exact)
    return found


def draw_wavering(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    truth: Trace,
    rung: Rung,
    draws: int,
    seed: int,
) -> dict[str, Array]:
    """Return how far each element of `truth` moves where floats err as far as they may at `rung`, the largest shift.

    Nothing where the reference chooses no place by its numbers, since all else moves by as much as its operands do.

    Args:
        pair, module, inputs, truth, rung, draws, seed: As of `predict_noise`.
    """
    mode = _Waver(rung, Uniform(seed))
    shifts = {name: np.zeros(tensor.values.shape) for name, tensor in truth.items()}
    for _ in range(draws):
        with watch_wide(module, mode), mode:
            run = run_reference(pair, module, inputs, RUNGS["f64"], perturbed=True)
        if not mode.chose:
            return {}
        shifts = {name: largest for name, largest in shifts.items() if same_shape(run, truth, name)}
        for name, largest in shifts.items():
            with np.errstate(invalid="ignore"):
                moved = np.abs(run[name].values - truth[name].values)
            np.maximum(largest, np.where(np.isnan(moved), 0.0, moved), out=largest)
    return shifts


def same_shape(run: Trace, truth: Trace, name: str) -> bool:
    """Whether a run has the tensor of `truth` under that name, in its shape."""
    return name in run and run[name].values.shape == truth[name].values.shape


def with_rounding(noise: Noise, truth: Array, held: Rung) -> Noise:
    """Add the rounding of a tensor to the format it is held in to the noise that reaches it."""
    return with_rounding_of(noise, *size_of(truth), held)


def with_rounding_of(noise: Noise, truth_rms: float, truth_max: float, held: Rung) -> Noise:
    """Do that where the sizes of the tensor are known, as of `size_of`."""
    rms, largest = rounding_of(truth_rms, truth_max, held)
    return Noise(float(np.hypot(noise.rms, rms)), noise.maximum + largest)


def size_of(truth: Array) -> tuple[float, float]:
    """Return the root mean square and the largest magnitude of a tensor, 0 where it has no elements."""
    size = np.abs(truth)
    return float(np.sqrt(np.mean(np.square(size)))) if size.size else 0.0, float(size.max(initial=0.0))


@contextmanager
def perturbed(
    module: nn.Module,
    rung: Rung,
    generator: Source,
    factors: Factors = NO_FACTORS,
    products: float = 0.0,
) -> Iterator[None]:
    """Perturb every operation that rounds, of forward and backward passes through `module`, while the context lasts.

    By `factors` more where a device errs more; `products` as for `predict_noise`.
    """
    mode = _Perturb(rung, generator, factors, products)
    with watch_wide(module, mode), mode:
        yield


def _perturbed_trace(
    pair: Pair,
    module: nn.Module,
    inputs: Mapping[str, AnyArray],
    rung: Rung,
    generator: Source,
    products: float,
) -> Trace:
    with perturbed(module, rung, generator, pair.factors, products):
        return run_reference(pair, module, inputs, RUNGS["f64"], perturbed=True)
