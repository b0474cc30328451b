"""Names that mean harm, in somebody's own pair, layer and profile, through a run as a user starts it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from harness_pieces import Finished, invoke
from page_pieces import HOSTILE

from parity.files import JOURNAL
from parity.report import REPORT_FILES

BASE = json.loads((Path(__file__).parents[2] / "parity/spec/profiles/canonical.json").read_text(encoding="utf-8"))
PAIRS = """
import mlx.core as mx
from mlx import nn as mnn
import torch
from torch import nn as tnn

from parity.api import Pair

LAYER = {layer!r}


class Net(tnn.Module):
    def __init__(self, n):
        super().__init__()
        self.add_module(LAYER, tnn.Linear(n, n))

    def forward(self, x):
        return torch.tanh(getattr(self, LAYER)(x))


class Port(mnn.Module):
    def __init__(self, n):
        super().__init__()
        self[LAYER] = mnn.Linear(n, n)

    def __call__(self, x):
        y = mx.tanh(self[LAYER](x))
        return y + {fault} * mx.abs(y)


pair = Pair({name!r}, reference=Net, port=Port, inputs=lambda n: {{"x": (3, n)}}, configurations=[4, 7])
"""
PLACE = "work/reports/latest"
faults = pytest.mark.parametrize("fault", [0.0, 0.01], ids=["right", "wrong"])
kinds = pytest.mark.parametrize("kind", HOSTILE)


def tree(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if "__pycache__" not in path.parts}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr(sys, "argv", ["parity"])
    return folder


def run(name: str, layer: str, fault: float, profile: str = "canonical") -> Finished:
    Path("pairs.py").write_text(PAIRS.format(name=name, layer=layer, fault=fault), encoding="utf-8")
    options = ("--rung", "f64,f32", "--budget", "quick", "--seed", "1")
    return invoke("run", "pairs.py", "--profile", profile, *options)


def refused(done: Finished, folder: Path, left: set[str]) -> None:
    assert (done.status, done.stderr.count("\n")) == (2, 1), done.stderr
    assert len(done.stderr) < 2000
    assert done.stdout == ""
    assert tree(folder) == left


def reported(done: Finished, folder: Path, fault: float) -> Path:
    """The run's folder: a whole report, bundles of harmless names, and nothing else."""
    assert done.status == (1 if fault else 0), done.stdout + done.stderr
    latest = folder / PLACE
    bundles = {path.name for path in (latest / "bundles").glob("*")}
    assert bool(bundles) == bool(fault)
    assert all(len(name) < 200 and name.isascii() for name in bundles)
    expected = {f"{PLACE}/{name}" for name in REPORT_FILES} | {f"{PLACE}/bundles/{name}" for name in bundles}
    assert tree(folder) == expected | {"work/pairs.py"}
    assert max(map(len, (done.stdout + done.stderr).splitlines())) < 20_000
    assert "\x1b" not in done.stdout
    assert not (latest / JOURNAL).exists()
    assert (latest / "report.html").read_text(encoding="utf-8").count("<script>") == 3
    files = ("--junit", str(folder / "j.xml"), "--comment", str(folder / "c.md"), "--annotations")
    made = invoke("report", str(latest), *files)
    assert made.status == 0, made.stderr
    assert all(line.startswith(("::error ", "::notice ")) for line in made.stdout.splitlines())
    assert len((folder / "c.md").read_text(encoding="utf-8")) < 60_000
    return latest


@faults
@kinds
def test_a_layer_whose_name_means_harm_is_a_layer(kind: str, fault: float, tmp_path: Path) -> None:
    layer = "l" + HOSTILE[kind].replace(".", "_")
    latest = reported(run("net", layer, fault), tmp_path, fault)
    with (latest / "layers.csv").open(encoding="utf-8", newline="") as file:
        names = {row["tensor"] for row in csv.DictReader(file)}
    assert layer in names
    assert f"gradient of {layer}.weight" in names or fault


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "prototype"])
def test_a_pair_whose_name_means_harm_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    refused(run(HOSTILE[kind], "up", 0.01), tmp_path, {"work/pairs.py"})


@faults
def test_a_pair_is_called_as_objects_are_by_birth(fault: float, tmp_path: Path) -> None:
    reported(run(HOSTILE["prototype"], "up", fault), tmp_path, fault)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "prototype"])
def test_a_profile_whose_name_means_harm_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    Path("own.json").write_text(json.dumps({**BASE, "name": HOSTILE[kind]}), encoding="utf-8")
    done = run("net", "up", 0.0, "own.json")
    refused(done, tmp_path, {"work/pairs.py", "work/own.json"})
    assert "text of 1 to 64 letters" in done.stderr


@pytest.mark.parametrize("name", ["no-such\nprofile", "x" * 10_000, "../" * 2000, "<script>"])
def test_a_profile_that_is_not_there_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    refused(run("net", "up", 0.0, name), tmp_path, {"work/pairs.py"})
