"""Operations that sum, in torch's terms and in MLX's, on data whose sums are long.

An operation has a model in `parity.backends.sum_models`; MLX's counterpart takes the same operands as MLX arrays and
returns its results in the same order, as far as MLX has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch

ATEN: Any = torch.ops.aten
FAMILIES: Final = ("normal", "positive", "mean ten times the spread", "progression")

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Operation:
    """One operation on one kind of operands.

    Args:
        model: Its name among the models.
        function: The operation, from torch tensors.
        arguments: Its operands in float64, each a float32 number, for a family of data.
        mlx: MLX's counterpart.
    """

    model: str
    function: Callable[..., Any]
    arguments: Callable[[str], Arguments]
    mlx: Callable[..., Any]


def draw(family: str, *shape: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = {
        "normal": lambda: rng.standard_normal(shape),
        "positive": lambda: rng.random(shape),
        "mean ten times the spread": lambda: rng.standard_normal(shape) + 10,
        "progression": lambda: np.linspace(-1, 1, math.prod(shape)).reshape(shape),
    }[family]()
    return single(torch.from_numpy(drawn))


def single(values: torch.Tensor) -> torch.Tensor:
    """Float64 values that float32 holds."""
    return values.float().double()


def gradients(function: Callable[..., Any], operands: list[Any], cotangent: Any) -> list[Any]:
    found: list[Any] = mx.vjp(lambda *given: [function(*given)], operands, [cotangent])[1]
    return found


# Normalisation --------------------------------------------------------------------------------------------------


def layer(family: str) -> Arguments:
    weight = single(draw("positive", 512, seed=1) + 0.5)
    return draw(family, 48, 512), [512], weight, draw("normal", 512, seed=2), 1e-5


def layer_backward(dy: Any, x: Any, shape: Any, _mean: Any, _inverse: Any, weight: Any, bias: Any, mask: Any) -> Any:
    """With the statistics made on the way, as MLX makes them."""
    _, mean, inverse = ATEN.native_layer_norm(x, shape, weight, bias, 1e-5)
    return ATEN.native_layer_norm_backward(dy, x, shape, mean, inverse, weight, bias, mask)


def layer_backward_arguments(family: str) -> Arguments:
    x, shape, weight, bias, eps = layer(family)
    _, mean, inverse = ATEN.native_layer_norm(x, shape, weight, bias, eps)
    return draw("normal", 48, 512, seed=5), x, shape, single(mean), single(inverse), weight, bias, [True] * 3


def mlx_layer_backward(dy: Any, x: Any, _shape: Any, _mean: Any, _inverse: Any, weight: Any, bias: Any, _: Any) -> Any:
    return gradients(lambda *given: mx.fast.layer_norm(*given, 1e-5), [x, weight, bias], dy)


def group(family: str) -> Arguments:
    weight = single(draw("positive", 6, seed=1) + 0.5)
    return draw(family, 4, 6, 512), weight, draw("normal", 6, seed=2), 4, 6, 512, 2, 1e-5


def group_backward(dy: Any, x: Any, _mean: Any, _inverse: Any, weight: Any, *sizes_and_mask: Any) -> Any:
    _, mean, inverse = ATEN.native_group_norm(x, weight, None, *sizes_and_mask[:4], 1e-5)
    return ATEN.native_group_norm_backward(dy, x, mean, inverse, weight, *sizes_and_mask)


def group_backward_arguments(family: str) -> Arguments:
    x, weight, *rest = group(family)
    _, mean, inverse = ATEN.native_group_norm(x, weight, *rest)
    return draw("normal", *x.shape, seed=5), x, single(mean), single(inverse), weight, *rest[1:5], [True] * 3


def mlx_group(x: Any, weight: Any, bias: Any, batch: int, channels: int, length: int, groups: int, eps: float) -> Any:
    out = mx.fast.layer_norm(x.reshape(batch, groups, -1), None, None, eps).reshape(batch, channels, length)
    return out * weight[:, None] + bias[:, None]


def mlx_group_backward(dy: Any, x: Any, _mean: Any, _inverse: Any, weight: Any, *sizes_and_mask: Any) -> Any:
    def forward(x: Any, weight: Any, bias: Any) -> Any:
        return mlx_group(x, weight, bias, *sizes_and_mask[:4], 1e-5)

    return gradients(forward, [x, weight, mx.zeros_like(weight)], dy)


def batch(family: str) -> Arguments:
    weight = single(draw("positive", 6, seed=1) + 0.5)
    return draw(family, 16, 6, 256), weight, draw("normal", 6, seed=2), None, None, True, 0.1, 1e-5


def batch_backward(
    dy: Any, x: Any, weight: Any, _m: Any, _v: Any, _mean: Any, _inverse: Any, _t: Any, eps: Any, mask: Any
) -> Any:
    _, mean, inverse = ATEN.native_batch_norm(x, weight, None, None, None, True, 0.1, eps)
    return ATEN.native_batch_norm_backward(dy, x, weight, None, None, mean, inverse, True, eps, mask)


def batch_backward_arguments(family: str) -> Arguments:
    x, weight, *rest = batch(family)
    _, mean, inverse = ATEN.native_batch_norm(x, weight, *rest)
    dy = draw("normal", *x.shape, seed=5)
    return dy, x, weight, None, None, single(mean), single(inverse), True, 1e-5, [True] * 3


def mlx_batch(x: Any, weight: Any, bias: Any, *_rest: Any) -> Any:
    """Channels last, as MLX keeps them."""
    x = mx.contiguous(x.swapaxes(1, 2))
    mean, variance = x.mean((0, 1), keepdims=True), mx.var(x, (0, 1), keepdims=True)
    return ((x - mean) * mx.rsqrt(variance + 1e-5) * weight + bias).swapaxes(1, 2)


def mlx_batch_backward(dy: Any, x: Any, weight: Any, *_rest: Any) -> Any:
    return gradients(mlx_batch, [x, weight, mx.zeros_like(weight)], dy)


# Convolutions ---------------------------------------------------------------------------------------------------


def convolution(
    channels: tuple[int, int],
    kernel: tuple[int, ...],
    length: int,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    more: int | None = None,
    groups: int = 1,
) -> Callable[[str], Arguments]:
    """Operands of a convolution, transposed where `more`, the output's padding, is given."""
    given, made = channels
    transposed, axes = more is not None, len(kernel)
    shape = (given, made // groups, *kernel) if transposed else (made, given // groups, *kernel)

    def arguments(family: str) -> Arguments:
        x, weight = draw(family, 2, given, *(length,) * axes), draw(family, *shape, seed=1)
        steps = [stride] * axes, [padding] * axes, [dilation] * axes
        return x, weight, draw("normal", made, seed=2), *steps, transposed, [more or 0] * axes, groups

    return arguments


def convolution_backward(forward: Callable[[str], Arguments]) -> Callable[[str], Arguments]:
    def arguments(family: str) -> Arguments:
        x, weight, bias, *rest = forward(family)
        out = ATEN.convolution(x, weight, bias, *rest)
        return draw(family, *out.shape, seed=5), x, weight, [bias.numel()], *rest, [True] * 3

    return arguments


def mlx_convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, more: Any, groups: int
) -> Any:
    axes = weight.ndim - 2
    x = mx.moveaxis(x, 1, -1)
    if transposed:
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
        kernel = mx.moveaxis(grouped.reshape(-1, *grouped.shape[2:]), 1, -1)
        function = (mx.conv_transpose1d, mx.conv_transpose2d)[axes - 1]
        stride, padding, dilation, more = ((v[0] if axes == 1 else tuple(v)) for v in (stride, padding, dilation, more))
        out = function(x, kernel, stride=stride, padding=padding, dilation=dilation, output_padding=more, groups=groups)
    else:
        kernel = mx.moveaxis(weight, 1, -1)
        out = mx.conv_general(x, kernel, stride=stride, padding=padding, kernel_dilation=dilation, groups=groups)
    return mx.moveaxis(out + bias, -1, 1)


