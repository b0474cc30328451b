"""Parity: proves, or disproves and says where, that an MLX port computes what its PyTorch original does.

`Pair`, `InputSpec` and `LengthClass` put a model of your own under test; `docs/pairs.md` walks through it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parity.spec.version import __version__

if TYPE_CHECKING:
    from parity.api import InputSpec, LengthClass, Pair

__all__ = ["InputSpec", "LengthClass", "Pair", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for, so that `parity --help` need not."""
    if name in __all__:
        return getattr(importlib.import_module("parity.api"), name)
    raise AttributeError(f"module 'parity' has no attribute {name!r}; public are {', '.join(__all__)}")
