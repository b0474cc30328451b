"""`parity attribute`: status 0 for a port that means what it should, 1 with the sentence for one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted_meanings import PLANTED_MEANINGS
from typer.testing import CliRunner

from parity.cli import app


def invoke(*arguments: str) -> tuple[int, str, str]:
    outcome = CliRunner().invoke(app, ["attribute", *arguments], catch_exceptions=False)
    return outcome.exit_code, outcome.stdout, outcome.stderr


def test_a_correct_port_prints_its_betas_and_ends_with_0() -> None:
    status, out, _ = invoke("pooler", "--profile", "canonical")
    lines = out.splitlines()
    assert status == 0
    assert {line.split()[0] for line in lines[1:4]} == {"pooler=other", "pooler.mask=ignored", "pooler.count=all"}
    assert "pooler under canonical at f32" in lines[-2]
    assert "computes its own meaning: 3 alternatives observable" in lines[-2]
    assert lines[-1] == "nearest profile: its own (canonical)"


def test_a_wrong_port_prints_what_it_behaves_as_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    next(meaning for meaning in PLANTED_MEANINGS if meaning.name == "gelu=tanh").plant(monkeypatch)
    status, out, _ = invoke("mlp", "--profile", "canonical")
    assert status == 1
    assert "behaves as if: gelu=tanh (beta " in out


def test_as_json_every_figure_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    next(meaning for meaning in PLANTED_MEANINGS if meaning.name == "layer_norm=rms").plant(monkeypatch)
    status, out, _ = invoke("mlp", "--rung", "f64", "--seed", "5", "--json")
    answer = json.loads(out)
    assert status == 1
    assert answer["behaves_as"] == ["layer_norm=rms"]
    assert (answer["rung"], answer["seed"], answer["component"]) == ("f64", 5, "mlp")
    assert answer["findings"][0]["beta"] == pytest.approx(1.0)
    assert answer["profiles"]


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert invoke("monarch_multiply", "--json", "--seed", "3") == invoke("monarch_multiply", "--json", "--seed", "3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["poller"], "unknown target 'poller'"),
        (["pooler", "--rung", "f128"], "unknown rung 'f128'; allowed: f64, f32, bf16, f16"),
        (["pooler", "--profile", "mlx_stabel"], "unknown profile 'mlx_stabel'"),
        (["hyena_buffers", "--rung", "bf16"], "hyena_buffers has no rung bf16"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    status, out, err = invoke(*arguments)
    assert status == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_kernel_to_come_is_one_line_and_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.spec.profile._PLAIN", {"fft_impl": "native"})
    profile = tmp_path / "mine.json"
    profile.write_text('{"name": "mine", "fft_impl": "monarch"}', encoding="utf-8")
    status, out, err = invoke("pooler", "--profile", str(profile))
    assert (status, out) == (2, "")
    assert "not implemented yet" in err
    assert len(err.splitlines()) == 1


def test_a_port_that_raises_cannot_be_attributed_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_impl.mlp.GatedMlp.__call__", None)
    status, out, _ = invoke("mlp")
    assert status == 1
    assert "cannot be attributed: the port raised TypeError" in out
