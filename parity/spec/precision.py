"""The rungs of the precision ladder and the constants of their number formats.

A rung names the dtype in which reference and port run. Every format is binary with `digits` significant bits
(the hidden one counted), unit roundoff u = 2**-digits, smallest normal exponent `emin` and largest finite `maximum`.

Source: IEEE 754-2019 table 3.5; bfloat16 as in "BFLOAT16 - Hardware Numerics Definition", Intel 338302.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from parity.errors import ConfigError

RungName = Literal["f64", "f32", "bf16", "f16"]


@dataclass(frozen=True)
class Rung:
    """One number format: `name` as on the command line, `dtype` as NumPy, torch and MLX spell it."""

    name: RungName
    dtype: str
    digits: int
    emin: int
    maximum: float

    @property
    def u(self) -> float:
        """Unit roundoff 2**-digits: the largest relative error of rounding to nearest."""
        return 2.0**-self.digits

    @property
    def tiny(self) -> float:
        """Smallest positive normal number 2**emin."""
        return 2.0**self.emin

    @property
    def quantum(self) -> float:
        """Smallest positive subnormal number 2**(emin - digits + 1)."""
        return 2.0 ** (self.emin - self.digits + 1)

    @property
    def is_half(self) -> bool:
        """Whether the format has sixteen bits."""
        return self.digits < 24


RUNGS: Final[dict[RungName, Rung]] = {
    "f64": Rung("f64", "float64", 53, -1022, 1.7976931348623157e308),
    "f32": Rung("f32", "float32", 24, -126, 3.4028234663852886e38),
    "bf16": Rung("bf16", "bfloat16", 8, -126, 3.3895313892515355e38),
    "f16": Rung("f16", "float16", 11, -14, 65504.0),
}

BY_DTYPE: Final[dict[str, Rung]] = {rung.dtype: rung for rung in RUNGS.values()}


def rung_called(name: str) -> Rung:
    """Return the rung of a name that a user wrote.

    Raises:
        ConfigError: There is none.
    """
    for known, rung in RUNGS.items():
        if known == name:
            return rung
    raise ConfigError(f"unknown rung {name!r}; allowed: {', '.join(RUNGS)}")
