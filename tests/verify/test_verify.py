"""Verification of a checkpoint: a right port passes, a planted fault is blamed on its layer, depth stays out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoint_pieces import HEADS, TINY, TINY_CHECKPOINT, small_file
from harness_pieces import invoke
from safetensors.numpy import load_file
from verify_faults import FAULTS, LAYER, Fault

import mlx_impl.model
import parity.verify.exact
import parity.verify.judge
from mlx_impl.ops import Ops
from mlx_impl.weights import parameters
from parity.checkpoint import convert, open_checkpoint
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, Head
from parity.spec.arrays import AnyArray
from parity.spec.config import ModelConfig
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, load_profile
from parity.tokens import Tokens, tokens_of
from parity.verify import Verification, verify
from parity.verify.exact import ExactCopy, ExactEmbedding, ExactLinear
from parity.verify.judge import distance
from parity.verify.parts import Port, Reference, parts_of, read_part
from parity.verify.passes import _answers_ratio, _Pass

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "masked_lm_0.safetensors"


def verified(path: Path, **options: Any) -> Verification:
    with open_checkpoint(path) as checkpoint:
        return verify(checkpoint, tokens_of(checkpoint.config), options.pop("profile", CANONICAL), **options)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["composer", "safetensors"])
def test_a_right_port_passes_at_every_rung(head: Head, form: Any, tmp_path: Path) -> None:
    found = verified(small_file(tmp_path, form, head), rungs=("f32", "bf16", "f16"), f64_layers=2)
    assert found.passed
    assert [result.table.rung for result in found.rungs] == ["f32", "bf16", "f16", "f64"]
    for result in found.rungs:
        names = {row.name for row in result.table.rows}
        assert set(parts_of(head, 2)) <= names
        assert not result.table.unpaired_reference
        assert not result.table.unpaired_port
        assert result.answers is not None
        assert result.sentence() == "no module errs beyond its allowance"
    assert found.rungs[-1].answers is not None
    assert found.rungs[-1].answers.port < 1e-12
    assert max(row.own for row in found.rungs[-1].table.rows) < 1e-12


@pytest.mark.parametrize("name", ["mlx_stable", "torch_like", "torch_avg"])
def test_other_profiles_too(name: str) -> None:
    assert verified(TINY_CHECKPOINT, profile=load_profile(name), f64_layers=2).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"use_monarch_mlp": False},
        {"use_glu_mlp": False},
        {"bidirectional": False},
        {"residual_long_conv": False},
        {"hyena_training_additions": True},
        {"use_positional_encodings": False},
        {"num_hidden_layers": 1},
    ],
    ids=str,
)
def test_every_switch_that_shapes_show(changes: Mapping[str, Any], tmp_path: Path) -> None:
    config = ModelConfig.model_validate({**TINY.model_dump(), **changes})
    assert verified(small_file(tmp_path, "plain", MASKED_LM, config), f64_layers=1).passed


def test_attention_pooling(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"attention_pooling": True})
    assert verified(small_file(tmp_path, "plain", CLASSIFICATION, config)).passed


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64"])
def test_every_kind_of_numbers(dtype: str, tmp_path: Path) -> None:
    assert verified(small_file(tmp_path, "safetensors", dtype=dtype)).passed


@pytest.mark.parametrize("row", [0, 1])
def test_the_original_checkpoint_gives_its_own_logits(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load_file(GOLDEN)
    ids, types = (np.array(golden[f"input:{name}"][row], dtype=np.int64) for name in ("ids", "tt"))
    passes: list[_Pass] = []
    original = _Pass.__init__

    def kept(self: _Pass, *args: Any) -> None:
        original(self, *args)
        passes.append(self)

    monkeypatch.setattr(_Pass, "__init__", kept)
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint:
        tokens = Tokens(ids, np.ones_like(ids), (), "of the golden file", types=types)
        assert verify(checkpoint, tokens, CANONICAL, f64_layers=2).passed
    wanted = golden["output:y.f64"][row][passes[-1].positions]
    for exact in (
        passes[0].exact["logits"].numpy()[0],
        passes[-1].outputs["reference"]["logits"].numpy()[0],
        np.array(passes[-1].outputs["port"]["logits"])[0],
    ):
        assert np.linalg.norm(exact - wanted) < 1e-12 * np.linalg.norm(wanted)


# --- faults -----------------------------------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    original, built = Port.fill, Port.__init__

    def fill(self: Port, state: Mapping[str, AnyArray], ties: Mapping[str, str]) -> None:
        original(self, fault.spoil(dict(state)), ties)

    def build(self: Port, *args: Any) -> None:
        built(self, *args)
        fault.of_model(self)

    monkeypatch.setattr(Port, "fill", fill)
    monkeypatch.setattr(Port, "__init__", build)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_blamed_on_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    planted(monkeypatch, fault)
    found = verified(TINY_CHECKPOINT)
    assert not found.passed
    (result,) = found.rungs
    culprits = {row.name for row in result.table.culprits}
    assert fault.culprit in culprits
    layer = LAYER if fault.culprit.startswith(LAYER) else fault.culprit.partition(".")[0]
    assert [culprit for culprit in culprits if not culprit.startswith(layer)] == []
    assert fault.culprit in result.sentence()


def test_swapped_layers_are_blamed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Port.fill
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint:
        layers = {number: read_part(checkpoint, f"bert.encoder.layer.{number}") for number in (0, 1)}

    def fill(self: Port, state: Mapping[str, AnyArray], ties: Mapping[str, str]) -> None:
        place = next((n for n in (0, 1) if next(iter(state)).startswith(f"bert.encoder.layer.{n}.")), None)
        if place is not None:
            there, here = f"layer.{1 - place}.", f"layer.{place}."
            state = {name.replace(there, here): values for name, values in layers[1 - place].items()}
        original(self, state, ties)

    monkeypatch.setattr(Port, "fill", fill)
    (result,) = verified(TINY_CHECKPOINT).rungs
    culprits = {row.name for row in result.table.culprits}
    assert all(name.startswith("bert.encoder.layer.") for name in culprits)
    assert {name[: len(LAYER)] for name in culprits} == {"bert.encoder.layer.0.", LAYER}


def test_what_is_added_between_layers_is_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_impl.model import BertEncoder

    def call(self: BertEncoder, x: mx.array) -> mx.array:
        for layer in self.layer:
            x = layer(x) + 0.1 * x
        return x

    monkeypatch.setattr(BertEncoder, "__call__", call)
    found = verified(TINY_CHECKPOINT)
    assert not found.passed
    assert found.rungs[0].table.culprits == []
    assert "what is between the modules is wrong" in found.rungs[0].sentence()


def test_hidden_states_at_a_position_whose_answers_nobody_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY.model_copy(update={"long_conv_l_max": 256, "max_position_embeddings": 256})
    path = small_file(tmp_path, "plain", MASKED_LM, config)
    original = mlx_impl.model.BertModel.__call__

    def call(self: Any, ids: mx.array, types: mx.array | None = None) -> mx.array:
        hidden = original(self, ids, types)
        return mx.concatenate([hidden[:, :1], 1.5 * hidden[:, 1:2], hidden[:, 2:]], axis=1)

    monkeypatch.setattr(mlx_impl.model.BertModel, "__call__", call)
    with open_checkpoint(path) as checkpoint:
        found = verify(checkpoint, tokens_of(checkpoint.config, length=256), CANONICAL)
    assert not found.passed
    assert "every module agrees, and the hidden states differ by " in found.rungs[0].sentence()


@pytest.mark.parametrize("normalized", [True, False])
def test_the_length_of_an_embedding_counts(normalized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path, "plain", CLASSIFICATION)
    settings = {"use_normalized_embeddings": normalized}
    with open_checkpoint(path, settings) as checkpoint:
        assert verify(checkpoint, tokens_of(checkpoint.config), CANONICAL, f64_layers=2).passed
    monkeypatch.setattr(mlx_impl.model, "sentence_embedding", lambda vector, config, ops: 3 * vector)
    with open_checkpoint(path, settings) as checkpoint:
        found = verify(checkpoint, tokens_of(checkpoint.config), CANONICAL)
    assert not found.passed
    assert "every module agrees, and the embeddings differ by " in found.rungs[0].sentence()


def test_token_types_that_the_port_passes_over_are_seen_with_drawn_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_impl.model.BertModel
    monkeypatch.setattr(model, "__call__", lambda self, ids, types=None: self.encoder(self.embeddings(ids)))
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--f64-layers", "0")
    assert outcome.status == 1


def test_a_layer_that_is_left_out_was_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_impl.model import BertEncoder

    monkeypatch.setattr(BertEncoder, "__call__", lambda self, x: self.layer[0](x))
    found = verified(TINY_CHECKPOINT)
    assert not found.passed
    assert "compared with nothing" in found.rungs[0].sentence()
    assert all(name.startswith(LAYER[:-1]) for name in found.rungs[0].table.unpaired_reference)


def test_an_error_that_both_share_does_not_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that multiplies for both and is wrong in float32: the truth comes from another routine."""
    linear, ours = torch.nn.functional.linear, Ops.linear

    def spoilt(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = linear(x, weight, bias)
        return y * (1 + 1e-5) if y.dtype == torch.float32 else y

    def spoilt_too(self: Ops, x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        return ours(self, x, weight, bias) * (1 + 1e-5)

    monkeypatch.setattr(torch.nn.functional, "linear", spoilt)
    monkeypatch.setattr(Ops, "linear", spoilt_too)
    (result,) = verified(TINY_CHECKPOINT).rungs
    assert {row.kind for row in result.table.culprits} >= {"Linear"}


def test_nan_in_a_tensor_is_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path, "safetensors")
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(bytes(data))
    outcome = invoke("checkpoint", "verify", str(path))
    assert outcome.status == 2
    assert "NaN or infinity in " in outcome.stderr


# --- memory -----------------------------------------------------------------------------------------------


def test_nothing_of_depth_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"num_hidden_layers": 6})
    path = small_file(tmp_path, "plain", MASKED_LM, config)
    seen: list[tuple[int, int]] = []
    judged = _Pass._judged

    def counted(self: _Pass, reference: Any, port: Any) -> None:
        judged(self, reference, port)
        if reference.module in self.parts:
            filled = sum(not tensor.is_meta for tensor in self.reference.model.parameters())
            seen.append((filled, len(self.port._filled)))

    monkeypatch.setattr(_Pass, "_judged", counted)
    assert verified(path).passed
    assert seen == [(0, 0)] * len(parts_of(MASKED_LM, 6))


