"""Help and the plugin that every pytest loads are light: of what the project depends on, they load next to nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from harness_pieces import clean_environment

ROOT = Path(__file__).parents[2]
PARSER = {"rich", "typer"}
"""What draws the help."""
COERCION = {"pydantic"}
"""What typer itself reads a command's arguments with: `parity` alone has none to read."""

HELPS = """
import contextlib, io, json, sys
import typer
from parity.cli import app

def paths(command, path):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, [*path, name])

loaded = {}
for path in paths(typer.main.get_command(app), []):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        app([*path, "--help"])
    assert "Usage" in shown.getvalue(), path
    loaded[" ".join(["parity", *path])] = sorted(sys.modules)
print(json.dumps(loaded))
"""
PLUGIN = "import json, sys; import parity.pytest_plugin; print(json.dumps({'plugin': sorted(sys.modules)}))"


def dependencies() -> set[str]:
    """Return the modules of everything that pyproject.toml lets the project depend on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return {re.split(r"[^\w-]", each)[0].replace("-", "_") for each in wanted}


def loaded_by(code: str, folder: Path) -> dict[str, set[str]]:
    """Return which dependencies a new process has loaded, by what it was asked, in that order."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {asked: dependencies() & set(modules) for asked, modules in json.loads(done.stdout).items()}


def test_the_dependencies_are_read_by_the_names_of_their_modules() -> None:
    frameworks = {"torch", "mlx", "numpy", "pandas", "scipy", "hypothesis", "plotly", "numba", "ml_dtypes", "pydantic"}
    assert frameworks < dependencies()
    assert dependencies() > PARSER


def test_no_help_loads_what_only_work_needs() -> None:
    loaded = loaded_by(HELPS, ROOT)
    assert loaded.pop("parity") == PARSER
    assert {"parity run", "parity zoo", "parity checkpoint verify"} < set(loaded)
    assert {name: modules for name, modules in loaded.items() if modules - PARSER - COERCION} == {}


def test_the_plugin_loads_nothing_of_the_harness() -> None:
    assert loaded_by(PLUGIN, ROOT) == {"plugin": set()}


@pytest.mark.parametrize("module", ["zoo_command.py", "plain.py"])
def test_an_import_planted_in_a_command_or_beneath_it_is_seen(module: str, tmp_path: Path) -> None:
    plant(module, "import mlx.core\nimport pydantic", tmp_path)
    assert loaded_by(HELPS, tmp_path)["parity"] == PARSER | {"mlx", "pydantic"}


def test_an_import_planted_in_the_plugin_is_seen(tmp_path: Path) -> None:
    plant("pytest_plugin.py", "import mlx.core\nimport typer", tmp_path)
    assert {"mlx", "typer"} <= loaded_by(PLUGIN, tmp_path)["plugin"]


def plant(module: str, imports: str, folder: Path) -> None:
    """Copy the package into `folder`, with `imports` before the other imports of `module`."""
    shutil.copytree(ROOT / "parity", folder / "parity", ignore=shutil.ignore_patterns("__pycache__", "static"))
    file = folder / "parity" / module
    text = file.read_text(encoding="utf-8")
    start = "from __future__ import annotations\n"
    assert text.count(start) == 1
    file.write_text(text.replace(start, f"{start}{imports}\n"), encoding="utf-8")
