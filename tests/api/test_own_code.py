"""A run of somebody's own pair is told from one of other code, wherever that code lies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_pieces import parity
from test_own_targets import LINEAR

from parity import own_code as own_code_module
from parity.errors import TargetError
from parity.own_code import own_code
from parity.suites import select

PORT = "import mlx.nn as mnn\ndef build(n):\n    return mnn.Linear(n, n)\n"
PAIR = f"{LINEAR}\nfrom MODULE import port\nP = linear('mine', port=port.build)\n"
LATE = f"{LINEAR}\ndef port(n):\n    from late.port import build\n    return build(n)\nP = linear('mine', port=port)\n"
NAMED = (
    f"{LINEAR}\nimport importlib\nport = importlib.import_module('named' + '_port')\n"
    "P = linear('mine', port=port.build)\n"
)
RUN = ("run", "pairs/mine.py", "--rung", "f64", "--budget", "quick", "--seed", "0", "--out", "out")


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


PLACES = {
    "a subfolder": ("pairs/models/port.py", PAIR.replace("MODULE", "models")),
    "a sibling on PYTHONPATH": ("src/models/port.py", PAIR.replace("MODULE", "models")),
    "a sibling that is imported late": ("src/late/port.py", LATE),
    "a sibling that is imported by name": ("src/named_port.py", NAMED),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_is_stale_when_the_port_is_another(place: str, tmp_path: Path) -> None:
    file, text = PLACES[place]
    port = put(tmp_path / file, PORT)
    put(tmp_path / "pairs" / "mine.py", text)
    source = {"PYTHONPATH": f"{tmp_path / 'src'}:{Path(own_code_module.__file__).parents[1]}"}
    ran = parity(*RUN, folder=tmp_path, **source)
    assert ran.status == 0, ran.stderr
    given = ["--reason", "first", "--author", "Ada", "--link", "https://example.org/1"]
    accepted = parity("baseline", "accept", "out", *given, folder=tmp_path, **source)
    assert accepted.status == 0, accepted.stderr
    before = parity("gate", "out", folder=tmp_path, **source)
    assert before.status == 0, before.stdout + before.stderr
    port.write_text(PORT.replace("Linear(n, n)", "Linear(n, n, bias=True)"), encoding="utf-8")
    after = parity("gate", "out", folder=tmp_path, **source)
    assert after.status == 3, after.stdout
    assert "stale" in after.stdout


def test_what_is_not_ones_own_code_makes_no_run_stale(tmp_path: Path) -> None:
    put(tmp_path / "pairs" / "mine.py", PAIR.replace("MODULE", "models"))
    put(tmp_path / "pairs" / "models" / "port.py", PORT)
    targets = [select(["pairs/mine.py"])[0].target]
    before = own_code(targets)
    put(tmp_path / "pairs" / "env" / "pyvenv.cfg", "")
    for folder in ("env/lib", ".hidden", "__pycache__", "node_modules/x", "lib/site-packages/x", "models/.git"):
        put(tmp_path / "pairs" / folder / "module.py", "1")
    put(tmp_path / "pairs" / "models" / ".#port.py", "")
    put(tmp_path / "pairs" / "notes.txt", "")
    put(tmp_path / "elsewhere" / "module.py", "")
    assert own_code(targets) == before
    put(tmp_path / "pairs" / "models" / "new.py", "")
    assert own_code(targets) != before


def test_the_hash_is_the_same_whatever_was_imported_before_and_wherever_the_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("one", "two"):
        put(tmp_path / name / "pairs" / "mine.py", PAIR.replace("MODULE", "beside"))
        put(tmp_path / name / "src" / "beside" / "port.py", PORT + "import json, numpy, beside.more\n")
        put(tmp_path / name / "src" / "beside" / "more.py", "from . import port\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / name / "src")
            patch.chdir(tmp_path / name)
            pair = select(["pairs/mine.py"])[0]
            found += [own_code([pair.target]), own_code([pair.target])]
            assert found[-1] == found[-2]
            if name == "one":
                for module in [module for module in sys.modules if module.startswith("beside")]:
                    del sys.modules[module]
    assert found[0] == found[2]


def test_a_folder_of_too_many_files_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "pairs" / "mine.py", PAIR.replace("MODULE", "models"))
    put(tmp_path / "pairs" / "models" / "port.py", PORT)
    target = select(["pairs/mine.py"])[0].target
    monkeypatch.setattr("parity.own_code.MOST_FILES", 1)
    with pytest.raises(TargetError, match="more than 1 Python files"):
        own_code([target])
