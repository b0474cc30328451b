"""`parity bench` on the command line: exit codes, files, what an interruption leaves."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench_pieces import MACHINE, a_report, a_time
from harness_pieces import clean_environment, invoke

from parity.bench import machine, plan
from parity.bench.cells import Cell
from parity.bench.plan import Settings
from parity.bench.report import Report, read_report
from parity.errors import ConfigError

ROOT = Path(__file__).parents[2]
GOOD = Cell.make("harness", "overhead", {"component": "layer", "predictions": "kept"}, "x", [1.1])
BAD = Cell.make("harness", "overhead", {"component": "layer", "predictions": "kept"}, "x", [1.4])


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a report measured that was made up; return what was asked for."""
    asked: list[Settings] = []

    def plant(report: Report) -> list[Settings]:
        def measure(settings: Settings, _command: str, _commit: str, on_step: Any) -> Report:
            asked.append(settings)
            on_step(list(report.cells))
            return report

        monkeypatch.setattr(plan, "measure", measure)
        return asked

    return plant


def save(path: Path, report: Report) -> Path:
    path.write_text(report.to_json(), encoding="utf-8")
    return path


@pytest.mark.parametrize(("cells", "status"), [((GOOD,), 0), ((BAD,), 1), ((), 3)], ids=["held", "missed", "nothing"])
def test_the_status_says_whether_bounds_are_held(measuring: Any, cells: tuple[Cell, ...], status: int) -> None:
    measuring(a_report(*cells))
    assert invoke("bench").status == status


@pytest.mark.parametrize(
    ("seconds", "machine_of", "status"),
    [((1.0, 1.1, 1.2), MACHINE, 0), ((2.0, 2.1, 2.2), MACHINE, 4),
     ((2.0, 2.1, 2.2), dataclasses.replace(MACHINE, cpu="another"), 3)],
    ids=["same", "slower", "another machine"],
)  # fmt: skip
def test_a_planted_slowdown_has_a_status_of_its_own(
    measuring: Any, tmp_path: Path, seconds: tuple[float, ...], machine_of: Any, status: int
) -> None:
    earlier = save(tmp_path / "old.json", a_report(a_time("mlp", 128, (1.0, 1.1, 1.2))))
    measuring(a_report(a_time("mlp", 128, seconds), machine=machine_of))
    done = invoke("bench", "--compare", str(earlier), "--json", str(tmp_path / "new.json"))
    assert done.status == status
    assert ("slower: models component=mlp" in done.stdout) == (seconds[0] == 2.0)


def test_nothing_in_common_is_no_comparison(measuring: Any, tmp_path: Path) -> None:
    earlier = save(tmp_path / "old.json", a_report(a_time("mlp", 128, (1.0,))))
    measuring(a_report(GOOD))
    assert invoke("bench", "--compare", str(earlier)).status == 3


def test_both_files_are_written_and_read_back(measuring: Any, tmp_path: Path) -> None:
    report = a_report(GOOD)
    measuring(report)
    done = invoke("bench", "--json", str(tmp_path / "in" / "b.json"), "--markdown", str(tmp_path / "b.md"))
    assert read_report(tmp_path / "in" / "b.json") == report
    assert "held: what an examination adds to the three bare passes" in (tmp_path / "b.md").read_text(encoding="utf-8")
    assert "1 of 1 bounds held" in done.stdout


def test_parts_are_put_together_without_measuring(measuring: Any, tmp_path: Path) -> None:
    asked = measuring(a_report())
    one = save(tmp_path / "a.json", a_report(GOOD))
    other = save(tmp_path / "b.json", a_report(a_time("mlp", 128, (1.0,))))
    done = invoke("bench", "--from", str(one), "--from", str(other), "--json", str(tmp_path / "c.json"))
    assert (done.status, asked) == (0, [])
    assert len(read_report(tmp_path / "c.json").cells) == 2


def test_a_wrong_earlier_report_is_met_before_anything_is_measured(measuring: Any, tmp_path: Path) -> None:
    asked = measuring(a_report())
    done = invoke("bench", "--compare", str(tmp_path / "none.json"))
    assert (done.status, asked) == (2, [])
    assert "cannot read" in done.stderr


def test_options_reach_the_settings(measuring: Any) -> None:
    asked = measuring(a_report(GOOD))
    invoke(
        "bench", "--part", "models", "--component", "mlp", "--mlx-blas", "bundled", "--longest", "512",
        "--longest-bundled", "256", "--all-lengths", "--quick", "--threads", "3", "--seed", "7",
    )  # fmt: skip
    assert asked == [Settings(("models",), ("mlp",), ("bundled",), 512, 256, True, True, 3, 7)]


def test_where_there_is_no_choice_of_blas_the_wheels_own_goes_to_the_longest(
    measuring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measuring(a_report(GOOD))
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    invoke("bench")
    assert asked[0].blas == ("bundled",)
    assert asked[0].models().lengths("layer", "bundled")[-1] == 32768


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ConfigError, match="'speed'"):
        Settings(parts=("speed",))
    with pytest.raises(TypeError):
        Settings(length=3)  # type: ignore[call-arg]
    assert invoke("bench", "--component", "nothing").status == 2


@pytest.mark.parametrize("quick", [True, False])
def test_the_progress_bar_knows_how_much_there_is(monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    settings = Settings(plan.PARTS, quick=quick, components=("mlp",))
    emitted = {"measure_models": 2 * len(settings.models().lengths("mlp", "torch")), "measure_harness": 2}
    if not quick:
        emitted["measure_models"] = 0  # counted by the plan alone
    monkeypatch.setattr(plan, "_alone", lambda function, _: [[]] * emitted.get(function.__name__, 1))
    monkeypatch.setattr(plan, "memory_cells", lambda task: [[]] * (task.steps - 2))
    monkeypatch.setattr(plan, "budget_cells", lambda task: [[]] * (2 * task.rounds + 1))
    if quick:
        assert len(list(plan.measured(settings))) == settings.steps()
    else:
        rest = dataclasses.replace(settings, parts=plan.PARTS[1:])
        assert len(list(plan.measured(rest))) == rest.steps()


def test_what_is_missing_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED", ("a_package_of_no_name",))
    done = invoke("bench")
    assert done.status == 2
    assert "mlx-parity[bench]" in done.stderr


def test_this_machine_is_described() -> None:
    found = machine.describe_machine()
    assert found.cores >= 1
    assert found.memory_mib > 0
    assert "mlx" in dict(found.versions)
    assert machine.Machine.from_dict(found.to_dict()) == found


def test_an_interruption_leaves_the_files_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "measure", interrupted)
    target = tmp_path / "bench.json"
    target.write_text("what was there", encoding="utf-8")
    done = invoke("bench", "--json", str(target))
    assert done.status == 130
    assert "no report was written" in done.stderr
    assert target.read_text(encoding="utf-8") == "what was there"
    assert list(tmp_path.iterdir()) == [target]


def test_killed_it_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    target.write_text("what was there", encoding="utf-8")
    words = [sys.executable, "-m", "parity", "bench", "--quick", "--part", "models", "--json", str(target)]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        time.sleep(1.0)
        done.send_signal(signal.SIGKILL)
        assert done.wait(30) == -signal.SIGKILL
    assert target.read_text(encoding="utf-8") == "what was there"
    assert list(tmp_path.iterdir()) == [target]


def test_help_teaches() -> None:
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", invoke("bench", "--help").stdout).split())
    for word in (
        "--part",
        "--compare",
        "--from",
        "--quick",
        "Exit status 0",
        "4 if something is slower",
        "docs/bench.md",
    ):
        assert word in text, word
