"""Complex arrays as two real ones of any dtype: MLX has no complex number in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, eq=False)
class PairSpectrum:
    """A complex array (...): its real and its imaginary part."""

    real: mx.array
    imag: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of either part."""
        return tuple(self.real.shape)

    @property
    def dtype(self) -> mx.Dtype:
        """That of either part."""
        return self.real.dtype

    def __mul__(self, other: PairSpectrum | float) -> PairSpectrum:
        """Elementwise product with a complex array, or with a real number."""
        if not isinstance(other, PairSpectrum):
            return self.map(lambda part: part * other)
        return PairSpectrum(
            self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real
        )

    def __add__(self, other: PairSpectrum) -> PairSpectrum:
        """Elementwise sum."""
        return PairSpectrum(self.real + other.real, self.imag + other.imag)

    def conj(self) -> PairSpectrum:
        """Elementwise complex conjugate, exactly."""
        return PairSpectrum(self.real, -self.imag)

    def map(self, function: Callable[[mx.array], mx.array]) -> PairSpectrum:
        """Apply a function that is linear over the reals to both parts."""
        return PairSpectrum(function(self.real), function(self.imag))

    def complex64(self) -> mx.array:
        """As one array of MLX."""
        return self.real + 1j * self.imag


def pair_of(z: mx.array) -> PairSpectrum:
    """A complex64 array in two parts."""
    return PairSpectrum(mx.real(z), mx.imag(z))
