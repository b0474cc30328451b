"""Broken and hostile files: each is refused in one line that says why, runs nothing and leaves nothing behind."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoint_pieces import PEAK, ROOT, small_file
from harness_pieces import clean_environment, invoke
from hostile_files import HOSTILE, MARKER, Hostile, Payload, changed, put

SECONDS = 20
"""Of the processor, for both commands; the slowest takes four."""

MEGABYTES = 600
"""For all files, one after another in one process; 250 of them are Python, MLX and NumPy and the largest pickle."""


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("hostile", HOSTILE, ids=[hostile.name for hostile in HOSTILE])
def test_it_is_refused_in_one_line(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = hostile.make(tmp_path)
    before = entries(tmp_path)
    start = time.process_time()
    looked = invoke("checkpoint", "inspect", str(path))
    outcome = invoke("checkpoint", "convert", str(path), "out.safetensors")
    assert time.process_time() - start < SECONDS
    assert looked.status in (1, 2, 3)
    assert outcome.status == (3 if looked.status == 3 else 2)
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("parity: ")
    assert re.search(hostile.message, line), line
    assert len(line) < 2000
    assert line.isprintable()
    if looked.status == 1:
        assert re.search(hostile.message, looked.stdout), looked.stdout
    assert outcome.stdout == ""
    assert entries(tmp_path) == before
    assert not (tmp_path / MARKER).exists()


def test_there_are_many() -> None:
    assert len(HOSTILE) >= 30


def test_the_payload_would_run_where_pickles_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (payload,) = [hostile for hostile in HOSTILE if hostile.name == "os.system by REDUCE"]
    torch.load(payload.make(tmp_path), weights_only=False)
    assert (tmp_path / MARKER).exists()


def test_a_good_model_beside_a_payload_is_read_and_the_payload_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.load(small_file(tmp_path), weights_only=True)["state"]["model"]
    torch.save({"state": {"model": model, "callbacks": [Payload()]}, "rng": [Payload(eval, ("1",))]}, "hostile.pt")
    assert invoke("checkpoint", "inspect", "hostile.pt").status == 0
    assert invoke("checkpoint", "convert", "hostile.pt", "out.safetensors").status == 0
    assert not Path(MARKER).exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_number_that_is_none_is_refused_by_name(
    value: float, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoilt = torch.zeros(24, dtype=dtype)
    spoilt[17] = value
    path = changed(put("bert.encoder.layer.1.mlp.wo.bias", spoilt))(tmp_path)
    outcome = invoke("checkpoint", "convert", str(path), "out.safetensors")
    assert outcome.status == 2
    assert "NaN or infinity in bert.encoder.layer.1.mlp.wo.bias" in outcome.stderr
    assert entries(tmp_path) == {"hostile.pt"}


ALL = """
from parity.checkpoint import read_checkpoint
from parity.errors import ParityError
refused = 0
for path in sys.argv[1:]:
    try:
        with read_checkpoint(Path(path)) as checkpoint:
            refused += bool(checkpoint.problems) or any(True for _ in checkpoint.disagreements())
    except ParityError:
        refused += 1
print(refused, peak())
"""


def test_all_of_them_together_take_little_memory(tmp_path: Path) -> None:
    paths = []
    for number, hostile in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(str(hostile.make(folder)))
    done = subprocess.run(
        [sys.executable, "-c", PEAK + ALL, *paths],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (200, 200)),
    )
    refused, peak = map(int, done.stdout.split())
    assert refused == len(HOSTILE)
    assert peak / 2**20 < MEGABYTES
