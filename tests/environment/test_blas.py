"""Who multiplies MLX's matrices: chosen before MLX is loaded, and measured by the bits of a product."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_pieces import clean_environment

from parity.blas import choose_blas, torch_library
from parity.environment.product import blas_in_effect
from parity.errors import ConfigError

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="macOS has Accelerate alone")

SCRIPT = """
import sys
from parity.blas import choose_blas
choose_blas(sys.argv[1])
assert not {{"mlx.core", "torch"}} & set(sys.modules)
from parity.environment.product import blas_in_effect
from parity.environment.linkage import mlx_blas
print(blas_in_effect())
print(*mlx_blas(), sep=" + ")
"""


def in_new_process(choice: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{{", "{").replace("}}", "}"), choice],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@LINUX
@pytest.mark.skipif(torch_library() is None, reason="this torch brings no libtorch_cpu.so")
@pytest.mark.parametrize("choice", ["torch", "auto", "path"])
def test_torchs_library_multiplies_where_it_is_chosen(choice: str) -> None:
    measured, linked = in_new_process(str(torch_library()) if choice == "path" else choice)
    assert "libtorch_cpu" in measured
    assert measured in linked


@LINUX
def test_otherwise_the_wheels_own_does() -> None:
    measured, linked = in_new_process("bundled")
    assert measured.startswith("bundled ")
    assert measured == linked


@LINUX
def test_once_mlx_is_loaded_there_is_no_choice() -> None:
    before = blas_in_effect()
    with pytest.raises(ConfigError, match="loaded already"):
        choose_blas("torch")
    choose_blas("auto")
    choose_blas("bundled")
    assert blas_in_effect() == before


@LINUX
def test_what_is_no_such_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.so").write_bytes(b"no library")
    for choice, words in (
        (str(tmp_path / "missing.so"), "or the path of a library"),
        (str(tmp_path / "no.so"), "cannot be loaded"),
        (next(map(str, Path(torch.__file__).parent.glob("lib/libc10.so"))), "exports no sgemm_"),
    ):
        script = f"from parity.blas import choose_blas\nchoose_blas({choice!r})"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=clean_environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert words in done.stderr.splitlines()[-1]


# --- commands ---------------------------------------------------------------------------------------------

TORCHS = pytest.mark.skipif(torch_library() is None, reason="this torch brings no libtorch_cpu.so")


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "parity", *arguments],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@LINUX
@TORCHS
def test_env_shows_another_fingerprint_for_another_library() -> None:
    found: dict[str, Any] = {
        choice: json.loads(command("env", "--json", "--mlx-blas", choice)) for choice in ("bundled", "torch")
    }
    assert found["bundled"]["environment"]["key"] != found["torch"]["environment"]["key"]
    assert found["bundled"]["mlx_blas_in_effect"].startswith("bundled ")
    assert "libtorch_cpu" in found["torch"]["mlx_blas_in_effect"]
    for facts in found.values():
        assert facts["mlx_blas_in_effect"] in facts["environment"]["mlx_blas"]


@LINUX
@TORCHS
@pytest.mark.parametrize(("arguments", "library"), [([], "bundled "), (["--mlx-blas", "torch"], "libtorch_cpu")])
def test_run_records_who_multiplied(arguments: list[str], library: str, tmp_path: Path) -> None:
    plan = ["mlp", "--profile", "canonical", "--rung", "f32", "--budget", "quick", "--seed", "0"]
    command("run", *plan, "--out", str(tmp_path), *arguments)
    environment = json.loads((tmp_path / "summary.json").read_text())["environment"]
    assert library in environment["mlx_blas_in_effect"]
    assert environment["mlx_blas_in_effect"] in environment["mlx_blas"]
