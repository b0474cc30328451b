"""`parity zoo` on the command line, its table, and the table that is published. Most of it needs neither library."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from harness_pieces import invoke

from parity.pairing import Node
from parity.suites import zoo, zoo_architectures
from parity.suites.zoo import Figures, ZooRow, requirements
from parity.suites.zoo_architectures import ARCHITECTURES, named
from parity.suites.zoo_blame import Blamed, partners
from parity.suites.zoo_table import markdown, published, summary

ROOT = Path(__file__).parents[2]
MISSING = requirements()
installed = pytest.mark.skipif(bool(MISSING), reason=MISSING or "installed")

GOOD = Figures(6, 1e-15, 7e-7, 7e-7, 0.1, 0.6, 0.4, "", "", ())
WRONG = dataclasses.replace(GOOD, f64=0.17, f32=0.17, bits=18.0, problem="differs at float64")
REFUSED = Figures(6, None, None, None, None, None, None, "TypeError: n_ctx", "the port refuses: TypeError: n_ctx", ())
ATTENTION = Blamed("model.layers.0.self_attn", "wiring", 0.081, 6.3e12, "of no simple form")


def red_row(**changes: Any) -> ZooRow:
    red = ZooRow(
        name="qwen2",
        reference="Qwen2ForCausalLM",
        port="qwen2",
        given=WRONG,
        remedied=GOOD,
        idle=(),
        blamed=(ATTENTION, dataclasses.replace(ATTENTION, module="model.layers.1.self_attn")),
        granted=(),
        reference_leak=1e-7,
        reference_leaks=(),
        expected="red",
        culprits=("self_attn.rope",),
        kind="field not carried",
        cause="rope_theta | inside rope_parameters",
        source="qwen2.py:27; rope_parameters",
        versions={"transformers": "5.23.0", "mlx-lm": "0.32.2"},
    )
    return dataclasses.replace(red, **changes)


# --- what is concluded ----------------------------------------------------------------------------------------------


def test_a_red_row_is_explained_where_blame_names_what_is_stated() -> None:
    assert red_row().explained


@pytest.mark.parametrize(
    "changes",
    [
        {"culprits": ("mlp",)},
        {"culprits": ()},
        {"culprits": ("self_attn.rope", "mlp")},
        {"culprits": ("layers.0.self_attn",)},
        {"blamed": ()},
        {"blamed": (), "culprits": ()},
        {"blamed": (ATTENTION, Blamed("lm_head", "culprit", 0.1, 1e9, ""))},
        {"blamed": (Blamed("", "wiring", 0.1, 1e9, ""),)},
        {"remedied": WRONG},
        {"idle": ("rope_theta",)},
        {"given": GOOD},
    ],
    ids=str,
)
def test_a_red_row_is_not_explained_otherwise(changes: dict[str, Any]) -> None:
    assert not red_row(**changes).explained


def test_the_kind_of_error_follows_from_both_precisions() -> None:
    leak = dataclasses.replace(GOOD, f64=2e-7)
    kinds = [figures.meaning.kind for figures in (GOOD, leak, WRONG, REFUSED)]
    assert kinds == ["rounding", "precision leak", "different meaning", "not comparable"]


def node(name: str, given: tuple[int, ...], made: tuple[int, ...], calls: int = 1) -> Node:
    return Node(
        name=name,
        kind="Linear",
        parameters={},
        calls=calls,
        order=0 if calls else None,
        depth=1,
        input_shapes={"in[0]": given} if calls else {},
        output_shapes={"out": made} if calls else {},
        values={},
    )


def test_modules_are_partners_by_name_where_their_calls_look_alike() -> None:
    wide, flat = (2, 12, 32), (24, 32)
    reference = [
        node("", wide, wide),
        node("transformer.h.0", wide, wide),
        node("transformer.h.0.gate", flat, (24, 6)),
        node("transformer.h.0.step", wide, wide),
        node("transformer.h.0.idle", wide, wide, calls=0),
        node("transformer.h.0.flat", flat, wide),
        node("transformer.rotary", wide, wide),
    ]
    port = [
        node("", wide, wide),
        node("model.h.0", wide, wide),
        node("model.h.0.gate", wide, (2, 12, 6)),
        node("model.h.0.step", wide, wide, calls=12),
        node("model.h.0.idle", wide, wide),
        node("model.h.0.flat", wide, wide),
    ]
    assert partners(reference, port, {"transformer": "model"}) == {"": "", "transformer.h.0": "model.h.0"}
    assert partners(reference, port, {}) == {"": ""}


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_measured_and_why() -> None:
    page = markdown([red_row()], "parity zoo qwen2")
    assert "Printed by `parity zoo qwen2` with transformers 5.23.0, mlx-lm 0.32.2." in page
    assert "| qwen2 | `qwen2` | red | 1.7e-01 | +18.00 | different meaning |" in page
    assert "| model.layers.N.self_attn (N = 0, 1) | 8.1e-02; its parts agree; of no simple form |" in page
    assert "| self_attn.rope | field not carried | rope_theta \\| inside rope_parameters |" in page
    assert "1 rows of 1 architectures: 0 green, 1 red; every one explained" in page
    assert published(page) == {"qwen2": "red"}


def test_what_is_not_explained_says_so() -> None:
    wrong = red_row(culprits=("mlp",))
    assert "| red, NOT EXPLAINED |" in markdown([wrong], "parity zoo")
    assert summary([wrong]).endswith("NOT EXPLAINED: qwen2")


def test_a_port_that_refuses_says_what_it_was_given() -> None:
    page = markdown([red_row(given=REFUSED, granted=("n_ctx", "weights"), blamed=(), culprits=())], "parity zoo")
    assert "| red | refuses | - | not comparable | given n_ctx, weights: no module errs | - |" in page


def test_the_published_table_has_every_row_and_its_verdict() -> None:
    page = (ROOT / "docs" / "zoo_table.md").read_text(encoding="utf-8")
    known = {row.name: "green" if row.red is None else "red" for row in ARCHITECTURES}
    assert published(page) == known
    assert list(published(page)) == list(known)
    assert page.rstrip().endswith("every one explained")


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_list_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "REQUIRED", ("no_such_library",))
    outcome = invoke("zoo", "--list", "qwen2*")
    assert outcome.status == 0
    assert outcome.stdout.splitlines()[0].split() == ["red", "qwen2"]
    assert len(invoke("zoo", "--list").stdout.splitlines()) == len(ARCHITECTURES)


def test_libraries_that_are_missing_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "REQUIRED", ("torch", "no_such_library"))
    outcome = invoke("zoo", "llama")
    assert outcome.status == 2
    assert outcome.stderr == "parity: no_such_library not installed: `pip install --group zoo`\n"
    assert outcome.stdout == ""


def test_an_unknown_row_is_one_line() -> None:
    outcome = invoke("zoo", "qwn2")
    assert outcome.status == 2
    assert re.fullmatch(r"parity: no row of the zoo is called 'qwn2'; nearest: .*qwen2.*\n", outcome.stderr)


@installed
def test_rows_are_printed_and_written(tmp_path: Path) -> None:
    page = tmp_path / "table.md"
    outcome = invoke("zoo", "llama", "--markdown", str(page))
    assert outcome.status == 0, outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "PASS: 1 rows of 1 architectures: 1 green, 0 red; every one explained"
    assert "transformers 5." in outcome.stdout
    assert outcome.stderr == ""
    assert published(page.read_text(encoding="utf-8")) == {"llama": "green"}


@installed
def test_rows_from_processes_come_as_json_in_the_order_of_the_table() -> None:
    outcome = invoke("zoo", "qwen2", "llama", "--jobs", "2", "--json")
    assert outcome.status == 0
    rows = json.loads(outcome.stdout)["rows"]
    assert [(row["name"], row["verdict"], row["classification"], row["located"]) for row in rows] == [
        ("llama", "green", "rounding", True),
        ("qwen2", "red", "different meaning", True),
    ]
    assert rows[1]["blamed"][0]["module"] == "model.layers.0.self_attn"


@installed
def test_a_wrongly_stated_culprit_fails_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (qwen2,) = named("qwen2")
    assert qwen2.red is not None
    wrong = dataclasses.replace(qwen2, red=dataclasses.replace(qwen2.red, culprits=("mlp",)))
    monkeypatch.setattr(zoo_architectures, "ARCHITECTURES", (wrong,))
    outcome = invoke("zoo")
    assert outcome.status == 1
    assert outcome.stdout.splitlines()[-1].endswith("NOT EXPLAINED: qwen2")


@installed
def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    outcome = invoke("zoo", "llama", "--seeds", "2", "--markdown", str(tmp_path / "none" / "table.md"))
    assert outcome.status == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert "cannot write" in outcome.stderr
