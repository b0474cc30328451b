"""Synthetic runs, written as `parity run` writes them, and the files that the gate holds them against."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness_pieces import Finished, filled_row, invoke, results_of

from parity.accuracy import Assessment, Ratio, Stratum, judge_ratios
from parity.code import code_hash
from parity.digests import GRADIENTS
from parity.pages import DETAILS, LAYERS, PAGE, SUMMARY
from parity.report import details_json, layers_csv, summary_json, write_report
from parity.results import Digest, Results, Row

PROFILE = "canonical"
FINGERPRINT = "a2901f36ed203f6f"
OTHER_FINGERPRINT = "0123456789abcdef"
SEEDS = (0, 1, 2, 3)
MARGIN = 2.0
"""Margin of the one stratum that departs from the standard."""
DEPARTING = Stratum("conv", PROFILE, "f32", "long", "offset")
STRATA = (
    Stratum("conv", PROFILE, "f32", "short", "normal"),
    Stratum("conv", PROFILE, "f32", "long", "normal"),
    DEPARTING,
    Stratum("conv", PROFILE, "bf16", "short", "normal"),
    Stratum("norm", PROFILE, "f32", "short", "normal"),
)
CASES = 6
SPREADS = {"f32": 0.1, "bf16": 0.0}


def bits_of(stratum: Stratum, seed: int, drift: float = 0.0) -> list[float]:
    """r of a stratum's cases; those of one number share half of their scatter, as cases that share a seed do."""
    common = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal(CASES)
    own = np.random.Generator(np.random.Philox(key=[seed, 1 + STRATA.index(stratum)])).standard_normal(CASES)
    spread = SPREADS[stratum.rung]
    shift = drift if spread else 0.0
    return [float(value) for value in shift + 0.1 * (spread > 0) + spread * (common + own) / np.sqrt(2)]


def port_bits_of(stratum: Stratum, seed: int, bits: list[float]) -> list[float]:
    """The port's own error of the cases with these ratios: that, and how hard each case is."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 100 + STRATA.index(stratum)]))
    return [float(value) for value in 3 + np.array(bits) + 0.05 * rng.standard_normal(CASES)]


def assessment_of(stratum: Stratum, bits: list[float], port_bits: list[float]) -> Assessment:
    """The assessment that a run makes of these ratios and errors."""
    ratios = [Ratio(value, value > MARGIN, '{"case":0}') for value in bits]
    margin = MARGIN if stratum == DEPARTING else 1.0
    return dataclasses.replace(judge_ratios(stratum, margin, ratios), bits=tuple(bits), port_bits=tuple(port_bits))


def results(
    seed: int = 0, drift: float = 0.0, only: Callable[[Stratum], bool] = lambda _: True, reference: float = 0.0
) -> Results:
    """The results of a run whose error is `drift` bits larger than accepted in the strata of `only`.

    `reference` is by how many bits the reference errs less than where it was accepted.
    """
    groups = [(name, rung) for name in ("conv", "norm") for rung in ("f64", "f32", "bf16")]
    found = results_of(
        [filled_row(component=name, rung=rung, profile=PROFILE, tensor=t) for name, rung in groups for t in ("h", "y")]
    )
    found.assessments = [_assessed(s, seed, drift if only(s) else 0.0, reference) for s in STRATA]
    moved = "drift" if drift else "same"
    gradients = ({GRADIENTS: "same"}, {})
    found.digests = [
        Digest(
            name,
            PROFILE,
            rung,
            f"cases{seed}",
            {"h": "same", "y": moved if rung == "f32" else "same"} | gradients[rung == "bf16"],
        )
        for name, rung in groups
    ]
    found.meta = {
        "budget": "standard",
        "seed": seed,
        "command": ["run"],
        "environment": {"system": "Linux", "machine": "x86_64", "mlx_device": "Device(cpu, 0)"},
        "fingerprint": FINGERPRINT,
        "code": code_hash(),
        "own": {},
    }
    return found


def _assessed(stratum: Stratum, seed: int, drift: float, reference: float) -> Assessment:
    bits = bits_of(stratum, seed, drift)
    return assessment_of(stratum, [value + reference for value in bits], port_bits_of(stratum, seed, bits))


def without(found: Results, component: str = "", rung: str = "") -> Results:
    """The results without a component, or without a rung."""

    def kept(where: Any) -> bool:
        return where.component != component and where.rung != rung

    found.rows = [row for row in found.rows if kept(row)]
    found.assessments = [each for each in found.assessments if kept(each.stratum)]
    found.digests = [digest for digest in found.digests if kept(digest)]
    return found


def failing(found: Results) -> Results:
    """The results with one tensor beyond its allowance."""
    bad = filled_row(error=2.0, component="conv", rung="f32", profile=PROFILE, tensor="y")
    found.rows = [bad if (row.component, row.rung, row.tensor) == ("conv", "f32", "y") else row for row in found.rows]
    found.failures = results_of([bad]).failures
    return found


def emptied(found: Results) -> Results:
    """The results with no row at all."""
    found.rows, found.assessments, found.digests = [], [], []
    return found


def zeroed(found: Results) -> Results:
    """The results with rows in which nothing was compared."""
    found.rows = [Row(row.component, row.profile, row.rung, row.tensor, "output", 0, cases=1) for row in found.rows]
    return found


def write(folder: Path, found: Results) -> Path:
    """Write results as a run's report."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        LAYERS: layers_csv(found),
        DETAILS: details_json(found),
        "report.md": "",
        PAGE: "",
        SUMMARY: summary_json(found),
    }
    write_report(folder, texts)
    return folder


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with four accepted runs, their baseline, ledger and history, and room for the run to be judged."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def baseline(self) -> Path:
        return self.root / "baseline.json"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.json"

    @property
    def history(self) -> Path:
        return self.root / "history.sqlite"

    @property
    def files(self) -> list[str]:
        return ["--baseline", str(self.baseline), "--ledger", str(self.ledger)]

    def accept(self, *runs: Path, more: tuple[str, ...] = ()) -> Finished:
        signature = ["--reason", "first", "--author", "Ada", "--link", "https://example.org/1"]
        store = ["--history", str(self.history)]
        return invoke("baseline", "accept", *map(str, runs), *signature, *self.files, *store, *more)

    def gate(self, *more: str) -> Finished:
        return invoke("gate", str(self.run), *self.files, *more)

    def allow(self, kind: str, bits: float, *more: str) -> Finished:
        signature = ["--reason", "known", "--author", "Ada", "--link", "https://example.org/2"]
        return invoke("baseline", "allow", kind, "--bits", str(bits), *more, *signature, "--ledger", str(self.ledger))

    def edit(self, path: Path, change: Callable[[Any], object]) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")


def accepted_place(root: Path, fallback: bool = False) -> Place:
    """A place whose baseline holds four runs and whose ledger answers for everything."""
    template = _template(fallback)
    shutil.copytree(template, root, dirs_exist_ok=True)
    return Place(root)


@functools.cache
def _template(fallback: bool) -> Path:
    """Make such a place once; it is copied for every test."""
    place = Place(Path(tempfile.mkdtemp(prefix="parity-gate-")))
    atexit.register(shutil.rmtree, place.root, ignore_errors=True)
    runs = [write(place.root / f"accepted{seed}", results(seed)) for seed in SEEDS]
    assert place.accept(*runs, more=("--fallback",) if fallback else ()).status == 0
    at = ("--component", "conv", "--rung", "f32", "--length-class", "long", "--family", "offset")
    assert place.allow("margin", MARGIN, *at).status == 0
    return place.root
