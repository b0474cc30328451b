"""`parity trace`: a tree of blame, module by module."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from parity.errors import ConfigError
from parity.plain import json_text
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import load_profile, require_built


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `trace` to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def trace(
        target: Annotated[str, typer.Argument(metavar="TARGET", help="One component, for example `encoder`.")],
        profile: Annotated[
            str | None,
            typer.Option(
                help="A profile's name, or the path of a JSON file. Default: $MLX_M2_PROFILE, else mlx_stable."
            ),
        ] = None,
        rung: Annotated[str, typer.Option(help="Where the port runs: f64, f32, bf16 or f16.")] = "f64",
        backward: Annotated[bool, typer.Option("--backward", help="Blame gradients, module by module.")] = False,
        depth: Annotated[int | None, typer.Option(min=0, help="Print no module below this depth.")] = None,
        case: Annotated[str | None, typer.Option(metavar="JSON", help="The case, as a failure prints it.")] = None,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="Print every row as JSON.")] = False,
    ) -> None:
        """Say which module first goes wrong.

        Each module of the port runs on the reference's own inputs. Printed are the error it makes there (own), that
        of what it was given in its own run (inherited), how it amplifies that (gain), and what it gave out (total).

        Exit status 0 if every module keeps within its allowance, 1 if one does not or was compared with nothing.
        """
        choice = _Choice(target, profile, rung, backward, depth, case, seed, as_json)
        raise typer.Exit(guarded(lambda: _trace(choice), "no module was blamed"))


@dataclasses.dataclass(frozen=True)
class _Choice:
    target: str
    profile: str | None
    rung: str
    backward: bool
    depth: int | None
    case: str | None
    seed: int
    as_json: bool


def _trace(choice: _Choice) -> int:
    profile, rung = load_profile(choice.profile), _rung(choice.rung)
    require_built(profile)
    import torch

    from parity.blame import trace_backward, trace_forward
    from parity.cases import Case, corpus_cases
    from parity.environment import warm_up
    from parity.examine import Bench
    from parity.run import require_buildable
    from parity.suites import select

    torch.set_num_threads(1)
    warm_up()
    (pair,) = select([choice.target])
    if rung.name not in pair.only_rungs:
        raise ConfigError(f"{pair.name} has no rung {rung.name}: {pair.only_rungs_reason}")
    if choice.case is None:
        case = next(c for c in reversed(corpus_cases(pair, choice.seed)) if rung.name in c.ladder)
    else:
        case = Case.from_json(pair.name, choice.case)
        require_buildable(pair, case)
    bench = Bench(pair, case, profile, intermediates=False)
    trace = trace_backward if choice.backward else trace_forward
    table = trace(pair, bench.module, bench.modules.port(profile, rung), bench.inputs, rung, choice.seed)
    if choice.as_json:
        rows = [{**dataclasses.asdict(row), "verdict": table.verdict(row)} for row in table.rows]
        data = {
            "component": pair.name,
            "case": case.to_json(),
            "rung": rung.name,
            "passed": table.passed,
            "sentence": table.sentence(),
            "rows": rows,
            "unpaired_reference": table.unpaired_reference,
            "unpaired_port": table.unpaired_port,
        }
        sys.stdout.write(json_text(data))
    else:
        _print(table, f"{pair.name} under {profile.name} at {rung.name}: {case.to_json()}", choice.depth)
    return 0 if table.passed else 1


def _print(table: Any, head: str, depth: int | None) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print(head, markup=False)
    rows = {row.module: row for row in table.rows}
    tree = Tree(_line("", rows.get(""), table))
    nodes = {"": tree}
    for name in sorted((name for name in rows if name), key=lambda n: _place(n, rows)):
        parent = next((p for p in _above(name) if p in nodes), "")
        if depth is None or name.count(".") < depth:
            nodes[name] = nodes[parent].add(_line(name, rows[name], table))
    out.print(tree)
    for side, names in (("reference", table.unpaired_reference), ("port", table.unpaired_port)):
        if names:
            out.print(f"compared with nothing, {side}: {', '.join(names)}", markup=False)
    out.print(f"{'PASS' if table.passed else 'FAIL'}: {table.sentence()}", markup=False)


def _place(name: str, rows: Any) -> tuple[int, int]:
    return name.count("."), list(rows).index(name)


def _above(name: str) -> list[str]:
    parts = name.partition("#")[0].split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _line(name: str, row: Any, table: Any) -> Text:
    label = name.rpartition(".")[2] or "model"
    if row is None:
        return Text(label)
    gain = "-" if row.gain is None else f"{row.gain:.2g}"
    line = Text(
        f"{label} ({row.kind})  own {row.own:.2g} ({row.ratio:.2g} of allowed)  inherited {row.inherited:.2g}  "
        f"gain {gain}  total {row.total:.2g}"
    )
    verdict = table.verdict(row)
    if verdict in ("culprit", "wiring"):
        line.append(f"  <-- {verdict}", style="bold red")
    for note in row.notes:
        line.append(f"  [{note}]", style="dim")
    return line


def _rung(name: str) -> Rung:
    for known, rung in RUNGS.items():
        if known == name:
            return rung
    raise ConfigError(f"unknown rung {name!r}; allowed: {', '.join(RUNGS)}")
