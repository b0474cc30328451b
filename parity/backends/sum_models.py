"""The sums that operations are made of, and what the rounding of those sums does to their results.

Each model takes an operation's operands and results in float64 and says how far a faithful implementation that sums one
term after the other is off (`parity.backends.summation`). What it leaves out, the roundings that are no sum's, noise on
the operands stands for (`parity.backends.noise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch

from parity.backends.convolution_sums import Convolution, kernel_sums, plain_sums, transposed_sums
from parity.backends.summation import positive, product_sums, running_loss, segment_sums, sequential

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]
NO_OPTIONS: Final[Options] = MappingProxyType({})


@dataclass(frozen=True)
class SumError:
    """Error of one result of an operation in units of u: `scale` times a number in [-1, 1].

    Args:
        output: Which of the operation's results.
        scale: Broadcastable to it; its sign tells elements that err together from those that err against each other.
        shape: Shape of the random numbers: where an axis is 1, the error is common to all elements along it.
        view: Shape as which the result is seen, if not its own; `scale` and `shape` are those of the view.
        walk: Axis along which errors pile up: there the number is a sum of numbers in [-1, 1].
    """

    output: int
    scale: torch.Tensor
    shape: tuple[int, ...]
    view: tuple[int, ...] | None = None
    walk: int | None = None

    def added(self, result: torch.Tensor, unit: float, random: torch.Tensor) -> torch.Tensor:
        """Return `result` with this error, from random numbers in [-1, 1] of the shape `shape`."""
        noise = self.scale * (random if self.walk is None else random.cumsum(self.walk))
        if self.view is not None:
            noise = noise.expand(self.view).reshape(result.shape)
        return result + unit * noise


Model = Callable[[Arguments, Options, Any], list[SumError]]


def _whole(scale: torch.Tensor, result: torch.Tensor, output: int = 0) -> SumError:
    """An error of its own for every element of a result."""
    return SumError(output, scale.reshape(result.shape), tuple(result.shape))


def _product(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(product_sums(args[0], args[1]), result)]


def _dot(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(sequential(args[0] * args[1], (0,)), result)]


def _matrix_vector(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(product_sums(args[0], args[1][:, None]), result)]


def _biased(sums: torch.Tensor, options: Options, result: torch.Tensor) -> list[SumError]:
    """The bias is added last."""
    return [_whole(torch.hypot(sums * abs(options.get("alpha", 1)), result.abs()), result)]


def _biased_product(args: Arguments, options: Options, result: Any) -> list[SumError]:
    return _biased(product_sums(args[1], args[2]), options, result)


def _biased_matrix_vector(args: Arguments, options: Options, result: Any) -> list[SumError]:
    return _biased(product_sums(args[1], args[2][:, None])[:, 0], options, result)


def _summed_product(args: Arguments, options: Options, result: Any) -> list[SumError]:
    """A sum over the batch too: one product of b k terms."""
    left, right = args[1].transpose(0, 1).flatten(1), args[2].flatten(0, 1)
    return _biased(product_sums(left, right), options, result)


def _axes(args: Arguments, position: int, result: torch.Tensor) -> tuple[int, ...]:
    """The reduced axes of an operation; all, where it names none, and none, where an empty list left all."""
    x: torch.Tensor = args[0]
    axes = args[position] if len(args) > position else None
    if isinstance(axes, int):
        axes = [axes]
    elif axes is None or (len(axes) == 0 and result.numel() == 1):
        axes = range(x.ndim)
    return tuple(sorted(axis % x.ndim for axis in axes)) if x.ndim else ()


def _sum(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(sequential(args[0], _axes(args, 1, result)), result)]


def _sum_of_numbers(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(sequential(args[0].nan_to_num(0.0, math.inf, -math.inf), _axes(args, 1, result)), result)]


def _count(args: Arguments, result: torch.Tensor) -> int:
    """Terms for each element of a reduction's result."""
    return max(math.ceil(args[0].numel() / max(result.numel(), 1)), 1)


