"""Stored answers: reference in float64 and port are held against them; what does not fit is refused in words."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_pieces import TINY, TINY_CHECKPOINT, small_file
from harness_pieces import invoke
from safetensors.numpy import load_file, save_file

import reference_torch
from parity.checkpoint import open_checkpoint
from parity.checkpoint.layout import CLASSIFICATION
from parity.errors import CaseError
from parity.spec.arrays import AnyArray
from parity.spec.profile import CANONICAL
from parity.verify import RungResult, read_stored, verify

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
OURS = GOLDENS / "masked_lm_0.safetensors"


def arrays() -> dict[str, AnyArray]:
    golden = load_file(OURS)
    return {"ids": golden["input:ids"], "types": golden["input:tt"], "logits": golden["output:y.f64"]}


def held_against(folder: Path, found: Mapping[str, AnyArray], checkpoint: Path = TINY_CHECKPOINT) -> RungResult:
    path = folder / "stored.npz"
    np.savez(path, **found)
    with open_checkpoint(checkpoint) as opened:
        stored = read_stored(path, opened)
        (result,) = verify(opened, stored.sequences, CANONICAL, stored=stored.answers).rungs
    return result


def test_the_original_codes_logits_are_the_references(tmp_path: Path) -> None:
    result = held_against(tmp_path, arrays())
    assert result.passed
    assert result.answers is not None
    (found,) = result.answers.stored
    assert (found.answer, found.dtype) == ("logits", "float64")
    assert found.reference < 1e-12
    assert 1e-7 < found.port < 1e-3


def test_logits_stored_in_float32_agree_to_float32(tmp_path: Path) -> None:
    result = held_against(tmp_path, {**arrays(), "logits": load_file(OURS)["output:y.f32"]})
    assert result.passed
    assert result.answers is not None
    assert 1e-7 < result.answers.stored[0].reference < 1e-3


def test_one_sequence_needs_no_axis_of_sequences(tmp_path: Path) -> None:
    assert held_against(tmp_path, {name: array[1] for name, array in arrays().items()}).passed


@pytest.mark.parametrize("number", [0, 1, 2])
def test_classifiers_with_masks_embeddings_and_switches_that_no_shape_shows(number: int, tmp_path: Path) -> None:
    """A checkpoint of the original code is made of each golden file's parameters, as Composer saves it."""
    golden = GOLDENS / f"sequence_classification_{number}.safetensors"
    path, options = checkpoint_of(golden, tmp_path)
    outcome = invoke("checkpoint", "verify", str(path), "--golden", str(golden), "--json", *options)
    assert outcome.status == 0, outcome.stdout
    stored = json.loads(outcome.stdout)["rungs"][0]["answers"]["stored"]
    assert [found["answer"] for found in stored] == ["y", "embedding"]
    assert max(found["reference"] for found in stored) < 1e-12


@pytest.mark.parametrize("number", [0, 1])
def test_masked_language_models_of_the_original_code(number: int, tmp_path: Path) -> None:
    golden = GOLDENS / f"masked_lm_{number}.safetensors"
    path, options = checkpoint_of(golden, tmp_path)
    outcome = invoke("checkpoint", "verify", str(path), "--golden", str(golden), *options)
    assert outcome.status == 0, outcome.stdout
    assert "stored logits, float64: the reference in float64 is off by " in outcome.stdout


def checkpoint_of(golden: Path, folder: Path) -> tuple[Path, list[str]]:
    """Save a golden file's parameters; returns the path, and the options for what no shape shows."""
    from safetensors import safe_open

    with safe_open(golden, "np") as file:
        config = json.loads(file.metadata()["config"])
        state = {name[6:]: file.get_tensor(name) for name in file.keys() if name.startswith("param:")}  # noqa: SIM118
    path = folder / "plain.safetensors"
    save_file(state, path)
    keys = ("pool_all", "use_cls_token", "use_normalized_embeddings") if "classifier.weight" in state else ()
    return path, [word for key in keys for word in ("--set", f"{key}={json.dumps(config[key])}")]


