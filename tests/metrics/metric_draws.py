"""What the metric tests draw: rung, family of values, size and seed; NumPy turns these into arrays."""

from __future__ import annotations

from typing import Final, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st

from parity.spec.arrays import Array
from parity.spec.precision import RUNGS, Rung, RungName

FAMILIES: Final = ("unit", "wide", "tiny", "special")

generated: Final = settings(max_examples=60, deadline=None, derandomize=True)

rungs: Final = st.sampled_from(list(RUNGS.values()))
sixteen_bit_names: Final[tuple[RungName, ...]] = ("bf16", "f16")


class Draw(NamedTuple):
    """Reals of one family, and the rung that they are judged on."""

    rung: Rung
    family: str
    size: int
    seed: int

    def reals(self, stream: int = 0) -> Array:
        """Reals between and beyond the format's numbers; another stream gives independent ones."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, stream]))
        return reals(generator, self.family, self.size, self.rung)


def reals(generator: np.random.Generator, family: str, size: int, rung: Rung) -> Array:
    """Make reals of order one, over the format's whole range, about its subnormals, or among specials."""
    normal = generator.standard_normal(size)
    if family == "unit":
        return normal
    if family == "tiny":
        return np.asarray(normal * rung.tiny)
    top = int(np.frexp(rung.maximum)[1])
    wide = np.ldexp(np.clip(normal, -1.0, 1.0), generator.integers(rung.emin - rung.digits, top, size))
    if family == "wide":
        return np.asarray(wide)
    chosen = generator.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, rung.quantum, rung.maximum], size)
    return np.asarray(np.where(generator.random(size) < 0.5, chosen, wide))


def draws(*families: str, min_size: int = 0, max_size: int = 64) -> st.SearchStrategy[Draw]:
    """Draws of the given families."""
    return st.builds(
        Draw,
        rung=rungs,
        family=st.sampled_from(families),
        size=st.integers(min_size, max_size),
        seed=st.integers(0, 2**32 - 1),
    )


def finite_table(name: RungName) -> Array:
    """Every finite number of a sixteen-bit format in ascending order, zero once, from its bit patterns."""
    dtype: npt.DTypeLike = np.float16 if name == "f16" else ml_dtypes.bfloat16
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        values = every.astype(np.float64)
    return np.unique(values[np.isfinite(values)] + 0.0)