def _mean(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(sequential(args[0], _axes(args, 1, result)) / _count(args, result), result)]


def _vector_norm(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """A sum of powers, whose p-th root divides the relative error by p; the largest or the smallest is exact."""
    order = abs(args[1]) if len(args) > 1 else 2.0
    if order in (0, math.inf):
        return []
    return [_whole(positive(_count(args, result)) / order * result, result)]


def _variance(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """A sum of squares about the mean, whose own error counts squared only."""
    return [_whole(positive(_count(args, result)) * result, result)]


def _deviation(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [_whole(positive(_count(args, result)) / 2 * result, result)]


def _with_mean(spread: Model) -> Model:
    def model(args: Arguments, options: Options, result: Any) -> list[SumError]:
        (mean,) = _mean(args, options, result[1])
        return [*spread(args, options, result[0]), SumError(1, mean.scale, mean.shape)]

    return model


def _log_sum(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """The relative error of a positive sum is the absolute error of its logarithm."""
    return [_whole(torch.full_like(result, positive(_count(args, result))), result)]


def _walk(result: torch.Tensor, axis: int, least: float) -> SumError:
    """A running total carries its earlier roundings along: their sum walks, in steps of the total's size so far."""
    axis %= result.ndim
    steps = torch.arange(1, result.shape[axis] + 1, dtype=torch.float64)
    steps = steps.reshape(-1, *(1,) * (result.ndim - 1 - axis))
    scale = (result.abs().square().cumsum(axis) / steps + least**2).sqrt()
    return SumError(0, scale, tuple(result.shape), walk=axis)


def _running_sum(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    if result.numel() == 0 or result.ndim == 0:
        return []
    walk = _walk(result, args[1], 0.0)
    if result.is_complex():
        return [walk]
    aligned = running_loss(args[0].movedim(args[1], -1)).movedim(-1, args[1])
    return [walk, SumError(0, aligned, _row_shape(result, args[1]))]


def _running_log_sum(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """log(exp(L) + exp(t)) rounds the sum, which is an absolute error of u, and the logarithm."""
    return [] if result.numel() == 0 or result.ndim == 0 else [_walk(result.nan_to_num(neginf=0.0), args[1], 1.0)]


def _row_shape(values: torch.Tensor, axis: int) -> tuple[int, ...]:
    return tuple(1 if index == axis % values.ndim else size for index, size in enumerate(values.shape))


def _length(values: torch.Tensor, axis: int) -> int:
    return values.shape[axis] if values.ndim else 1


def _softmax(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return [SumError(0, positive(_length(args[0], args[1])) * result, _row_shape(result, args[1]))]


def _log_softmax(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    shape = _row_shape(result, args[1])
    return [SumError(0, torch.full(shape, positive(_length(args[0], args[1])), dtype=result.dtype), shape)]


def _softmax_backward(args: Arguments, _options: Options, _result: Any) -> list[SumError]:
    """dx = p (dp - sum(dp p)): the sum is one number per row."""
    dp, p, axis = args[:3]
    axes = (axis % p.ndim,) if p.ndim else ()
    return [SumError(0, p * sequential(dp * p, axes), _row_shape(p, axis))]


def _log_softmax_backward(args: Arguments, _options: Options, _result: Any) -> list[SumError]:
    """dx = dl - exp(l) sum(dl)."""
    dl, log_p, axis = args[:3]
    axes = (axis % dl.ndim,) if dl.ndim else ()
    return [SumError(0, log_p.exp() * sequential(dl, axes), _row_shape(dl, axis))]


# Normalisation over groups of numbers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Groups:
    """How a normalisation sees its input.

    Args:
        view: Shape of the input with the axes of the groups apart.
        own: Axes of the view over which a group runs.
        parameters: Shape of weight and bias within the view.
        centred: Whether gradients are sums over what has been normalised; PyTorch's GroupNorm sums over its input.
    """

    view: tuple[int, ...]
    own: tuple[int, ...]
    parameters: tuple[int, ...]
    centred: bool = True

    @property
    def size(self) -> int:
        return math.prod(self.view[axis] for axis in self.own)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what there is one of for each group."""
        return tuple(1 if axis in self.own else size for axis, size in enumerate(self.view))

    @property
    def shared(self) -> tuple[int, ...]:
        """Axes over which the gradient of a parameter is a sum."""
        return tuple(axis for axis, size in enumerate(self.parameters) if size == 1)

    def parameter(self, values: torch.Tensor | None) -> torch.Tensor:
        return torch.ones((), dtype=torch.float64) if values is None else values.reshape(self.parameters)

    def forward(self, x: torch.Tensor, weight: Any, result: Any) -> list[SumError]:
        """Mean and variance are off by one number per group each: a shift, and a factor on what is normalised.

        So are the two where they are results, of which the gradients are made. Where the variance is put together from
        blocks, the rounding of their means, u |mean| / sigma, goes into it as well.
        """
        if x.numel() == 0:
            return []
        seen, mean, inverse = x.reshape(self.view), result[1].reshape(self.shape), result[2].reshape(self.shape)
        normalised = (seen - mean) * inverse
        shift = sequential(seen, self.own) / self.size
        factor = torch.hypot(sequential(normalised.square(), self.own) / (2 * self.size), mean * inverse)
        parameter = self.parameter(weight)
        return [
            SumError(0, parameter * inverse * shift, self.shape, self.view),
            SumError(0, parameter * normalised * factor, self.shape, self.view),
            _whole(shift, result[1], 1),
            _whole(factor * inverse, result[2], 2),
        ]

    def backward(
        self, dy: torch.Tensor, x: torch.Tensor, mean: Any, inverse_sigma: Any, weight: Any, result: Any
    ) -> list[SumError]:
        """dx = (g - mean(g) - x_hat mean(g x_hat)) / sigma, g = dy weight; dweight, dbias are sums of dy x_hat, dy."""
        if x.numel() == 0:
            return []
        dy, inverse = dy.reshape(self.view), inverse_sigma.reshape(self.shape)
        moved = mean.reshape(self.shape) * inverse
        normalised = x.reshape(self.view) * inverse - moved
        errors = []
        if result[0] is not None:
            g = dy * self.parameter(weight)
            shift = sequential(g, self.own) / self.size * inverse
            slope = self.slopes(g, normalised, moved, self.own) / self.size * inverse * normalised
            errors = [SumError(0, scale, self.shape, self.view) for scale in (shift, slope)]
        return errors + self.parameter_gradients(dy, normalised, moved, result)

    def slopes(
        self, g: torch.Tensor, normalised: torch.Tensor, moved: torch.Tensor, axes: tuple[int, ...]
    ) -> torch.Tensor:
        """Error of sum(g x_hat), which may be summed as such or as sum(g x) / sigma - mean / sigma sum(g)."""
        if self.centred:
            return sequential(g * normalised, axes)
        return torch.hypot(sequential(g * (normalised + moved), axes), sequential(g * moved, axes))

    def parameter_gradients(
        self, dy: torch.Tensor, normalised: torch.Tensor, moved: torch.Tensor, result: Any
    ) -> list[SumError]:
        sums = {1: lambda: self.slopes(dy, normalised, moved, self.shared), 2: lambda: sequential(dy, self.shared)}
        return [
            _whole(error(), result[output], output)
            for output, error in sums.items()
            if result[output] is not None and result[output].numel()
        ]


def _layer(x: torch.Tensor, normalised: Any) -> _Groups:
    size = math.prod(normalised)
    return _Groups((x.numel() // max(size, 1), size), (1,), (1, size))


def _layer_norm(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    x, normalised, weight = args[:3]
    return _layer(x, normalised).forward(x, weight, result)


def _layer_norm_backward(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    dy, x, normalised, mean, inverse_sigma, weight = args[:6]
    return _layer(x, normalised).backward(dy, x, mean, inverse_sigma, weight, result)


def _group(batch: int, channels: int, positions: int, groups: int) -> _Groups:
    each = channels // groups
    return _Groups((batch, groups, each, positions), (2, 3), (1, groups, each, 1), centred=False)


def _group_norm(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    return _group(*args[3:7]).forward(args[0], args[1], result)


def _group_norm_backward(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    dy, x, mean, inverse_sigma, weight = args[:5]
    return _group(*args[5:9]).backward(dy, x, mean, inverse_sigma, weight, result)


def _batch(x: torch.Tensor) -> _Groups:
    batch, channels = x.shape[:2]
    return _Groups((batch, channels, math.prod(x.shape[2:])), (0, 2), (1, channels, 1))


def _batch_norm(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """With running statistics nothing is summed."""
    x, weight, _, _, _, training = args[:6]
    return _batch(x).forward(x, weight, result) if training else []


def _batch_norm_backward(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    dy, x, weight, running_mean, running_variance, mean, inverse_sigma, training, eps = args[:9]
    groups = _batch(x)
    if training:
        return groups.backward(dy, x, mean, inverse_sigma, weight, result)
    inverse = (running_variance + eps).rsqrt().reshape(groups.shape)
    moved = running_mean.reshape(groups.shape) * inverse
    normalised = x.reshape(groups.view) * inverse - moved
    return groups.parameter_gradients(dy.reshape(groups.view), normalised, moved, result)


# Convolutions ---------------------------------------------------------------------------------------------------


def _each(values: Any, weight: torch.Tensor) -> tuple[int, ...]:
    """A number for each spatial axis of a kernel."""
    return tuple(values) * (weight.ndim - 2) if len(values) == 1 else tuple(values)


def _convolution(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """The bias is added last."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    if result.numel() == 0:
        return []
    how = Convolution(_each(stride, weight), _each(padding, weight), _each(dilation, weight), groups)
    if transposed:
        sums = transposed_sums(x, weight, how, _each(output_padding, weight))
    else:
        sums = plain_sums(how.pad(x), weight, how)
    return [_whole(sums if bias is None else torch.hypot(sums, result), result)]


def _convolution_backward(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """dx is the transposed convolution of dy, or the plain one if the convolution itself is transposed."""
    dy, x, weight, _, stride, padding, dilation, transposed, _, groups = args[:10]
    if dy.numel() == 0:
        return []
    how = Convolution(_each(stride, weight), _each(padding, weight), _each(dilation, weight), groups)
    errors = []
    if result[0] is not None:
        spatial = tuple(slice(size) for size in x.shape[2:])
        sums = plain_sums(how.pad(dy), weight, how)[:, :, *spatial] if transposed else _input_sums(dy, x, weight, how)
        errors.append(_whole(sums, result[0]))
    if result[1] is not None:
        still, moved = (x, dy) if transposed else (dy, x)
        errors.append(_whole(kernel_sums(moved, still, weight, how), result[1], 1))
    if result[2] is not None:
        axes = tuple(axis for axis in range(dy.ndim) if axis != 1)
        errors.append(_whole(sequential(dy, axes), result[2], 2))
    return errors


def _input_sums(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    rest = tuple(
        x.shape[axis + 2] - ((dy.shape[axis + 2] - 1) * stride - 2 * padding + dilation * (taps - 1) + 1)
        for axis, (stride, padding, dilation, taps) in enumerate(
            zip(how.stride, how.padding, how.dilation, weight.shape[2:], strict=True)
        )
    )
    return transposed_sums(dy, weight, how, rest)


# Sums into named rows -------------------------------------------------------------------------------------------


def _embedding_backward(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """Row r of the result is the sum of the rows of dy whose index is r, in order; the padding's row stays zero."""
    dy, indices, rows, padding, by_frequency = args[:5]
    terms, indices = dy.reshape(-1, dy.shape[-1]), indices.reshape(-1)
    counted = indices != padding
    sums = segment_sums(terms[counted], indices[counted], rows)
    if by_frequency:
        sums = sums / torch.bincount(indices, minlength=rows).clamp_(min=1)[:, None]
    return [_whole(sums, result)]


def _into(places: torch.Tensor, values: torch.Tensor, result: torch.Tensor) -> list[SumError]:
    """Values added to the places of a result that `places` numbers."""
    sums = segment_sums(values.expand(places.shape).reshape(-1, 1), places.reshape(-1), result.numel())
    return [_whole(sums, result)]


def _places(result: torch.Tensor) -> torch.Tensor:
    return torch.arange(result.numel()).reshape(result.shape)


def _index_put(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    if len(args) < 4 or not args[3]:
        return []
    places = torch.ops.aten.index(_places(result), args[1])
    return _into(places, args[2], result)


def _index_add(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    _, axis, index, source = args[:4]
    return _into(_places(result).index_select(axis, index), source, result)


def _scatter_add(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    _, axis, index, source = args[:4]
    kept = source[tuple(slice(size) for size in index.shape)]
    return _into(_places(result).gather(axis, index), kept, result)


def _negative_log_likelihood(args: Arguments, _options: Options, result: Any) -> list[SumError]:
    """The loss is a sum, or with reduction 1 a mean, over the labels that are not ignored."""
    log_probabilities, labels, weights, reduction, ignored = args[:5]
    classes = 1 if log_probabilities.ndim > 1 else 0
    rows = log_probabilities.movedim(classes, -1).reshape(-1, log_probabilities.shape[classes])
    labels = labels.reshape(-1)
    rows, labels = rows[labels != ignored], labels[labels != ignored]
    if reduction == 0 or labels.numel() == 0:
        return []
    terms = rows.gather(1, labels[:, None])[:, 0]
    share = torch.ones_like(terms) if weights is None else weights[labels]
    scale = sequential(terms * share, (0,)).reshape(())
    if reduction == 1:
        scale = torch.hypot(
            scale / share.sum(), torch.zeros(()) if weights is None else positive(len(terms)) * result[0]
        )
    return [SumError(0, scale, ())]


MODELS: Final[Mapping[str, Model]] = {
    "_log_softmax": _log_softmax,
    "_log_softmax_backward_data": _log_softmax_backward,
    "_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    "addbmm": _summed_product,
    "addmm": _biased_product,
    "addmv": _biased_matrix_vector,
    "baddbmm": _biased_product,
    "bmm": _product,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "cumsum": _running_sum,
    "dot": _dot,
    "embedding_dense_backward": _embedding_backward,
    "index_add": _index_add,
    "index_put": _index_put,
    "linalg_vector_norm": _vector_norm,
    "logcumsumexp": _running_log_sum,
    "logsumexp": _log_sum,
    "mean": _mean,
    "mm": _product,
    "mv": _matrix_vector,
    "nansum": _sum_of_numbers,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_backward,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "nll_loss2d_forward": _negative_log_likelihood,
    "nll_loss_forward": _negative_log_likelihood,
    "scatter_add": _scatter_add,
    "std": _deviation,
    "std_mean": _with_mean(_deviation),
    "sum": _sum,
    "var": _variance,
    "var_mean": _with_mean(_variance),
}
"""Operations that sum, by their name without namespace: from operands and results to the errors of the results."""


def sum_errors(operation: str, args: Arguments, result: Any, options: Options = NO_OPTIONS) -> list[SumError]:
    """Return what the rounding of an operation's sums does to its results, in units of u; nothing if it has none.

    Args:
        operation: Its name without namespace.
        args: Its operands.
        result: Its result or results.
        options: Its arguments by keyword.
    """
    model = MODELS.get(operation)
    return [] if model is None else model(args, options, result)
