"""NumPy to and from either framework; float64 arrays are the only thing that crosses.

Every value of float32, bfloat16 and float16 is a float64 value too, so a tensor crosses as float64 values beside the
name of its own dtype, and nothing is rounded on the way. Each framework's half is a file of its own, so that either
side can run where the other framework is not installed.
"""

from __future__ import annotations

from parity.backends.convert_mlx import MLX_DTYPES, mlx_from_numpy, numpy_from_mlx
from parity.backends.convert_torch import TORCH_DTYPES, numpy_from_torch, torch_from_numpy

__all__ = [
    "MLX_DTYPES",
    "TORCH_DTYPES",
    "mlx_from_numpy",
    "numpy_from_mlx",
    "numpy_from_torch",
    "torch_from_numpy",
]
