"""False alarms counted: pooled figures, their bounds, the command in text and JSON, its log, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import Finished, clean_environment, invoke
from planted_faults import PLANTED_FAULTS
from rich.progress import Progress

from mlx_impl import ops
from parity import calibrate_command
from parity.accuracy import Ratio, Stratum, judge_ratios, skipped_stratum
from parity.calibrate import Calibration, CalibrationRun, StratumFigures, calibrate_seed
from parity.calibrate_command import CalibrationPlan, run_calibration
from parity.calibration_log import header_of, open_log
from parity.code import PACKAGES, SUFFIXES, code_hash
from parity.errors import CalibrationError, OutputError
from parity.spec.profile import CANONICAL, load_profile
from parity.suites import select

STRATUM = Stratum("pooler", "canonical", "f32", "any", "normal")
OTHER = dataclasses.replace(STRATUM, family="tone")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def figures(mean: float = 0.1, spread: float = 0.2, stratum: Stratum = STRATUM, **more: Any) -> StratumFigures:
    return StratumFigures(
        **{"margin": 1.0, "cases": 6, "largest": mean, **more}, stratum=stratum, mean=mean, spread=spread
    )


def run_of(seed: int, *strata: StratumFigures, alarms: tuple[str, ...] = ()) -> CalibrationRun:
    return CalibrationRun(seed, strata or (figures(),), 1, 2, alarms)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# What is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [figures(math.inf, math.inf), figures(math.inf, math.inf, cases=1), figures(0.0, math.nan), figures(0, 0, cases=0)],
    ids=["infinite r", "one case", "no spread", "no case"],
)
def test_a_stratum_without_a_finite_mean_is_a_certain_alarm(bad: StratumFigures) -> None:
    calibration = Calibration([run_of(0), run_of(1, bad)]) if bad.cases else Calibration([run_of(1, bad)])
    (summary,) = calibration.strata()
    assert (summary.mean, summary.spread, summary.alarm) == (math.inf, math.inf, 1.0)
    assert calibration.probability == 1.0


def test_probabilities_add_up_to_no_more_than_one() -> None:
    bad = [figures(math.inf, math.inf, stratum=stratum) for stratum in (STRATUM, OTHER)]
    assert Calibration([run_of(0, *bad)]).probability == 1.0


def test_pooling_the_figures_of_runs_is_pooling_their_cases() -> None:
    bits = [0.1, 0.4, 0.2, 0.9, 0.3, 0.35, 0.8]
    runs = []
    for seed, sample in enumerate((bits[:4], bits[4:])):
        judged = judge_ratios(STRATUM, 1.0, [Ratio(value, False, "{}") for value in sample])
        runs.append(run_of(seed, figures(judged.mean, judged.spread, cases=judged.cases, largest=judged.largest)))
    (summary,) = Calibration(runs).strata()
    whole = judge_ratios(STRATUM, 1.0, [Ratio(value, False, "{}") for value in bits])
    assert summary.mean == pytest.approx(whole.mean, rel=1e-12)
    assert summary.spread == pytest.approx(whole.spread, rel=1e-12)
    assert (summary.cases, summary.largest, summary.runs) == (7, 0.9, 2)


@pytest.mark.parametrize(("runs", "accused"), [(1, 0), (20, 0), (1000, 0), (20, 3), (5, 5), (0, 0)])
def test_the_rate_bound_is_clopper_and_pearsons(runs: int, accused: int) -> None:
    counted = [run_of(seed, alarms=("a", "b") if seed < accused else ()) for seed in range(runs)]
    bound = Calibration(counted).rate_bound
    if accused == runs:
        assert bound == 1.0
        return
    at_bound = math.fsum(math.comb(runs, k) * bound**k * (1 - bound) ** (runs - k) for k in range(accused + 1))
    assert at_bound == pytest.approx(0.05, rel=1e-9)
    if accused == 0:
        assert bound == pytest.approx(1 - 0.05 ** (1 / runs), rel=1e-9)


def test_a_stratum_skipped_in_every_run_is_named_and_not_counted() -> None:
    skipped = figures(0, 0, OTHER, cases=0, skipped="out of range")
    calibration = Calibration([run_of(0, figures(), skipped), run_of(1, figures(), skipped)])
    assert [summary.stratum for summary in calibration.strata()] == [STRATUM]
    assert calibration.never_compared() == [OTHER]
    assert Calibration([run_of(0, skipped), run_of(1, figures(stratum=OTHER))]).never_compared() == []


def test_a_skipped_assessment_stays_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assessments = [skipped_stratum(STRATUM, 1.0, "out of range", 6), judge_ratios(OTHER, 1.0, [])]
    monkeypatch.setattr("parity.calibrate.assess_pair", lambda *_: iter(assessments))
    run = calibrate_seed(select(["pooler"]), [CANONICAL], 0)
    assert [each.skipped for each in run.strata] == ["out of range", ""]
    assert len(run.alarms) == 1


# The command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_counted_and_what_follows() -> None:
    outcome = invoke("calibrate", "monarch_multiply", "--runs", "2")
    lines = outcome.stdout.splitlines()
    assert (outcome.status, outcome.stderr) == (0, "")
    assert len([line for line in lines if line.startswith("monarch_multiply canonical ")]) == 12
    assert lines[-2].startswith(
        "2 runs, profile canonical: 0 false alarms, in at most 77.6 % of runs with 95 % confidence; 15 strata, "
    )
    assert lines[-2].endswith("2 examinations, 2 tensors under the absolute gates, profile canonical")
    assert lines[-1].startswith("computed from the strata, profile canonical: a run has a false alarm with a probab")
    assert "of at most 0.0e+00" in lines[-1]


def test_two_processes_find_what_one_finds() -> None:
    one, two = (invoke("calibrate", "monarch_multiply", "--runs", "3", "--jobs", jobs, "--json") for jobs in ("1", "2"))
    assert (one.status, two.status) == (0, 0)
    assert strict(one.stdout) == strict(two.stdout)
    assert strict(one.stdout)["runs"] == 3


def test_a_wrong_port_is_accused_and_the_status_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    next(fault for fault in PLANTED_FAULTS if "tanh" in fault.name).plant(monkeypatch)
    outcome = invoke("calibrate", "mlp", "--runs", "1", "--seed", "4")
    assert outcome.status == 1
    alarms = [line for line in outcome.stdout.splitlines() if line.startswith("FALSE ALARM seed 4: ")]
    assert alarms
    assert f"1 runs, profile canonical: {len(alarms)} false alarms, in at most 100 % of runs" in outcome.stdout
    assert "with a probability of at most 1.0e+00" in outcome.stdout


def test_a_port_that_raises_is_a_certain_alarm_and_the_json_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ops.Ops, x: Any) -> Any:
        raise ValueError("planted")

    monkeypatch.setattr(ops.Ops, "tanh", broken)
    outcome = invoke("calibrate", "pooler", "--runs", "2", "--json", "--log", "log.jsonl")
    document = strict(outcome.stdout)
    assert outcome.status == 1
    assert len(document["false_alarms"]) >= 15
    assert document["probability_per_run_at_most"] == 1.0
    assert {(row["mean"], row["spread"], row["alarm"]) for row in document["strata"]} == {("infinity", "infinity", 1.0)}
    again = invoke("calibrate", "pooler", "--runs", "2", "--json", "--log", "log.jsonl")
    assert again == outcome, "read from the log"


def test_a_component_without_strata_is_not_green() -> None:
    outcome = invoke("calibrate", "hyena_buffers", "--runs", "1")
    assert outcome.status == 3
    assert outcome.stdout.splitlines()[0] == "no stratum tested of hyena_buffers"
    assert outcome.stdout.splitlines()[-1] == "NOTHING COMPARED: no stratum was tested"
    document = strict(invoke("calibrate", "hyena_buffers", "--runs", "1", "--json").stdout)
    assert (document["strata"], document["probability_per_run_at_most"]) == ([], None)
    assert document["components_without_strata"] == ["hyena_buffers"]


def test_profiles_are_named() -> None:
    outcome = invoke(
        "calibrate", "monarch_multiply", "--runs", "1", "--profile", "torch_like", "--profile", "canonical"
    )
    assert "1 runs, profile torch_like, canonical: " in outcome.stdout
    assert "under the absolute gates, profile torch_like\n" in outcome.stdout
    assert "computed from the strata, profile torch_like, canonical: " in outcome.stdout


# The log ----------------------------------------------------------------------------------------------------------

POOLER = ("calibrate", "pooler", "--log", "logs/log.jsonl")
LOG = Path("logs/log.jsonl")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs that cost nothing; the seeds that were really run."""
    seeds: list[int] = []

    def run(pairs: object, profiles: object, seed: int, check: object) -> CalibrationRun:
        seeds.append(seed)
        return run_of(seed, figures(0.1 + seed / 3), figures(math.inf, math.inf, OTHER))

    monkeypatch.setattr(calibrate_command, "calibrate_seed", run)
    return seeds


