"""The two frameworks as the probe sees them: a table of operations and one way to run an entry.

The tables are data, so that a test can plant an operation that loses digits and see the probe name it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from numpy.typing import NDArray

from parity.spec.devices import PortDevice, ReferenceDevice
from parity.torch_switches import ieee_products

Values = NDArray[np.float64] | NDArray[np.complex128]
Runner = Callable[[Callable[..., Any], str, Sequence[NDArray[np.float64]]], tuple[Values, str]]

_MLX_HALVES: Final = (mx.bfloat16, mx.float16)


@dataclass(frozen=True)
class Framework:
    """A framework under test.

    Attributes:
        name: 'torch' or 'mlx'.
        operations: operation name to a function on the framework's arrays; conv takes (b c l), (o c k).
        run: (function, dtype, operands) to the result's values as float64 or complex128, and its dtype.
    """

    name: str
    operations: Mapping[str, Callable[..., Any]]
    run: Runner


def torch_framework(device: ReferenceDevice = "cpu") -> Framework:
    """Return torch on the reference's device, with TF32 off as the reference has it; float64 is the CPU's."""
    operations: dict[str, Callable[..., torch.Tensor]] = {
        "matmul": torch.matmul,
        "conv": torch.nn.functional.conv1d,
        "fft": torch.fft.rfft,
        "sin": torch.sin,
        "exp": torch.exp,
        "erf": torch.erf,
    }
    return Framework("torch", operations, functools.partial(_run_torch, device))


def mlx_framework(device: PortDevice = "cpu") -> Framework:
    """Return MLX on the port's device, and on the CPU for float64, which no GPU backend of MLX has."""
    operations: dict[str, Callable[..., mx.array]] = {
        "matmul": mx.matmul,
        "conv": _mlx_conv,
        "fft": mx.fft.rfft,
        "sin": mx.sin,
        "exp": mx.exp,
        "erf": mx.erf,
    }
    return Framework("mlx", operations, functools.partial(_run_mlx, device))


def _mlx_conv(x: mx.array, w: mx.array) -> mx.array:
    # MLX wants (b l c) and (o k c); the swaps are views and do no arithmetic.
    return mx.conv1d(x.swapaxes(1, 2), w.swapaxes(1, 2)).swapaxes(1, 2)


def _run_torch(
    device: ReferenceDevice,
    function: Callable[..., torch.Tensor],
    dtype: str,
    operands: Sequence[NDArray[np.float64]],
) -> tuple[Values, str]:
    place = "cpu" if dtype == "float64" else device
    with ieee_products(place), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ComplexHalf support is experimental")  # as is said of transforms on CUDA
        result = function(*(torch.from_numpy(operand).to(getattr(torch, dtype)).to(place) for operand in operands))
    result = result.cpu()
    wide = torch.complex128 if result.is_complex() else torch.float64
    return result.to(wide).numpy(), str(result.dtype).removeprefix("torch.")


def _run_mlx(
    device: PortDevice,
    function: Callable[..., mx.array],
    dtype: str,
    operands: Sequence[NDArray[np.float64]],
) -> tuple[Values, str]:
    with mx.stream(mx.gpu if device == "gpu" and dtype != "float64" else mx.cpu):
        # The dtype must be named: mx.array makes float32 of a float64 NumPy array without a word.
        result = function(*(mx.array(operand, dtype=getattr(mx, dtype)) for operand in operands))
        name = str(result.dtype).removeprefix("mlx.core.")
        # NumPy has no bfloat16; float32 holds every half, so the widening is exact.
        narrow = np.array(result.astype(mx.float32) if result.dtype in _MLX_HALVES else result)
    if np.iscomplexobj(narrow):
        return narrow.astype(np.complex128), name
    return narrow.astype(np.float64), name
