"""The reference is differentiable: gradients are right in float64 and reach every parameter in both precisions."""

from __future__ import annotations

import pytest
import torch
from reference_modules import KINDS, MODELS, build, output_of
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    module, inputs = build(kind)
    names = [name for name, _ in module.named_parameters()]
    floats = [place for place, x in enumerate(inputs) if x.is_floating_point()]

    def compute(*tensors: torch.Tensor) -> torch.Tensor:
        arguments = list(inputs)
        for place, tensor in zip(floats, tensors[: len(floats)], strict=True):
            arguments[place] = tensor
        parameters = dict(zip(names, tensors[len(floats) :], strict=True))
        return functional_call(module, parameters, tuple(arguments))

    leaves = [inputs[place].clone().requires_grad_() for place in floats]
    leaves += [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    assert torch.autograd.gradcheck(compute, leaves)


def test_the_check_by_finite_differences_can_fail() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
            return x * x

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
            return gradient

    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(Wrong.apply, [torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True)])


@DTYPES
@pytest.mark.parametrize("kind", [kind for kind in (*KINDS, *MODELS) if not kind.startswith("gelu")])
def test_the_output_keeps_the_dtype_and_every_parameter_has_a_gradient(kind: str, dtype: torch.dtype) -> None:
    module, inputs = build(kind, dtype)
    y = output_of(module, inputs)
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)).sum().backward()
    without = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []


@pytest.mark.parametrize("kind", [*KINDS, *MODELS])
def test_float32_is_near_float64_and_not_equal_to_it(kind: str) -> None:
    exact = output_of(*build(kind)).detach()
    single = output_of(*build(kind, torch.float32)).detach()
    # 2^-24 for each rounding times the conditioning of sines of sines; a wrong dtype inside would show at 1e-2 or 0.
    error = (single.double() - exact).norm() / exact.norm()
    assert 0 < error < 1e-4


def test_the_padding_row_takes_no_gradient_from_the_look_up() -> None:
    module, _ = build("embeddings")
    module(torch.tensor([[0, 3, 0]])).square().sum().backward()
    gradient = module.word_embeddings.weight.grad  # type: ignore[union-attr]
    assert gradient[0].abs().sum() == 0
    assert gradient[3].abs().sum() > 0
