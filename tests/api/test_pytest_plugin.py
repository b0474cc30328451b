"""The plugin in other people's test suites: fixture, mark and list; what fails says why; options and xdist."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from parity import api, pytest_plugin, report, targets
from parity.run import BUDGETS
from parity.spec.precision import RUNGS

pytest_plugins = ("pytester",)

KEPT = (api, report, targets)
"""Imported before pytester runs anything: it forgets what is imported meanwhile, and a class would exist twice."""

PAIRS = """
import mlx.nn as mnn
import torch.nn as tnn
from parity import Pair

def linear(name, shift=0.0):
    return Pair(name, reference=lambda n: tnn.Linear(n, n), port=lambda n: mnn.Linear(n, n), configurations=[3],
                inputs=lambda n: {"x": (2, n)},
                call={"reference": lambda m, i: m(i["x"]), "port": lambda m, i: m(i["x"]) + shift})

RIGHT, WRONG = linear("right"), linear("wrong", 1e-3)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test suite of somebody else's, without the plugins and settings of this one."""
    if not _installed():
        monkeypatch.setenv("PYTEST_PLUGINS", "parity.pytest_plugin")
    pytester.makepyfile(pairs=PAIRS)
    pytester.syspathinsert()
    return pytester


def _installed() -> bool:
    from importlib.metadata import entry_points

    return any(entry.value == "parity.pytest_plugin" for entry in entry_points(group="pytest11"))


def test_the_plugin_is_an_entry_point_and_its_choices_are_those_of_the_harness() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"parity": "parity.pytest_plugin"}
    assert tuple(BUDGETS) == pytest_plugin.BUDGETS
    assert tuple(RUNGS) == pytest_plugin.RUNGS


def test_the_plugin_loads_no_framework_until_a_pair_is_checked(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\ndef test_it():\n    assert not {'torch', 'mlx', 'numpy', 'parity.pairs'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    plugin = [] if _installed() else ["-p", "parity.pytest_plugin"]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest", *plugin, str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parity" not in done.stdout


# --- three ways to check a pair -------------------------------------------------------------------------------------

WAYS = {
    "fixture": "from pairs import *\ndef test_it(parity_check):\n    assert parity_check({}).verdict == 'pass'\n",
    "mark": "import pytest\nfrom pairs import *\n@pytest.mark.parity({})\ndef test_it():\n    pass\n",
    "list": "from pairs import *\nparity_pairs = [{}]\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_right_port_passes(suite: pytest.Pytester, way: str) -> None:
    suite.makepyfile(test_it=WAYS[way].format("RIGHT"))
    result = suite.runpytest("--parity-rung", "f32", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= parity =*", "PASS right: 4 tensors, * elements compared, 0 failures, seed 0"])


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_port_fails_with_tensor_case_and_command(suite: pytest.Pytester, way: str) -> None:
    suite.makepyfile(test_it=WAYS[way].format("WRONG"))
    result = suite.runpytest("--parity-rung", "f64")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "FAIL wrong canonical f64: first bad tensor y: rms error is * times what is allowed; * of * cases",
            '  again: parity run test_it.py::wrong --profile canonical --rung f64 --case \'{"CONFIGURATION":3,*',
            "  different meaning: *",
            "this test again: pytest *test_it.py::* --parity-budget quick --parity-rung f64 *",
            "*= parity =*",
            "FAIL wrong: 1 tensors, *",
        ]
    )


def test_a_pair_made_inside_a_test_is_run_again_by_the_test(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it="import pairs\ndef test_it(parity_check):\n    parity_check(pairs.linear('made', 1.0))\n")
    result = suite.runpytest("--parity-rung", "f64", "--parity-seed", "7")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "  again: pytest test_it.py::test_it --parity-budget quick --parity-rung f64 * --parity-seed 7",
            '  case: {"CONFIGURATION":3,*',
        ]
    )


def test_the_body_of_a_marked_test_runs_after_the_check(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it=WAYS["mark"].format("RIGHT").replace("pass", "assert False, 'the body ran'"))
    result = suite.runpytest("--parity-rung", "f32")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the body ran*", "PASS right:*"])


def test_a_passing_pair_beside_a_failing_one_has_its_own_line(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it=WAYS["list"].format("RIGHT, WRONG"))
    result = suite.runpytest("--parity-rung", "f32")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*= parity =*", "PASS right: *", "FAIL wrong: *"])


