"""The report as Markdown: verdicts first, then the figures by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from parity.bench.cells import Cell, Spread
from parity.bench.growth import SHORTEST, Growth
from parity.bench.report import Report, Run

LEGEND: Final = (
    "Every figure is a median, with the least and the largest in brackets. Contenders take turns: a ratio is the "
    "median of the ratios of neighbours. How to read it: docs/bench.md."
)


def markdown(report: Report, lines: Sequence[str] = ()) -> str:
    """Return the page; `lines` are those of a comparison."""
    parts = [
        "# Benchmark",
        LEGEND,
        *_made(report),
        "## Verdicts",
        _listed(
            [*(verdict.line() for verdict in report.verdicts()), *(f"not judged: {it}" for it in report.unjudged())]
        ),
    ]
    if lines:
        parts += ["## Compared with an earlier report", _listed(lines)]
    for title, table in (
        ("Growth with the length", _growth(report.growths())),
        ("MLX beside torch", _models(report.cells)),
        ("The harness", _others(report.cells, "harness")),
        ("The metric set beside others", _others(report.cells, "metrics")),
        ("The standard budget", _others(report.cells, "budget")),
        ("Not measured", _listed(f"{skip.part}, {skip.what}: {skip.reason}" for skip in report.skips)),
    ):
        if table:
            parts += [f"## {title}", table]
    return "\n\n".join(parts) + "\n"


def _made(report: Report) -> list[str]:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions)
    about = (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib} MiB, {machine.platform}; Python {machine.python}, "
        f"{versions}."
    )
    return [about, *map(_run, report.runs)]


def _run(run: Run) -> str:
    commit = f" at commit {run.commit}" if run.commit else ""
    blas = "".join(f" MLX's BLAS {choice}: {library}." for choice, library in run.mlx_blas)
    quick = " Quick: sizes of a trial, no bound is judged." if run.quick else ""
    return (
        f"Parts {', '.join(run.parts)}: `{run.command}`{commit}, {run.started}, {run.seconds:.0f} s; load "
        f"{run.load:.2f} before, {run.load_after:.2f} after; seed {run.seed}; {run.threads} threads in part models; "
        f"{run.patience}.{blas}{quick}"
    )


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _growth(growths: Sequence[Growth]) -> str:
    rows = [
        [
            growth.at["component"], growth.at["pass"], growth.at["blas"], growth.at["side"], " + ".join(growth.theory),
            f"{growth.lengths[0]} to {growth.lengths[-1]}", f"{growth.measured:.3f}", f"{growth.of_least:.3f}",
            _range(growth.expected), f"{growth.excess:+.3f}",
        ]
        for growth in growths
    ]  # fmt: skip
    headings = [
        "component", "pass", "BLAS of MLX", "side", "theory", "L", "exponent", "of least times", "of theory", "excess",
    ]  # fmt: skip
    note = f"p of c L^p by least squares from {SHORTEST} on, beside that of the counted steps."
    return f"{note}\n\n{table}" if (table := _table(headings, rows)) else ""


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3f}" if ends[0] == ends[1] else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _models(cells: Iterable[Cell]) -> str:
    rows: dict[tuple[str, ...], dict[str, Cell]] = {}
    for cell in cells:
        if cell.part == "models":
            place = cell.place
            key = tuple(str(place[name]) for name in ("component", "pass", "blas", "L"))
            rows.setdefault(key, {})[str(place.get("side", "ratio"))] = cell
    lines = []
    for key, found in rows.items():
        if found.keys() != {"mlx", "torch", "ratio"}:
            continue
        sides = [found[side] for side in ("mlx", "torch")]
        rates = [f"{cell.rate:,.0f}" for cell in sides]
        times = [_spread(cell.spread, _seconds) for cell in sides]
        ratio = _spread(found["ratio"].spread, _plain)
        lines.append([*key, *times, *rates, ratio, str(sides[0].spread.rounds)])
    headings = [
        "component", "pass", "BLAS of MLX", "L", "MLX", "torch", "MLX tokens/s", "torch tokens/s", "MLX over torch",
        "rounds",
    ]  # fmt: skip
    return _table(headings, lines)


def _others(cells: Iterable[Cell], part: str) -> str:
    rows = []
    for cell in (cell for cell in cells if cell.part == part):
        where = ", ".join(f"{key} {value}" for key, value in cell.at)
        form = _seconds if cell.unit == "s" else _plain
        unit = "" if cell.unit in ("s", "x") else f" {cell.unit}"
        rate = f"{cell.rate:.3g} {cell.of}/s" if cell.work else ""
        rows.append([cell.figure, where, _spread(cell.spread, form) + unit, rate, str(cell.spread.rounds)])
    return _table(["figure", "of", "median", "rate", "rounds"], rows)


def _spread(spread: Spread, form: Callable[[float], str]) -> str:
    if spread.rounds == 1:
        return form(spread.median)
    return f"{form(spread.median)} ({form(spread.least)} to {form(spread.largest)})"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _plain(value: float) -> str:
    return f"{value:.3g}"
