"""How much memory a call adds at its peak, as Linux accounts for this process."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from parity.errors import ConfigError
from parity.heap import return_freed_memory

STATUS: Final = Path("/proc/self/status")
FORGET: Final = Path("/proc/self/clear_refs")
PEAK_MARK: Final = "5"


def measurable() -> bool:
    """Whether this system keeps such an account."""
    return platform.system() == "Linux" and FORGET.exists()


def added_peak(call: Callable[[], object]) -> float:
    """Return the peak resident size during `call` less that before it, in MiB.

    Raises:
        ConfigError: The system keeps no such account.

    Source: proc(5), `clear_refs`: 5 sets the peak to the present size.
    """
    if not measurable():
        raise ConfigError("the peak of memory is measured on Linux alone: /proc/self/clear_refs is not there")
    return_freed_memory()  # what is resident and free would be taken for the call's at no cost
    FORGET.write_text(PEAK_MARK, encoding="ascii")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise ConfigError(f"{STATUS} has no {field}")
    return int(found[1]) / 1024


def slope(points: dict[float, float]) -> float:
    """Return the slope of the line through (x, y), by least squares.

    Raises:
        ConfigError: There are fewer than two points.
    """
    if len(points) < 2:
        raise ConfigError(f"a slope needs two points or more; got {len(points)}")
    mean_x, mean_y = sum(points) / len(points), sum(points.values()) / len(points)
    moved = [(x - mean_x, y - mean_y) for x, y in points.items()]
    return sum(x * y for x, y in moved) / sum(x * x for x, _ in moved)
