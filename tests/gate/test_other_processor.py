"""Another processor's kernels in torch's libraries are no drift of the port: real runs, accepted under older kernels.

The libraries are told to use older instructions than the processor has, by their own switches, as they would on an
older one.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from gate_pieces import Place
from harness_pieces import clean_environment

from parity.environment import collect

OLDER = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
RUN = ("run", "blockdiag_linear", "--profile", "canonical", "--rung", "f32", "--budget", "standard")
SEEDS = (0, 1, 2, 3)


def parity(*arguments: str, **switches: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(MLX_ENABLE_TF32="0", OMP_NUM_THREADS="1", **switches)
    command = [sys.executable, "-m", "parity", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _is_intel() -> bool:
    """Whether MKL chooses among its own kernels by these switches: on AMD's processors they move no ratio."""
    return "Intel" in collect().cpu_model


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the switches are those of x86-64")
def test_a_reference_that_rounds_otherwise_is_no_drift_of_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    place = Place(tmp_path)
    accepted = [tmp_path / f"accepted{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, accepted, strict=True):
        assert parity(*RUN, "--seed", str(seed), "--out", str(folder), **OLDER).returncode == 0
    assert parity(*RUN, "--seed", "7", "--out", str(place.run)).returncode == 0
    assert place.accept(*accepted, more=("--fallback",)).status == 0
    assert place.allow("margin", 2.0, "--component", "blockdiag_linear", "--length-class", "long sums").status == 0

    runs = [json.loads((folder / "summary.json").read_text()) for folder in (accepted[0], place.run)]
    assert runs[0]["fingerprint"] != runs[1]["fingerprint"]
    outcome = place.gate()
    assert outcome.status == 0, outcome.stdout
    assert "judged by the fallback environment" in outcome.stdout
    assert "improved" not in outcome.stdout

    if not _is_intel():
        pytest.skip("the run passes as it should; what accuses it otherwise needs MKL's kernels for Intel's processors")
    # Held against the ratios to the reference, as where the environment is known, the same run is accused.
    place.edit(place.run / "summary.json", lambda data: data.update(fingerprint=runs[0]["fingerprint"]))
    outcome = place.gate()
    assert outcome.status == 1
    assert "the error grew: blockdiag_linear canonical f32" in outcome.stdout
