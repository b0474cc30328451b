"""What `gpu_lane.sh` found: verdicts with TF32 off and on, to what failures are attributed, constants, LayerNorm.

    python benchmarks/gpu_lane_figures.py FOLDER [--markdown reports/gpu_lane.md]

Exit status 0 if everything is green with TF32 off, and what is red with TF32 on is attributed to it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from parity.files import write_whole

VERDICTS: Final = {"0": "pass", "1": "FAIL", "3": "nothing compared", "124": "OUT OF TIME"}

HEAD: Final = """\
# The GPU lane

Made by `benchmarks/gpu_lane.sh FOLDER` and

    python benchmarks/gpu_lane_figures.py FOLDER --markdown {path}

which run the suites as they are, `parity run COMPONENT --profile canonical --port-device gpu --reference-device cuda`,
the standard budget with TF32 off, the quick one with TF32 on, seed 0. A component that was out of time with TF32 on was
run again at f32 alone.

"""

TABLE: Final = """
*worst* is the largest error at f32 over what is allowed. *attributed* says how many findings with TF32 on are TF32's:
no error is beyond what factors of 11 bits allow, and it is gone on the CPU, which multiplies float32 whole.

| component | TF32 off | tensors | worst | TF32 on | rungs | worst | findings | attributed |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass
class Lane:
    """One component with TF32 off or on."""

    verdict: str
    tensors: int = 0
    worst: float = float("nan")
    rungs: Sequence[str] = ()
    failures: Counter[str] = field(default_factory=Counter)
    attributed: int = 0
    lines: Sequence[str] = ()

    @property
    def unattributed(self) -> int:
        """Findings that nothing attributes to TF32."""
        return self.failures.total() - self.attributed


def main(arguments: Sequence[str]) -> int:
    """Print the figures, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of gpu_lane.sh")
    parser.add_argument("--markdown", type=Path, help="write the report here")
    chosen = parser.parse_args(arguments)
    names = _text(chosen.folder / "names.txt").split()
    lanes = {name: (_lane(chosen.folder / "off", name), _lane(chosen.folder / "on", name)) for name in names}
    good = all(
        off.verdict == "pass" and on.verdict in ("pass", "FAIL") and not on.unattributed for off, on in lanes.values()
    )
    text = HEAD.format(path=chosen.markdown or "FILE") + "\n".join(_body(chosen.folder, lanes, good)) + "\n"
    sys.stdout.write(text)
    if chosen.markdown:
        write_whole(chosen.markdown, text, "name another file with --markdown")
    return 0 if good else 1


def _body(folder: Path, lanes: dict[str, tuple[Lane, Lane]], good: bool) -> list[str]:
    lines = [f"* TF32 {switch}: {_environment(folder / f'env_{switch}.json')}" for switch in ("off", "on")]
    lines += [f"* {line}" for line in _text(folder / "seconds.txt").splitlines()]
    lines += TABLE.splitlines()
    for name, (off, on) in lanes.items():
        findings = ", ".join(f"{count} {kind}" for kind, count in on.failures.items())
        lines.append(
            f"| {name} | {off.verdict} | {off.tensors} | {off.worst:.3g} | {on.verdict} | {', '.join(on.rungs)} "
            f"| {on.worst:.3g} | {findings} | {on.attributed} of {on.failures.total()} |"
        )
    lines += [
        "",
        f"**{'GREEN with TF32 off; red with TF32 on by TF32 alone' if good else 'NOT as it should be'}.**",
        "",
    ]
    told = [f"{name}, {line}" for name, both in lanes.items() for lane in both for line in lane.lines]
    lines += ["## Findings", "", *(f"* {line}" for line in told), ""]
    for title, file in (("Calibration", "calibrate"), ("Refused with TF32 on", "refused"), ("LayerNorm", "layer_norm")):
        if (folder / f"{file}.txt").exists():
            lines += [f"## {title}", "", *(f"    {line}" for line in _shown(folder / f"{file}.txt", folder)), ""]
    return lines[:-1]


def _shown(path: Path, folder: Path) -> list[str]:
    return _text(path).replace(f"{folder}/", "").splitlines()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _environment(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["environment"]
    except (OSError, ValueError, KeyError):
        return f"no environment: {_text(path.with_suffix('.err'))}"
    versions = found["versions"]
    return (
        f"port {found['mlx_gpu']} {found['mlx_gpu_name']}, MLX {versions['mlx']}, products of "
        f"{found['port_product_bits']} bits; reference {found['reference_gpu_name']}, torch {versions['torch']}, "
        f"products of {found['reference_product_bits']} bits; environment {found['key']}"
    )


def _lane(folder: Path, name: str) -> Lane:
    status = _text(folder / f"{name}.status")
    lane = Lane(VERDICTS.get(status, f"status {status}"))
    summary = folder / name / "summary.json"
    if not summary.exists():
        lane.lines = _text(folder / f"{name}.txt").splitlines()[-5:]
        return lane
    failures: list[dict[str, Any]] = json.loads(summary.read_text(encoding="utf-8"))["failures"]
    lane.failures = Counter(f"{failure['rung']} {failure['kind']}" for failure in failures)
    lane.attributed = sum(any("attributed to TF32: " in line for line in it["attribution"]) for it in failures)
    lane.lines = [
        f"{it['rung']} {it['kind']} {it['first_bad']}: {it['reason']}; {'; '.join(it['attribution'])}"
        for it in failures
    ]
    rows = _rows(folder / name / "layers.csv")
    lane.tensors = len(rows)
    lane.rungs = tuple(dict.fromkeys(row["rung"] for row in rows))
    lane.worst = max((float(row["ratio"]) for row in rows if row["rung"] == "f32"), default=float("nan"))
    return lane


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
