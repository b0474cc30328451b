"""Predictions kept between runs: the same bytes with them, and never those of something else."""

from __future__ import annotations

import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_pieces import invoke

from parity import examine as examination
from parity.backends.truth import UnstableTruthError, digest_of
from parity.cases import Case
from parity.errors import ConfigError, OutputError
from parity.examine import Bench, examine
from parity.metrics import error_of
from parity.pairs import Pair
from parity.predictions import NoPredictions, PredictionFile, identity_of, subject_of
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import PAIRS
from parity.tolerance import Factors

RUN = ("run", "blockdiag_linear", "mlp", "--profile", "canonical", "--rung", "f64,f32", "--budget", "quick")
F32 = RUNGS["f32"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    monkeypatch.setenv("CI", "1")


@pytest.fixture
def file(tmp_path: Path) -> PredictionFile:
    return PredictionFile.opened(tmp_path / "kept.sqlite", "identity")


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def pair_of(name: str = "mlp") -> Pair:
    return next(pair for pair in PAIRS if pair.name == name)


def case_of(pair: Pair, **changes: Any) -> Case:
    return replace(Case.make(pair.name, pair.corpus[0], seed=3), **changes)


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("computed again")


def judged(bench: Bench) -> str:
    return repr(examine(bench, CANONICAL, F32).judgements)


# Runs ---------------------------------------------------------------------------------------------------------------


def test_runs_write_the_same_bytes_without_a_file_with_an_empty_one_and_with_a_full_one() -> None:
    kept = ("--predictions", "kept.sqlite")
    outcomes = [
        invoke(*RUN, "--seed", "3", "--out", "0"),
        invoke(*RUN, "--seed", "3", "--out", "1", *kept),
        invoke(*RUN, "--seed", "3", "--out", "2", *kept),
        invoke(*RUN, "--seed", "3", "--out", "3", *kept, "--jobs", "2"),
    ]
    assert [outcome.status for outcome in outcomes] == [0, 0, 0, 0]
    assert contents("0") == contents("1") == contents("2") == contents("3")
    assert "parity: 0 predictions of this code and machine are kept in kept.sqlite" in outcomes[1].stderr
    assert "parity: 0 predictions" not in outcomes[2].stderr


def test_a_full_file_spares_the_perturbed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("--predictions", "kept.sqlite", "--seed", "3")
    assert invoke("run", "mlp", "--rung", "f32", "--budget", "quick", "--out", "1", *kept, "--jobs", "2").status == 0
    monkeypatch.setattr(examination, "predict_noise", refuse)
    monkeypatch.setattr(examination, "jitter_kappa", refuse)
    monkeypatch.setattr(examination, "compute_truth", refuse)
    monkeypatch.setattr("parity.run._PairRun._differentiated", lambda _: [])
    monkeypatch.setattr("parity.run._PairRun.assess_class", lambda *_: [])
    again = invoke("run", "mlp", "--rung", "f32", "--budget", "quick", "--out", "2", *kept, "--jobs", "1")
    assert again.status == 0, again.stderr


# Benches ------------------------------------------------------------------------------------------------------------


def test_a_judgement_is_the_same_from_what_is_kept(file: PredictionFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of()
    fresh = judged(Bench(pair, case_of(pair), CANONICAL))
    assert judged(Bench(pair, case_of(pair), CANONICAL, file=file)) == fresh
    monkeypatch.setattr(examination, "predict_noise", refuse)
    monkeypatch.setattr(examination, "jitter_kappa", refuse)
    assert judged(Bench(pair, case_of(pair), CANONICAL, file=file)) == fresh


def test_errors_of_the_reference_are_kept_for_the_answer_that_made_them(
    file: PredictionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_of()
    judged(Bench(pair, case_of(pair), CANONICAL, file=file))
    measured: list[str] = []
    monkeypatch.setattr(examination, "error_of", lambda *of: measured.append("") or error_of(*of))
    judged(Bench(pair, case_of(pair), CANONICAL, file=file))
    assert not measured
    bench, fresh = (Bench(pair, case_of(pair), CANONICAL, file=kept) for kept in (file, None))
    for other in (bench, fresh):
        next(other.modules.reference(F32).parameters()).data.mul_(1 + 2.0**-10)
    found = judged(bench)
    assert measured
    assert found == judged(fresh)


def other_weights(bench: Bench) -> Bench:
    bench.modules.module.get_parameter(next(iter(bench.state))).data.mul_(1 + 2.0**-20)
    bench.modules.state = {**bench.state, next(iter(bench.state)): next(iter(bench.state.values())) * (1 + 2.0**-20)}
    return Bench(bench.pair, bench.case, CANONICAL, modules=bench.modules)


def test_other_code_of_the_reference_or_another_package_empties_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    run = (
        "run",
        "blockdiag_linear",
        "--rung",
        "f32",
        "--budget",
        "quick",
        "--seed",
        "3",
        "--predictions",
        "kept.sqlite",
    )
    assert invoke(*run, "--out", "1").status == 0
    assert "parity: 0 predictions" not in invoke(*run, "--out", "2").stderr
    for name in ("parity.code.code_hash", "parity.predictions.packages_hash"):
        with monkeypatch.context() as other:
            other.setattr(name, lambda *_: "another")
            assert "parity: 0 predictions" in invoke(*run, "--out", "3").stderr
        assert "parity: 0 predictions" in invoke(*run, "--out", "4").stderr


@pytest.mark.parametrize("what", ["seed", "scale", "input", "weights", "meaning", "identity", "pair", "own", "factors"])
def test_nothing_is_taken_from_another_subject(
    what: str, file: PredictionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_of("layer")
    case = case_of(pair)
    first = Bench(pair, case, CANONICAL, file=file)
    assert first.kappa
    assert first.noise(F32)
    options: dict[str, Any] = {"file": file}
    profile = CANONICAL
    if what == "seed":
        case = replace(case, seed=4)
    elif what == "scale":
        case = replace(case, scale=3)
    elif what == "input":
        options["inputs"] = {name: array * (1 + 2.0**-20) for name, array in first.inputs.items()}
    elif what == "weights":
        options["modules"] = other_weights(first).modules
    elif what == "meaning":
        profile = CANONICAL.replace(gelu_mode="tanh")
    elif what == "identity":
        options["file"] = replace(file, identity=identity_of("another code"))
    elif what == "pair":
        pair = replace(pair, name="layer of another file", target="other.py::layer")
    elif what == "own":
        options["file"] = replace(file, own={pair.target: "another hash"})
    elif what == "factors":
        pair = replace(pair, factors=Factors((("exp", 2.0),), "measured.json"))
    asked: list[int] = []
    monkeypatch.setattr(examination, "predict_noise", lambda *_: asked.append(1) or {})
    Bench(pair, case, profile, **options).noise(F32)
    assert asked == [1]


def test_every_rung_number_of_draws_and_roundoff_of_factors_has_an_answer_of_its_own(file: PredictionFile) -> None:
    pair = pair_of()
    bench = Bench(pair, case_of(pair), CANONICAL, file=file)
    asked = [(F32, 8, 0.0), (F32, 2, 0.0), (RUNGS["f64"], 8, 0.0), (F32, 8, 2.0**-11)]
    first = [bench.noise(*question) for question in asked]
    again = Bench(pair, case_of(pair), CANONICAL, file=file)
    assert [again.noise(*question) for question in asked] == first
    assert len({repr(noise) for noise in first}) == len(asked)


@pytest.mark.parametrize("change", ["left out", "another format"])
def test_what_is_kept_does_not_bind_the_reference_at_its_rung(change: str, file: PredictionFile) -> None:
    pair = pair_of()
    bench = Bench(pair, case_of(pair), CANONICAL, file=file)
    whole = bench.reference(F32)
    name = next(name for name in whole if name not in whole.outputs)
    kept = dict(whole.tensors)
    if change == "left out":
        del kept[name]
    else:
        kept[name] = replace(kept[name], dtype="bfloat16")
    bench._references["f32"] = replace(whole, tensors=kept)
    assert bench.ground(F32, whole.outputs[-1])
    again, without = (Bench(pair, case_of(pair), CANONICAL, file=place) for place in (file, None))
    assert again.ground(F32, name) == without.ground(F32, name)
    assert judged(again) == judged(without)


def test_a_builder_that_changes_the_folder_does_not_move_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PredictionFile.opened(Path("kept.sqlite"), "identity")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.of("subject").keep("question", {"a": (1.0,)})
    assert file.answers() == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_file_that_was_deleted_meanwhile_is_an_error_and_not_made_anew(file: PredictionFile) -> None:
    file.path.unlink()
    with pytest.raises(OutputError, match="cannot be used"):
        file.of("subject").found("question")
    assert not file.path.exists()


def test_outputs_alone_and_no_extent_keep_nothing(file: PredictionFile) -> None:
    pair = pair_of()
    for options in ({"intermediates": False}, {"extent": False}):
        bench = Bench(pair, case_of(pair), CANONICAL, file=file, **options)
        assert bench.kappa
    assert file.answers() == 0


def test_a_truth_that_is_not_what_it_was_is_an_error(file: PredictionFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of()
    Bench(pair, case_of(pair), CANONICAL, file=file)
    run = Bench.__init__.__globals__["confirm_truth"].__globals__["run_reference"]

    def nudged(*arguments: Any) -> Any:
        trace = run(*arguments)
        name = trace.outputs[-1]
        moved = replace(trace[name], values=np.nextafter(trace[name].values, np.inf))
        return replace(trace, tensors={**trace.tensors, name: moved})

    monkeypatch.setattr("parity.backends.truth.run_reference", nudged)
    with pytest.raises(UnstableTruthError, match="is not what the same code made of the same numbers"):
        Bench(pair, case_of(pair), CANONICAL, file=file)


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_of_a_trace_sees_every_bit_name_and_order(seed: int) -> None:
    pair, generator = pair_of(), np.random.default_rng(seed)
    trace = Bench(pair, case_of(pair), CANONICAL).truth
    names = list(trace)
    name = names[generator.integers(len(names))]
    values = trace[name].values.copy()
    flat = values.reshape(-1).view(np.uint64)
    flat[generator.integers(flat.size)] ^= np.uint64(1) << np.uint64(generator.integers(64))
    changed = replace(trace, tensors={**trace.tensors, name: replace(trace[name], values=values)})
    swapped = replace(trace, tensors=dict(reversed(trace.tensors.items())))
    found = {digest_of(trace), digest_of(changed), digest_of(swapped), digest_of(replace(trace, tensors={}))}
    assert len(found) == 4
    assert digest_of(replace(trace, tensors=dict(trace.tensors))) == digest_of(trace)


def test_a_square_and_its_transpose_in_one_memory_have_hashes_of_their_own() -> None:
    pair = pair_of()
    trace = Bench(pair, case_of(pair), CANONICAL).truth
    square = np.arange(9.0).reshape(3, 3)
    one, other = (
        replace(trace, tensors={"a": replace(trace["y"], values=square), "b": replace(trace["y"], values=second)})
        for second in (square, square.T)
    )
    assert digest_of(one) != digest_of(other)


# Subjects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_a_subject_knows_words_names_shapes_dtypes_bits_and_groups(seed: int) -> None:
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((2, 3))
    flipped = array.copy()
    flipped.reshape(-1).view(np.uint64)[generator.integers(6)] ^= np.uint64(1) << np.uint64(generator.integers(64))
    subjects = [
        subject_of({"case": "1"}, {"a": array}, {}),
        subject_of({"case": "2"}, {"a": array}, {}),
        subject_of({"case": "1"}, {"b": array}, {}),
        subject_of({"case": "1"}, {"a": flipped}, {}),
        subject_of({"case": "1"}, {"a": array.reshape(3, 2)}, {}),
        subject_of({"case": "1"}, {"a": array.view(np.int64)}, {}),
        subject_of({"case": "1"}, {}, {"a": array}),
        subject_of({"case": "1"}, {"a": array, "b": array}, {}),
    ]
    assert len(set(subjects)) == len(subjects)
    assert subject_of({"case": "1"}, {"a": np.asfortranarray(array)}, {}) == subjects[0]


def test_negative_zero_is_another_number_than_zero() -> None:
    zeros = (np.zeros(1), -np.zeros(1))
    assert len({subject_of({}, {"a": zero}) for zero in zeros}) == 2


# The file -----------------------------------------------------------------------------------------------------------


def test_numbers_come_back_to_the_bit(file: PredictionFile) -> None:
    answer = {"a": (0.1, 2.0**-1074, 0.0), "b": (float("inf"),), "c": ()}
    file.of("subject").keep("question", answer)
    assert file.of("subject").found("question") == answer
    assert file.of("subject").found("another") is None
    assert file.of("another").found("question") is None
    assert NoPredictions().found("question") is None


def test_what_another_code_kept_is_forgotten(file: PredictionFile) -> None:
    file.of("subject").keep("question", {"a": (1.0,)})
    assert PredictionFile.opened(file.path, "identity").answers() == 1
    assert PredictionFile.opened(file.path, "another").answers() == 0


def test_an_answer_that_lost_a_bit_is_an_error(file: PredictionFile) -> None:
    file.of("subject").keep("question", {"a": (1.5,)})
    with sqlite3.connect(file.path) as store:
        store.execute("UPDATE answers SET answer = replace(answer, '1.5', '7.5')")
    with pytest.raises(ConfigError, match="damaged: an answer is not what was kept; choose another file with --predic"):
        file.of("subject").found("question")


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be one" * 40, b"{}"])
def test_another_file_is_refused_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no file of predictions"):
        PredictionFile.opened(path, "identity")
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE runs (id)")
    with pytest.raises(ConfigError, match="is no file of predictions of this version"):
        PredictionFile.opened(path, "identity")


def test_a_folder_is_one_line_and_exit_status_2() -> None:
    Path("folder").mkdir()
    with pytest.raises(OutputError, match="cannot be used"):
        PredictionFile.opened(Path("folder"), "identity")
    outcome = invoke(*RUN, "--seed", "3", "--out", "out", "--predictions", "folder")
    assert outcome.status == 2
    assert "choose another file with --predictions" in outcome.stderr
    assert not Path("out", "summary.json").exists()


def test_the_state_of_torch_does_not_leak_into_what_is_kept(file: PredictionFile) -> None:
    """The draws have a generator of their own: what was drawn before changes nothing."""
    pair = pair_of()
    one = Bench(pair, case_of(pair), CANONICAL, file=file).noise(F32)
    torch.manual_seed(99)
    torch.rand(7)
    assert Bench(pair, case_of(pair), CANONICAL).noise(F32) == one
