"""Names in a checkpoint that no implementation uses, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

SET_ASIDE: Final[Mapping[str, str]] = {
    r"(^|\.)position_ids$": "the numbers 0, 1, 2, ...: both implementations count themselves",
    r"(^|\.)flashfft\.": "constant tables of a fused transform",
}


def set_aside_reason(name: str) -> str | None:
    """Return why the tensor `name` of a checkpoint is not used, or None if it is."""
    return next((reason for pattern, reason in SET_ASIDE.items() if re.search(pattern, name)), None)
