"""The array types that the whole harness shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
"""Real values of any shape, carried exactly in float64 whatever their own format is."""

AnyArray = npt.NDArray[np.generic]
"""Real values or integers."""

Arrays = Mapping[str, npt.NDArray[Any]]
"""Named arrays."""
