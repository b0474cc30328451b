"""The zoo: green rows, red rows with proven causes, and faults planted in a port that must turn a green row red."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from parity.errors import TargetError
from parity.suites import zoo, zoo_sides
from parity.suites.zoo import ZooRow, requirements, run_zoo
from parity.suites.zoo_architectures import ARCHITECTURES, named
from parity.suites.zoo_sides import Architecture, Red, Remedy

MISSING = requirements()
installed = pytest.mark.skipif(bool(MISSING), reason=MISSING or "installed")

FLOAT32 = mx.float32
"""Bound here, so that the widening of names does not reach it."""


def row(name: str, spoil: Callable[[Any], None] | None = None) -> ZooRow:
    (measured,) = run_zoo(named(name), spoil=spoil)
    return measured


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_is_wide_enough() -> None:
    families = {architecture.family for architecture in ARCHITECTURES}
    assert len(families) >= 40
    assert {"Llama", "Qwen2", "Lfm2", "Mamba", "Mamba2", "Mixtral", "Qwen3Moe", "Olmoe", "Gemma2"} <= families
    assert len({architecture.name for architecture in ARCHITECTURES}) == len(ARCHITECTURES)


def test_every_cause_has_a_source_and_a_remedy() -> None:
    for architecture in ARCHITECTURES:
        if architecture.red is not None:
            assert architecture.red.cause
            assert ".py:" in architecture.red.source
            assert architecture.red.remedy.lessened(), architecture.name


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "REQUIRED", ("torch", "no_such_library"))
    assert requirements() == "no_such_library not installed: `pip install --group zoo`"
    with pytest.raises(TargetError, match="no_such_library not installed"):
        run_zoo(named("llama"), seeds=[0])


@installed
def test_every_source_names_a_file_of_the_port() -> None:
    found = importlib.util.find_spec("mlx_lm")
    assert found is not None
    assert found.origin is not None
    library = Path(found.origin).parent
    for architecture in ARCHITECTURES:
        if architecture.red is not None:
            for word in architecture.red.source.replace(",", " ").split():
                if ".py:" in word:
                    name, _, line = word.partition(":")
                    path = next(path for path in (library / "models" / name, library / name) if path.exists())
                    assert int(line.rstrip(";")) <= len(path.read_text().splitlines()), word


# --- rows -----------------------------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize("name", ["llama", "mamba", "mixtral"])
def test_a_green_row(name: str) -> None:
    measured = row(name)
    assert (measured.verdict, measured.explained, measured.given.leaks) == ("green", True, ())
    assert measured.given.f64 is not None
    assert measured.given.f64 <= 1e-13
    assert measured.reference_leak > 1e-9
    assert any("to at modeling_" in leak for leak in measured.reference_leaks)
    assert set(measured.versions) == {"transformers", "mlx-lm", "mlx", "torch"}
    assert json.loads(json.dumps(measured.to_dict()))["verdict"] == "green"


@installed
def test_qwen2_differs_by_the_base_of_its_rotary_angles_and_by_nothing_else() -> None:
    measured = row("qwen2")
    assert (measured.verdict, measured.explained, measured.culprits) == ("red", True, ("self_attn.rope",))
    assert [each.module for each in measured.blamed] == [f"model.layers.{place}.self_attn" for place in range(3)]
    assert {each.verdict for each in measured.blamed} == {"wiring"}
    assert measured.given.meaning.kind == "different meaning"
    assert measured.remedied is not None
    assert measured.remedied.meaning.kind == "rounding"
    assert measured.given.f64 is not None
    assert measured.given.f64 > 1e-2
    assert measured.remedied is not None
    assert measured.remedied.f64 is not None
    assert measured.remedied.f64 <= 1e-13
    assert "rope_theta = 10000.0" in measured.cause


@installed
def test_with_initial_weights_qwen2_differs_by_some_thousandths() -> None:
    (measured,) = run_zoo(named("qwen2, 64 wide"), initial=True)
    assert measured.explained
    assert measured.given.f64 is not None
    assert measured.given.largest is not None
    assert 2e-3 < measured.given.f64 < 4e-3
    assert 12_900 < 2**measured.given.largest < 15_000


@installed
def test_short_convolutions_and_grouped_queries_are_green_once_a_renamed_field_is_given() -> None:
    measured = row("lfm2")
    assert measured.explained
    assert "block_dim" in measured.given.refusal
    assert (measured.granted, measured.blamed, measured.given.meaning.kind) == (("block_dim",), (), "not comparable")


@installed
def test_a_port_that_refuses_is_blamed_for_what_it_does_once_it_is_built() -> None:
    measured = row("gpt2, scaled by layer")
    assert measured.explained
    assert measured.granted == ("n_ctx", "weights")
    assert {each.module for each in measured.blamed} == {"model.h.1.attn", "model.h.2.attn"}


@installed
@pytest.mark.parametrize("name", ["gemma3_text", "mamba2, two groups", "gpt_oss, yarn"])
def test_a_defect_is_proven_by_its_repair(name: str) -> None:
    measured = row(name)
    assert (measured.kind, measured.verdict, measured.explained) == ("defect", "red", True)


# --- faults ---------------------------------------------------------------------------------------------------------


def slightly_off(model: Any) -> None:
    model.layers[1].mlp.down_proj.weight = model.layers[1].mlp.down_proj.weight * (1 + 1e-6)


def other_epsilon(model: Any) -> None:
    model.layers[0].input_layernorm.eps *= 10


def other_mask(model: Any) -> None:
    zoo_sides.windowed(model.layers[2], 11)


def in_float32(model: Any) -> None:
    class Narrow(type(model.model.norm)):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            return super().__call__(x.astype(FLOAT32)).astype(x.dtype)

    model.model.norm.__class__ = Narrow


def coarse_in_float32(model: Any) -> None:
    """Weights of 17 bits in the float32 port alone: the float64 one stays as it is."""
    head = model.lm_head
    if head.weight.dtype == FLOAT32:
        values = np.array(head.weight)
        head.weight = mx.array(np.round(values * 2.0**17) / 2.0**17)


def without_a_number(model: Any) -> None:
    model.model.norm.weight = model.model.norm.weight * float("nan")


FAULTS: list[tuple[Callable[[Any], None], str, str]] = [
    (slightly_off, "differs at float64", "model.layers.1.mlp.down_proj"),
    (other_epsilon, "differs at float64", "model.layers.0.input_layernorm"),
    (other_mask, "differs at float64", "model.layers.2.self_attn"),
    (in_float32, "differs at float64", "model.norm"),
    (coarse_in_float32, "lose more than 3 bits", "lm_head"),
    (without_a_number, "differs at float64", "model.norm"),
]


@installed
@pytest.mark.parametrize(("fault", "problem", "module"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
def test_a_fault_planted_in_a_port_turns_a_green_row_red(
    fault: Callable[[Any], None], problem: str, module: str
) -> None:
    measured = row("llama", fault)
    assert (measured.verdict, measured.explained) == ("red", False)
    assert problem in measured.given.problem
    assert [each.module for each in measured.blamed] == [module]


@installed
def test_what_the_port_rounds_unseen_is_reported_as_its_leak() -> None:
    (architecture,) = named("llama")
    _, leaks = zoo_sides.port_logits(architecture, zoo_sides.exhibit(architecture, 0), "float64", spoil=in_float32)
    assert leaks == ("array.astype",)


def changed(name: str, **others: Any) -> Architecture:
    (architecture,) = named(name)
    return dataclasses.replace(architecture, **others)


THETA = Remedy(fields={"rope_theta": 10000.0})


def wrongly_explained(remedy: Remedy, *culprits: str) -> Architecture:
    return changed("qwen2", red=Red(culprits, "field not carried", "guessed", "qwen2.py:1", remedy))


WRONG_CAUSES = {
    "another field": wrongly_explained(Remedy(fields={"rms_norm_eps": 1e-5}), "self_attn.rope"),
    "an idle part": wrongly_explained(
        Remedy(fields={"rope_theta": 10000.0, "rope_traditional": False}), "self_attn.rope"
    ),
    "an idle repair": wrongly_explained(
        Remedy(fields={"rope_theta": 10000.0}, repair=lambda _model: None), "self_attn.rope"
    ),
    "another module": wrongly_explained(THETA, "mlp"),
    "one module too many": wrongly_explained(THETA, "self_attn.rope", "mlp"),
    "one layer of three": wrongly_explained(THETA, "layers.0.self_attn"),
    "no module": wrongly_explained(THETA),
    "no cause": changed("qwen2", red=None),
    "a cause of nothing": changed(
        "llama", red=Red((), "defect", "guessed", "llama.py:1", Remedy({"rope_theta": 10000.0}))
    ),
}


@installed
def test_the_same_remedy_explains_the_row_where_the_module_is_stated_rightly() -> None:
    (measured,) = run_zoo([wrongly_explained(THETA, "self_attn.rope")])
    assert measured.explained


@installed
@pytest.mark.parametrize("architecture", WRONG_CAUSES.values(), ids=WRONG_CAUSES)
def test_a_wrong_cause_explains_nothing(architecture: Architecture) -> None:
    (measured,) = run_zoo([architecture])
    assert not measured.explained


@installed
def test_one_seed_proves_no_accuracy() -> None:
    (measured,) = run_zoo(named("llama"), seeds=[0])
    assert "no bound can be formed" in measured.given.problem


@installed
def test_nothing_stays_changed() -> None:
    def names() -> tuple[Any, ...]:
        return mx.float32, mx.bfloat16, mx.array.__truediv__, mx.fast.rope, torch.get_default_dtype()

    before, random = names(), torch.get_rng_state()
    run_zoo(named("gemma3_text"), seeds=[0])
    assert names() == before
    assert torch.equal(torch.get_rng_state(), random)


@installed
def test_the_same_seed_gives_the_same_row() -> None:
    first, second = (run_zoo(named("lfm2_moe"), seeds=[3]) for _ in range(2))
    assert str(first) == str(second)  # a bound of one case is NaN or infinite, which text compares
