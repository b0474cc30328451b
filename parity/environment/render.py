"""Shows a fingerprint and its measured bits to a person, or to a program."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from parity.environment.fingerprint import Environment
from parity.environment.probe import ProbeRow


def to_table(environment: Environment, rows: Sequence[ProbeRow]) -> Group:
    """Return two tables to print: the environment, and the bits of framework x operation against dtype."""
    return Group(_environment_table(environment), _bits_table(rows))


def to_json(environment: Environment, rows: Sequence[ProbeRow], mlx_blas_in_effect: str) -> str:
    """Return all as JSON text: `environment` with its `key`, `mlx_blas_in_effect` as
    `parity.environment.product.blas_in_effect` measures it, and `probe`, a list of rows; names sorted, indent 2."""
    document = {
        "mlx_blas_in_effect": mlx_blas_in_effect,
        "environment": {**environment.to_dict(), "key": environment.key()},
        "probe": [row.to_dict() for row in rows],
    }
    return json.dumps(document, sort_keys=True, indent=2, allow_nan=False)


def _environment_table(environment: Environment) -> Table:
    table = Table(title=f"Environment {environment.key()}", title_justify="left")
    table.add_column("what")
    table.add_column("value", overflow="fold")
    for name, value in _flattened(environment):
        # Text, not str: a CPU may call itself "[...]", which rich would read as markup.
        table.add_row(Text(name), Text(value))
    return table


def _flattened(environment: Environment) -> Iterator[tuple[str, str]]:
    for name, value in environment.to_dict().items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping):
            # An unset switch must not read like a switch whose value is "none".
            missing = "not set" if name == "switches" else "none"
            parts = ((part, missing if inner is None else str(inner)) for part, inner in value.items())
            yield from ((f"{label}: {part}", inner) for part, inner in parts)
        elif isinstance(value, list):
            yield label, ", ".join(value) or "none"
        else:
            yield label, "none" if value is None else str(value)


def _bits_table(rows: Sequence[ProbeRow]) -> Table:
    dtypes = tuple(dict.fromkeys(row.dtype for row in rows))
    table = Table(title="Bits that are right, measured against exact arithmetic", title_justify="left")
    for heading in ("framework", "operation", *dtypes):
        table.add_column(heading)
    cells = {(row.framework, row.operation, row.dtype): _cell(row) for row in rows}
    for framework, operation in dict.fromkeys((row.framework, row.operation) for row in rows):
        found = (cells.get((framework, operation, dtype), Text("not measured")) for dtype in dtypes)
        table.add_row(Text(framework), Text(operation), *found)
    return table


def _cell(row: ProbeRow) -> Text:
    if row.bits is None:
        return Text(row.note, style="dim")
    words = [f"{row.bits:.1f}"]
    if row.result_dtype != row.dtype:
        words.append(f"as {row.result_dtype}")
    if row.suspicious:
        words.append(f"SUSPICIOUS, looks like {row.looks_like}")
    if row.note:
        words.append(f"({row.note})")
    return Text(" ".join(words), style="bold red" if row.suspicious else "")