def test_a_file_of_float64_gives_the_logits_of_its_own_numbers(tmp_path: Path) -> None:
    """Rounding them to float32, as both models do, would be seen a million times over."""
    path = small_file(tmp_path, "plain", dtype="F64")
    with open_checkpoint(path) as checkpoint:
        state = {name: torch.from_numpy(one.numpy()) for name, one in checkpoint.tensors.items()}
        assert any(bool((one != one.float()).any()) for one in state.values())
        model = reference_torch.BertForMaskedLM(checkpoint.config).double().eval()
    model.load_state_dict(state, strict=False)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        logits = model(ids).numpy()
    found = {"ids": ids.numpy(), "logits": logits}
    assert held_against(tmp_path, found, path).passed
    logits[0, 3, 7] += 1e-9
    assert not held_against(tmp_path, found, path).passed


# --- faults -----------------------------------------------------------------------------------------------


def logit(found: dict[str, AnyArray]) -> None:
    found["logits"] = found["logits"].copy()
    found["logits"][1, 3, 7] += 1e-7


def token(found: dict[str, AnyArray]) -> None:
    found["ids"] = found["ids"].copy()
    found["ids"][0, 5] = (found["ids"][0, 5] + 1) % 40


def types(found: dict[str, AnyArray]) -> None:
    del found["types"]


@pytest.mark.parametrize("fault", [logit, token, types])
def test_a_fault_in_what_is_stored_is_seen(fault: Any, tmp_path: Path) -> None:
    found = arrays()
    fault(found)
    result = held_against(tmp_path, found)
    assert not result.passed
    assert result.table.culprits == []
    assert "the reference in float64 differs from the stored logits" in result.sentence()
    if fault is logit:
        assert "most at [1, 3, 7]" in result.sentence()


def test_another_setting_is_seen(tmp_path: Path) -> None:
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--golden", str(OURS), "--set", "hyena_w_mod=2")
    assert outcome.status == 1
    assert "--set hyena_w_mod" in outcome.stdout.splitlines()[-1]


def test_a_port_that_is_off_between_modules_is_told_from_a_reference_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_impl.model import BertEncoder

    def call(self: BertEncoder, x: Any) -> Any:
        for layer in self.layer:
            x = layer(x) + 0.1 * x
        return x

    monkeypatch.setattr(BertEncoder, "__call__", call)
    result = held_against(tmp_path, arrays())
    assert not result.passed
    assert "and the reference does not" in result.sentence()


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logits": None}, "has no logits, under any of the names logits, y, output:y.f64"),
        ({"ids": None}, "has no ids, under any of the names ids, input_ids, input:ids"),
        ({"logit": np.zeros(3)}, "'logit', which is no name that is known: attention_mask, embedding, ids"),
        ({"logits": np.zeros((2, 16, 41))}, "logits have shape (2, 16, 41); this model gives (2, 16, 40)"),
        ({"logits": np.zeros((2, 15, 40))}, "this model gives (2, 16, 40)"),
        ({"logits": np.full((2, 16, 40), np.nan)}, "NaN or infinity among the answers"),
        ({"logits": np.zeros((2, 16, 40), np.complex128)}, "complex128"),
        ({"embedding": np.zeros((2, 24))}, "a masked-language model does not give"),
        ({"ids": np.zeros((2, 16))}, "ids are integers of shape (b, l) or (l,), none empty; got float64"),
        ({"ids": np.full((2, 16), 40)}, "the id 40 is not in the vocabulary"),
        ({"ids": np.zeros((2, 17), int)}, "17 positions, and the model has 16"),
        ({"types": np.zeros((2, 15), int)}, "types are integers of shape those of ids, (2, 16)"),
        ({"types": np.full((2, 16), 2)}, "token types of this model are 0 to 1"),
        ({"mask": np.full((2, 16), 3)}, "an attention mask has ones, and zeros"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "stored.npz"
    found = {**arrays(), **changes}
    if "17 positions" in words:
        del found["types"]
    np.savez(path, **{name: array for name, array in found.items() if array is not None})
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--golden", str(path))
    assert outcome.status == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_types_are_not_for_classifiers(tmp_path: Path) -> None:
    path = tmp_path / "stored.npz"
    np.savez(path, ids=np.zeros((1, 4), int), types=np.ones((1, 4), int), y=np.zeros((1, 3)))
    outcome = invoke("checkpoint", "verify", str(small_file(tmp_path, "plain", CLASSIFICATION)), "--golden", str(path))
    assert outcome.status == 2
    assert "a classifier or retrieval model takes none" in outcome.stderr


def test_json_will_do(tmp_path: Path) -> None:
    path = tmp_path / "stored.json"
    path.write_text(json.dumps({name: array[0].tolist() for name, array in arrays().items()}), encoding="utf-8")
    assert invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--golden", str(path)).status == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is no JSON object"), ('{"ids": [[1], [1, 2]]}', "is no JSON object"), ("ids", "no format that is known")],
)
def test_what_is_no_such_file_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "stored.json"
    path.write_text(text, encoding="utf-8")
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--golden", str(path))
    assert outcome.status == 2
    assert words in outcome.stderr


