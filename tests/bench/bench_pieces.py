"""Reports that nobody measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity.bench.cells import Cell, Skip
from parity.bench.machine import Machine
from parity.bench.report import Report, Run

MACHINE = Machine("a processor", 2, 8192, "a system", "3.11", (("mlx", "1"), ("torch", "2")))
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)


def a_run(*parts: str, quick: bool = False) -> Run:
    started, blas = "2026-01-01T00:00:00+00:00", (("torch", "a library"),)
    return Run(parts, "parity bench", "abc+", 0, 2, started, 1.5, 0.1, 2.0, quick, "3 rounds", blas)


def a_report(*cells: Cell, machine: Machine = MACHINE, quick: bool = False) -> Report:
    parts = tuple(dict.fromkeys(cell.part for cell in cells))
    return Report(machine, (a_run(*parts, quick=quick),), cells, (Skip("models", "it", "a reason"),))


def a_time(component: str, length: int, values: Sequence[float], side: str = "mlx") -> Cell:
    at: dict[str, str | int] = {"component": component, "pass": "forward", "L": length, "blas": "torch", "side": side}
    return Cell.make("models", "time", at, "s", values, length, "tokens")


def times(component: str, seconds: Callable[[int], float], lengths: Sequence[int] = LENGTHS) -> list[Cell]:
    return [a_time(component, length, [seconds(length)]) for length in lengths]
