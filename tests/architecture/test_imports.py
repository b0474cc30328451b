"""Who may import whom: the contracts of pyproject.toml hold, and each of them is shown to fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

pytest.importorskip("importlinter", reason="import-linter is not installed: dependency group 'lint'")

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("reference_torch", "mlx_impl", "parity")
SETTINGS: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]

CONTRACTS: Final[dict[str, Any]] = {contract["name"]: contract for contract in SETTINGS["importlinter"]["contracts"]}
LAYERED, REFERENCE, PORT, NUMBERS, BUNDLE, CHECKPOINT, USE, BLAS, REFERENCE_SIDE, PORT_SIDE, HARNESS = (
    "A module imports only from the layers beneath its own",
    "The reference knows no MLX",
    "The port computes with MLX alone",
    "Specification, measures, tolerances, cases and pages know no framework",
    "A bundle is read without a framework",
    "A checkpoint is read and written without torch and pickle",
    "The MLX model is used without torch",
    "What is loaded for MLX's products is chosen before MLX",
    "The reference's side needs no MLX",
    "The port's side needs no torch",
    "The harness knows no model",
)


def lint(folder: Path) -> str:
    """Run import-linter in `folder` and return what it prints; a process of its own, since it imports the packages."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    words = [sys.executable, "-c", command, "--config", "pyproject.toml", "--no-cache"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert "Contracts" in done.stdout, done.stdout + done.stderr
    assert done.returncode == ("BROKEN" in done.stdout)
    return done.stdout


def broken(output: str) -> set[str]:
    return {name for name in CONTRACTS if re.search(rf"{re.escape(name)}\s+BROKEN", " ".join(output.split()))}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The three packages and the contracts, where a test may spoil them."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_holds() -> None:
    output = lint(ROOT)
    assert broken(output) == set(), output
    assert f"{len(CONTRACTS)} kept, 0 broken" in output


PLANTED: Final = {
    "torch in the model that is used": ("parity/port_model.py", "import torch", {USE}),
    "MLX where its products' library is chosen": ("parity/blas.py", "import mlx.core", {BLAS}),
    "the reference imports MLX": ("reference_torch/norm.py", "import mlx.core", {REFERENCE}),
    "the reference imports the port": ("reference_torch/norm.py", "import mlx_impl.norm", {REFERENCE, LAYERED}),
    "the reference imports the harness": ("reference_torch/norm.py", "import parity.metrics", {LAYERED}),
    "the port imports torch": ("mlx_impl/ops.py", "import torch", {PORT}),
    "the port imports NumPy in a function": ("mlx_impl/ops.py", "def f() -> None:\n    import numpy", {PORT}),
    "the port imports the harness": ("mlx_impl/kernels/blockdiag.py", "from parity import pairs", {LAYERED, PORT}),
    "a measure imports a verdict": ("parity/metrics/ulp.py", "import parity.verdict", {LAYERED}),
    "a case imports a framework": ("parity/cases/arrays.py", "import torch", {NUMBERS}),
    "the specification imports a framework": ("parity/spec/config.py", "import mlx.core", {NUMBERS}),
    "reading a bundle imports a framework": ("parity/replay/sides.py", "import parity.environment", {BUNDLE}),
    "a checkpoint is read by torch": ("parity/checkpoint/opening.py", "import torch", {CHECKPOINT}),
    "a checkpoint is unpickled": ("parity/checkpoint/torch_file.py", "import pickle", {CHECKPOINT}),
    "the reference's side imports MLX": ("parity/trace/torch_hooks.py", "import mlx.core", {REFERENCE_SIDE}),
    "the port's side imports torch": ("parity/trace/mlx_calls.py", "import torch", {PORT_SIDE}),
    "an examination imports a suite": ("parity/examine.py", "from parity.suites import PAIRS", {LAYERED, HARNESS}),
    "the run imports the port": ("parity/run.py", "import mlx_impl", {HARNESS}),
    "the report imports the command line": ("parity/report/tables.py", "import parity.cli", {LAYERED}),
}


@pytest.mark.parametrize(("file", "line", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_planted_import_breaks_its_contract(copied: Path, file: str, line: str, expected: set[str]) -> None:
    path = copied / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    output = lint(copied)
    assert expected <= broken(output), output


def test_every_contract_is_shown_failing() -> None:
    assert set().union(*(expected for _, _, expected in PLANTED.values())) == CONTRACTS.keys()


# --- what the contracts do not say themselves -------------------------------------------------------------


def modules_of_parity() -> set[str]:
    entries = [path for path in (ROOT / "parity").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {f"parity.{path.stem}" for path in entries} - {"parity.__init__"}


def parts_of(package: str) -> set[str]:
    folder = ROOT.joinpath(*package.split("."))
    return {f"{package}.{path.stem}" for path in folder.glob("*.py")} - {f"{package}.__init__"}


def test_every_module_of_the_harness_has_its_layer() -> None:
    """A package has one layer, or each of its modules has."""
    layered = {name.strip() for layer in CONTRACTS[LAYERED]["layers"] for name in layer.split("|")}
    wanted = [{name} if name in layered else parts_of(name) or {name} for name in modules_of_parity()]
    assert set().union(*wanted) == {name for name in layered if name.startswith("parity.")}


def test_the_models_stand_directly_on_the_specification() -> None:
    layers = CONTRACTS[LAYERED]["layers"]
    assert layers[layers.index("reference_torch | mlx_impl") + 1 :] == ["parity.spec", "parity.errors"]


NAMES_OF_THE_MODEL: Final = re.compile(r"m2|bert|hyena|monarch|mixer|blockdiag|fftconv", re.IGNORECASE)


@pytest.mark.parametrize(
    "module",
    [
        "pairs",
        "run",
        "examine",
        "verdict",
        "results",
        "cases",
        "trace",
        "replay",
        "strata",
        "accuracy",
        "calibrate",
        "backends/port",
        "attribution",
        "pairing",
        "blame",
        "weights",
        "api",
        "targets",
    ],
)
def test_the_harness_names_nothing_of_m2_bert(module: str) -> None:
    path = ROOT / "parity" / module
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert files
    found = {str(file.name): NAMES_OF_THE_MODEL.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {name: words for name, words in found.items() if words} == {}


def test_the_search_for_names_finds_them_where_they_belong() -> None:
    assert NAMES_OF_THE_MODEL.search((ROOT / "parity" / "suites" / "m2_bert.py").read_text(encoding="utf-8"))
