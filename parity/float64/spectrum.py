"""Complex numbers in float64: MLX has no complex128, so the two parts are carried side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx


def wide(value: Any) -> mx.array:
    """Return an array of any dtype, or a number, as a float64 array; a float64 array is returned as it is."""
    if isinstance(value, mx.array):
        return value if value.dtype == mx.float64 else value.astype(mx.float64)
    return mx.array(value, dtype=mx.float64)


def _parts(value: Any) -> tuple[Any, Any] | None:
    """Real and imaginary part of a complex operand; None for a real one."""
    if isinstance(value, Float64Spectrum):
        return value.real, value.imag
    if isinstance(value, mx.array) and value.dtype == mx.complex64:
        return wide(mx.real(value)), wide(mx.imag(value))
    if isinstance(value, complex):
        return value.real, value.imag
    return None


@dataclass(frozen=True, eq=False)
class Float64Spectrum:
    """A complex array as two float64 arrays of one shape, with the arithmetic of a complex array.

    It is what a transform returns where its input is float64. Operands may be spectra, real arrays, complex64 arrays
    and numbers.
    """

    real: mx.array
    imag: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of either part."""
        return tuple(self.real.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.real.ndim)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.real.size)

    def __mul__(self, other: Any) -> Float64Spectrum:
        """Elementwise product."""
        parts = _parts(other)
        if parts is None:
            return Float64Spectrum(self.real * other, self.imag * other)
        real, imag = parts
        return Float64Spectrum(self.real * real - self.imag * imag, self.real * imag + self.imag * real)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Float64Spectrum:
        """Elementwise sum."""
        real, imag = _parts(other) or (other, mx.zeros_like(wide(other)))
        return Float64Spectrum(self.real + real, self.imag + imag)

    __radd__ = __add__

    def __neg__(self) -> Float64Spectrum:
        """Elementwise negative."""
        return Float64Spectrum(-self.real, -self.imag)

    def __sub__(self, other: Any) -> Float64Spectrum:
        """Elementwise difference."""
        return self + -other

    def __rsub__(self, other: Any) -> Float64Spectrum:
        """Elementwise difference, this one subtracted."""
        return -self + other

    def __truediv__(self, other: Any) -> Float64Spectrum:
        """Elementwise quotient; of a complex divisor d as the product with conj(d) / |d|^2."""
        parts = _parts(other)
        if parts is None:
            return Float64Spectrum(self.real / other, self.imag / other)
        real, imag = parts
        square = real * real + imag * imag
        return self * Float64Spectrum(wide(real / square), wide(-imag / square))

    def __rtruediv__(self, other: Any) -> Float64Spectrum:
        """Elementwise quotient of something real or complex by this one."""
        square = self.real * self.real + self.imag * self.imag
        return Float64Spectrum(self.real / square, -self.imag / square) * other

    def __abs__(self) -> mx.array:
        """Modulus sqrt(re^2 + im^2); its gradient at 0 is 0, as MLX's and torch's of a complex array is."""
        square = self.real * self.real + self.imag * self.imag
        nothing = square == 0
        return mx.where(nothing, square, mx.sqrt(mx.where(nothing, mx.ones_like(square), square)))

    def __getitem__(self, key: Any) -> Float64Spectrum:
        """Index both parts alike."""
        return self.map(lambda part: part[key])

    def conj(self) -> Float64Spectrum:
        """Complex conjugate."""
        return Float64Spectrum(self.real, -self.imag)

    def reshape(self, *shape: Any) -> Float64Spectrum:
        """Reshape both parts alike."""
        return self.map(lambda part: part.reshape(*shape))

    def transpose(self, *axes: Any) -> Float64Spectrum:
        """Permute the axes of both parts alike."""
        return self.map(lambda part: part.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> Float64Spectrum:
        """Swap two axes of both parts."""
        return self.map(lambda part: part.swapaxes(axis1, axis2))

    def map(self, function: Callable[[mx.array], mx.array]) -> Float64Spectrum:
        """Apply a function that is linear over the reals to both parts."""
        return Float64Spectrum(function(self.real), function(self.imag))


def spectrum_of(value: Any) -> Float64Spectrum:
    """Return a spectrum, a complex64 array, a real array or a number as a spectrum.

    Raises:
        TypeError: The value is none of these.
    """
    if isinstance(value, Float64Spectrum):
        return value
    if not isinstance(value, mx.array | int | float | complex):
        raise TypeError(f"expected an array or a number, got {type(value).__name__}")
    real, imag = _parts(value) or (value, 0.0)
    real = wide(real)
    return Float64Spectrum(real, mx.broadcast_to(wide(imag), real.shape))
