"""The scripts of a bundle: each runs alone, loads no framework but its own, and prints the stored numbers."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from harness_pieces import Finished, clean_environment
from planted_faults import PLANTED_FAULTS, PlantedFault
from replay_pieces import LARGE_LAYER, LONG_FILTER, SMALL_LAYER, packed, packed_with, put

from parity.cases import corpus_cases
from parity.replay.bundle import Bundle, Errors, read_bundle
from parity.suites import select

TESTS = Path(__file__).parents[1]
SKIP = next(fault for fault in PLANTED_FAULTS if "D" in fault.name)

RUN = """
import runpy, sys
fault, script, folder = {fault!r}, {script!r}, {folder!r}
sys.path.insert(0, folder)
if fault is not None:
    import pytest
    from planted_faults import PLANTED_FAULTS
    next(planted for planted in PLANTED_FAULTS if planted.name == fault).plant(pytest.MonkeyPatch())
runpy.run_path(folder + "/" + script, run_name="__main__")
print("LOADED", *(name for name in ("torch", "reference_torch", "mlx", "mlx_impl") if name in sys.modules))
"""


def run(code: list[str], folder: Path, *paths: Path, status: int = 0) -> Finished:
    """Run Python in a process that finds this checkout, in a folder that is not it."""
    path = ":".join(map(str, (*paths, TESTS.parent, TESTS / "harness")))
    done = subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env=clean_environment(PYTHONPATH=path, MLX_ENABLE_TF32="0"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def unpacked(path: Path) -> Path:
    """The bundle's folder, unpacked beside it."""
    folder = path.parent / "unpacked"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def script(name: str, folder: Path, fault: PlantedFault | None = None) -> Finished:
    """Run one script of an unpacked bundle, with a fault planted where it is given."""
    code = RUN.format(fault=fault and fault.name, script=name, folder=str(folder))
    return run(["-c", code], folder.parent)


def loaded(outcome: Finished) -> list[str]:
    return outcome.stdout.splitlines()[-1].removeprefix("LOADED").split()


def numbers_line(errors: Errors) -> str:
    return f"  both   rms {errors.rms:.9g} max {errors.max_abs:.9g} rel L2 {errors.rel_l2:.9g}"


def assert_prints_the_stored_numbers(bundle: Bundle, side: str, text: str) -> None:
    lines = text.splitlines()
    assert bundle.record.tensors
    for tensor in bundle.record.tensors:
        place = lines.index(f"{side} {tensor.name}: same bits")
        errors = tensor.numbers.port if side == "port" else tensor.numbers.reference
        assert errors is not None
        assert lines[place + 1] == numbers_line(errors)


@pytest.mark.parametrize("fault", PLANTED_FAULTS, ids=lambda fault: fault.name)
def test_the_port_alone_prints_the_stored_numbers_and_loads_no_torch(fault: PlantedFault, tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(fault, SMALL_LAYER))
    outcome = script("run_port.py", unpacked(path), fault)
    assert loaded(outcome) == ["mlx", "mlx_impl"]
    assert_prints_the_stored_numbers(read_bundle(path), "port", outcome.stdout)


@pytest.mark.parametrize("rung", ["f64", "f32", "bf16"])
def test_the_reference_alone_prints_the_stored_numbers_and_loads_no_mlx(rung: str, tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(SKIP, SMALL_LAYER, rung))
    outcome = script("run_reference.py", unpacked(path))
    assert loaded(outcome) == ["torch", "reference_torch"]
    assert_prints_the_stored_numbers(read_bundle(path), "reference", outcome.stdout)
    truths = [line for line in outcome.stdout.splitlines() if line.startswith("truth ")]
    assert len(truths) == len(read_bundle(path).record.tensors)
    assert all(line.endswith(": same bits") for line in truths)


def test_both_print_the_stored_numbers_of_either_side_and_compare_them(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(SKIP, SMALL_LAYER, "f32"))
    bundle, outcome = read_bundle(path), script("run_both.py", unpacked(path), SKIP)
    for side in ("reference", "port"):
        assert_prints_the_stored_numbers(bundle, side, outcome.stdout)
    first = bundle.record.tensors[0]
    assert first.numbers.port is not None
    assert first.numbers.reference is not None
    assert (
        f"{first.name}: rel L2 against the truth of now: "
        f"reference {first.numbers.reference.rel_l2:.9g}, port {first.numbers.port.rel_l2:.9g}"
    ) in outcome.stdout


def test_without_the_fault_the_port_alone_says_that_it_differs(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(SKIP, SMALL_LAYER))
    text = script("run_port.py", unpacked(path)).stdout
    assert re.search(r"^port attention.filter_fn: differs, moved by \S+ u$", text, re.MULTILINE)
    assert "  stored rms " in text
    assert "  now    rms " in text


@pytest.mark.parametrize("name", ["run_reference", "run_both"])
def test_scripts_run_from_within_the_file_too(name: str, tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(SKIP, SMALL_LAYER))
    text = run(["-m", name], tmp_path, path).stdout
    assert "reference attention.filter_fn: same bits" in text


def test_large_arrays_are_drawn_again_without_the_other_framework(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(SKIP, LARGE_LAYER))
    record = read_bundle(path).record
    assert "seed" in {array.kept for array in record.arrays}
    assert "windows" in {tensor.kept for tensor in record.tensors}
    folder = unpacked(path)
    port, reference = script("run_port.py", folder, SKIP), script("run_reference.py", folder)
    assert loaded(port) == ["mlx", "mlx_impl"]
    assert loaded(reference) == ["torch", "reference_torch"]
    for side, outcome in (("port", port), ("reference", reference)):
        assert "differs" not in outcome.stdout
        assert f"{side} y: same bits; " in outcome.stdout


def test_where_the_port_needs_the_reference_it_says_so_and_both_run(tmp_path: Path) -> None:
    folder = unpacked(put(tmp_path, packed_with(SKIP, LONG_FILTER)))
    refused = run([str(folder / "run_port.py")], tmp_path, status=1)
    assert "the port cannot run alone; take run_both.py" in refused.stderr.splitlines()[-1]
    assert "port y: same bits" in script("run_both.py", folder, SKIP).stdout


def test_fresh_buffers_are_computed_by_each_side_alone(tmp_path: Path) -> None:
    (pair,) = select(["hyena_buffers"])
    path = put(tmp_path, packed(corpus_cases(pair, 0)[0], "f32"))
    folder = unpacked(path)
    for name, side in (("run_port.py", "port"), ("run_reference.py", "reference")):
        assert_prints_the_stored_numbers(read_bundle(path), side, script(name, folder).stdout)
