"""`parity trace`: components and pairs of one's own, what is printed, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness_pieces import invoke

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_component_is_traced_and_its_tree_printed_whole() -> None:
    outcome = invoke("trace", "mlp", "--seed", "3")
    assert outcome.status == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("mlp under mlx_stable at f64: {")
    assert any("layernorm (LayerNorm)  own " in line and " total " in line for line in lines)
    assert lines[-1] == "PASS: no module errs beyond its allowance"
    assert "…" not in outcome.stdout


def test_depth_cuts_the_tree_and_not_the_verdict() -> None:
    outcome = invoke("trace", "layer", "--depth", "1")
    names = [line for line in outcome.stdout.splitlines() if " own " in line]
    assert len(names) == 3
    assert outcome.status == 0


def test_a_pair_of_ones_own_is_traced_with_reasons_for_its_partners() -> None:
    outcome = invoke("trace", f"{EXAMPLES / 'my_pairs.py'}::short_mixer", "--links")
    assert outcome.status == 0, outcome.stdout + outcome.stderr
    assert "mlp = feed_forward: rename table: " in outcome.stdout
    assert "mlp.down = feed_forward.down: " in outcome.stdout


@pytest.mark.parametrize("backward", [(), ("--backward",)], ids=["forward", "backward"])
def test_a_wrong_port_of_ones_own_is_blamed(backward: tuple[str, ...]) -> None:
    outcome = invoke("trace", str(EXAMPLES / "wrong_port.py"), "--json", *backward)
    answer = json.loads(outcome.stdout)
    assert outcome.status == 1
    assert not answer["passed"]
    assert [row["module"] for row in answer["rows"] if row["verdict"] in ("culprit", "wiring")] == ["norm"]


MISTAKES = {
    "several pairs": (["examples"], "has 2 pairs, one is traced: name it"),
    "unknown target": (["no_such"], "unknown target 'no_such'"),
    "unknown rung": (["mlp", "--rung", "f128"], "unknown rung 'f128'"),
    "no module is called": (["hyena_buffers", "--rung", "f32"], "no module of"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(name: str) -> None:
    arguments, words = MISTAKES[name]
    target = str(EXAMPLES / "my_pairs.py") if arguments[0] == "examples" else arguments[0]
    outcome = invoke("trace", target, *arguments[1:])
    assert outcome.status == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert words in outcome.stderr
