"""The one table of sizes that a bundle keeps to, every number beside its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Limit:
    """A number of the table and why it is what it is."""

    value: int
    why: str


LIMITS: Final[Mapping[str, Limit]] = {
    "file_bytes": Limit(
        300 * 1024,
        "a few hundred KiB: every failure of a run with 15 components, 5 profiles and 4 rungs is 90 MiB at worst, "
        "and a bundle can be attached to an issue",
    ),
    "unpacked_bytes": Limit(
        32 * 2**20,
        "zeros deflate a thousandfold; a file that unpacks to more than this was not written by this program",
    ),
    "deflation": Limit(
        16,
        "an array is not even tried if it has more than so many bytes for each that is left: drawn values deflate to a "
        "quarter at best, and deflating a whole model for nothing takes minutes",
    ),
    "tensors": Limit(
        24,
        "offending tensors described, first bad first; what fails after it mostly inherits, and one layer has about 20",
    ),
    "window": Limit(
        256,
        "elements around a peak of the error: wide enough for a row of a small model, or one period of a transform",
    ),
    "windows": Limit(4, "peaks of a tensor that is too large: with 256 elements each, 8 KiB of float64 for each side"),
    "detail_characters": Limit(8000, "the end of a traceback, where the reason stands"),
}


def limit(name: str) -> int:
    """Return the value of a limit of the table."""
    return LIMITS[name].value