def test_finished_runs_are_not_run_again_and_all_are_counted(counted: list[int]) -> None:
    assert "3 runs, " in invoke(*POOLER, "--runs", "3").stdout
    assert "5 runs, " in invoke(*POOLER, "--runs", "3", "--seed", "2").stdout
    assert counted == [0, 1, 2, 3, 4]
    from_log = invoke(*POOLER, "--runs", "5", "--json")
    assert counted == [0, 1, 2, 3, 4]
    without = invoke("calibrate", "pooler", "--runs", "5", "--json")
    assert from_log == without


def test_half_a_line_at_the_end_is_dropped_and_run_again(counted: list[int]) -> None:
    whole = invoke(*POOLER, "--runs", "3", "--json")
    data = LOG.read_bytes()
    lines = data.splitlines(keepends=True)
    for cut in (1, 2, len(lines[-1]) // 2, len(lines[-1]) - 1):
        LOG.write_bytes(data[:-cut])
        counted.clear()
        assert invoke(*POOLER, "--runs", "3", "--json") == whole
        assert counted == [2]
        assert LOG.read_bytes() == data


def test_half_a_header_begins_the_log_anew(counted: list[int]) -> None:
    invoke(*POOLER, "--runs", "1")
    data = LOG.read_bytes()
    for length in (0, 1, data.index(b"\n")):
        LOG.write_bytes(data[:length])
        invoke(*POOLER, "--runs", "1")
        assert LOG.read_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "change", "words"),
    [
        (["mlp"], {}, ["components was pooler, is mlp"]),
        (["pooler", "--profile", "torch_like"], {}, ["profiles was canonical, is torch_like"]),
        (["pooler"], {"code": "0123"}, ["code was 0123, is "]),
        (["pooler"], {"format": 0}, ["format was 0, is 1"]),
        (["pooler"], {"versions": {"torch": "0.1"}}, ["versions torch was 0.1, is "]),
        (
            ["pooler"],
            {"profiles": [{"name": "canonical", "gelu_mode": "x"}]},
            ["profiles canonical gelu_mode was x, is"],
        ),
    ],
    ids=["component", "profile", "code", "format", "version", "knob"],
)
def test_a_log_of_something_else_is_refused_in_one_line(
    arguments: list[str], change: dict[str, Any], words: list[str], counted: list[int]
) -> None:
    invoke(*POOLER, "--runs", "1")
    first, rest = LOG.read_text(encoding="utf-8").split("\n", 1)
    LOG.write_text(json.dumps({**json.loads(first), **change}) + "\n" + rest, encoding="utf-8")
    before = LOG.read_bytes()
    outcome = invoke("calibrate", *arguments, "--log", str(LOG))
    assert (outcome.status, outcome.stdout, counted) == (2, "", [0])
    assert outcome.stderr.startswith("parity: log 'logs/log.jsonl' belongs to another calibration: ")
    assert outcome.stderr.count("\n") == 1
    assert [word for word in [*words, "--log", "delete"] if word not in outcome.stderr] == []
    assert LOG.read_bytes() == before


