"""A bundle: small, the same bytes for the same failure, complete, and refused when anything about it is wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from harness_pieces import clean_environment, invoke
from planted_faults import PLANTED_FAULTS, PlantedFault
from replay_pieces import (
    LARGE_LAYER,
    LONG_FILTER,
    SMALL_LAYER,
    doctor,
    examined,
    members,
    opened,
    packed,
    packed_with,
    pair_of,
    put,
    rewrite,
)

from parity.backends.reference import build_reference, fresh_parameters
from parity.cases import Case, corpus_cases
from parity.errors import ReplayError
from parity.examine import Examination
from parity.replay import pack as pack_module
from parity.replay.again import replay
from parity.replay.bundle import MEMBERS, SIDES, array_key, cut, digest, read_bundle
from parity.replay.limits import LIMITS, Limit, limit
from parity.replay.pack import numbers_of, pack, peaks, without_folders
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import PAIRS
from parity.trace import Trace
from parity.verdict import failed

TANH, EPSILON = PLANTED_FAULTS[0], PLANTED_FAULTS[1]
SKIP = next(fault for fault in PLANTED_FAULTS if "D" in fault.name)
faults = pytest.mark.parametrize("fault", PLANTED_FAULTS, ids=lambda fault: fault.name)


# What is in it ----------------------------------------------------------------------------------------------------


@faults
def test_the_bundle_holds_everything_of_the_failure(
    fault: PlantedFault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault.plant(monkeypatch)
    bench, examination = examined(SMALL_LAYER)
    bundle = opened(tmp_path, pack(bench, CANONICAL, RUNGS["f64"], examination))
    record = bundle.record
    assert (record.component, record.rung, record.profile) == ("layer", "f64", CANONICAL)
    assert (bundle.case, record.first_bad) == (SMALL_LAYER, fault.first_bad)
    failed = [name for name, judgement in examination.judgements.items() if not judgement.passed]
    assert [tensor.name for tensor in record.tensors] == failed
    assert record.failed == len(failed)
    for tensor in record.tensors:
        assert tensor.kept == "whole"
        assert tensor.numbers == numbers_of(examination.judgements[tensor.name])
        assert np.array_equal(bundle.tensors[f"truth/{tensor.name}"], bench.truth[tensor.name].values)
        assert examination.port is not None
        assert np.array_equal(bundle.tensors[f"port/{tensor.name}"], examination.port[tensor.name].values)
    stored, state = bundle.inputs(bench.pair), bundle.state(bench.pair)
    assert {name: digest(array) for name, array in stored.items()} == {n: digest(a) for n, a in bench.inputs.items()}
    assert state is not None
    assert {name: digest(array) for name, array in state.items()} == {n: digest(a) for n, a in bench.state.items()}


def test_the_readme_names_the_failure_and_how_to_run_it(tmp_path: Path) -> None:
    text = members(put(tmp_path, packed_with(TANH, SMALL_LAYER)))["README.txt"].decode()
    assert text.splitlines()[0] == "layer under profile canonical at f64: first bad tensor mlp.act"
    assert all(word in text for word in ("parity replay", "run_reference.py", "run_port.py", SMALL_LAYER.to_json()))


def test_the_reference_is_not_stored_again_where_it_is_the_truth(tmp_path: Path) -> None:
    exact, single = (opened(tmp_path, packed_with(SKIP, SMALL_LAYER, rung)) for rung in ("f64", "f32"))
    for bundle, repeated in ((exact, False), (single, True)):
        for tensor in bundle.record.tensors:
            assert (array_key("reference", tensor.name) in bundle.tensors) == repeated
            reference, truth = bundle.held(tensor, "reference"), bundle.held(tensor, "truth")
            assert reference is not None
            assert truth is not None
            assert np.array_equal(reference, truth) != repeated


def test_shared_parameters_are_stored_once(tmp_path: Path) -> None:
    bundle = opened(tmp_path, packed_with(TANH, SMALL_LAYER))
    aliases = [record for record in bundle.record.arrays if record.kept == "alias"]
    assert aliases
    assert all(array_key("parameter", record.name) not in bundle.tensors for record in aliases)
    state = bundle.state(pair_of(SMALL_LAYER))
    assert state is not None
    assert all(np.array_equal(state[record.name], state[record.alias_of]) for record in aliases)


def test_a_case_that_passes_when_run_again_leaves_its_outputs(tmp_path: Path) -> None:
    record = opened(tmp_path, packed(SMALL_LAYER)).record
    assert (record.first_bad, record.failed, [tensor.name for tensor in record.tensors]) == ("", 0, ["y"])


def test_a_port_that_raises_leaves_its_traceback_without_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setattr("mlx_impl.fft_conv.fft_length", raises)
    bundle = opened(tmp_path, packed(SMALL_LAYER))
    (tensor,) = bundle.record.tensors
    assert tensor.port is None
    assert tensor.numbers.ratio == float("inf")
    assert tensor.numbers.reason == "the port raised ValueError: no such kernel"
    assert 'File "mlx_impl/fft_conv.py"' in bundle.record.detail
    assert str(Path(__file__).parents[2]) not in bundle.record.detail
    for side in ("both", "port"):
        assert replay(bundle, pair_of(SMALL_LAYER), side).same  # type: ignore[arg-type]
    monkeypatch.undo()
    for side in ("both", "port"):
        assert not replay(bundle, pair_of(SMALL_LAYER), side).same  # type: ignore[arg-type]


def test_paths_are_cut_to_file_and_parent() -> None:
    text = 'File "/home/somebody/checkout/mlx_impl/ops.py", line 3'
    assert without_folders(text) == 'File "mlx_impl/ops.py", line 3'


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_component_can_be_bundled_and_replays_to_the_same_bits(pair: Any, tmp_path: Path) -> None:
    case = corpus_cases(pair, 0)[0]
    rung = "f32" if "f32" in pair.only_rungs else pair.only_rungs[0]
    result = replay(opened(tmp_path, packed(case, rung)), pair)
    assert result.tensors
    assert result.same


# Size -------------------------------------------------------------------------------------------------------------


@faults
def test_a_small_failure_leaves_a_few_tens_of_kilobytes(fault: PlantedFault) -> None:
    assert len(packed_with(fault, SMALL_LAYER).data) < 64 * 1024


@pytest.mark.parametrize("rung", ["f64", "f32"])
def test_a_large_failure_stays_below_the_limit_and_says_what_is_left_out(rung: str, tmp_path: Path) -> None:
    bundle = packed_with(SKIP, LARGE_LAYER, rung)
    assert len(bundle.data) <= limit("file_bytes")
    path = put(tmp_path, bundle)
    record = read_bundle(path).record
    assert {"windows"} <= {tensor.kept for tensor in record.tensors}
    assert {"stored", "seed", "alias"} == {array.kept for array in record.arrays}
    text = members(path)["README.txt"].decode()
    assert "too large: stored around its largest errors, flat ranges [" in text
    assert "too large: drawn again from the seed" in text


def test_a_large_failure_replays_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SKIP.plant(monkeypatch)
    bundle = opened(tmp_path, packed(LARGE_LAYER))
    for side in ("both", "reference", "port"):
        assert replay(bundle, pair_of(LARGE_LAYER), side).same  # type: ignore[arg-type]
    monkeypatch.undo()
    assert not replay(bundle, pair_of(LARGE_LAYER)).same


def test_windows_hold_the_largest_error_of_every_tensor(tmp_path: Path) -> None:
    bundle = opened(tmp_path, packed_with(SKIP, LARGE_LAYER))
    windowed = [tensor for tensor in bundle.record.tensors if tensor.kept == "windows"]
    assert windowed
    for tensor in windowed:
        port, truth = bundle.held(tensor, "port"), bundle.held(tensor, "truth")
        assert port is not None
        assert truth is not None
        assert tensor.numbers.port is not None
        assert np.abs(port - truth).max() == tensor.numbers.port.max_abs


def test_what_follows_from_the_constructor_is_drawn_again_with_it_only(tmp_path: Path) -> None:
    bundle, pair = opened(tmp_path, packed_with(SKIP, LONG_FILTER)), pair_of(LONG_FILTER)
    assert "constructor" in {array.kept for array in bundle.record.arrays}
    with pytest.raises(ReplayError, match="the port cannot run alone"):
        bundle.state(pair)
    state = bundle.state(pair, lambda: fresh_parameters(build_reference(pair, LONG_FILTER.options, CANONICAL)))
    assert state is not None
    assert state["pos_emb.z"].shape == (1, 20000, 5)


@pytest.mark.parametrize("bytes_", [16 * 1024, 64 * 1024])
def test_the_limit_is_kept_whatever_it_is(bytes_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "file_bytes", Limit(bytes_, "a test"))  # type: ignore[arg-type]
    bundle = packed_with(SKIP, LARGE_LAYER)
    assert len(bundle.data) <= bytes_
    assert opened(tmp_path, bundle).record.first_bad == SKIP.first_bad


def test_a_limit_below_the_names_alone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "file_bytes", Limit(1024, "a test"))  # type: ignore[arg-type]
    with pytest.raises(ReplayError, match="too many names"):
        packed_with(TANH, SMALL_LAYER)


def test_only_the_first_failing_tensors_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "tensors", Limit(2, "a test"))  # type: ignore[arg-type]
    record = opened(tmp_path, packed_with(TANH, SMALL_LAYER)).record
    assert [tensor.name for tensor in record.tensors] == ["mlp.act", "mlp.wo"]
    assert record.failed == 5


def test_windows_join_where_they_touch_and_prefer_what_is_not_finite() -> None:
    truth = np.zeros(5000)
    port = truth.copy()
    port[[1000, 1100, 4999]] = (1.0, 2.0, np.nan)
    windows = peaks(port, truth)
    assert windows[-1] == (5000 - limit("window"), 5000)
    assert any(start <= 1000 and stop > 1100 for start, stop in windows)
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(windows))
    assert cut(port, windows).size == sum(stop - start for start, stop in windows)


# Determinism ------------------------------------------------------------------------------------------------------


def test_equal_failures_give_equal_files() -> None:
    first, second = packed_with(EPSILON, SMALL_LAYER), packed_with(EPSILON, SMALL_LAYER)
    assert first == second
    assert first.name.startswith("layer-canonical-f64-")
    assert packed_with(TANH, SMALL_LAYER).name != first.name


IN_ANOTHER_PROCESS = """
import hashlib, sys, torch
torch.set_num_threads(1)
from planted_faults import PLANTED_FAULTS
from replay_pieces import SMALL_LAYER, packed_with
print(hashlib.sha256(packed_with(PLANTED_FAULTS[1], SMALL_LAYER).data).hexdigest())
"""


def test_two_processes_give_equal_files(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    paths = ":".join(map(str, (tests.parent, tests / "harness", tests / "replay")))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            cwd=tmp_path,
            env=clean_environment(PYTHONPATH=paths, MLX_ENABLE_TF32="0", PYTHONHASHSEED=seed),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_members_have_one_time_and_one_order(tmp_path: Path) -> None:
    with zipfile.ZipFile(put(tmp_path, packed_with(TANH, SMALL_LAYER))) as archive:
        assert archive.namelist() == list(MEMBERS)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# Bad bundles ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> pack_module.Packed:
    return packed_with(TANH, SMALL_LAYER)


def assert_refused(path: Path, *words: str) -> None:
    outcome = invoke("replay", str(path))
    lines = outcome.stderr.splitlines()
    assert (outcome.status, outcome.stdout, len(lines)) == (2, "", 1), outcome.stderr
    assert lines[0].startswith("parity: ")
    assert [word for word in words if word not in lines[0]] == []


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "no.parity.zip", "no.parity.zip", "No such file")


def test_a_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text", encoding="utf-8")
    assert_refused(tmp_path / "text.zip", "is no bundle", "not a zip file")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "no unpacked bundle", "bundle.json")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_bundle_cut_short_is_refused(share: float, good: pack_module.Packed, tmp_path: Path) -> None:
    path = put(tmp_path, good)
    path.write_bytes(good.data[: int(len(good.data) * share)])
    assert_refused(path, "is no bundle, or a damaged one")


def test_a_flipped_bit_anywhere_is_refused_or_of_no_effect(good: pack_module.Packed, tmp_path: Path) -> None:
    whole = {name: members(put(tmp_path, good))[name] for name in ("bundle.json", "tensors.safetensors")}
    for place in range(0, len(good.data), len(good.data) // 97):
        data = bytearray(good.data)
        data[place] ^= 0x10
        path = tmp_path / "flipped.parity.zip"
        path.write_bytes(bytes(data))
        with contextlib.suppress(ReplayError):
            read_bundle(path)
            assert {name: members(path)[name] for name in whole} == whole


def test_another_zip_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("mine.txt", "mine")
    assert_refused(tmp_path / "other.zip", "is no bundle", "mine.txt")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_bundle_without_one_of_its_members_is_refused(name: str, good: pack_module.Packed, tmp_path: Path) -> None:
    assert_refused(rewrite(put(tmp_path, good), {name: None}), "is no bundle", name)


def test_a_zip_file_that_unpacks_to_too_much_is_refused(
    good: pack_module.Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "unpacked_bytes", Limit(1000, "a test"))  # type: ignore[arg-type]
    assert_refused(put(tmp_path, good), "unpacks to more than 1000 bytes")


DOCTORED = {
    "unknown key": (lambda record: record.update(colour="red"), ["unknown key 'colour'"]),
    "unknown key inside": (lambda record: record["tensors"][0].update(colour=1), ["unknown key 'tensors.0.colour'"]),
    "unknown knob": (lambda record: record["profile"].update(gelu_mod="erf"), ["unknown key 'profile.gelu_mod'"]),
    "missing key": (lambda record: record.pop("rung"), ["rung", "required"]),
    "unknown rung": (lambda record: record.update(rung="f8"), ["rung", "f64"]),
    "digest of text": (lambda record: record["arrays"][0].update(sha256="x"), ["arrays.0.sha256"]),
    "newer schema": (lambda record: record.update(schema_version=2), ["schema_version 2", "reads 1", "update"]),
    "older schema": (lambda record: record.update(schema_version=0), ["schema_version 0", "reads 1"]),
    "no schema": (lambda record: record.pop("schema_version"), ["schema_version None"]),
    "unknown component": (lambda record: record.update(component="lair"), ["'lair'", "layer"]),
    "no case": (lambda record: record.update(case={}), ["a case is one JSON object"]),
    "alias of nothing": (
        lambda record: next(a for a in record["arrays"] if a["kept"] == "alias").update(alias_of="nobody"),
        ["alias of nothing"],
    ),
    "input of another shape": (
        lambda record: next(a for a in record["arrays"] if a["role"] == "input").update(sha256="0" * 64),
        ["input/x is not the array that its sha256 says"],
    ),
    "tensor not mentioned": (lambda record: record["tensors"].pop(), ["port/y is left over"]),
}


@pytest.mark.parametrize(("change", "words"), DOCTORED.values(), ids=DOCTORED)
def test_a_doctored_record_is_refused(change: Any, words: list[str], good: pack_module.Packed, tmp_path: Path) -> None:
    assert_refused(doctor(put(tmp_path, good), change), *words)


@pytest.mark.parametrize("text", [b"text", b"[1]", b"\xff", b"[" * 100_000])
def test_a_record_that_is_no_object_is_refused(text: bytes, good: pack_module.Packed, tmp_path: Path) -> None:
    assert_refused(rewrite(put(tmp_path, good), {"bundle.json": text}), "bundle.json")


@pytest.mark.parametrize("key", ["input/x", "parameter/mlp.wo.bias", "truth/mlp.act", "port/y"])
def test_a_tampered_tensor_is_refused(key: str, good: pack_module.Packed, tmp_path: Path) -> None:
    path = put(tmp_path, good)
    tensors = safetensors.numpy.load(members(path)["tensors.safetensors"])
    tensors[key] = np.array(tensors[key])
    tensors[key].flat[-1] += 1e-9
    assert_refused(
        rewrite(path, {"tensors.safetensors": safetensors.numpy.save(tensors)}), f"{key} is not the array", "changed"
    )


def test_a_tampered_window_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, packed_with(SKIP, LARGE_LAYER))
    tensors = safetensors.numpy.load(members(path)["tensors.safetensors"])
    windowed = next(tensor.name for tensor in read_bundle(path).record.tensors if tensor.kept == "windows")
    tensors[f"port/{windowed}"] = tensors[f"port/{windowed}"] * 2
    assert_refused(rewrite(path, {"tensors.safetensors": safetensors.numpy.save(tensors)}), f"port/{windowed} is not")


@pytest.mark.parametrize("data", [b"", b"text", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      x"])
def test_tensors_that_cannot_be_read_are_refused(data: bytes, good: pack_module.Packed, tmp_path: Path) -> None:
    assert_refused(rewrite(put(tmp_path, good), {"tensors.safetensors": data}), "tensors.safetensors")


def test_a_missing_and_a_left_over_tensor_are_named(good: pack_module.Packed, tmp_path: Path) -> None:
    path = put(tmp_path, good)
    tensors = safetensors.numpy.load(members(path)["tensors.safetensors"])
    tensors["truth/nobody"] = tensors.pop("truth/y")
    changed = rewrite(path, {"tensors.safetensors": safetensors.numpy.save(tensors)})
    assert_refused(changed, "truth/y is missing", "truth/nobody is left over")


def test_a_case_generator_that_has_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, packed_with(SKIP, LARGE_LAYER))
    monkeypatch.setattr("parity.cases.arrays.zlib.crc32", len)
    assert_refused(path, "drawn from seed 7 is not the one that failed", "mlx-parity 0.1.0")


def test_an_unpacked_bundle_is_read_like_the_file(good: pack_module.Packed, tmp_path: Path) -> None:
    path = put(tmp_path, good)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert read_bundle(tmp_path / "unpacked").record == read_bundle(path).record


def test_json_holds_only_what_json_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    monkeypatch.setattr("mlx_impl.fft_conv.fft_length", lambda length: 0 * length)
    text = members(put(tmp_path, packed(SMALL_LAYER)))["bundle.json"]
    assert json.loads(text, parse_constant=constant)["tensors"][0]["numbers"]["ratio"] == "Infinity"


def test_a_tensor_that_only_the_port_has_is_bundled(tmp_path: Path) -> None:
    bench, examination = examined(SMALL_LAYER)
    assert examination.port is not None
    extra = Trace({**examination.port.tensors, "extra": examination.port["y"]}, examination.port.outputs)
    judgements = {**examination.judgements, "extra": failed("the reference has no such tensor")}
    bundle = opened(tmp_path, pack(bench, CANONICAL, RUNGS["f64"], Examination(judgements, port=extra)))
    (tensor,) = bundle.record.tensors
    assert (tensor.name, tensor.truth, tensor.reference) == ("extra", None, None)
    assert set(bundle.tensors) & {array_key(side, "extra") for side in SIDES} == {"port/extra"}
    result = replay(bundle, pair_of(SMALL_LAYER))
    assert not result.same
    assert next(side.note for side in result.tensors[0].sides if side.side == "port") == "there is none now"


def test_a_case_of_another_seed_is_another_bundle() -> None:
    other = Case.make("layer", SMALL_LAYER.options, seed=8)
    assert packed_with(TANH, other).name != packed_with(TANH, SMALL_LAYER).name
