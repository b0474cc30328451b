"""The two frameworks as the probe sees them: a table of operations and one way to run an entry.

The tables are data, so that a test can plant an operation that loses digits and see the probe name it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch
from numpy.typing import NDArray

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


def torch_framework() -> Framework:
    """Return torch on the CPU, where the reference runs."""
    operations: dict[str, Callable[..., torch.Tensor]] = {
        "matmul": torch.matmul,
        "conv": torch.nn.functional.conv1d,
        "fft": torch.fft.rfft,
        "sin": torch.sin,
        "exp": torch.exp,
        "erf": torch.erf,
    }
    return Framework("torch", operations, _run_torch)


def mlx_framework() -> Framework:
    """Return MLX on its default device, and on the CPU for float64, which no GPU backend of MLX has."""
    operations: dict[str, Callable[..., mx.array]] = {
        "matmul": mx.matmul,
        "conv": _mlx_conv,
        "fft": mx.fft.rfft,
        "sin": mx.sin,
        "exp": mx.exp,
        "erf": mx.erf,
    }
    return Framework("mlx", operations, _run_mlx)


def _mlx_conv(x: mx.array, w: mx.array) -> mx.array:
    # MLX wants (b l c) and (o k c); the swaps are views and do no arithmetic.
    return mx.conv1d(x.swapaxes(1, 2), w.swapaxes(1, 2)).swapaxes(1, 2)


def _run_torch(
    function: Callable[..., torch.Tensor], dtype: str, operands: Sequence[NDArray[np.float64]]
) -> tuple[Values, str]:
    result = function(*(torch.from_numpy(operand).to(getattr(torch, dtype)) for operand in operands))
    wide = torch.complex128 if result.is_complex() else torch.float64
    return result.to(wide).numpy(), str(result.dtype).removeprefix("torch.")


def _run_mlx(
    function: Callable[..., mx.array], dtype: str, operands: Sequence[NDArray[np.float64]]
) -> tuple[Values, str]:
    with mx.stream(mx.cpu) if dtype == "float64" else contextlib.nullcontext():
        # The dtype must be named: mx.array makes float32 of a float64 NumPy array without a word.
        result = function(*(mx.array(operand, dtype=getattr(mx, dtype)) for operand in operands))
        name = str(result.dtype).removeprefix("mlx.core.")
        # NumPy has no bfloat16; float32 holds every half, so the widening is exact.
        narrow = np.array(result.astype(mx.float32) if result.dtype in _MLX_HALVES else result)
    if np.iscomplexobj(narrow):
        return narrow.astype(np.complex128), name
    return narrow.astype(np.float64), name