def test_the_models_are_empty_to_begin_with() -> None:
    big = TINY.model_copy(update={"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 40})
    mx.reset_peak_memory()
    before = mx.get_peak_memory()
    reference = Reference(MASKED_LM, big, CANONICAL, "float32")
    port = Port(MASKED_LM, big, CANONICAL, RUNGS["f32"], None)
    assert all(tensor.is_meta for tensor in reference.model.parameters())
    assert sum(array.nbytes for array in parameters(port.model).values()) > 2**31
    assert mx.get_peak_memory() - before < 2**24


# --- the measure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "exact", "rms", "largest"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0.0),
        ([1.0, 2.0], [1.0, 1.0], np.sqrt(0.5), 1.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0, 0.0),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0, 0.0),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf, np.inf),
        ([np.nan, 1.0], [1.0, 1.0], np.inf, np.inf),
        ([1.0, 1.0], [np.nan, 1.0], np.inf, np.inf),
    ],
)
def test_distance(made: list[float], exact: list[float], rms: float, largest: float) -> None:
    found = distance(np.array(made), np.array(exact))
    assert found.rms == pytest.approx(rms)
    assert found.largest == largest


def test_distance_of_many_pieces_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.Generator(np.random.Philox(3))
    one, other = rng.standard_normal((7, 13)), rng.standard_normal((7, 13))
    whole = distance(one, other)
    monkeypatch.setattr(parity.verify.judge, "PIECE", 5)
    pieces = distance(one, other)
    assert pieces.rms == pytest.approx(whole.rms)
    assert pieces.largest == whole.largest
    assert distance(one, other[:, :12]).rms == np.inf