@pytest.mark.parametrize("text", ["notes", "notes\n", "[1]\n", '{"log": "x"}\n', "[" * 100_000 + "\n"])
def test_a_file_that_is_no_log_is_left_as_it_is(text: str, counted: list[int]) -> None:
    Path("notes.txt").write_text(text, encoding="utf-8")
    outcome = invoke("calibrate", "pooler", "--log", "notes.txt")
    assert (outcome.status, counted) == (2, [])
    assert outcome.stderr == ("parity: 'notes.txt' is no log of `parity calibrate`; choose another file with --log\n")
    assert Path("notes.txt").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("line", ["{}", "x", '{"seed":1,"cases":1,"tensors":1,"alarms":[],"strata":[["a",1]]}'])
def test_a_damaged_line_is_named(line: str, counted: list[int]) -> None:
    invoke(*POOLER, "--runs", "2")
    lines = LOG.read_text(encoding="utf-8").splitlines()
    LOG.write_text("\n".join([lines[0], lines[1], line, lines[2]]) + "\n", encoding="utf-8")
    outcome = invoke(*POOLER, "--runs", "2")
    assert (outcome.status, outcome.stderr.count("\n")) == (2, 1)
    assert "is damaged: line 3 is no run" in outcome.stderr


def test_a_log_in_use_and_one_that_cannot_be_written_are_refused(counted: list[int]) -> None:
    invoke(*POOLER, "--runs", "1")
    with LOG.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is in use by another process" in invoke(*POOLER, "--runs", "2").stderr
    for path in ("logs", "logs/log.jsonl/log"):
        outcome = invoke("calibrate", "pooler", "--log", path)
        assert (outcome.status, outcome.stderr.count("\n")) == (2, 1)
        assert "cannot be written" in outcome.stderr


