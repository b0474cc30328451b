"""What the harness demands of itself, as functions that return a complaint, empty where all is well.

They are small: each runs the real thing once. `test_checks.py` spoils the harness and sees the one that must complain.
"""

from __future__ import annotations

import json
from pathlib import Path

import stand_ins
from harness_pieces import F32, F64, invoke

from parity.cases import FINE_LADDER, Case
from parity.examine import Bench, examine, first_bad
from parity.mutants.edits import Edit, Place, planted
from parity.mutants.trial import executed
from parity.results import Results
from parity.run import Plan
from parity.spec.profile import CANONICAL
from parity.suites import select

(MLP,) = select(["mlp"])
LARGEST_K = {"f64": 42, "f32": 15}
"""A factor 1 + 2^-k on GELU that must still be seen; `parity mutants --random` prints 45 and 18."""


def ran() -> Results:
    """Run one component at two rungs."""
    return executed(Plan([MLP], [CANONICAL], ("f64", "f32"), "quick", 0))


def a_wrong_port_fails() -> str:
    """A port with another GELU has a failure that names it, a verdict and an exit status, at f64 and at f32."""
    with stand_ins.tanh():
        results = ran()
    found = {failure.rung for failure in results.failures if failure.first_bad == "act"}
    if found != {"f64", "f32"}:
        return f"failures at {sorted(found) or 'no rung'}"
    return "" if results.exit_code == 1 else f"exit status {results.exit_code}"


def a_right_port_passes() -> str:
    """The port as it stands passes, with something compared."""
    results = ran()
    return "" if results.exit_code == 0 and results.compared else f"{results.verdict}, {results.compared} compared"


def every_rung_is_accounted_for() -> str:
    """Each rung that is asked for has compared elements, or is said to be skipped."""
    try:
        ran()
    except RuntimeError as error:
        return str(error)
    return ""


def a_small_factor_is_seen() -> str:
    """A factor near the smallest that is seen at each rung still is."""
    structure = max(MLP.corpus, key=lambda options: options["L"] * options["hidden_size"])
    bench = Bench(MLP, Case.make("mlp", structure, ladder=FINE_LADDER), CANONICAL)
    for rung in (F64, F32):
        edit = Edit(Place("act", "Gelu", ()), "scale", k=LARGEST_K[rung.name])
        spoilt = bench.with_pair(planted(MLP, [edit]))
        if first_bad(examine(spoilt, CANONICAL, rung).judgements) is None:
            return f"1 + 2^-{edit.k} is not seen at {rung.name}"
    return ""


def a_report_is_of_its_own_run(folder: Path) -> str:
    """A second run into a folder leaves the second run's report; one that is broken off leaves none."""
    for seed in ("1", "2"):
        done = _run(folder, seed)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if done != 0 or str(summary["seed"]) != seed:
            return f"after seed {seed} the report is of seed {summary['seed']}, exit status {done}"
    try:
        with stand_ins.interrupted():
            _run(folder, "3")
    except stand_ins.BrokenOffError:
        return "a run that was broken off left an older report" if (folder / "summary.json").exists() else ""
    return "the run was not broken off"


def _run(folder: Path, seed: str) -> int:
    words = ("run", "pooler", "--profile", "canonical", "--rung", "f64", "--budget", "quick", "--seed", seed)
    return invoke(*words, "--out", str(folder)).status
