"""What a process frees it keeps, where the system can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from parity import heap

PAGES_FAULTED = """
import ctypes, resource, sys
import numpy as np
from parity.heap import keep_freed_memory, return_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()
    if not ctypes.CDLL(None).mallopt(-3, 1 << 30):
        raise SystemExit("this version keeps smaller blocks alone")
for _ in range(3):
    if "return" in sys.argv:
        return_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(1 << 24).fill(1.0)  # 128 MiB: 32,768 pages, or 64 large ones
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(*arguments: str) -> int:
    """Return the page faults of the third array of one size."""
    run = subprocess.run(
        [sys.executable, "-c", PAGES_FAULTED, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    if "smaller blocks" in run.stderr:
        pytest.skip(run.stderr)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_there_for_the_next_tensor() -> None:
    assert faults() >= 64
    assert faults("keep") < 16


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is glibc's")
def test_what_is_kept_can_be_returned() -> None:
    assert faults("keep", "return") >= 64


def test_a_version_that_takes_less_is_told_less(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Older:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            told.append((option, value))
            return int(value <= 1 << 25)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Older)
    assert heap.keep_freed_memory()
    assert told == [(-3, 1 << 30), (-3, 1 << 25), (-1, -1)]


def test_another_system_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("asked for a library"))
    assert not heap.keep_freed_memory()


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not heap.keep_freed_memory()
