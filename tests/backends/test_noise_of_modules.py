"""Any module of PyTorch goes through the prediction; attention step by step, an unknown reduction as a sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
import torch
from float32_operations import ATEN, draw
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.backends import noise, sum_models
from parity.backends.noise import perturbed
from parity.backends.steps import STEPS
from parity.backends.sum_models import MODELS
from parity.spec.precision import RUNGS

Tensors = list[torch.Tensor]
LABELS = torch.tensor([0, 2, 1])

MODULES: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {
    "LayerNorm": (nn.LayerNorm(8), [(3, 8)]),
    "LayerNorm of two axes": (nn.LayerNorm((4, 8)), [(3, 4, 8)]),
    "LayerNorm without parameters": (nn.LayerNorm(8, elementwise_affine=False), [(3, 8)]),
    "LayerNorm without a bias": (nn.LayerNorm(8, bias=False), [(3, 8)]),
    "RMSNorm": (nn.RMSNorm(8), [(3, 8)]),
    "GroupNorm": (nn.GroupNorm(2, 4), [(3, 4, 8)]),
    "GroupNorm without parameters": (nn.GroupNorm(2, 4, affine=False), [(3, 4, 8)]),
    "BatchNorm": (nn.BatchNorm2d(4), [(3, 4, 5, 6)]),
    "BatchNorm, evaluating": (nn.BatchNorm1d(4).eval(), [(3, 4, 8)]),
    "BatchNorm of vectors": (nn.BatchNorm1d(4, affine=False, track_running_stats=False), [(5, 4)]),
    "InstanceNorm": (nn.InstanceNorm1d(4), [(3, 4, 8)]),
    "Conv1d": (nn.Conv1d(4, 6, 3, padding=1, stride=2), [(2, 4, 9)]),
    "Conv1d, unbatched": (nn.Conv1d(4, 4, 3, padding="same", padding_mode="circular"), [(4, 9)]),
    "Conv2d": (nn.Conv2d(4, 6, (3, 2), padding=1, stride=(2, 1), dilation=(1, 2)), [(2, 4, 9, 9)]),
    "Conv2d, in groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), [(2, 4, 9, 9)]),
    "Conv3d": (nn.Conv3d(2, 3, 2), [(2, 2, 4, 4, 4)]),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), [(2, 4, 9)]),
    "ConvTranspose1d, in groups": (nn.ConvTranspose1d(4, 6, 3, groups=2, padding=4, dilation=3), [(2, 4, 9)]),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), bias=False), [(2, 4, 5, 5)]),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), [(2, 5, 8)]),
    "GRU": (nn.GRU(4, 5, bidirectional=True), [(6, 2, 4)]),
    "LSTM": (nn.LSTM(4, 5, 2), [(6, 2, 4)]),
    "Bilinear": (nn.Bilinear(4, 3, 5), [(2, 4), (2, 3)]),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d(3), [(2, 3, 8, 8)]),
    "MaxPool2d": (nn.MaxPool2d(2), [(2, 3, 8, 8)]),
    "Upsample": (nn.Upsample(scale_factor=2, mode="bilinear"), [(1, 2, 4, 4)]),
    "CosineSimilarity": (nn.CosineSimilarity(), [(3, 4), (3, 4)]),
    "MSELoss": (nn.MSELoss(), [(3, 4), (3, 4)]),
    "HuberLoss": (nn.HuberLoss(), [(3, 4), (3, 4)]),
}

FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], list[tuple[int, ...]]]] = {
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 3)]),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c, beta=0.5, alpha=2), [(3,), (2, 3, 4), (2, 4, 3)]),
    "addbmm": (torch.addbmm, [(3, 3), (2, 3, 4), (2, 4, 3)]),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->ik", a, b), [(2, 3, 4), (2, 4, 3)]),
    "dot": (torch.dot, [(5,), (5,)]),
    "complex product": (lambda x, y: (torch.complex(x, y) @ torch.complex(y, x)).abs(), [(3, 3), (3, 3)]),
    "sum of all": (lambda x: x.sum(()), [(3, 4)]),
    "mean": (torch.mean, [(3, 4)]),
    "var": (lambda x: x.var(0), [(3, 4)]),
    "std_mean": (lambda x: sum(torch.std_mean(x, 1)), [(3, 4)]),
    "cumsum": (lambda x: x.cumsum(1), [(3, 4)]),
    "cumprod": (lambda x: x.cumprod(1), [(3, 4)]),
    "prod": (torch.prod, [(3, 4)]),
    "logsumexp of all": (lambda x: x.logsumexp((0, 1)), [(3, 4)]),
    "cdist": (torch.cdist, [(3, 4), (5, 4)]),
    "largest": (lambda x: x.amax(1), [(3, 4)]),
    "rows by number": (lambda x: x[torch.tensor([0, 0, 1])], [(3, 4)]),
    "cross entropy": (lambda x: functional.cross_entropy(x, LABELS, label_smoothing=0.1), [(3, 4)]),
    "cross entropy of positions": (lambda x: functional.cross_entropy(x, LABELS[:, None].expand(3, 5)), [(3, 4, 5)]),
    "inverse": (torch.inverse, [(4, 4)]),
    "attention": (functional.scaled_dot_product_attention, [(2, 2, 8, 4)] * 3),
    "causal attention": (lambda *a: functional.scaled_dot_product_attention(*a, is_causal=True), [(2, 2, 8, 4)] * 3),
}


@pytest.mark.parametrize("rung", ["f32", "bf16", "f64"])
@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONS])
def test_it_is_predicted_with_its_gradients(name: str, rung: Any) -> None:
    function, shapes = {**MODULES, **FUNCTIONS}[name]
    module = function.double() if isinstance(function, nn.Module) else nn.Identity()
    inputs = [draw("normal", *shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]

    def run() -> Tensors:
        out = function(*inputs)
        out = out[0] if isinstance(out, tuple) else out
        cotangent = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape) + 2
        return [out, *torch.autograd.grad(out, [*inputs, *module.parameters()], cotangent)]

    exact = run()
    with perturbed(module, RUNGS[rung], torch.Generator().manual_seed(0)):
        found = run()
    for given, truth in zip(found, exact, strict=True):
        assert given.shape == truth.shape
        assert bool(given.isfinite().all())
    assert any(not torch.equal(given, truth) for given, truth in zip(found, exact, strict=True))


# Attention ------------------------------------------------------------------------------------------------------

HIDDEN = torch.zeros(40, 40, dtype=torch.float64).masked_fill(torch.arange(40) > 30, -math.inf)


def qkv(keys: int = 4) -> Tensors:
    return [draw("normal", 2, heads, 40, 16, seed=seed) for seed, heads in enumerate((4, keys, keys))]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, 4),
        ({"is_causal": True}, 4),
        ({"scale": 0.5}, 4),
        ({"attn_mask": HIDDEN}, 4),
        ({"enable_gqa": True}, 2),
    ],
    ids=["plain", "causal", "scaled", "masked", "shared keys"],
)
def test_attention_step_by_step_is_attention(options: dict[str, Any], keys: int) -> None:
    inputs = [tensor.requires_grad_() for tensor in qkv(keys)]

    def run() -> Tensors:
        out = functional.scaled_dot_product_attention(*inputs, **options)
        return [out, *torch.autograd.grad(out, inputs, draw("normal", *out.shape, seed=9))]

    with sdpa_kernel(SDPBackend.MATH):
        exact = run()
    silent = {name: lambda *_args: [] for name in MODELS}
    with (
        mock.patch.object(sum_models, "MODELS", silent),
        mock.patch.object(noise._Perturb, "_noisy", lambda _self, value, *_args: value),
        perturbed(nn.Identity(), RUNGS["f32"], torch.Generator().manual_seed(0)),
    ):
        steps = run()
    for step, truth in zip(steps, exact, strict=True):
        torch.testing.assert_close(step, truth, rtol=1e-12, atol=1e-13)


def attention_errors() -> tuple[float, list[float]]:
    """Predicted error of long attention to positive values, and those of both frameworks."""
    q, k, v = draw("normal", 1, 2, 8, 32), draw("normal", 1, 2, 2048, 32, seed=1), draw("positive", 1, 2, 2048, 32)
    exact = functional.scaled_dot_product_attention(q, k, v)
    generator, squares = torch.Generator().manual_seed(0), 0.0
    for _ in range(8):
        with perturbed(nn.Identity(), RUNGS["f32"], generator):
            squares += float((functional.scaled_dot_product_attention(q, k, v) - exact).square().mean()) / 8
    torchs = functional.scaled_dot_product_attention(q.float(), k.float(), v.float()).double()
    given = [mx.array(tensor.float().numpy()) for tensor in (q, k, v)]
    mlxs = np.array(mx.fast.scaled_dot_product_attention(*given, scale=1 / math.sqrt(32))).astype(np.float64)
    found = [(torchs - exact).numpy(), mlxs - exact.numpy()]
    return math.sqrt(squares), [float(np.sqrt(np.mean(error**2))) for error in found]


def test_both_frameworks_attention_errs_as_predicted() -> None:
    predicted, found = attention_errors()
    assert predicted / 4 <= max(found) <= 2 * predicted


def test_both_directions_of_attention_are_taken_apart() -> None:
    assert {name.removesuffix("_backward") for name in STEPS} == {"_scaled_dot_product_flash_attention_for_cpu"}
    assert len(STEPS) == 2


# Reductions that no table knows ---------------------------------------------------------------------------------

REDUCTIONS: dict[str, tuple[Any, Callable[[str], tuple[Any, ...]]]] = {
    "sum": (ATEN.sum.dim_IntList, lambda family: (draw(family, 2048, 16), [0])),
    "mean": (ATEN.mean.dim, lambda family: (draw(family, 16, 2048), [1])),
    "mm": (ATEN.mm, lambda family: (draw(family, 5, 2048), draw(family, 2048, 7, seed=1))),
    "mv": (ATEN.mv, lambda family: (draw(family, 16, 2048), draw(family, 2048, seed=1))),
    "dot": (ATEN.dot, lambda family: (draw(family, 4096), draw(family, 4096, seed=1))),
    "linalg_vector_norm": (ATEN.linalg_vector_norm, lambda family: (draw(family, 2048, 16), 2.0, [0])),
    "embedding_dense_backward": (
        ATEN.embedding_dense_backward,
        lambda family: (draw(family, 2048, 4), torch.arange(2048) % 3, 3, -1, False),
    ),
}


def shift(function: Any, arguments: tuple[Any, ...]) -> float:
    exact, generator, squares = function(*arguments), torch.Generator().manual_seed(0), 0.0
    for _ in range(24):
        with perturbed(nn.Identity(), RUNGS["f32"], generator):
            squares += float((function(*arguments) - exact).square().mean()) / 24
    return math.sqrt(squares)


@pytest.mark.parametrize("family", ["normal", "positive", "mean ten times the spread"])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_walk_on_the_operands_is_about_the_model(name: str, family: str) -> None:
    function, arguments = REDUCTIONS[name][0], REDUCTIONS[name][1](family)
    modelled = shift(function, arguments)
    fewer = {key: model for key, model in MODELS.items() if key != name}
    with mock.patch.object(noise, "MODELS", fewer), mock.patch.object(sum_models, "MODELS", fewer):
        walked = shift(function, arguments)
    assert modelled / 2 <= walked <= 6 * modelled


@pytest.mark.parametrize("name", REDUCTIONS)
def test_without_a_walk_an_unknown_reduction_is_understated(name: str) -> None:
    function, arguments = REDUCTIONS[name][0], REDUCTIONS[name][1]("positive")
    modelled = shift(function, arguments)
    fewer = {key: model for key, model in MODELS.items() if key != name}
    with mock.patch.object(sum_models, "MODELS", fewer):
        assert shift(function, arguments) < modelled / 5


@pytest.mark.parametrize("family", ["normal", "positive", "mean ten times the spread"])
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (functional.mse_loss, [(64, 64), (64, 64)]),
        (torch.cdist, [(8, 512), (6, 512)]),
        (lambda x: functional.avg_pool2d(x, 32), [(2, 3, 64, 64)]),
        (torch.trace, [(256, 256)]),
    ],
    ids=["mse_loss", "cdist", "avg_pool2d", "trace"],
)
def test_torchs_float32_of_an_unknown_reduction_errs_no_more_than_predicted(
    function: Any, shapes: list[tuple[int, ...]], family: str
) -> None:
    arguments = tuple(draw(family, *shape, seed=seed) for seed, shape in enumerate(shapes))
    error = function(*(argument.float() for argument in arguments)).double() - function(*arguments)
    assert float(error.square().mean().sqrt()) <= 2 * shift(function, arguments)


def test_what_chooses_is_not_taken_for_a_sum() -> None:
    x = draw("normal", 256, 256)
    for function in (torch.amax, lambda x: x.max(1)[0], lambda x: x.gather(1, torch.zeros(256, 1, dtype=torch.long))):
        assert shift(function, (x,)) <= RUNGS["f32"].u * 5