def mlx_convolution_backward(dy: Any, x: Any, weight: Any, biases: Any, *rest: Any) -> Any:
    def forward(x: Any, weight: Any, bias: Any) -> Any:
        return mlx_convolution(x, weight, bias, *rest[:-1])

    return gradients(forward, [x, weight, mx.zeros(biases)], dy)


# Sums into rows, losses -----------------------------------------------------------------------------------------


def rows_of(count: int) -> torch.Tensor:
    return torch.arange(count) % 3


def mlx_embedding_backward(dy: Any, indices: Any, rows: int, *_rest: Any) -> Any:
    return mx.zeros((rows, dy.shape[-1])).at[indices.reshape(-1)].add(dy.reshape(-1, dy.shape[-1]))


def mlx_loss(log_probabilities: Any, labels: Any, *_rest: Any) -> Any:
    return -mx.take_along_axis(log_probabilities, labels[:, None], 1).mean()


def softmax_backward(family: str) -> Arguments:
    return draw(family, 8, 2048, seed=1), single(torch.softmax(draw(family, 8, 2048), -1)), -1, torch.float64


def log_softmax_backward(family: str) -> Arguments:
    return draw(family, 8, 2048, seed=1), single(torch.log_softmax(draw(family, 8, 2048), -1)), -1, torch.float64


