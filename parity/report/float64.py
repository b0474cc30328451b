"""What float64 keeps, as tables in Markdown: the survey of MLX's operations, and the layers of mlx.nn."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from parity.float64.rows import ModuleRow
from parity.float64.survey import SurveyRow

ARITHMETICS = (
    ("float64", ("float64", "MLX")),
    ("float64 in the context", ("float64", "context")),
    ("bfloat16", ("bfloat16", "MLX")),
    ("float16", ("float16", "MLX")),
)


def survey_table(rows: Sequence[SurveyRow]) -> Table:
    """Return operations against arithmetics: the bits that are right, and LOSES where they are too few."""
    table = _table("operation", *(heading for heading, _ in ARITHMETICS))
    cells = {(row.operation, row.dtype, row.arithmetic): row for row in rows}
    for operation in dict.fromkeys(row.operation for row in rows):
        found = (cells.get((operation, *arithmetic)) for _, arithmetic in ARITHMETICS)
        table.add_row(Text(operation), *map(_survey_cell, found))
    return table


def module_table(rows: Sequence[ModuleRow]) -> Table:
    """Return layers against relative L2 errors of output and gradients, by MLX's float64 and in the context."""
    table = _table("layer of mlx.nn", "MLX", "MLX, gradients", "context", "context, gradients", "verdict")
    for row in rows:
        errors = (row.naive.output, row.naive.gradient, row.lifted.output, row.lifted.gradient)
        leaks = f", leaks: {', '.join(row.leaks)}" if row.leaks else ""
        verdict = ("pass" if row.passed else "FAIL") + leaks
        table.add_row(Text(row.module), *(_error(error) for error in errors), Text(verdict))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for heading in headings:
        table.add_column(heading)
    return table


def _error(error: float | None) -> Text:
    return Text("refuses" if error is None else f"{error:.1e}")


def _survey_cell(row: SurveyRow | None) -> Text:
    if row is None:
        return Text("-")
    if row.bits is None:
        return Text("refuses")
    words = [f"{row.bits:.1f}"]
    if row.result_dtype != row.dtype:
        words.append(f"as {row.result_dtype}")
    if not row.keeps:
        words.append("LOSES")
    return Text(" ".join(words), style="" if row.keeps else "bold red")
