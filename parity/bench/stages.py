"""What the time of an examination goes into: samples of the stack, each put down to the stage that stands outermost.

A stage is named by the module that does it, so that a change inside of one moves no time to another. Samples disturb
less than a profiler that is called with every function, and torch calls very many.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Final

REST: Final = "rest"

STAGES: Final[Mapping[str, str]] = {
    "parity.cases": "drawing",
    "parity.backends.noise": "noise prediction",
    "parity.backends.conditioning": "conditioning",
    "parity.backends.truth": "truth",
    "parity.verdict": "metrics",
    "parity.metrics": "metrics",
    "parity.backends.reference": "capture and passes",
    "parity.backends.port": "capture and passes",
    "parity.trace": "capture and passes",
}
"""By module, or the package that it lies in."""

BUILDING: Final = ("Modules.__init__", "Modules.reference", "Modules.port")
"""Functions whose time is building and filling modules, whatever they call."""

PERIOD: Final = 0.005


def stage_of(stack: Iterator[tuple[str, str]]) -> str:
    """Return the stage of a stack of (module, qualified function name), outermost first: the first that is one."""
    for module, function in stack:
        if function in BUILDING:
            return "building"
        for name, stage in STAGES.items():
            if module == name or module.startswith(f"{name}."):
                return stage
    return REST


def stack_of(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    """Yield (module, qualified function name) of a stack, outermost first."""
    found = []
    while frame is not None:
        found.append((str(frame.f_globals.get("__name__", "")), frame.f_code.co_qualname))
        frame = frame.f_back
    yield from reversed(found)


class StageClock:
    """Seconds of the calling thread by stage, while the block lasts.

    Time between two samples is that of the stage of the second.
    """

    def __init__(self, period: float = PERIOD, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._period, self._clock = period, clock
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> StageClock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = self._clock()
        while not self._over.wait(self._period):
            last = self.note(stage_of(stack_of(sys._current_frames().get(self._watched))), last)
        self.note(REST, last)

    def note(self, stage: str, last: float) -> float:
        """Put the time since `last` down to `stage`, and return the present."""
        now = self._clock()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - last
        return now