def columns(family: str) -> Arguments:
    return draw(family, 2048, 16), [0]


def factors(family: str) -> Arguments:
    return draw(family, 3, 5, 1024), draw(family, 3, 1024, 7, seed=1)


def matrix_and_vector(family: str) -> Arguments:
    return draw(family, 24, 1024), draw(family, 1024, seed=1)


DENSE = convolution((256, 8), (3,), 20)
DEPTHWISE = convolution((8, 8), (64,), 256, padding=0, groups=8)
PLANE = convolution((64, 8), (3, 2), 9, stride=2, dilation=2)
SPREAD = convolution((256, 8), (3,), 20, stride=2, more=1)
SPREAD_PLANE = convolution((64, 8), (3, 3), 7, stride=2, more=0, groups=2)
LONG = convolution((8, 128), (3,), 512, stride=2)
WIDE_PLANE = convolution((6, 64), (3, 3), 25, groups=2)
SPREAD_LONG = convolution((8, 32), (3,), 256, stride=2, more=1)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "mm": Operation("mm", ATEN.mm, lambda f: (draw(f, 9, 2048), draw(f, 2048, 11, seed=1)), lambda x, y: x @ y),
    "bmm": Operation("bmm", ATEN.bmm, factors, lambda x, y: x @ y),
    "addmm": Operation(
        "addmm", ATEN.addmm, lambda f: (draw(f, 7), factors(f)[0][0], factors(f)[1][0]), lambda c, x, y: c + x @ y
    ),
    "addmm, a multiple": Operation(
        "addmm",
        lambda *args: ATEN.addmm(*args, alpha=8.0),
        lambda f: (draw(f, 7), factors(f)[0][0], factors(f)[1][0]),
        lambda c, x, y: mx.addmm(c, x, y, alpha=8.0),
    ),
    "baddbmm": Operation("baddbmm", ATEN.baddbmm, lambda f: (draw(f, 3, 5, 7), *factors(f)), lambda c, x, y: c + x @ y),
    "addbmm": Operation(
        "addbmm",
        ATEN.addbmm,
        lambda f: (draw(f, 5, 7), *factors(f)),
        lambda c, x, y: c + x.swapaxes(0, 1).reshape(5, -1) @ y.reshape(-1, 7),
    ),
    "mv": Operation("mv", ATEN.mv, matrix_and_vector, lambda x, y: x @ y),
    "addmv": Operation(
        "addmv", ATEN.addmv, lambda f: (draw(f, 24, seed=2), *matrix_and_vector(f)), lambda c, x, y: c + x @ y
    ),
    "dot": Operation(
        "dot", ATEN.dot, lambda f: (draw(f, 8192), draw(f, 8192, seed=1)), lambda x, y: (x[None] @ y[:, None])[0, 0]
    ),
    "sum": Operation("sum", ATEN.sum.dim_IntList, columns, lambda x, axes: x.sum(axes)),
    "nansum": Operation("nansum", ATEN.nansum, columns, lambda x, axes: x.sum(axes)),
    "mean": Operation("mean", ATEN.mean.dim, columns, lambda x, axes: x.mean(axes)),
    "var": Operation("var", ATEN.var.correction, columns, lambda x, axes: mx.var(x, axes, ddof=1)),
    "std": Operation("std", ATEN.std.correction, columns, lambda x, axes: mx.std(x, axes, ddof=1)),
    "var_mean": Operation(
        "var_mean", ATEN.var_mean.correction, columns, lambda x, axes: (mx.var(x, axes, ddof=1), x.mean(axes))
    ),
    "std_mean": Operation(
        "std_mean", ATEN.std_mean.correction, columns, lambda x, axes: (mx.std(x, axes, ddof=1), x.mean(axes))
    ),
    "linalg_vector_norm": Operation(
        "linalg_vector_norm",
        ATEN.linalg_vector_norm,
        lambda f: (draw(f, 2048, 16), 2.0, [0]),
        lambda x, _order, axes: mx.linalg.norm(x, axis=axes[0]),
    ),
    "logsumexp": Operation("logsumexp", ATEN.logsumexp, columns, mx.logsumexp),
    "cumsum": Operation("cumsum", ATEN.cumsum, lambda f: (draw(f, 16, 1024), 1), lambda x, axis: x.cumsum(axis)),
    "logcumsumexp": Operation("logcumsumexp", ATEN.logcumsumexp, lambda f: (draw(f, 16, 1024), 1), mx.logcumsumexp),
    "_softmax": Operation(
        "_softmax", ATEN._softmax, lambda f: (draw(f, 8, 2048), -1, False), lambda x, axis, _: mx.softmax(x, axis)
    ),
    "_log_softmax": Operation(
        "_log_softmax",
        ATEN._log_softmax,
        lambda f: (draw(f, 8, 2048), -1, False),
        lambda x, axis, _: x - mx.logsumexp(x, axis, keepdims=True),
    ),
    "_softmax_backward_data": Operation(
        "_softmax_backward_data",
        ATEN._softmax_backward_data,
        softmax_backward,
        lambda dp, p, axis, _: p * (dp - (dp * p).sum(axis, keepdims=True)),
    ),
    "_log_softmax_backward_data": Operation(
        "_log_softmax_backward_data",
        ATEN._log_softmax_backward_data,
        log_softmax_backward,
        lambda dl, log_p, axis, _: dl - mx.exp(log_p) * dl.sum(axis, keepdims=True),
    ),
    "native_layer_norm": Operation(
        "native_layer_norm",
        ATEN.native_layer_norm,
        layer,
        lambda x, _shape, weight, bias, eps: mx.fast.layer_norm(x, weight, bias, eps),
    ),
    "native_layer_norm_backward": Operation(
        "native_layer_norm_backward", layer_backward, layer_backward_arguments, mlx_layer_backward
    ),
    "native_group_norm": Operation("native_group_norm", ATEN.native_group_norm, group, mlx_group),
    "native_group_norm_backward": Operation(
        "native_group_norm_backward", group_backward, group_backward_arguments, mlx_group_backward
    ),
    "native_batch_norm": Operation("native_batch_norm", ATEN.native_batch_norm, batch, mlx_batch),
    "native_batch_norm_backward": Operation(
        "native_batch_norm_backward", batch_backward, batch_backward_arguments, mlx_batch_backward
    ),
    **{
        f"convolution, {name}": Operation("convolution", ATEN.convolution, operands, mlx_convolution)
        for name, operands in {
            "dense": DENSE,
            "depthwise": DEPTHWISE,
            "in a plane": PLANE,
            "transposed": SPREAD,
            "transposed in a plane": SPREAD_PLANE,
        }.items()
    },
    **{
        f"convolution_backward, {name}": Operation(
            "convolution_backward", ATEN.convolution_backward, convolution_backward(operands), mlx_convolution_backward
        )
        for name, operands in {
            "dense": LONG,
            "depthwise": DEPTHWISE,
            "in a plane": WIDE_PLANE,
            "transposed": SPREAD_LONG,
        }.items()
    },
    "embedding_dense_backward": Operation(
        "embedding_dense_backward",
        ATEN.embedding_dense_backward,
        lambda f: (draw(f, 8, 512, 4), rows_of(4096).reshape(8, 512), 5, -1, False),
        mlx_embedding_backward,
    ),
    "index_add": Operation(
        "index_add",
        ATEN.index_add,
        lambda f: (draw(f, 5, 4), 0, rows_of(2048), draw(f, 2048, 4, seed=1)),
        lambda x, _axis, index, source: x.at[index].add(source),
    ),
    "index_put": Operation(
        "index_put",
        ATEN.index_put,
        lambda f: (draw(f, 5, 4), [rows_of(2048)], draw(f, 2048, 4, seed=1), True),
        lambda x, indices, source, _: x.at[mx.array(indices[0].numpy())].add(source),
    ),
    "scatter_add": Operation(
        "scatter_add",
        ATEN.scatter_add,
        lambda f: (draw(f, 5, 4), 0, rows_of(2048)[:, None].expand(-1, 4), draw(f, 2048, 4, seed=1)),
        lambda x, _axis, index, source: x.at[index[:, 0]].add(source),
    ),
    "nll_loss_forward": Operation(
        "nll_loss_forward",
        ATEN.nll_loss_forward,
        lambda f: (draw(f, 8192, 4), torch.arange(8192) % 4, None, 1, -100),
        mlx_loss,
    ),
    "nll_loss2d_forward": Operation(
        "nll_loss2d_forward",
        ATEN.nll_loss2d_forward,
        lambda f: (draw(f, 8, 4, 32, 32), torch.arange(8192).reshape(8, 32, 32) % 4, None, 1, -100),
        mlx_loss,
    ),
}
