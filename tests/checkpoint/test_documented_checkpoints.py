"""The page about checkpoints: commands print what it says, its code runs, and help teaches without a framework."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from checkpoint_pieces import ROOT, TINY_CHECKPOINT
from harness_pieces import clean_environment, invoke

import parity.checkpoint
from parity.checkpoint import archive, inference, npz_file, opening, pickled, safetensors_file, tensors, torch_file

PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^    \$ (.+)\n((?:    .+\n)+)", PAGE, re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands run."""
    shutil.copy(TINY_CHECKPOINT, tmp_path)
    shutil.copy(ROOT / "tests" / "data" / "goldens" / "masked_lm_0.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_commands_print_what_the_page_says() -> None:
    assert len(BLOCKS) == 6
    for command, output in BLOCKS:
        outcome = invoke(*shlex.split(command)[1:])
        assert (outcome.status, outcome.stderr) == (0, "")
        printed, wanted = outcome.stdout.splitlines(), [line[4:] for line in output.splitlines()]
        assert len(printed) == len(wanted)
        assert [want for line, want in zip(printed, wanted, strict=True) if not fnmatchcase(line, want)] == []


@pytest.mark.usefixtures("folder")
def test_the_code_of_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/checkpoints.md", "exec"), {})


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    assert (torch_file.MAX_PICKLE, pickled.MAX_OPERATIONS) == (64 * 2**20, 500_000)
    assert (archive.MAX_MEMBERS, safetensors_file.MAX_HEADER, npz_file.MAX_HEADER) == (100_000, 4 * 2**20, 10_000)
    assert (opening.MAX_INDEX, opening.MAX_SHARDS) == (8 * 2**20, 200)
    assert (tensors.MAX_RANK, tensors.CHUNK, inference.MAX_LAYERS) == (32, 4 * 2**20, 1000)
    for bound in (
        "64 MiB, 500,000",
        "100,000 of",
        "4 MiB; every",
        "10,000 bytes",
        "8 MiB, 200",
        "32 axes",
        "below 1,000",
    ):
        assert bound in PAGE


def test_the_public_list_is_sorted_and_complete() -> None:
    assert list(parity.checkpoint.__all__) == sorted(parity.checkpoint.__all__)
    assert [name for name in parity.checkpoint.__all__ if not hasattr(parity.checkpoint, name)] == []


HELP = """
import sys
from parity.cli import app
try:
    app([{words}, "--help"])
except SystemExit as exit:
    assert exit.code == 0
print("LOADED", sorted({{"torch", "mlx", "numpy"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ('"checkpoint"', ["inspect", "convert", "verify", "extend", "generate", "docs/checkpoints.md"]),
        ('"checkpoint", "inspect"', ["--set", "--config", "--json", "parity checkpoint inspect epoch-70.pt"]),
        (
            '"checkpoint", "convert"',
            ["--to", "--force", "--keep-constants", "parity checkpoint convert m2.safetensors back.pt"],
        ),
        (
            '"checkpoint", "verify"',
            ["--text", "--ids", "--length", "--rung", "--f64-layers", "--budget-bytes", "--mlx-blas", "Exit status 0"],
        ),
        ('"checkpoint", "extend"', ["--length", "--force", "wants training"]),
        ('"embed"', ["--text", "--tokenizer", "--ids", "--budget-bytes", "--mlx-blas"]),
        ('"fill-mask"', ["--text", "--top", "--mask-id", "Paris"]),
        ('"checkpoint", "generate"', ["--form", "--dtype", "--seed", "--constants", "m2-bert-80m"]),
    ],
)
def test_help_teaches_and_loads_no_framework(words: str, wanted: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(words=words)],
        cwd=tmp_path,
        env=clean_environment(COLUMNS="200", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [word for word in wanted if word not in done.stdout] == []
    assert done.stdout.splitlines()[-1] == "LOADED []"