def test_a_full_disk_is_one_line_too(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    invoke(*POOLER, "--runs", "1")
    monkeypatch.setattr("parity.journal._write", full)
    outcome = invoke(*POOLER, "--runs", "3")
    assert (outcome.status, outcome.stderr.count("\n"), counted) == (2, 1, [0, 1])
    assert "'logs/log.jsonl' cannot be written: No space left on device" in outcome.stderr


def test_an_endless_file_is_no_log(counted: list[int]) -> None:
    outcome = invoke("calibrate", "pooler", "--log", "/dev/zero")
    assert (outcome.status, counted) == (2, [])
    assert "is no log" in outcome.stderr


def test_a_run_comes_back_from_the_log_as_it_was(tmp_path: Path) -> None:
    header = header_of(select(["pooler"]), [CANONICAL])
    runs = [
        run_of(7, figures(0.1 + 0.2, 1 / 3), figures(math.inf, math.inf, OTHER), alarms=("a 'quoted' ü",)),
        run_of(2**31, figures(0, 0, OTHER, cases=0, skipped="out of range")),
    ]
    with open_log(tmp_path / "log", header) as log:
        assert log.runs == []
        for run in runs:
            log.append(run)
            assert (tmp_path / "log").read_bytes().endswith(b"\n"), "flushed after each run"
    with open_log(tmp_path / "log", header) as log:
        assert log.runs == runs


def test_the_header_knows_code_components_profiles_and_packages() -> None:
    one, other = select(["pooler"]), select(["mlp"])
    profile = load_profile("torch_like")
    assert header_of(one, [CANONICAL]) == header_of(one, [CANONICAL])
    assert header_of(one, [CANONICAL]) != header_of(other, [CANONICAL])
    assert header_of(one, [CANONICAL]) != header_of(one, [profile])
    assert {"torch", "mlx", "numpy", "hypothesis", "mlx-parity"} <= header_of(one, [CANONICAL])["versions"].keys()


def test_any_changed_file_of_the_packages_changes_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "package" / "inner"
    source.mkdir(parents=True)
    (source / "module.py").write_text("1", encoding="utf-8")
    monkeypatch.setattr("parity.code.resources.files", lambda _: tmp_path / "package")
    hashes = [code_hash()]
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "module.pyc").write_text("x", encoding="utf-8")
    for name in (".module.py.swp", ".#module.py", ".DS_Store", "module.py~", "#module.py#", "module.orig"):
        (source / name).write_text("x", encoding="utf-8")
    (source / ".cache").mkdir()
    (source / ".cache" / "module.py").write_text("x", encoding="utf-8")
    assert code_hash() == hashes[0]
    (source / "module.py").write_text("2", encoding="utf-8")
    hashes.append(code_hash())
    (source / "module.py").rename(source / "renamed.py")
    hashes.append(code_hash())
    (source / "profile.json").write_text("{}", encoding="utf-8")
    hashes.append(code_hash())
    assert len(set(hashes)) == 4