def test_a_pipe_that_nobody_writes_to_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint, pytest.raises(CaseError, match="pipe' is no regular file"):
        read_stored(tmp_path / "pipe", checkpoint)


def test_a_header_whose_length_begins_as_json_does_is_a_header(tmp_path: Path) -> None:
    """MLX writes headers without padding, so that one in 256 has such a length."""
    path = tmp_path / "stored.safetensors"
    save_file(arrays(), path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padded = length + (ord("{") - length) % 256
    blanks = b" " * (padded - length)
    path.write_bytes(padded.to_bytes(8, "little") + data[8 : 8 + length] + blanks + data[8 + length :])
    assert path.read_bytes()[:1] == b"{"
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint:
        assert read_stored(path, checkpoint).answers["logits"].shape == (2, 16, 40)


def test_ids_are_given_once(tmp_path: Path) -> None:
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--golden", str(OURS), "--length", "4")
    assert outcome.status == 2
    assert "--golden brings its own ids" in outcome.stderr


# --- several sequences ------------------------------------------------------------------------------------


def test_sequences_of_several_lengths_run_together_and_padding_is_masked(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"pool_all": True})
    checkpoint, ids = small_file(tmp_path, "plain", CLASSIFICATION, config), tmp_path / "ids.json"
    ids.write_text(json.dumps([[5, 6, 7], [8, 9, 10, 11, 12]]), encoding="utf-8")
    arguments = ("checkpoint", "verify", str(checkpoint), "--set", "pool_all=true", "--ids", str(ids))
    outcome = invoke(*arguments, "--json", "--f64-layers", "2")
    assert outcome.status == 0
    facts = json.loads(outcome.stdout)
    assert (facts["ids"]["sequences"], facts["ids"]["length"]) == (2, 5)
    assert "2 times 5 ids" in invoke(*arguments).stdout
    vectors = json.loads(invoke("embed", str(checkpoint), "--ids", str(ids), "--json", *arguments[3:5]).stdout)
    ids.write_text(json.dumps({"ids": [5, 6, 7, 0, 0], "mask": [1, 1, 1, 0, 0]}), encoding="utf-8")
    alone = json.loads(invoke("embed", str(checkpoint), "--ids", str(ids), "--json", *arguments[3:5]).stdout)
    assert np.allclose(vectors["embeddings"][0], alone["embedding"])
    ids.write_text(json.dumps([5, 6, 7, 0, 0]), encoding="utf-8")
    unmasked = json.loads(invoke("embed", str(checkpoint), "--ids", str(ids), "--json", *arguments[3:5]).stdout)
    assert not np.allclose(unmasked["embedding"], alone["embedding"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"ids": [1, 2], "mask": [1]}', "mask have lengths [1], and ids [2]"),
        ('{"ids": [1, 2], "mask": [0, 0]}', "keeps one position at least"),
        ('{"ids": [1, 2], "types": [0, 2]}', "token types of this model are 0 to 1"),
        ('{"ids": [1, 2], "labels": [0, 1]}', "or a JSON object of ids, mask and types"),
        ("[[1, 2], 3]", "is no list of ids"),
    ],
)
def test_ids_that_do_not_fit_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(text, encoding="utf-8")
    outcome = invoke("checkpoint", "verify", str(TINY_CHECKPOINT), "--ids", str(path))
    assert outcome.status == 2
    assert words in outcome.stderr
