"""The pages about one's own models and blame: code is that of the examples, commands print what is said."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from harness_pieces import invoke

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")
BLAME = (ROOT / "docs" / "blame.md").read_text(encoding="utf-8")
MUTANTS = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^    \$ (.+)\n((?:    .+\n)+)", PAGE + BLAME + MUTANTS, re.MULTILINE)
PARITY = [(command, output) for command, output in BLOCKS if command.startswith("parity ")]
PYTEST = [(command, output) for command, output in BLOCKS if command.startswith("pytest ")]


def assert_printed(output: str, stdout: str) -> None:
    printed = stdout.splitlines()
    wanted = [line[4:].replace("[", "[[]") for line in output.splitlines()]
    missing = [line for line in wanted if not any(fnmatchcase(there, line) for there in printed)]
    assert missing == [], stdout


def test_the_pages_have_commands_of_either_kind() -> None:
    assert len(PARITY) == 7
    assert len(PYTEST) == 1
    assert len(BLOCKS) == 8


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples, in a folder where they may leave something."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_M2_PROFILE", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("gated_mlp_mlx", "gated_mlp_torch", "my_mutants", "my_pairs", "wrong_port"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(("command", "output"), PARITY, ids=[command for command, _ in PARITY])
def test_a_command_prints_what_the_page_says(command: str, output: str) -> None:
    outcome = invoke(*shlex.split(command)[1:])
    assert outcome.status == ("FAIL" in output), outcome.stderr
    assert_printed(output, outcome.stdout)


@pytest.mark.parametrize(("command", "output"), PYTEST, ids=[command for command, _ in PYTEST])
def test_the_test_suite_prints_what_the_page_says(
    command: str, output: str, examples: Path, pytester: pytest.Pytester, pytestconfig: pytest.Config
) -> None:
    shutil.copytree(examples / "examples", pytester.path / "examples")
    plugin = [] if pytestconfig.pluginmanager.hasplugin("parity") else ["-p", "parity.pytest_plugin"]
    result = pytester.runpytest(*shlex.split(command)[1:], *plugin)
    result.assert_outcomes(passed=2, xfailed=1)
    assert_printed(output, result.stdout.str())


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE + MUTANTS, re.DOTALL))
def test_the_code_of_the_pages_is_that_of_the_examples(block: str) -> None:
    lines = [
        line for path in (ROOT / "examples").glob("*.py") for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [line for line in block.splitlines() if line not in lines] == []


def test_a_pair_takes_about_fifteen_lines() -> None:
    (pair,) = re.findall(r"```python\n(import.*?)```", PAGE, re.DOTALL)
    assert len([line for line in pair.splitlines() if line]) <= 15