def test_every_kind_of_file_that_the_packages_hold_counts_or_is_known_not_to() -> None:
    root = Path(__file__).parents[2]
    kinds = {
        path.suffix
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    }
    assert kinds - SUFFIXES <= {".typed", ".LICENSE", ".LICENSE-d3", ".NOTICE"}


# Interruption -----------------------------------------------------------------------------------------------------


def test_an_interruption_keeps_what_is_finished(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    free = calibrate_command.calibrate_seed

    def third_is_interrupted(*arguments: Any) -> CalibrationRun:
        if len(counted) == 2:
            raise KeyboardInterrupt
        return free(*arguments)

    plan, progress = CalibrationPlan(["pooler"], ["canonical"], range(5), log=LOG), Progress(disable=True)
    monkeypatch.setattr(calibrate_command, "calibrate_seed", third_is_interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^2 finished runs are in logs/log.jsonl; the same command goes on"):
        run_calibration(plan, progress)
    monkeypatch.setattr(calibrate_command, "calibrate_seed", free)
    assert len(run_calibration(plan, progress).runs) == 5
    assert counted == [0, 1, 2, 3, 4]


PATIENCE = 300
"""Seconds after which a test gives up on a process, however busy the machine."""

COMMAND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from parity.cli import main; main()"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_all_processes_in_a_moment_with_one_line_and_the_log_goes_on(jobs: str, tmp_path: Path) -> None:
    arguments = ["calibrate", "monarch_multiply", "--runs", "2000", "--jobs", jobs, "--log", "log.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "log.jsonl"
    try:
        while (not log.exists() or log.read_bytes().count(b"\n") < 3) and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        stdout, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    finished = log.read_bytes().count(b"\n") - 1
    line = f"parity: interrupted; {finished} finished runs are in log.jsonl; the same command goes on with the rest\n"
    assert Finished(process.returncode, stdout, stderr) == Finished(130, "", line)
    assert 3 <= finished + 1 < 2000, "it did not wait for the rest"
    # Of two processes, one may have finished two runs before the other its first, the one that is asked for again.
    seeds = [json.loads(each)["seed"] for each in log.read_text(encoding="utf-8").splitlines()[1:]]
    again = invoke("calibrate", "monarch_multiply", "--runs", "1", "--log", "log.jsonl")
    assert again.status == 0
    assert f"{finished + (0 not in seeds)} runs, " in again.stdout


def test_ctrl_c_without_a_log_says_what_is_lost(counted: list[int]) -> None:
    plan = CalibrationPlan(["pooler"], ["canonical"], range(1))

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run_calibration(plan, Progress(disable=True), check)
    assert str(caught.value) == ""


def test_the_errors_are_a_users() -> None:
    with pytest.raises(CalibrationError), open_log(Path("x"), {"log": "a"}) as log, open_log(log.path, {"log": "a"}):
        pass
    with pytest.raises(OutputError), open_log(Path("/proc/none/log"), {"log": "a"}):
        pass


def test_the_header_of_ones_own_pair_tells_every_file_beside_it(tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples"
    shutil.copytree(examples, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__"))
    pairs = select([f"{tmp_path}/own/my_pairs.py::gated_mlp"])
    before = header_of(pairs, [CANONICAL])
    assert header_of(pairs, [CANONICAL]) == before
    with (tmp_path / "own" / "gated_mlp_mlx.py").open("a", encoding="utf-8") as file:
        file.write("# another port\n")
    assert header_of(pairs, [CANONICAL]) != before
