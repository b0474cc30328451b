"""Replay: the same numbers while the fault is there, other ones once it is gone, and what has changed since."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_pieces import invoke
from planted_faults import PLANTED_FAULTS, PlantedFault
from replay_pieces import SMALL_LAYER, doctor, opened, packed_with, pair_of, put

from parity.environment import collect
from parity.metrics import measure
from parity.replay.again import environment_changes, replay
from parity.replay.bundle import OffendingTensor, read_bundle
from parity.replay.sides import compare_side
from parity.spec.precision import RUNGS
from parity.trace import TracedTensor

TANH = PLANTED_FAULTS[0]
SKIP = next(fault for fault in PLANTED_FAULTS if "D" in fault.name)
faults = pytest.mark.parametrize("fault", PLANTED_FAULTS, ids=lambda fault: fault.name)
PAIR = pair_of(SMALL_LAYER)


@faults
def test_with_the_fault_the_numbers_are_the_same_and_without_it_the_case_passes(
    fault: PlantedFault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = opened(tmp_path, packed_with(fault, SMALL_LAYER))
    fault.plant(monkeypatch)
    for sides in ("both", "reference", "port"):
        result = replay(bundle, PAIR, sides)  # type: ignore[arg-type]
        assert result.same
        assert {side.moved for tensor in result.tensors for side in tensor.sides} == {0.0}
    monkeypatch.undo()
    result = replay(bundle, PAIR)
    assert not result.same
    assert (result.first_bad, result.first_bad_now, result.failed_now) == (fault.first_bad, "", 0)
    assert not replay(bundle, PAIR, "port").same
    assert replay(bundle, PAIR, "reference").same


@pytest.mark.parametrize("rung", ["f32", "bf16", "f16"])
def test_coarser_rungs_replay_too(rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SKIP.plant(monkeypatch)
    bundle = opened(tmp_path, packed_with(SKIP, SMALL_LAYER, rung))
    assert {tensor.port.dtype for tensor in bundle.record.tensors if tensor.port} <= {RUNGS[rung].dtype, "float32"}  # type: ignore[index]
    assert replay(bundle, PAIR).same
    monkeypatch.undo()
    assert not replay(bundle, PAIR).same


def test_another_fault_than_the_stored_one_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = opened(tmp_path, packed_with(TANH, SMALL_LAYER))
    SKIP.plant(monkeypatch)
    result = replay(bundle, PAIR)
    assert not result.same
    assert (result.first_bad, result.first_bad_now) == ("mlp.act", SKIP.first_bad)


def test_the_stored_arrays_are_what_runs_and_not_new_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TANH.plant(monkeypatch)
    bundle = opened(tmp_path, packed_with(TANH, SMALL_LAYER))
    monkeypatch.setattr("parity.cases.arrays.zlib.crc32", len)
    assert replay(bundle, PAIR).same


def test_numbers_of_a_side_are_those_of_the_judgement(tmp_path: Path) -> None:
    bundle = opened(tmp_path, packed_with(TANH, SMALL_LAYER, "f32"))
    for tensor in replay(bundle, PAIR, "port").tensors:
        assert tensor.sides[0].stored == tensor.stored.port
    for tensor in replay(bundle, PAIR, "reference").tensors:
        assert [side.stored for side in tensor.sides] == [None, tensor.stored.reference]


def moved(tensor: OffendingTensor, folder: Path, values: Any, dtype: str) -> Any:
    bundle = read_bundle(folder)
    (replayed, *_) = compare_side(bundle, "port", {tensor.name: TracedTensor(values, dtype)})
    return replayed


def test_how_far_a_tensor_moved_is_in_units_of_u(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(TANH, SMALL_LAYER, "f32"))
    bundle = read_bundle(path)
    tensor = bundle.record.tensors[0]
    port, truth = bundle.held(tensor, "port"), bundle.held(tensor, "truth")
    assert port is not None
    assert truth is not None
    shifted = port + 3 * RUNGS["f32"].u * np.abs(truth)
    replayed = moved(tensor, path, shifted, "float32")
    assert not replayed.same
    assert replayed.moved == pytest.approx(3.0)
    assert replayed.now.rms == measure(shifted, truth, RUNGS["f32"]).rms
    assert moved(tensor, path, np.where(port == port.max(), np.nan, port), "float32").moved == np.inf
    assert moved(tensor, path, port, "float32").same


@pytest.mark.parametrize(
    ("change", "note"),
    [
        pytest.param(lambda port: (port[..., :-1], "float32"), "float32 (2, 5, 12) was stored, now it is", id="shape"),
        pytest.param(lambda port: (port, "bfloat16"), "now it is bfloat16", id="dtype"),
    ],
)
def test_another_shape_or_dtype_is_said_in_words(change: Any, note: str, tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(TANH, SMALL_LAYER, "f32"))
    tensor = read_bundle(path).record.tensors[0]
    replayed = moved(tensor, path, *change(read_bundle(path).held(tensor, "port")))
    assert not replayed.same
    assert note in replayed.note


# Environment ------------------------------------------------------------------------------------------------------


def test_nothing_has_changed_on_the_same_machine(tmp_path: Path) -> None:
    assert replay(opened(tmp_path, packed_with(TANH, SMALL_LAYER)), PAIR).environment == ()


ELSEWHERE = {
    "version": (lambda e: e["versions"].update(torch="1.0"), "versions.torch", "1.0"),
    "processor": (lambda e: e.update(cpu_model="abacus"), "cpu_model", "abacus"),
    "threads": (lambda e: e.update(torch_threads=64), "torch_threads", "64"),
    "BLAS": (lambda e: e.update(mlx_blas=["libabacus.so"]), "mlx_blas", "libabacus.so"),
    "switch": (lambda e: e["switches"].update(MKL_CBWR="AVX"), "switches.MKL_CBWR", "AVX"),
    "unknown field": (lambda e: e.update(moon="full"), "moon", "full"),
}


@pytest.mark.parametrize(("change", "field", "value"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_differs_elsewhere_is_named(
    change: Any, field: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TANH.plant(monkeypatch)
    path = doctor(put(tmp_path, packed_with(TANH, SMALL_LAYER)), lambda record: change(record["environment"]))
    (found,) = replay(read_bundle(path), PAIR).environment
    assert (found.field, found.stored) == (field, value)
    outcome = invoke("replay", str(path))
    assert outcome.status == 0, "the numbers are the same, whatever else is not"
    assert f"environment: {field} was {value}, is " in outcome.stdout


def test_changes_are_found_in_nested_fields_and_on_either_side() -> None:
    now = collect().to_dict()
    assert environment_changes(now, now) == ()
    changes = environment_changes({"a": {"b": 1}, "c": None}, {"a": {"b": 2}, "d": [1, 2]})
    assert [(change.field, change.stored, change.now) for change in changes] == [
        ("a.b", "1", "2"),
        ("c", "none", None),
        ("d", None, "1, 2"),
    ]


# The command ------------------------------------------------------------------------------------------------------


def test_the_command_says_same_numbers_and_exits_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TANH.plant(monkeypatch)
    path = put(tmp_path, packed_with(TANH, SMALL_LAYER))
    for side in ("both", "reference", "port"):
        outcome = invoke("replay", str(path), "--side", side)
        assert (outcome.status, outcome.stderr) == (0, "")
        assert outcome.stdout.splitlines()[0].startswith("layer canonical f64: 5 tensors fail, first bad mlp.act")
        assert outcome.stdout.splitlines()[-1].startswith("SAME NUMBERS")
        assert ("reference mlp.act: same bits" in outcome.stdout) == (side != "port")
        assert ("port mlp.act: same bits" in outcome.stdout) == (side != "reference")


def test_the_command_says_what_differs_and_exits_1(tmp_path: Path) -> None:
    bundle = packed_with(TANH, SMALL_LAYER)
    stored = opened(tmp_path, bundle).record.tensors[0].numbers
    outcome = invoke("replay", str(put(tmp_path, bundle)))
    assert outcome.status == 1
    assert stored.port is not None
    assert f"mlp.act: error/allowed {stored.ratio:.9g} stored, " in outcome.stdout
    assert f"stored rms {stored.port.rms:.9g} max {stored.port.max_abs:.9g} rel L2" in outcome.stdout
    assert "now: no tensor fails" in outcome.stdout
    last = outcome.stdout.splitlines()[-1]
    assert last.startswith("DIFFERENT NUMBERS: the case passes now; tensors moved by up to ")
    assert "the environment is that of the bundle" in last


def test_the_command_points_at_the_environment_where_it_differs(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(TANH, SMALL_LAYER))
    doctor(path, lambda record: record["environment"].update(cpu_model="abacus"))
    outcome = invoke("replay", str(path))
    assert outcome.status == 1
    assert "1 fields of the environment differ" in outcome.stdout.splitlines()[-1]


def test_json_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, packed_with(TANH, SMALL_LAYER))
    record = read_bundle(path).record
    gone = invoke("replay", str(path), "--json")
    TANH.plant(monkeypatch)
    there = invoke("replay", str(path), "--json")
    assert (gone.status, there.status) == (1, 0)
    for outcome, same in ((gone, False), (there, True)):
        document = json.loads(outcome.stdout)
        assert (document["same"], document["stored"]["first_bad"]) == (same, "mlp.act")
        assert document["tensors"][0]["stored"] == record.tensors[0].numbers.to_json()
        assert (document["tensors"][0]["now"] == document["tensors"][0]["stored"]) == same


def test_json_writes_what_is_infinite_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("mlx_impl.fft_conv.fft_length", lambda length: 0 * length)

    path = put(tmp_path, packed_with(PlantedFault("raises", broken, "y", "layer"), SMALL_LAYER))
    document = json.loads(invoke("replay", str(path), "--json", "--side", "both").stdout)
    assert document["tensors"][0]["stored"]["ratio"] == "Infinity"
    broken(monkeypatch)
    outcome = invoke("replay", str(path), "--side", "port")
    assert outcome.status == 0
    assert "now: the port raised" in outcome.stdout


def test_the_command_sets_no_thread_count_and_no_switch_of_the_bundle(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(TANH, SMALL_LAYER))
    doctor(path, lambda record: record["environment"]["switches"].update(MKL_CBWR="AVX"))
    invoke("replay", str(path))
    assert "MKL_CBWR" not in os.environ
