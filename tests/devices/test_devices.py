"""Where either side runs: f64 on the CPU whatever is asked for, a device that is not there refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from harness_pieces import invoke

from parity.backends.gradients import draw_cotangents, gradients_of_port
from parity.backends.port import arithmetic, build_port, run_port
from parity.backends.reference import run_reference
from parity.blame import links_by_name, trace_backward, trace_forward
from parity.calibrate_command import CalibrationPlan
from parity.calibration_log import header_of, open_log
from parity.cases import corpus_cases
from parity.device_options import Place
from parity.environment import collect, mlx_framework
from parity.environment.devices import port_product_bits
from parity.errors import CalibrationError, DeviceError
from parity.examine import Bench, examine
from parity.journal import common_header
from parity.pairs import Pair
from parity.replay.again import replay
from parity.replay.bundle import read_bundle
from parity.replay.pack import pack
from parity.run import Plan
from parity.spec.devices import ON_CPU, Devices, devices_called, devices_in
from parity.spec.precision import RUNGS, Rung
from parity.spec.profile import CANONICAL
from parity.suites import select
from parity.torch_switches import ieee_products

GPU = Devices(port="gpu")
F32, F64 = RUNGS["f32"], RUNGS["f64"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every device that MLX's stream was asked for; what is asked of a GPU is computed by the CPU."""
    found: list[str] = []
    original: Callable[[Any], AbstractContextManager[None]] = mx.stream

    def stream(device: Any) -> AbstractContextManager[None]:
        found.append("gpu" if device == mx.gpu else "cpu")
        return original(mx.cpu)

    monkeypatch.setattr(mx, "stream", stream)
    yield found
    port_product_bits.cache_clear()


def mlp(devices: Devices = ON_CPU) -> Pair:
    (pair,) = select(["mlp"])
    return replace(pair, devices=devices)


def bench_of(pair: Pair) -> Bench:
    return Bench(pair, corpus_cases(pair, 0)[0], CANONICAL)


@pytest.mark.parametrize("rung", RUNGS.values(), ids=list(RUNGS))
def test_every_rung_but_f64_runs_on_the_port_s_device(rung: Rung, asked: list[str]) -> None:
    bench = bench_of(mlp(GPU))
    asked.clear()
    placed = examine(bench, CANONICAL, rung)
    assert ("gpu" in asked) == (rung.name != "f64")
    plain = examine(bench_of(mlp()), CANONICAL, rung)
    assert plain.judgements == placed.judgements  # the same numbers were put, and the same chip computed them


def test_on_the_cpu_no_gpu_is_asked_for(asked: list[str]) -> None:
    examine(bench_of(mlp()), CANONICAL, F32)
    assert set(asked) == {"cpu"}


def test_a_lifted_port_is_the_cpu_s_at_f64(asked: list[str]) -> None:
    pair = replace(mlp(GPU), lifted=True)
    with arithmetic(pair, F64):
        assert mx.exp(mx.array([1.0], dtype=mx.float64)).dtype == mx.float64
    assert set(asked) == {"cpu"}
    with arithmetic(pair, F32):
        assert asked[-1] == "gpu"


def test_weights_arrive_on_the_cpu(asked: list[str]) -> None:
    """They come in float64, which no GPU has."""
    bench = bench_of(mlp(GPU))
    asked.clear()
    build_port(bench.pair, bench.case.options, CANONICAL, F32, bench.state)
    assert asked[:2] == ["gpu", "cpu"]


def test_gradients_and_blame_run_where_the_port_does(asked: list[str]) -> None:
    bench = bench_of(mlp(GPU))
    for rung in (F64, F32):
        port = bench.modules.port(CANONICAL, rung)
        links = links_by_name(bench.pair, bench.module, port)
        for run in (
            lambda rung=rung, port=port: gradients_of_port(
                bench.pair, port, bench.inputs, rung, draw_cotangents(bench.truth, 0), bench.inputs
            ),
            lambda rung=rung, port=port, links=links: trace_forward(
                bench.pair, bench.module, port, bench.inputs, rung, links
            ),
            lambda rung=rung, port=port, links=links: trace_backward(
                bench.pair, bench.module, port, bench.inputs, rung, links
            ),
        ):
            asked.clear()
            run()
            assert ("gpu" in asked) == (rung.name != "f64")


def test_the_probe_measures_the_device_that_is_chosen(asked: list[str]) -> None:
    framework = mlx_framework("gpu")
    for dtype in ("float32", "float64"):
        framework.run(framework.operations["exp"], dtype, [np.ones((2, 2))])
    assert asked == ["gpu", "cpu"]
    asked.clear()
    port_product_bits.__wrapped__("gpu")
    assert set(asked) == {"gpu"}


# The reference ----------------------------------------------------------------------------------------------------


def test_the_reference_moves_at_every_rung_but_f64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's `meta` device stands for one that is not the CPU: it computes nothing, and says where it is asked to."""
    pair = mlp(Devices(reference="cuda"))
    moved: list[str] = []
    original = torch.nn.Module.to

    def to(module: torch.nn.Module, *places: Any, **more: Any) -> torch.nn.Module:
        if places and isinstance(places[0], str):
            moved.append(places[0])
            return module
        return original(module, *places, **more)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    modules = bench_of(pair).modules
    modules.reference(F32)
    modules.reference(F64)
    assert moved == ["cuda", "cpu"]


