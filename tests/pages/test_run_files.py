"""A run is read back whole or refused: nothing is built of stale, mixed, broken or older files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import invoke
from page_pieces import HOSTILE, changed, folder_of, results_with, row_of, run_of, small_results

from parity.errors import ReportError
from parity.pages import DETAILS, LAYERS, PAGE, SUMMARY, digest, read_run


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


def spoilt(name: str, *path: str | int, value: object) -> Callable[[Path], object]:
    """Put `value` at a place of a JSON file; if it is the details, the summary names its new digest."""

    def plant(folder: Path) -> None:
        def change(document: dict[str, Any]) -> None:
            inside: Any = document
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value

        changed(folder, name, change)
        text = (folder / DETAILS).read_text(encoding="utf-8")
        changed(
            folder,
            SUMMARY,
            lambda summary: summary["files"].update({DETAILS: digest(text)}) if name == DETAILS else None,
        )

    return plant


SPOILT = {
    "counts a list": spoilt(SUMMARY, "counts", value=[]),
    "a count a text": spoilt(SUMMARY, "counts", "rows", value="16"),
    "files a list": spoilt(SUMMARY, "files", value=[]),
    "failures an object": spoilt(SUMMARY, "failures", value={"a": 1}),
    "a failure a text": spoilt(SUMMARY, "failures", 0, value="beta"),
    "a failure without a reason": spoilt(SUMMARY, "failures", 0, value={"component": "beta"}),
    "a skip a number": spoilt(SUMMARY, "skips", value=[3]),
    "fidelity null": spoilt(SUMMARY, "fidelity", value=None),
    "environment a list": spoilt(SUMMARY, "environment", value=["Linux"]),
    "command a text": spoilt(SUMMARY, "command", value="run"),
    "verdict a number": spoilt(SUMMARY, "verdict", value=1),
    "accuracy of texts": spoilt(SUMMARY, "accuracy", value=["x"]),
    "unpaired a list": spoilt(SUMMARY, "unpaired", value=[1]),
    "own a list": spoilt(SUMMARY, "own", value=[1]),
    "series a number": spoilt(DETAILS, "series", value=3),
    "a strange rung": spoilt(DETAILS, "series", 0, "rung", value="f8"),
    "a series cut short": spoilt(DETAILS, "series", 0, "port", value=[]),
    "a case that is not there": spoilt(DETAILS, "series", 0, "case", value=[99]),
    "a case no object": spoilt(DETAILS, "cases", value=["[]"]),
    "a histogram cut short": spoilt(DETAILS, "histograms", 0, "port", value=[1]),
    "a blame table a number": spoilt(DETAILS, "blame", 0, "rows", value=7),
    "bits a text": spoilt(DETAILS, "bits", 0, "bits", value="many"),
    "sources a list": spoilt(DETAILS, "sources", value=[]),
}


@pytest.mark.parametrize("plant", SPOILT.values(), ids=SPOILT)
def test_a_member_of_another_shape_is_refused_in_one_line(plant: Callable[[Path], object], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", small_results(2.0))
    plant(folder)
    for command in (("report", str(folder)), ("compare", str(folder), str(folder))):
        done = invoke(*command)
        assert (done.status, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "run it again" in done.stderr


def test_layers_without_a_column_or_with_a_strange_rung_are_refused(tmp_path: Path) -> None:
    for old, new, message in (("port_rel_l2", "renamed", "lacks port_rel_l2"), (",f32,", ",f8,", "has the rung 'f8'")):
        folder = folder_of(tmp_path / new.strip(","), small_results())
        text = (folder / LAYERS).read_text(encoding="utf-8").replace(old, new)
        (folder / LAYERS).write_text(text, encoding="utf-8", newline="")
        changed(folder, SUMMARY, lambda summary, text=text: summary["files"].update({LAYERS: digest(text)}))
        with pytest.raises(ReportError, match=message):
            read_run(folder)


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, small_results())
    (folder / SUMMARY).write_text('{"a":' * 100_000, encoding="utf-8")
    with pytest.raises(ReportError, match="is no JSON"):
        read_run(folder)


def test_half_a_character_in_a_failure_is_replaced_in_every_text(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", small_results(2.0))
    for key in ("reason", "component", "rerun", "detail"):
        spoilt(SUMMARY, "failures", 0, key, value="half \ud83d of one")(folder)
    files = {name: tmp_path / name for name in ("comment", "junit", "html")}
    done = invoke("report", str(folder), "--annotations", *(f"--{name}={path}" for name, path in files.items()))
    assert done.status == 0
    for text in (done.stdout, *(path.read_text(encoding="utf-8") for path in files.values())):
        assert "half \ufffd of one" in text
    assert invoke("compare", str(folder), str(folder), "--markdown", str(tmp_path / "c.md")).status == 0


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
