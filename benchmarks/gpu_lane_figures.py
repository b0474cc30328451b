"""What `gpu_lane.sh` found, in one table: verdicts with TF32 off and on, to what failures are attributed, constants."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

VERDICTS = {"0": "pass", "1": "FAIL", "3": "nothing compared", "124": "OUT OF TIME"}


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")


def main(folder: Path) -> int:
    """Print the figures; 0 if TF32 off is green, and every failure with TF32 on is attributed to it."""
    for switch in ("off", "on"):
        say(f"TF32 {switch}: {_environment(folder / f'env_{switch}.json')}")
    say((folder / "seconds.txt").read_text(encoding="utf-8").strip())
    good = True
    for name in (folder / "names.txt").read_text(encoding="utf-8").split():
        off, on = (_run(folder / switch, name) for switch in ("off", "on"))
        good &= off["verdict"] == "pass" and on["verdict"] in ("pass", "FAIL") and on["unattributed"] == 0
        say(
            f"{name:24} off: {off['verdict']:8} {off['tensors']:4} tensors, worst f32 {off['worst']:.3g} of allowed   "
            f"on: {on['verdict']:8} worst f32 {on['worst']:.3g}, failures {dict(on['failures'])}, "
            f"{on['attributed']} attributed to TF32, {on['unattributed']} not"
        )
        for line in (*off["lines"], *(on["lines"] if on["unattributed"] else ())):
            say(f"    {line}")
    say((folder / "calibrate.txt").read_text(encoding="utf-8").strip())
    say((folder / "refused.txt").read_text(encoding="utf-8").strip())
    say("GREEN with TF32 off, and red with TF32 on by TF32 alone" if good else "NOT as it should be: see above")
    return 0 if good else 1


def _environment(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["environment"]
    except (OSError, ValueError, KeyError):
        return f"no environment: {path.with_suffix('.err').read_text(encoding='utf-8').strip()}"
    return (
        f"port {found['mlx_gpu']} {found['mlx_gpu_name']}, {found['port_product_bits']} bits; reference "
        f"{found['reference_gpu_name']}, {found['reference_product_bits']} bits; key {found['key']}"
    )


def _run(folder: Path, name: str) -> dict[str, Any]:
    status = (folder / f"{name}.status").read_text(encoding="utf-8").strip()
    found: dict[str, Any] = {"verdict": VERDICTS.get(status, f"status {status}"), "tensors": 0, "worst": float("nan")}
    found |= {"failures": Counter(), "attributed": 0, "unattributed": 0, "lines": []}
    summary = folder / name / "summary.json"
    if not summary.exists():
        found["lines"] = (folder / f"{name}.txt").read_text(encoding="utf-8").strip().splitlines()[-5:]
        return found
    failures = json.loads(summary.read_text(encoding="utf-8"))["failures"]
    found["failures"] = Counter(f"{failure['rung']} {failure['kind']}" for failure in failures)
    by_tf32 = sum(any("attributed to TF32: " in line for line in failure["attribution"]) for failure in failures)
    found["attributed"], found["unattributed"] = by_tf32, len(failures) - by_tf32
    found["lines"] = [
        f"{failure['rung']} {failure['kind']} {failure['first_bad']}: {failure['reason']}; "
        f"{'; '.join(failure['attribution'])}"
        for failure in failures
    ]
    rows = _rows(folder / name / "layers.csv")
    found["tensors"] = len(rows)
    found["worst"] = max((float(row["ratio"]) for row in rows if row["rung"] == "f32"), default=float("nan"))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