def test_modules_by_position_give_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verified(TINY_CHECKPOINT)
    monkeypatch.setattr(parity.verify.judge, "PIECE", 100)
    pieces = verified(TINY_CHECKPOINT)
    assert pieces.passed
    for one, other in zip(whole.rungs[0].table.rows, pieces.rungs[0].table.rows, strict=True):
        assert one.own == pytest.approx(other.own, rel=1e-3)


def test_tables_that_are_widened_as_they_are_used_give_what_wide_ones_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.verify.exact, "LARGE", 1)
    monkeypatch.setattr(parity.verify.exact, "WIDENED", 40)
    generator = torch.Generator().manual_seed(0)
    for bias in (True, False):
        with torch.device("meta"):
            whole = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 17, bias=bias))
        copy = ExactCopy(whole)
        whole.to_empty(device="cpu")
        for values in whole.parameters():
            values.data.copy_(torch.randn(values.shape, generator=generator))
        exact = copy.filled(whole)
        assert [type(part) for part in exact] == [ExactEmbedding, ExactLinear]
        assert exact[1].weight.data_ptr() == whole[1].weight.data_ptr()
        with torch.no_grad():
            found = exact(torch.arange(10).reshape(2, 5))
            wanted = whole.double()(torch.arange(10).reshape(2, 5))
        assert found.dtype == torch.float64
        assert torch.allclose(found, wanted, rtol=1e-14, atol=1e-14)


