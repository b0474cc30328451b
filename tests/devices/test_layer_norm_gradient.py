"""LayerNorm's gradient where MLX's own kernel of it errs: the port does without that kernel there, and only there."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_impl.ops as ops_module
from mlx_impl.ops import Ops, library_gradient_errs
from parity.spec.profile import CANONICAL

HAS_CUDA = mx.cuda.is_available()


def rows(width: int) -> tuple[mx.array, mx.array, mx.array]:
    draw = np.random.Generator(np.random.Philox(width))
    x, weight, bias = (
        draw.standard_normal((7, width)),
        1 + 0.1 * draw.standard_normal(width),
        draw.standard_normal(width),
    )
    return mx.array(x.astype(np.float32)), mx.array(weight.astype(np.float32)), mx.array(bias.astype(np.float32))


@pytest.mark.parametrize("width", [3, 8, 9, 768])
def test_the_cpu_takes_the_library_s_kernel(width: int) -> None:
    x, weight, bias = rows(width)
    assert not library_gradient_errs(width)
    expected = mx.fast.layer_norm(x, weight, bias, 1e-5)
    assert mx.array_equal(Ops(CANONICAL).layer_norm(x, weight, bias, 1e-5), expected)


@pytest.mark.parametrize(("width", "errs"), [(3, False), (4, False), (8, False), (9, True), (14, True), (768, False)])
def test_on_cuda_it_depends_on_the_width(width: int, errs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert library_gradient_errs(width) == errs


def test_where_it_errs_two_passes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_arguments: Any) -> mx.array:
        raise AssertionError("the kernel whose gradient errs")

    x, weight, bias = rows(9)
    monkeypatch.setattr(ops_module, "library_gradient_errs", lambda width: width == 9)
    ops = Ops(CANONICAL)
    monkeypatch.setattr(mx.fast, "layer_norm", wrong)
    assert mx.array_equal(
        ops.layer_norm(x, weight, bias, 1e-5), Ops(CANONICAL).two_pass_layer_norm(x, weight, bias, 1e-5)
    )
    with pytest.raises(AssertionError, match="whose gradient errs"):
        ops.layer_norm(*rows(8), 1e-5)


@pytest.mark.skipif(not HAS_CUDA, reason="MLX has no CUDA device here")
@pytest.mark.parametrize("width", [3, 8, 9, 14, 33, 768, 1023])
def test_the_gradient_on_cuda_is_the_cpu_s(width: int) -> None:
    x, weight, bias = rows(width)

    def gradient(device: mx.Device) -> Any:
        with mx.stream(device):
            before = mx.default_device()
            mx.set_default_device(device)
            try:
                ops = Ops(CANONICAL)
                found = mx.grad(lambda v: mx.square(ops.layer_norm(v, weight, bias, 1e-5)).sum())(x)
                return np.array(found, dtype=np.float64)
            finally:
                mx.set_default_device(before)

    here, there = gradient(mx.gpu), gradient(mx.cpu)
    assert np.linalg.norm(here - there) <= 1e-5 * np.linalg.norm(there)
