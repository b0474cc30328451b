"""Constants of a device: measured, written with their environment, refused where they are another's or too loose."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from harness_pieces import invoke

from parity.backends.device_errors import measure_device
from parity.backends.shifts import Noise
from parity.cases import corpus_cases
from parity.device_constants import MOST_LOOSENED, Entry, constants_of, write_constants
from parity.errors import DeviceError
from parity.examine import Bench, examine
from parity.pairs import Pair
from parity.spec.devices import ON_CPU
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select
from parity.tolerance import CALIBRATED, NO_FACTORS, Factors

F32, F64 = RUNGS["f32"], RUNGS["f64"]


def written(path: Path, backend: str = "cpu", **factors: float) -> Path:
    write_constants(path, backend, {"machine": "m68k"}, [Entry(name, f, "here", f) for name, f in factors.items()])
    return path


def changed(path: Path, name: str, **fields: Any) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    document["constants"].setdefault(name, {}).update(fields)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


# The file ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "cpu.json", transform=1.5, sum=1.0)
    factors = constants_of("cpu", ON_CPU, path)
    assert factors.of("transform") == 1.5
    assert factors.of("sum") == 1.0
    assert factors.of_operation("_fft_r2c") == 1.5
    assert factors.of_operation("mm") == 1.0
    assert factors.source == str(path)
    assert json.loads(path.read_text(encoding="utf-8"))["environment"] == {"machine": "m68k"}


def test_without_a_file_the_table_stands() -> None:
    for backend in ("cpu", "cuda", "metal"):
        assert constants_of(backend, ON_CPU) == NO_FACTORS


def test_constants_of_another_backend_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "cuda.json", "cuda", sum=1.2)
    with pytest.raises(DeviceError, match="measured on 'cuda', the port runs on 'cpu'"):
        constants_of("cpu", ON_CPU, path)


def test_loosening_beyond_the_bound_wants_a_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "cpu.json", exp=2 * MOST_LOOSENED)
    for nothing in ("", "  "):
        changed(path, "exp", reason=nothing)
        with pytest.raises(DeviceError, match="exp is loosened 4 times, by more than 2, and gives no reason"):
            constants_of("cpu", ON_CPU, path)
    changed(path, "exp", reason="this device's exp is an approximation of 20 bits")
    assert constants_of("cpu", ON_CPU, path).of("exp") == 2 * MOST_LOOSENED


@pytest.mark.parametrize("factor", [0.5, -1, True, "2", None, float("inf"), float("nan")])
def test_a_factor_never_tightens_and_is_a_number(factor: object, tmp_path: Path) -> None:
    path = changed(written(tmp_path / "cpu.json"), "exp", factor=factor, reason="none")
    with pytest.raises(DeviceError, match="the factor of exp is a number of at least 1"):
        constants_of("cpu", ON_CPU, path)


def test_an_unknown_constant_is_refused(tmp_path: Path) -> None:
    path = changed(written(tmp_path / "cpu.json"), "cosh", factor=1)
    with pytest.raises(DeviceError, match="unknown constant 'cosh'; allowed: transform, exp"):
        constants_of("cpu", ON_CPU, path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2, "constants": {}}', "[" * 100_000, "x" * 2_000_000])
def test_what_is_no_such_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DeviceError, match="is no file of constants"):
        constants_of("cpu", ON_CPU, path)
    with pytest.raises(DeviceError, match="cannot be read: No such file"):
        constants_of("cpu", ON_CPU, tmp_path / "none.json")


# What they do -----------------------------------------------------------------------------------------------------


def pair_with(name: str, **factors: float) -> Pair:
    (pair,) = select([name])
    return replace(pair, factors=Factors(tuple(factors.items())))


def noise_of_main(pair: Pair, rung: str) -> Noise:
    bench = Bench(pair, corpus_cases(pair, 0)[-1], CANONICAL)
    return bench.noise(RUNGS[rung])[bench.main]


def test_a_factor_loosens_its_operation_and_f64_never() -> None:
    plain, loose = (pair_with("mlp", **factors) for factors in ({}, {"product": 8.0, "gelu": 8.0}))
    assert noise_of_main(loose, "f32").rms > 4 * noise_of_main(plain, "f32").rms
    assert noise_of_main(loose, "f64") == noise_of_main(plain, "f64")
    other = pair_with("mlp", exp=8.0)
    assert noise_of_main(other, "f32") == noise_of_main(plain, "f32")


def test_a_bound_in_closed_form_is_loosened_too() -> None:
    ratios = []
    for pair in (pair_with("fftconv"), pair_with("fftconv", fftconv_rms=4.0, fftconv_max=4.0, transform=4.0)):
        bench = Bench(pair, corpus_cases(pair, 0)[-1], CANONICAL)
        for rung in (F32, F64):
            ratios.append(examine(bench, CANONICAL, rung).judgements[bench.main].ratio)
    plain_f32, plain_f64, loose_f32, loose_f64 = ratios
    assert loose_f32 < plain_f32 / 2
    assert loose_f64 == plain_f64


def test_the_printed_command_names_the_file() -> None:
    pair = replace(pair_with("mlp"), factors=Factors((("sum", 1.5),), "cuda.json"))
    assert pair.words == ["--constants", "cuda.json"]


# Measuring --------------------------------------------------------------------------------------------------------


def test_on_this_cpu_the_table_stands() -> None:
    entries = measure_device(ON_CPU)
    assert {entry.name for entry in entries} == set(CALIBRATED)
    assert {entry.name: entry.factor for entry in entries if entry.factor != 1} == {}
    assert all(0 < entry.measured < 1.25 for entry in entries)
    assert [entry.name for entry in entries if entry.seen is not None] == [
        "matmul_rms",
        "matmul_max",
        "fftconv_rms",
        "fftconv_max",
    ]


def test_an_operation_that_errs_more_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    original = mx.tanh
    monkeypatch.setattr(mx, "tanh", lambda x: original(x) * (1 + 2.0**-20))
    (entry,) = [entry for entry in measure_device(ON_CPU) if entry.factor > 1]
    assert entry.name == "tanh"
    assert entry.factor > MOST_LOOSENED


def test_the_command_writes_what_a_run_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    outcome = invoke("calibrate", "--write", "cpu.json")
    assert outcome.status == 0, outcome.stderr
    assert f"{len(CALIBRATED)} constants of cpu in cpu.json" in outcome.stdout
    document = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert document["backend"] == "cpu"
    assert document["environment"]["port_device"] == "cpu"
    again = invoke("run", "mlp", "--rung", "f32", "--budget", "quick", "--seed", "0", "--constants", "cpu.json")
    assert again.status == 0, again.stdout + again.stderr
    document["backend"] = "cuda"
    (tmp_path / "cuda.json").write_text(json.dumps(document), encoding="utf-8")
    refused = invoke("run", "mlp", "--constants", "cuda.json")
    assert refused.status == 2
    assert "was measured on 'cuda'" in refused.stderr


def test_no_constants_are_measured_in_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("parity.environment.devices.port_product_bits", lambda _device: 10.9)
    outcome = invoke("calibrate", "--write", "cpu.json")
    assert outcome.status == 2
    assert "constants measured so would allow it for ever" in outcome.stderr
    assert not (tmp_path / "cpu.json").exists()
