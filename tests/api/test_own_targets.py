"""Files and modules as targets: what they name, what is refused in one line, and the commands that a failure prints."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_pieces import Finished, invoke, parity

from parity.errors import TargetError
from parity.suites import PAIRS, select
from parity.targets import is_own, load_pairs

LINEAR = """
import mlx.nn as mnn
import torch.nn as tnn
from parity import Pair

def linear(name, **changes):
    given = dict(reference=lambda n: tnn.Linear(n, n), port=lambda n: mnn.Linear(n, n), configurations=[3],
                 inputs=lambda n: {"x": (2, n)})
    return Pair(name, **{**given, **changes})
"""

FILES = {
    "pieces.py": LINEAR,
    "good.py": "from pieces import linear\nONE = linear('one')\nMORE = [linear('two'), linear('three')]\nN = 3\n",
    "bad.py": "from pieces import linear\nWRONG = linear('wrong', call={'reference': lambda m, i: m(i['x']),"
    " 'port': lambda m, i: m(i['x']) + 1e-3})\n",
    "raising.py": "from pieces import linear\ndef port(n):\n    raise RuntimeError('no such layer')\n"
    "P = linear('raising', port=port)\n",
    "empty.py": "ANSWER = 42\n",
    "broken.py": "raise ValueError('first line\\nlast line')\n",
    "syntax.py": "def (:\n",
    "leaving.py": "raise SystemExit(7)\n",
    "missing_import.py": "import no_such_package\n",
    "typo.py": "from pieces import linear\nONE = linear('one', refernce=3)\n",
    "wrong_value.py": "from pieces import linear\nONE = linear('one', rungs=['f8'])\n",
    "twins.py": "from pieces import linear\nA = linear('same')\nB = linear('same')\n",
    "clash.py": "from pieces import linear\nA = linear('pooler')\n",
    "elsewhere.py": "from pieces import linear\nA = linear('one')\n",
    "weights.py": "import mlx.nn as mnn\nfrom pieces import linear\n"
    "W = linear('w', port=lambda n: mnn.Linear(n, n + 1))\n",
    "builder.py": "from pieces import linear\nB = linear('b', reference=lambda n: n.missing)\n",
    "nested.py": "import hypothesis.strategies as st\nfrom pieces import linear\n"
    "S = linear('s', configurations=st.just({'n': [1]}))\n",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_M2_PROFILE", raising=False)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("parity_target_") or f"{name}.py" in FILES:
            del sys.modules[name]


# --- what a target names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("good.py", ["one", "two", "three"]),
        ("good.py::two", ["two"]),
        ("./good.py::one", ["one"]),
        ("good:ONE", ["one"]),
        ("good:MORE", ["two", "three"]),
        ("good:MORE::three", ["three"]),
    ],
)
def test_a_target_names_its_pairs(target: str, names: list[str]) -> None:
    assert [pair.name for pair in select([target])] == names


@pytest.mark.parametrize(
    ("target", "spelling"),
    [
        ("good.py", "good.py::one"),
        ("./good.py", "./good.py::one"),
        ("good.py::one", "good.py::one"),
        ("good:ONE", "good:ONE"),
        ("good:MORE", "good:MORE::two"),
    ],
)
def test_a_pair_is_spelt_as_its_target_was(target: str, spelling: str) -> None:
    pair = select([target])[0]
    assert pair.spelling == spelling
    assert [again.name for again in select([spelling])] == [pair.name]


def test_components_come_first_and_a_pair_that_is_named_twice_once() -> None:
    pairs = select(["good.py::two", "pooler", "good.py"])
    assert [pair.name for pair in pairs] == ["pooler", "two", "one", "three"]


def test_no_target_means_the_components_alone() -> None:
    assert select([]) == list(PAIRS)
    assert not any(is_own(pair.name) for pair in PAIRS)


# --- mistakes -------------------------------------------------------------------------------------------------------

MISTAKES = {
    "file missing": (["no_such.py"], ["'no_such.py'", "is not there"]),
    "file that raises": (["broken.py"], ["'broken.py' cannot be imported: ValueError: last line"]),
    "file that is no Python": (["syntax.py"], ["cannot be imported: SyntaxError"]),
    "file that leaves": (["leaving.py"], ["cannot be imported: SystemExit: 7"]),
    "file that lacks a package": (["missing_import.py"], ["ModuleNotFoundError: No module named 'no_such_package'"]),
    "file without a pair": (["empty.py"], ["file 'empty.py' has no pair", "parity.Pair"]),
    "name unknown": (["good.py::four"], ["no pair called 'four'", "allowed: one, two, three"]),
    "two of one name": (["twins.py"], ["two pairs are called 'same'"]),
    "two of one name in two files": (["good.py", "elsewhere.py"], ["'one'", "good.py::one", "elsewhere.py::one"]),
    "the name of a component": (["clash.py"], ["'pooler' is the name of a component"]),
    "an argument unknown": (["typo.py"], ["TypeError", "refernce"]),
    "an argument refused": (["wrong_value.py"], ["ConfigError: pair 'one': unknown rung 'f8'"]),
    "module missing": (["no_such:PAIR"], ["module 'no_such' cannot be imported", "No module named"]),
    "attribute missing": (["good:TWO"], ["no attribute 'TWO'", "allowed: ONE, MORE"]),
    "attribute that is no pair": (["good:N"], ["'good:N' has no pair", "N is a int"]),
    "no attribute at all": (["good:"], ["'good:' is neither a component, FILE.py, FILE.py::NAME nor MODULE:ATTR"]),
    "component unknown": (["poller"], ["'poller'", "FILE.py::NAME or MODULE:ATTR"]),
    "weights that do not fit": (["weights.py"], ["weights.py::w: 2 problem(s)", "shape of weight", "shape of bias"]),
    "builder that raises": (["builder.py"], ["b: reference= raised on configuration 3: AttributeError"]),
    "strategy of lists": (["nested.py"], ["configuration key 'n' is a list"]),
    "case of several pairs": (["good.py", "--case", "{}"], ["exactly one TARGET", "3 pairs: good.py::one"]),
    "case with an unknown key": (
        ["good:ONE", "--case", '{"n":3,"family":"normal","ladder":"f64","scale":0,"seed":0}'],
        ["case of one has unknown key 'n'; allowed: CONFIGURATION"],
    ),
}


def assert_one_line(outcome: Finished, words: list[str]) -> None:
    assert outcome.status == 2, outcome.stdout
    assert outcome.stdout == ""
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("parity: seed ")]
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("parity: ")
    assert [word for word in words if word not in lines[0]] == []


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it_and_status_2(arguments: list[str], words: list[str]) -> None:
    assert_one_line(invoke("run", *arguments), words)


@pytest.mark.parametrize("command", ["laws", "attribute"])
def test_what_is_about_components_alone_says_so(command: str) -> None:
    assert_one_line(invoke(command, "good.py"), [f"parity {command} knows components alone", "good.py", "pooler"])


def test_a_file_that_failed_can_be_mended_and_imported_again(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="last line"):
        load_pairs(["broken.py"])
    (tmp_path / "broken.py").write_text(FILES["elsewhere.py"], encoding="utf-8")
    assert [pair.name for pair in load_pairs(["broken.py"])] == ["one"]


def test_ctrl_c_during_an_import_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        load_pairs(["interrupted.py"])


# --- a failing pair, from the command line to its bundle ------------------------------------------------------------

QUICK = ("--rung", "f64", "--budget", "quick", "--seed", "0", "--out", "out")


def test_a_right_pair_passes_and_its_report_names_it(tmp_path: Path) -> None:
    outcome = invoke("run", "good:ONE", *QUICK)
    assert outcome.status == 0, outcome.stdout
    assert "PASS: 4 tensors" in outcome.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["counts"]["components"] == 1
    assert "one" in (tmp_path / "out" / "report.md").read_text()


def test_the_printed_commands_show_the_failure_again_in_a_process_of_its_own(tmp_path: Path) -> None:
    outcome = parity("run", "bad.py", *QUICK, folder=tmp_path)
    assert outcome.status == 1, outcome.stderr
    assert "FAIL wrong mlx_stable f64: first bad tensor y" in outcome.stdout
    assert "different meaning" in outcome.stdout
    again = re.search(r"again: parity (run bad\.py::wrong .*)", outcome.stdout)
    bundle = re.search(r"bundle: parity (replay .*)", outcome.stdout)
    assert again is not None
    assert bundle is not None
    rerun = parity(*shlex.split(again[1]), folder=tmp_path)
    assert rerun.status == 1, rerun.stderr
    assert "FAIL f64  y" in rerun.stdout
    replay = parity(*shlex.split(bundle[1]), folder=tmp_path)
    assert replay.status == 0, replay.stderr
    assert replay.stdout.startswith("bad.py::wrong mlx_stable f64: 1 tensors fail, first bad y stored")
    assert "SAME NUMBERS" in replay.stdout


def test_a_bundle_whose_file_is_gone_says_so(tmp_path: Path) -> None:
    invoke("run", "bad.py", *QUICK)
    (bundle,) = (tmp_path / "out" / "bundles").iterdir()
    for name in [name for name in sys.modules if name.startswith("parity_target_")]:
        del sys.modules[name]
    (tmp_path / "bad.py").unlink()
    assert_one_line(invoke("replay", str(bundle)), ["'bad.py'", "is not there"])


def test_a_port_that_raises_fails_in_its_own_words() -> None:
    outcome = invoke("run", "raising.py", *QUICK)
    assert outcome.status == 1
    assert "the port raised RuntimeError: no such layer" in outcome.stdout


def test_calibration_takes_a_pair_of_ones_own(tmp_path: Path) -> None:
    outcome = parity("calibrate", "good:ONE", "--runs", "1", folder=tmp_path)
    assert outcome.status == 3, outcome.stderr
    assert "no stratum tested of one" in outcome.stdout
    assert "1 examinations, 1 tensors under the absolute gates" in outcome.stdout
