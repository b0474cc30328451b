"""The command line: one line and status 2 for every mistake, the same bytes for the same seed, no litter."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import POOLER_CASE, Finished, clean_environment, invoke, parity
from planted_faults import PLANTED_FAULTS

from parity import cli
from parity.files import JOURNAL
from parity.report import REPORT_FILES
from parity.spec.profile import profile_names, variant_names
from parity.suites import PAIRS

UNFINISHED = "no report was written; --resume goes on with what is finished"
ROOT = Path(__file__).parents[2]
COMMANDS: tuple[list[str], ...] = ([], ["run"], ["golden"], ["env"], ["float64"], ["calibrate"], ["replay"])
SMALL = ("run", "pooler", "--rung", "f32", "--budget", "quick")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["parity"])
    for name in ("CI", "MLX_M2_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def case(**changes: Any) -> str:
    given = {**json.loads(POOLER_CASE), **changes}
    return json.dumps({key: value for key, value in given.items() if value is not None})


# Mistakes ---------------------------------------------------------------------------------------------------------


def assert_one_line(outcome: Finished, *words: str) -> None:
    lines = outcome.stderr.splitlines()
    assert outcome.status == 2
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("parity: ")
    assert [word for word in words if word not in lines[0]] == []
    assert outcome.stdout == ""


MISTAKES = {
    "profile typo": (["run", "pooler", "--profile", "mlx_stabel"], ["'mlx_stabel'", *profile_names()]),
    "profile file missing": (["run", "pooler", "--profile", "no/such.json"], ["no/such.json", "No such file"]),
    "profile file with unknown key": (["run", "pooler", "--profile", "typo.json"], ["gelu_mod'", "gelu_mode"]),
    "profile file with unknown value": (["run", "pooler", "--profile", "value.json"], ["erff", "erf, tanh"]),
    "profile file not JSON": (["run", "pooler", "--profile", "file.json"], ["file.json", "not JSON"]),
    "profile file that is a folder": (["run", "pooler", "--profile", "./folder"], ["folder", "Is a directory"]),
    "unknown target": (["run", "poller"], ["'poller'", *(pair.name for pair in PAIRS)]),
    "unknown rung": (["run", "pooler", "--rung", "f32,f128"], ["'f128'", "f64, f32, bf16, f16"]),
    "case not JSON": (["run", "pooler", "--case", "{"], ["not JSON", "'{'"]),
    "case not an object": (["run", "pooler", "--case", "[1]"], ["one JSON object", "'[1]'"]),
    "case without a seed": (["run", "pooler", "--case", case(seed=None)], ["seed"]),
    "case without a target": (["run", "--case", POOLER_CASE], ["exactly one TARGET", "got 0"]),
    "case with two targets": (["run", "pooler", "mlp", "--case", POOLER_CASE], ["exactly one TARGET", "got 2"]),
    "case without a size": (["run", "pooler", "--case", case(L=None)], ["lacks 'L'"]),
    "case with a size of text": (["run", "pooler", "--case", case(L="x")], ["pooler", '"L":"x"']),
    "case with a negative size": (["run", "pooler", "--case", case(L=-1)], ["pooler", '"L":-1']),
    "case with an unknown size": (["run", "pooler", "--case", case(hiden_size=8)], ["'hiden_size'"]),
    "case with an unknown family": (["run", "pooler", "--case", case(family="normaal")], ["'normaal'", "normal"]),
    "case with an unknown rung": (["run", "pooler", "--case", case(ladder="f64,f8")], ["f64,f8", "bf16"]),
    "case with a negative seed": (["run", "pooler", "--case", case(seed=-1)], ["not negative", "-1"]),
    "case with a nested value": (["run", "pooler", "--case", case(L=[3])], ["plain values", "[3]"]),
    "case of another target": (["run", "fftconv", "--case", POOLER_CASE], ["fftconv", "lacks"]),
    "output under a file": (["run", "pooler", "--out", "file.json/out"], ["file.json/out", "Not a directory", "--out"]),
    "output is a file": (["run", "pooler", "--out", "file.json"], ["file.json", "--out"]),
    "golden folder missing": (["golden", "no/such"], ["no/such"]),
    "golden folder is a file": (["golden", "file.json"], ["file.json"]),
}


@pytest.fixture
def files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.json").write_text("text", encoding="utf-8")
    (tmp_path / "typo.json").write_text('{"name": "mine", "gelu_mod": "erf"}', encoding="utf-8")
    (tmp_path / "value.json").write_text('{"name": "mine", "gelu_mode": "erff"}', encoding="utf-8")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it_and_status_2(arguments: list[str], words: list[str]) -> None:
    assert_one_line(invoke(*arguments), *words)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("mistake", ["profile typo", "case without a size", "output under a file"])
def test_a_process_of_its_own_answers_the_same(mistake: str, tmp_path: Path) -> None:
    arguments, words = MISTAKES[mistake]
    assert_one_line(parity(*arguments, folder=tmp_path), *words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(case(scale=5000), "scale 5000", id="scale beyond float64"),
        pytest.param(case(family=["normal"]), "unknown family ['normal']", id="family is a list"),
        pytest.param(case(L=10**15), "pooler cannot be built", id="size beyond memory"),
    ],
)
def test_a_case_that_cannot_be_drawn_is_one_line(value: str, words: str) -> None:
    assert_one_line(invoke("run", "pooler", "--case", value), words)


def test_a_misspelt_switch_of_a_leaf_is_refused() -> None:
    sizes = {"batch": 1, "L": 2, "in_features": 4, "out_features": 4, "nblocks": 2, "bias": True, "shufle": True}
    common = {"family": "normal", "scale": 0, "seed": 0, "ladder": "f64"}
    outcome = invoke("run", "blockdiag_linear", "--case", json.dumps({**sizes, "shuffle": False, **common}))
    assert_one_line(outcome, "shufle")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["run", "--budget", "huge"], ["--budget", "huge", "thorough"], id="budget"),
        pytest.param(["run", "--seed", "-1"], ["--seed"], id="negative seed"),
        pytest.param(["run", "--seed", "x"], ["--seed"], id="seed of text"),
        pytest.param(["run", "--profil", "all"], ["--profil"], id="option"),
        pytest.param(["rum"], ["rum"], id="command"),
        pytest.param(["golden"], ["DIR"], id="argument missing"),
    ],
)
def test_what_the_parser_refuses_is_explained_with_status_2(arguments: list[str], words: list[str]) -> None:
    outcome = invoke(*arguments)
    assert outcome.status == 2
    assert [word for word in words if word not in outcome.stderr] == []
    assert "Traceback" not in outcome.stderr


def test_a_bad_profile_runs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    invoke("run", "pooler", "--profile", "mlx_stabel", "--out", "out")
    assert list(tmp_path.iterdir()) == []


# Profile from the environment -------------------------------------------------------------------------------------


def summary_of(folder: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return parsed


def profiles_of(folder: Path) -> set[str]:
    return {distance["profile"] for distance in summary_of(folder)["fidelity"]}


def test_the_profile_of_the_environment_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "torch_like")
    assert invoke(*SMALL, "--out", "out").status == 0
    assert profiles_of(tmp_path / "out") == {"torch_like"}


def test_a_typo_in_the_environment_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "torch_lik")
    assert_one_line(invoke(*SMALL), "'torch_lik'", "torch_like")


def test_an_option_precedes_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_M2_PROFILE", "torch_lik")
    assert invoke(*SMALL, "--profile", "canonical", "--out", "out").status == 0
    assert profiles_of(tmp_path / "out") == {"canonical"}


def test_without_either_the_default_is_mlx_stable(tmp_path: Path) -> None:
    assert invoke(*SMALL, "--out", "out").status == 0
    assert profiles_of(tmp_path / "out") == {"mlx_stable"}


# Exit status ------------------------------------------------------------------------------------------------------


def test_a_run_that_compares_nothing_exits_3_and_says_why() -> None:
    outcome = invoke("run", "hyena_buffers", "--rung", "f64", "--out", "out")
    assert outcome.status == 3
    assert "NOTHING COMPARED: 0 tensors, 0 elements compared" in outcome.stdout
    assert "skipped 1 combinations of component, profile and rung (f64): freshly built buffers" in outcome.stdout


def test_a_case_that_does_not_run_on_the_rung_says_so() -> None:
    outcome = invoke("run", "pooler", "--rung", "f16", "--case", POOLER_CASE)
    assert outcome.status == 3
    assert "f16" in outcome.stdout


def test_an_empty_golden_folder_exits_3(tmp_path: Path) -> None:
    outcome = invoke("golden", str(tmp_path))
    assert (outcome.status, outcome.stdout) == (3, "0 files: 0 ok, 0 MISS, 0 BAD\n")


def test_a_folder_with_a_bad_golden_file_exits_2_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("text", encoding="utf-8")
    outcome = invoke("golden", str(tmp_path))
    assert outcome.status == 2
    assert outcome.stdout.startswith("BAD   text.safetensors: ")


def test_a_passing_golden_folder_exits_0_in_text_and_in_json(tmp_path: Path) -> None:
    name = "blockdiag_linear_0.safetensors"
    (tmp_path / name).write_bytes((ROOT / "tests" / "data" / "goldens" / name).read_bytes())
    text, structured = invoke("golden", str(tmp_path)), invoke("golden", str(tmp_path), "--json")
    assert (text.status, structured.status) == (0, 0)
    assert text.stdout.startswith(f"ok    {name}")
    report = json.loads(structured.stdout)[0]
    assert (report["file"], report["status"]) == (name, "ok")
    assert report["checks"]


def test_a_failing_run_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    next(fault for fault in PLANTED_FAULTS if "tanh" in fault.name).plant(monkeypatch)
    outcome = invoke("run", "mlp", "--rung", "f64", "--budget", "quick", "--seed", "0", "--out", "out")
    assert outcome.status == 1
    assert "FAIL mlp mlx_stable f64: first bad tensor act" in outcome.stdout


# Help and environment ---------------------------------------------------------------------------------------------

OPTIONS = {
    "": ["run", "golden", "env", "float64", "calibrate", "replay"],
    "run": ["TARGET", "--profile", "--rung", "--budget", "--seed", "--case", "--out"],
    "golden": ["DIR", "--json"],
    "calibrate": ["TARGET", "--profile", "--runs", "--seed", "--jobs", "--log", "--json"],
    "replay": ["BUNDLE", "--side", "--json"],
    "env": ["--json", "--survey"],
    "float64": ["--json", "--seed"],
}


def test_what_says_nothing_or_was_not_compared_stands_in_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.verdict._zeros_would_pass", lambda *_: True)
    monkeypatch.setattr("parity.strata.out_of_range", lambda bench, rung: "planted" if bench.case.seed % 3 == 0 else "")
    outcome = invoke(*SMALL, "--seed", "0")
    accuracy, verdict = outcome.stdout.splitlines()[-2:]
    assert accuracy == (
        "accuracy: 1 strata, 10 cases, 0 less accurate than the reference; not compared: 0 strata, 6 cases"
    )
    assert "tensors ill-conditioned" in verdict


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "parity")
def test_help_names_every_option(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = invoke(*command, "--help")
    assert outcome.status == 0
    assert [word for word in OPTIONS["".join(command)] if word not in outcome.stdout] == []


def test_the_environment_is_json_and_tf32_is_off_unless_the_user_turned_it_on(tmp_path: Path) -> None:
    for given, expected in (({}, "0"), ({"MLX_ENABLE_TF32": "1"}, "1")):
        outcome = parity("env", "--json", folder=tmp_path, **given)
        assert (outcome.status, outcome.stderr) == (0, "")
        assert json.loads(outcome.stdout)["environment"]["switches"]["MLX_ENABLE_TF32"] == expected


def test_the_environment_is_readable_too() -> None:
    outcome = invoke("env")
    assert outcome.status == 0
    assert all(word in outcome.stdout for word in ("torch", "mlx", "MLX_ENABLE_TF32"))


# Reproducibility --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_another_seed_others(tmp_path: Path) -> None:
    outcomes = [
        parity(*SMALL, "--seed", seed, "--out", out, folder=tmp_path)
        for seed, out in (("1", "one"), ("1", "again"), ("2", "two"))
    ]
    assert [outcome.status for outcome in outcomes] == [0, 0, 0]
    one, again, two = ((tmp_path / out / "layers.csv").read_bytes() for out in ("one", "again", "two"))
    assert one == again
    assert one != two
    assert all(outcome.stderr == "" for outcome in outcomes), "a progress bar or a warning, although piped"
    assert all(outcome.stdout.count("\n") == 2 for outcome in outcomes), "one line of accuracy, one of verdict"


def test_a_random_seed_is_recorded_and_repeats_the_run(tmp_path: Path) -> None:
    assert invoke(*SMALL, "--out", "first").status == 0
    seed = summary_of(tmp_path / "first")["seed"]
    assert invoke(*SMALL, "--out", "second", "--seed", str(seed)).status == 0
    first, second = ((tmp_path / out / "layers.csv").read_bytes() for out in ("first", "second"))
    assert first == second


def test_the_seed_differs_from_run_to_run_outside_ci_and_is_0_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({cli._seed(None) for _ in range(8)}) > 1
    monkeypatch.setenv("CI", "true")
    assert {cli._seed(None) for _ in range(8)} == {0}
    assert cli._seed(7) == 7


def test_in_ci_the_report_records_seed_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert invoke(*SMALL, "--out", "out").status == 0
    assert summary_of(tmp_path / "out")["seed"] == 0


def test_a_single_case_writes_no_report_unless_asked(tmp_path: Path) -> None:
    outcome = invoke("run", "pooler", "--case", POOLER_CASE)
    assert outcome.status == 0
    gradients = [f"gradient of {name}" for name in ("input x", "dense.weight", "dense.bias")]
    assert [
        line.partition("error/allowed")[0].strip().split(maxsplit=2) for line in outcome.stdout.splitlines()[:10]
    ] == [["ok", rung, tensor] for rung in ("f64", "f32") for tensor in ("dense", "y", *gradients)]
    assert not (tmp_path / "reports").exists()


def test_a_run_writes_nowhere_but_into_its_output_folder(tmp_path: Path) -> None:
    assert parity(*SMALL, "--out", "out", folder=tmp_path).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_by_default_the_report_goes_to_reports_latest(tmp_path: Path) -> None:
    assert invoke(*SMALL).status == 0
    assert {path.name for path in (tmp_path / "reports" / "latest").iterdir()} == set(REPORT_FILES)


def test_a_rung_named_twice_counts_once(tmp_path: Path) -> None:
    for out, rungs in (("once", ["--rung", "f64"]), ("twice", ["--rung", "f64,f64", "--rung", "f64"])):
        assert invoke("run", "pooler", *rungs, "--budget", "quick", "--seed", "0", "--out", out).status == 0
    once, twice = ((tmp_path / out / "layers.csv").read_bytes() for out in ("once", "twice"))
    assert once == twice


# Interruption -----------------------------------------------------------------------------------------------------

INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from parity.cli import main; main()"
)


def test_an_interrupted_run_exits_130_and_leaves_what_is_finished_and_no_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "run", "mlp", "--budget", "thorough", "--seed", "0", "--out", str(out)],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not out.is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stdout, stderr) == (130, "", f"parity: interrupted; {UNFINISHED}\n")
    assert [path.name for path in out.iterdir()] == [JOURNAL]


@pytest.mark.parametrize(
    ("command", "interrupted", "left"),
    [
        ("golden no/such", "parity.golden.golden_files", "no file was judged"),
        ("env", "parity.environment.collect", "nothing was measured"),
        ("float64", "parity.suites.third_party.examine_modules", "no layer was judged"),
        ("calibrate pooler --runs 1", "parity.calibrate_command.calibrate_seed", "no run was finished"),
        ("laws pooler --law zero --seed 0", "parity.laws.check_law", "not every law was checked"),
        ("oracle", "parity.suites.m2_bert_oracles.try_leaf", "not every leaf was tried"),
        ("extremes", "parity.suites.m2_bert_extremes.ask", "no question was answered"),
        ("attribute pooler", "parity.attribution.attribute", "no meaning was found"),
        ("replay no/such", "parity.replay.bundle.read_bundle", "the bundle was not compared"),
    ],
)
def test_an_interruption_says_what_it_leaves_undone(
    command: str, interrupted: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted, interrupt)
    assert invoke(*command.split()) == Finished(130, "", f"parity: interrupted; {left}\n")


def test_an_interrupted_run_leaves_no_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    assert invoke(*SMALL, "--out", "out", "--seed", "0").status == 0
    monkeypatch.setattr("parity.run.execute", interrupted)
    outcome = invoke(*SMALL, "--out", "out", "--seed", "1")
    assert outcome == Finished(130, "", f"parity: interrupted; {UNFINISHED}\n")
    assert "summary.json" not in {path.name for path in (tmp_path / "out").iterdir()}


def test_the_variants_are_chosen_together() -> None:
    assert tuple(cli._profiles("variants")) == variant_names()
    assert tuple(cli._profiles("all")) == profile_names()
    assert tuple(cli._profiles("monarch")) == ("monarch",)