def test_inputs_go_to_the_reference_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = mlp(Devices(reference="mps"))
    bench = bench_of(mlp())
    places: list[str] = []

    def to(tensor: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        if given and isinstance(given[0], str):
            places.append(given[0])
            return tensor
        return original(tensor, *given, **more)

    original = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", to)
    run_reference(pair, bench.modules.reference(F32), bench.inputs, F32)
    assert set(places) == {"mps"}
    places.clear()
    run_reference(pair, bench.module, bench.inputs, F64)
    assert set(places) == {"cpu"}


def test_torch_s_tf32_is_off_on_cuda_and_put_back() -> None:
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        with ieee_products("cpu"):
            assert all(switch.allow_tf32 for switch in switches)
        with ieee_products("cuda"):
            assert not any(switch.allow_tf32 for switch in switches)
        assert all(switch.allow_tf32 for switch in switches)
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


# What is not there ------------------------------------------------------------------------------------------------

MISSING = {
    "port": (["--port-device", "gpu"], "--port-device gpu: MLX has no GPU here"),
    "reference": (["--reference-device", "cuda"], "--reference-device cuda: torch has no such device here"),
    "unknown port": (["--port-device", "tpu"], "--port-device: unknown device 'tpu'; allowed: cpu, gpu"),
    "unknown reference": (["--reference-device", "xpu"], "allowed: cpu, cuda, mps"),
}


@pytest.mark.skipif(mx.is_available(mx.gpu) or torch.cuda.is_available(), reason="there is such a device here")
@pytest.mark.parametrize("command", [["run", "mlp"], ["trace", "mlp"], ["calibrate", "mlp"], ["env"]], ids=" ".join)
@pytest.mark.parametrize("missing", MISSING)
def test_a_missing_device_is_one_line_and_nothing_runs(
    command: list[str], missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    options, words = MISSING[missing]
    outcome = invoke(*command, *options)
    assert outcome.status == 2
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("port", "reference"), [("tpu", "cpu"), ("cpu", "xpu")])
def test_an_unknown_device_says_what_is_allowed(port: str, reference: str) -> None:
    with pytest.raises(DeviceError, match="allowed: "):
        devices_called(port, reference)


# What travels with them -------------------------------------------------------------------------------------------


def test_the_printed_command_chooses_the_devices_again() -> None:
    pair = mlp(Devices("gpu", "cuda"))
    plan = Plan([pair], [CANONICAL], ["f32"], "quick", 0)
    command = plan.command(corpus_cases(pair, 0)[0], "canonical", "f32")
    assert command.endswith("--port-device gpu --reference-device cuda")
    plain = Plan([mlp()], [CANONICAL], ["f32"], "quick", 0).command(corpus_cases(pair, 0)[0], "canonical", "f32")
    assert "device" not in plain


def test_a_journal_of_another_device_is_refused(tmp_path: Path) -> None:
    here, there = mlp(), mlp(GPU)
    with open_log(tmp_path / "log", header_of([here], [CANONICAL])):
        pass
    with (
        pytest.raises(CalibrationError, match="port_device was cpu, is gpu"),
        open_log(tmp_path / "log", header_of([there], [CANONICAL])),
    ):
        pass
    assert common_header([there], [CANONICAL])["port_device"] == "gpu"


def test_worker_processes_are_told_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import parity.calibrate_command as command

    seen: list[Devices] = []
    monkeypatch.setattr("parity.environment.require_devices", bool)
    monkeypatch.setattr(command, "calibrate_seed", lambda pairs, *_: seen.extend(pair.devices for pair in pairs))
    command._one(CalibrationPlan(["mlp"], ["canonical"], range(1), place=Place(GPU)), 0)
    assert seen == [GPU]


def test_the_fingerprint_knows_the_devices() -> None:
    plain = collect()
    assert plain.key() == collect(ON_CPU).key()
    placed = replace(plain, port_device="gpu")
    assert placed.key() != plain.key()
    assert devices_in(placed.to_dict()) == GPU
    assert devices_in({}) == ON_CPU  # an environment that was stored before there were devices


def test_a_bundle_is_run_again_where_it_failed(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("parity.replay.again.require_devices", bool)
    bench = bench_of(mlp(GPU))
    path = tmp_path / "it.parity.zip"
    path.write_bytes(pack(bench, CANONICAL, F32, examine(bench, CANONICAL, F32)).data)
    asked.clear()
    result = replay(read_bundle(path), mlp())
    assert result.same
    assert "gpu" in asked
    monkeypatch.undo()
    if not mx.is_available(mx.gpu):
        with pytest.raises(DeviceError, match="MLX has no GPU here"):
            replay(read_bundle(path), mlp())


def test_mlx_s_default_device_is_the_stream_s() -> None:
    """Kernels ask `mx.default_device()`: inside the context it is the port's, and afterwards what it was."""
    before = mx.default_device()
    with arithmetic(mlp(), F32):
        assert mx.default_device() == mx.Device(mx.cpu)
    assert mx.default_device() == before


@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="MLX has no GPU here")
def test_on_a_gpu_the_port_computes_there() -> None:
    with arithmetic(mlp(GPU), F32):
        assert mx.default_device() == mx.Device(mx.gpu)
    bench = bench_of(mlp(GPU))
    trace = run_port(bench.pair, bench.modules.port(CANONICAL, F32), bench.inputs, F32)
    assert all(np.isfinite(tensor.values).all() for tensor in trace.values())
