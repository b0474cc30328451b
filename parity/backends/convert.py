"""NumPy to and from either framework; float64 arrays are the only thing that crosses.

Every value of float32, bfloat16 and float16 is a float64 value too, so a tensor crosses as float64 values beside the
name of its own dtype, and nothing is rounded on the way.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import torch

from parity.spec.arrays import Array

TORCH_DTYPES: Final = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MLX_DTYPES: Final = {
    "float64": mx.float64,
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,
}
_TORCH_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_MLX_NAMES: Final = {str(dtype): name for name, dtype in MLX_DTYPES.items()}


def torch_from_numpy(array: npt.NDArray[np.generic], dtype: str) -> torch.Tensor:
    """Return `array` in torch: integers as int64, everything else in the dtype called `dtype`."""
    if np.issubdtype(array.dtype, np.integer):
        return torch.from_numpy(np.array(array, dtype=np.int64))
    return torch.from_numpy(np.array(array, dtype=np.float64)).to(TORCH_DTYPES[dtype])


def mlx_from_numpy(array: npt.NDArray[np.generic], dtype: str) -> mx.array:
    """Return `array` in MLX: integers as int32, everything else in the dtype called `dtype`.

    A bare `mx.array` of a float64 array silently becomes float32, hence the explicit dtype.
    """
    if np.issubdtype(array.dtype, np.integer):
        return mx.array(np.array(array, dtype=np.int32))
    return mx.array(np.array(array, dtype=np.float64), dtype=mx.float64).astype(MLX_DTYPES[dtype])


def numpy_from_torch(tensor: torch.Tensor) -> tuple[Array, str]:
    """Return the float64 values of `tensor` and the name of its own dtype."""
    return tensor.detach().to(torch.float64).cpu().numpy(), _TORCH_NAMES.get(tensor.dtype, str(tensor.dtype))


def numpy_from_mlx(array: mx.array) -> tuple[Array, str]:
    """Return the float64 values of `array` and the name of its own dtype."""
    values = np.array(array.astype(mx.float64, stream=mx.cpu), dtype=np.float64)
    return values, _MLX_NAMES.get(str(array.dtype), str(array.dtype))