def test_a_reference_that_is_lucky_in_few_answers_accuses_nobody() -> None:
    exact = np.array([1.0, 2.0, 3.0])
    made, lucky = distance(exact * (1 + 1e-4), exact), distance(exact * (1 + 1e-7), exact)
    assert _answers_ratio(made, lucky, 3e-5, RUNGS["f32"]) < 1
    assert _answers_ratio(made, lucky, 3e-6, RUNGS["f32"]) > 1
    many = np.ones(10_000)
    one = distance(np.where(np.arange(many.size) == 7, 1 + 1e-4, many), many)
    assert one.relative < 1e-5
    assert _answers_ratio(one, distance(many * (1 + 1e-6), many), 1e-6, RUNGS["f32"]) > 1


# --- the command ------------------------------------------------------------------------------------------


def test_the_command_passes_and_says_what_it_ran() -> None:
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--mlx-blas", "bundled")
    assert (outcome.status, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert "no --text and no --ids" in outcome.stdout
    assert lines[-1].startswith("PASS: ")


def test_a_value_that_a_file_notes_is_said(tmp_path: Path) -> None:
    out = tmp_path / "m2.safetensors"
    convert(TINY_CHECKPOINT, out, overrides={"hyena_w_mod": 1.5})
    outcome = invoke("checkpoint", "verify", str(out), "--f64-layers", "0")
    assert "taken as hyena_w_mod = 1.5, which no tensor says and a file notes; --set changes it" in outcome.stdout


def test_the_command_fails_and_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, FAULTS["taps reversed"])
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--f64-layers", "0")
    assert outcome.status == 1
    assert "<-- culprit" in outcome.stdout
    assert LAYER + "attention.short_filter" in outcome.stdout.splitlines()[-1]


def test_json_has_every_row() -> None:
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--json", "--rung", "f32,bf16", "--f64-layers", "0")
    assert outcome.status == 0
    facts = json.loads(outcome.stdout)
    assert facts["passed"] is True
    assert [rung["rung"] for rung in facts["rungs"]] == ["f32", "bf16"]
    assert facts["environment"]["mlx_blas"]
    assert {"own", "reference", "ratio", "inherited", "total", "verdict"} <= facts["rungs"][0]["rows"][0].keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rung", "f64"], "--f64-layers"),
        (["--rung", "f8"], "f8"),
        (["--length", "17"], "the model has 16"),
        (["--text", "a"], "--tokenizer"),
        (["--profile", "unheard_of"], "unheard_of"),
        (["--set", "hyena_w_mod=no"], "hyena_w_mod"),
        (["--ids", "missing.json"], "cannot be read"),
        (["--mlx-blas", "nowhere.so"], "--mlx-blas"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: list[str], words: str) -> None:
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), *arguments)
    assert outcome.status == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
