"""The kinds of numbers that a checkpoint may hold, under the names of every format.

A tensor is carried as bits: unsigned integers of the same width, so that no kind is ever rounded on the way, whether or
not NumPy knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One kind of numbers.

    Attributes:
        name: In the header of a safetensors file.
        itemsize: Bytes of one number.
        torch: Name of torch's dtype, without `torch.`.
        storage: Name of torch's storage class; "" where torch writes bytes and the dtype beside them.
        npy: The description in an .npy header, without the sign of the byte order; "" where it has none.
        values: What NumPy calls it.
        exponent: Bits that are all ones in a NaN or an infinity; 0 where there are none.
    """

    name: str
    itemsize: int
    torch: str
    storage: str
    npy: str
    values: type[np.generic]
    exponent: int = 0

    @property
    def bits(self) -> np.dtype[np.void] | np.dtype[np.unsignedinteger]:
        """What carries one number: an unsigned integer, or 16 bytes."""
        return np.dtype(f"u{self.itemsize}" if self.itemsize <= 8 else f"V{self.itemsize}").newbyteorder("<")


DTYPES: Final = {
    dtype.name: dtype
    for dtype in (
        Dtype("F64", 8, "float64", "DoubleStorage", "f8", np.float64, 0x7FF0000000000000),
        Dtype("F32", 4, "float32", "FloatStorage", "f4", np.float32, 0x7F800000),
        Dtype("F16", 2, "float16", "HalfStorage", "f2", np.float16, 0x7C00),
        # numpy.save and mlx.core.savez both write two bytes without a meaning.
        Dtype("BF16", 2, "bfloat16", "BFloat16Storage", "V2", ml_dtypes.bfloat16, 0x7F80),
        Dtype("F8_E4M3", 1, "float8_e4m3fn", "", "", ml_dtypes.float8_e4m3fn),
        Dtype("F8_E5M2", 1, "float8_e5m2", "", "", ml_dtypes.float8_e5m2),
        Dtype("C64", 8, "complex64", "ComplexFloatStorage", "c8", np.complex64),
        Dtype("C128", 16, "complex128", "ComplexDoubleStorage", "c16", np.complex128),
        Dtype("I64", 8, "int64", "LongStorage", "i8", np.int64),
        Dtype("I32", 4, "int32", "IntStorage", "i4", np.int32),
        Dtype("I16", 2, "int16", "ShortStorage", "i2", np.int16),
        Dtype("I8", 1, "int8", "CharStorage", "i1", np.int8),
        Dtype("U64", 8, "uint64", "", "u8", np.uint64),
        Dtype("U32", 4, "uint32", "", "u4", np.uint32),
        Dtype("U16", 2, "uint16", "", "u2", np.uint16),
        Dtype("U8", 1, "uint8", "ByteStorage", "u1", np.uint8),
        Dtype("BOOL", 1, "bool", "BoolStorage", "b1", np.bool_),
    )
}
"""By the name in a safetensors file."""

BY_STORAGE: Final = {dtype.storage: dtype for dtype in DTYPES.values() if dtype.storage}
BY_TORCH: Final = {dtype.torch: dtype for dtype in DTYPES.values()}
BY_NPY: Final = {dtype.npy: dtype for dtype in DTYPES.values() if dtype.npy}
