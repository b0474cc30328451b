"""NumPy to and from torch; no other framework is imported."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from parity.spec.arrays import AnyArray, Array

TORCH_DTYPES: Final = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TORCH_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_READ_BY_NUMPY: Final = (torch.float32, torch.float16)
"""Formats that NumPy widens in one pass, in a fifth of the time of torch's cast, whose memory is fresh each time."""


def torch_from_numpy(array: npt.NDArray[np.generic], dtype: str) -> torch.Tensor:
    """Return `array` in torch: booleans as they are, integers as int64, everything else in the dtype called `dtype`."""
    if array.dtype == np.bool_:
        return torch.from_numpy(np.array(array))
    if np.issubdtype(array.dtype, np.integer):
        return torch.from_numpy(np.array(array, dtype=np.int64))
    # torch's own cast, into memory that torch aligns: how MKL's products round may depend on where their factors lie.
    return torch.from_numpy(np.array(array, dtype=np.float64)).to(TORCH_DTYPES[dtype])


def numpy_from_torch(tensor: torch.Tensor) -> tuple[Array, str]:
    """Return the float64 values of `tensor` and the name of its own dtype."""
    held = tensor.detach() if tensor.requires_grad else tensor  # a dispatch mode sees and pays for every operation
    held = held.cpu()  # before it is widened: not every device has float64
    exact = held.numpy().astype(np.float64) if held.dtype in _READ_BY_NUMPY else held.to(torch.float64).numpy()
    return exact, _TORCH_NAMES.get(tensor.dtype, str(tensor.dtype))


def is_exact(value: object) -> bool:
    """Whether `value` is a tensor of integers or booleans."""
    return isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex())


def exact_from_torch(tensor: torch.Tensor) -> AnyArray:
    """Return a tensor of integers or booleans as int64, modulo 2^64, or bool."""
    values = tensor.detach().cpu().numpy()
    return values.copy() if values.dtype == np.bool_ else values.astype(np.int64)