def test_a_suite_without_pairs_sees_nothing_of_the_plugin(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it="def test_it():\n    pass\n")
    result = suite.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= parity =*")


# --- options --------------------------------------------------------------------------------------------------------


def test_options_reach_the_run_and_the_report(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it=WAYS["fixture"].format("RIGHT"))
    options = ("--parity-rung", "f32,bf16", "--parity-seed", "5", "--parity-budget", "standard", "--parity-out", "out")
    result = suite.runpytest(*options, "--parity-profile", "torch_like")
    result.assert_outcomes(passed=1)
    summary = json.loads((suite.path / "out" / "right" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["seed"], summary["budget"], summary["verdict"]) == (5, "standard", "pass")
    assert {entry["profile"] for entry in summary["fidelity"]} == {"torch_like"}
    rows = (suite.path / "out" / "right" / "layers.csv").read_text(encoding="utf-8")
    assert {line.split(",")[2] for line in rows.splitlines()[1:]} == {"f32", "bf16"}
    result.stdout.fnmatch_lines(["PASS right: *seed 5; report in out/right"])


def test_a_test_may_say_otherwise(suite: pytest.Pytester) -> None:
    body = "from pairs import *\ndef test_it(parity_check):\n    results = parity_check(RIGHT, rungs=['f32'], seed=9)\n"
    suite.makepyfile(test_it=body + "    assert {row.rung for row in results.rows} == {'f32'}\n")
    result = suite.runpytest("--parity-rung", "f64")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["PASS right: *seed 9"])


def test_a_failure_leaves_a_bundle_in_the_report(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it=WAYS["fixture"].format("WRONG"))
    result = suite.runpytest("--parity-rung", "f64", "--parity-out", "out")
    result.stdout.fnmatch_lines(["  bundle: parity replay out/wrong/bundles/wrong-canonical-f64-*.parity.zip"])
    assert len(list((suite.path / "out" / "wrong" / "bundles").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parity-rung", "f8"], "*--parity-rung: unknown rung 'f8'; allowed: f64, f32, bf16, f16*"),
        (["--parity-seed", "-1"], "*--parity-seed is from 0*got -1*"),
        (["--parity-budget", "huge"], "*--parity-budget: invalid choice: 'huge'*"),
    ],
)
def test_an_option_that_is_wrong_ends_the_run(suite: pytest.Pytester, arguments: list[str], words: str) -> None:
    suite.makepyfile(test_it="def test_it():\n    pass\n")
    result = suite.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])


MISTAKES = {
    "no pair": ("def test_it(parity_check):\n    parity_check(3)\n", "*checks a int; it must be a parity.Pair*"),
    "an unknown option": (
        "from pairs import *\ndef test_it(parity_check):\n    parity_check(RIGHT, buget='quick')\n",
        "*unknown option 'buget' of a parity check; allowed: budget, rungs, profile, seed, out*",
    ),
    "an unknown profile": (
        "from pairs import *\ndef test_it(parity_check):\n    parity_check(RIGHT, profile='mine')\n",
        "parity: unknown profile 'mine'; allowed: canonical*",
    ),
    "a mark without a pair": (
        "import pytest\n@pytest.mark.parity\ndef test_it():\n    pass\n",
        "*the mark parity names at least one pair*",
    ),
    "a rung on which the pair does not run": (
        "from dataclasses import replace\nfrom pairs import *\ndef test_it(parity_check):\n"
        "    parity_check(replace(RIGHT, rungs=['f32'], rungs_reason='float32 alone'), rungs='f64')\n",
        "skipped: float32 alone",
    ),
}


@pytest.mark.parametrize(("body", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_fails_its_test_in_one_line(suite: pytest.Pytester, body: str, words: str) -> None:
    suite.makepyfile(test_it=body)
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([words])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_it_composes_with_xdist(suite: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    suite.makepyfile(test_it=WAYS["list"].format("RIGHT, WRONG"))
    result = suite.runpytest_subprocess("-n", "2", "--parity-rung", "f32", "--parity-out", "out", timeout=600)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*= parity =*", "PASS right: *", "FAIL wrong: *"])
    assert sorted(path.name for path in (suite.path / "out").iterdir()) == ["right", "wrong"]
