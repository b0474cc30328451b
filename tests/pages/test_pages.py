"""The page: self-contained, escaped, built from files alone, and saying what the run found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from harness_pieces import invoke
from page_pieces import HOSTILE, folder_of, gate_of, large_results, results_with, row_of, run_of, small_results

from parity.pages import PAGE, render_page
from parity.pages.html import WHOLE, short, whole
from parity.pages.payload import length_of, page_data, script_json
from parity.pages.terms import TERMS
from parity.report import layers_csv


class Reader(HTMLParser):
    """Elements with their attributes, and the texts of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - its signature is HTMLParser's
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.texts.append(data)


def read(page: str) -> Reader:
    return Reader(page)


FETCHING = ("src", "srcset", "action", "formaction", "background", "poster", "data")


def fetched(page: str) -> list[str]:
    """Everything that a browser would ask for: addresses of elements other than links within the page and data."""
    found = []
    for tag, attributes in read(page).elements:
        found += [f"{tag} {name}" for name in FETCHING if name in attributes]
        address = attributes.get("href") or ""
        if address and not address.startswith(("#", "data:")):
            found.append(f"{tag} href {address}")
    return found + re.findall(r"@import|url\(", page.partition("<style>")[2].partition("</style>")[0])


def test_what_failed_is_called_by_its_kind() -> None:
    results = small_results(2.0)
    again = "parity trace --backward beta --case '" + '{"L":8}' * 40 + "'"
    kinds = {"gradient": ("first bad gradient", (f"which module errs: {again}",)), "special": ("nan or infinities", ())}
    first = results.failures[0]
    for kind, (words, attribution) in kinds.items():
        results.failures = [replace(first, kind=kind, first_bad=kind, attribution=attribution)]
        texts = read(render_page(run_of(results))).texts
        assert any(words in text.lower() for text in texts), kind
        assert (again in texts) == (kind == "gradient")


@pytest.mark.parametrize("error", [0.5, 2.0])
def test_the_page_fetches_nothing(error: float) -> None:
    assert fetched(render_page(run_of(small_results(error)))) == []


@pytest.mark.parametrize("planted", ['<img src="x">', '<link href="http://x/a.css">', "<style>@import 'x'</style>"])
def test_what_would_be_fetched_is_seen(planted: str) -> None:
    assert fetched(planted)


def test_only_the_pages_own_scripts_may_run() -> None:
    page = render_page(run_of(small_results()))
    policy = next(a["content"] for tag, a in read(page).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == len(read(page).scripts) - 1
    assert "unsafe-inline" not in policy.partition("style-src")[0]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_adds_no_element_and_no_attribute(name: str) -> None:
    def shape(of: str) -> list[tuple[str, list[str]]]:
        rows = [row_of(of, of, "f32", of, 2.0), row_of("calm", "p", "f32", "t")]
        elements = read(render_page(run_of(results_with(rows)))).elements
        return [(tag, sorted(attributes)) for tag, attributes in elements]

    assert shape(name) == shape("harmless")


def test_an_unescaped_name_would_be_seen() -> None:
    page = render_page(run_of(small_results(2.0)))
    assert read(page).elements != read(page.replace("beta", HOSTILE["image"])).elements


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_the_scripts_data_hold_any_name(name: str) -> None:
    run = run_of(results_with([row_of(name, name, "f32", name)]))
    data = read(render_page(run)).scripts[0]
    assert json.loads(data)["texts"]["tensor"] == [name]
    assert "<" not in data


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_stays_in_the_folder_that_was_named(name: str, tmp_path: Path) -> None:
    folder_of(tmp_path / "run", results_with([row_of(name, name, "f32", name, 2.0)]))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_page_says_verdict_counts_failure_and_command() -> None:
    results = small_results(2.0)
    texts = " ".join(read(render_page(run_of(results))).texts)
    for words in ("FAIL", "beta", "act", results.failures[0].rerun, "Blame", "Measured mantissa bits", "22.4"):
        assert words in texts


def test_a_passing_page_says_so() -> None:
    texts = " ".join(read(render_page(run_of(small_results()))).texts)
    assert "PASS" in texts
    assert "What failed" not in texts


def test_the_page_has_every_row_of_layers_csv() -> None:
    results = large_results(500)
    data = page_data(run_of(results))
    assert len(data["columns"]["ratio"]) == 500
    assert layers_csv(results).count("\n") == 501


def test_every_term_that_is_asked_for_is_explained_and_each_id_is_there_once() -> None:
    page = read(render_page(run_of(small_results(2.0))))
    asked = {a["popovertarget"] for _, a in page.elements if "popovertarget" in a}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert asked <= set(ids)
    assert len(ids) == len(set(ids))
    assert {f"term-{key}" for key in TERMS} <= set(ids)


def test_the_page_names_the_run_that_it_was_built_from() -> None:
    run = run_of(small_results())
    assert f'<meta name="parity-run" content="{run.identity}">' in render_page(run)
    assert run.identity != run_of(small_results(0.75)).identity


def test_equal_runs_give_equal_pages() -> None:
    assert render_page(run_of(small_results())) == render_page(run_of(small_results()))


def test_the_command_builds_the_page_that_the_run_wrote(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", small_results(2.0))
    written = (folder / PAGE).read_bytes()
    assert invoke("report", str(folder), "--html", str(tmp_path / "again.html")).status == 0
    assert (tmp_path / "again.html").read_bytes() == written


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", small_results())
    done = invoke("report", str(folder), "--html", str(tmp_path / "missing" / "page.html"))
    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert "cannot write" in done.stderr


@pytest.mark.parametrize(
    ("case", "length"),
    [('{"L":7,"d":99}', 7), ('{"d":99,"seed":1000,"scale":5}', 99), ('{"on":true,"seed":3}', None), ("{}", None)],
)
def test_the_length_of_a_case(case: str, length: int | None) -> None:
    assert length_of(case) == length


def test_a_script_element_cannot_be_ended_by_its_data() -> None:
    assert script_json({"a": "</script>&", "b": float("inf")}) == '{"a":"\\u003c/script\\u003e\\u0026","b":"infinity"}'


def test_sentences_of_the_gate_are_whole_and_code_stands_as_code() -> None:
    end = "no stratum of it was compared, so that " * 8
    findings = [f"the stratum {end} {name}; run `parity baseline accept`" for name in ("first", "second")]
    section = {**gate_of(), "findings": [{"level": "drift", "title": "drift", "sentence": each} for each in findings]}
    page = render_page(run_of(small_results()), section)
    for each in findings:
        assert " ".join(each.split()).replace("`parity baseline accept`", "<code>parity baseline accept</code>") in page


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("a `parity b` c", "a <code>parity b</code> c"),
        ("a ` b", "a ` b"),
        ("`parity <b>` <i> `x`", "<code>parity &lt;b&gt;</code> &lt;i&gt; `x`"),
    ],
)
def test_backticks_become_code_and_markup_stays_text(text: str, markup: str) -> None:
    section = {**gate_of(), "findings": [{"level": "drift", "title": "drift", "sentence": text}]}
    assert f"</span> {markup}</li>" in render_page(run_of(small_results()), section)


def test_a_sentence_without_end_is_bounded() -> None:
    assert len(whole("word " * 10_000)) < WHOLE + 10


def test_a_long_name_is_cropped_and_a_short_one_is_not() -> None:
    assert len(short("n" * 10_000)) < 200
    assert short("encoder.layer.0") == "encoder.layer.0"
