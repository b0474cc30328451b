"""A run is read back whole or refused: nothing is built of stale, mixed, broken or older files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_pieces import invoke
from page_pieces import HOSTILE, changed, folder_of, results_with, row_of, run_of, small_results

from parity.errors import ReportError
from parity.pages import DETAILS, LAYERS, PAGE, SUMMARY, read_run


def replace_file(name: str) -> Callable[[Path], object]:
    """Put a file of another run into the folder."""

    def plant(folder: Path) -> None:
        other = folder_of(folder.parent / "other", small_results(0.75))
        (folder / name).write_bytes((other / name).read_bytes())

    return plant


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no summary: killed": (lambda folder: (folder / SUMMARY).unlink(), "holds no report"),
    "layers of another run": (replace_file(LAYERS), "layers.csv is not the one"),
    "details of another run": (replace_file(DETAILS), "details.json is not the one"),
    "summary of another run": (replace_file(SUMMARY), "layers.csv is not the one"),
    "no layers": (lambda folder: (folder / LAYERS).unlink(), "layers.csv cannot be read"),
    "no details": (lambda folder: (folder / DETAILS).unlink(), "details.json cannot be read"),
    "layers cut short": (lambda folder: (folder / LAYERS).write_text("component\n"), "layers.csv is not the one"),
    "summary cut short": (lambda folder: (folder / SUMMARY).write_text('{"schema": 2, "ver'), "is no JSON"),
    "summary of something else": (lambda folder: (folder / SUMMARY).write_text("[]"), "holds no object"),
    "older": (lambda folder: changed(folder, SUMMARY, lambda s: s.update(schema=1)), "schema 1.*run it again"),
    "newer": (lambda folder: changed(folder, SUMMARY, lambda s: s.update(schema=99)), "schema 99.*install the version"),
    "no digests": (lambda folder: changed(folder, SUMMARY, lambda s: s.pop("files")), "lacks files"),
    "wrong count": (lambda folder: changed(folder, SUMMARY, lambda s: s["counts"].update(rows=3)), "counts 3"),
    "no text": (lambda folder: (folder / LAYERS).write_bytes(b"\xff\xfe"), "is no UTF-8"),
}


@pytest.mark.parametrize(("plant", "message"), PLANTED.values(), ids=PLANTED)
def test_a_run_of_stale_mixed_or_broken_files_is_refused(
    plant: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "run", small_results())
    read_run(folder)
    plant(folder)
    (folder / PAGE).unlink()
    with pytest.raises(ReportError, match=message):
        read_run(folder)
    done = invoke("report", str(folder))
    assert done.status == 2
    assert done.stderr.startswith("parity: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / PAGE).exists()


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    results = small_results()
    run = read_run(folder_of(tmp_path, results))
    assert [(row["component"], row["tensor"], row["ratio"]) for row in run.judged] == [
        (row.component, row.tensor, pytest.approx(row.ratio)) for row in results.rows
    ]
    assert run.details["cases"] == [
        '{"L":8,"batch":1,"family":"normal","ladder":"f64,f32,bf16,f16","scale":0,"seed":0}'
    ]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_any_name_comes_back_from_the_files_as_it_was(name: str) -> None:
    run = run_of(results_with([row_of("a", name, "f32", name), row_of(name, "p", "f32", "t", 2.0)]))
    assert [(row["profile"], row["tensor"]) for row in run.judged] == [(name, name), ("p", "t")]
    assert run.summary["failures"][0]["component"] == name


def test_every_case_of_an_output_is_kept(tmp_path: Path) -> None:
    run = read_run(folder_of(tmp_path, small_results()))
    series = run.details["series"][0]
    assert len(series["port"]) == len(series["reference"]) == len(series["predicted"]) == len(series["case"]) == 1
    histogram = json.loads((tmp_path / DETAILS).read_text(encoding="utf-8"))["histograms"][0]
    assert sum(histogram["port"]) == 4
