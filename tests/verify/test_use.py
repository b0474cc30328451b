"""The MLX model at work: embeddings, words for masks, more positions."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoint_pieces import HEADS, TINY, TINY_CHECKPOINT, contents, small_file
from harness_pieces import invoke

import reference_torch
from parity.checkpoint import convert, extend, open_checkpoint
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, POSITION_IDS, Head
from parity.checkpoint.record import record_path
from parity.errors import CaseError, CheckpointError, OutputError
from parity.port_model import CACHE_BYTES, embedding, fillings, freed_memory_kept, hold_filters, load_port
from parity.spec.arrays import Array
from parity.spec.profile import CANONICAL
from parity.tokens import Tokens, tokens_of
from parity.verify import verify


def by_reference(path: Path, tokens: Tokens) -> tuple[Array, Array]:
    """Embedding and last output of the reference in float64."""
    with open_checkpoint(path) as checkpoint:
        model = getattr(reference_torch, checkpoint.head)(checkpoint.config).eval()
        state = {name: torch.from_numpy(np.array(one.numpy())) for name, one in checkpoint.tensors.items()}
        missing = model.load_state_dict(state, strict=False)
        assert [name for name in missing.missing_keys if name != POSITION_IDS] == []
        model.double()
    with torch.no_grad():
        ids, kept = torch.from_numpy(tokens.ids)[None], torch.from_numpy(tokens.kept)[None]
        if checkpoint.head == CLASSIFICATION:
            out = model(ids, kept)
            return out["embedding"][0].numpy(), out["y"][0].numpy()
        hidden = model.bert(ids)[0].numpy()
        return hidden[tokens.kept == 1].mean(axis=0), model(ids)[0].numpy()


@pytest.mark.parametrize("length", [None, 9])
@pytest.mark.parametrize("head", HEADS)
def test_an_embedding_is_the_references(head: Head, length: int | None, tmp_path: Path) -> None:
    path, ids = small_file(tmp_path, "plain", head), tmp_path / "ids"
    ids.write_text("3 1 4 1 5 9", encoding="utf-8")
    with open_checkpoint(path) as checkpoint:
        tokens = tokens_of(TINY, ids=ids, length=length)
        made = embedding(load_port(checkpoint, CANONICAL), tokens)
    exact, _ = by_reference(path, tokens)
    assert np.linalg.norm(made - exact) < 1e-3 * np.linalg.norm(exact)


def test_fillings_are_the_references(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("3 7 4 7 5", encoding="utf-8")
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint:
        tokens = tokens_of(TINY, ids=ids, mask_id=7)
        found = fillings(load_port(checkpoint, CANONICAL), tokens, top=3)
    _, logits = by_reference(TINY_CHECKPOINT, tokens)
    for place, row in zip((1, 3), found, strict=True):
        chances = np.exp(logits[place] - logits[place].max())
        chances /= chances.sum()
        assert [it.token for it in row] == np.argsort(-chances)[:3].tolist()
        assert [it.probability for it in row] == pytest.approx(np.sort(chances)[::-1][:3], rel=1e-3)
        assert {it.position for it in row} == {place}


def test_what_has_no_head_or_no_mask_is_refused(tmp_path: Path) -> None:
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint, pytest.raises(CaseError, match="no \\[MASK\\]"):
        fillings(load_port(checkpoint, CANONICAL), tokens_of(TINY))
    path = small_file(tmp_path, "plain", CLASSIFICATION)
    with open_checkpoint(path) as checkpoint, pytest.raises(CaseError, match="parity embed"):
        fillings(load_port(checkpoint, CANONICAL), tokens_of(TINY))


def test_a_budget_changes_no_bit() -> None:
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint:
        tokens = tokens_of(TINY)
        one, other = (embedding(load_port(checkpoint, CANONICAL, budget), tokens) for budget in (1, None))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("head", HEADS)
def test_held_filters_change_no_bit(head: Head, tmp_path: Path) -> None:
    with open_checkpoint(small_file(tmp_path, "plain", head)) as checkpoint:
        tokens, model = tokens_of(TINY), load_port(checkpoint, CANONICAL)
    expected = embedding(model, tokens)
    assert hold_filters(model, len(tokens.ids)) > 0
    assert np.array_equal(embedding(model, tokens), expected)


def test_filters_are_held_as_far_as_the_limit_goes() -> None:
    with open_checkpoint(TINY_CHECKPOINT) as checkpoint:
        model = load_port(checkpoint, CANONICAL)
    every = hold_filters(model, 8)
    each = 2 * 4 * 8 * TINY.hidden_size
    assert every == each * TINY.num_hidden_layers * (1 + TINY.residual_long_conv)
    assert hold_filters(model, 8, every - 1) == every - each
    assert hold_filters(model, 8, 0) == 0


def cached_after_freeing(nbytes: int) -> int:
    mx.clear_cache()
    array = mx.ones(nbytes // 4)
    mx.eval(array)
    del array
    return mx.get_cache_memory()


def test_freed_memory_is_kept_while_a_model_is_at_work_and_no_longer() -> None:
    size = 2**26
    with mx.stream(mx.cpu):
        assert cached_after_freeing(size) < size
        with freed_memory_kept():
            assert cached_after_freeing(size) >= size
        assert mx.get_cache_memory() == 0
        assert cached_after_freeing(size) < size


def test_the_limit_is_what_it_was_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(mx, "set_cache_limit", lambda limit: limits.append(limit) or 7)
    with pytest.raises(ValueError, match="planted"), freed_memory_kept(5):
        raise ValueError("planted")
    assert limits == [5, 7]


def test_a_command_works_with_freed_memory_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(mx, "set_cache_limit", lambda limit: limits.append(limit) or 7)
    ids = tmp_path / "ids"
    ids.write_text("3 1 4", encoding="utf-8")
    assert invoke("embed", str(TINY_CHECKPOINT), "--ids", str(ids), "--json").status == 0
    assert limits == [CACHE_BYTES, 7]


def test_several_sequences_are_answered_with_filters_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    monkeypatch.setattr("parity.port_model.hold_filters", lambda model, length: held.append(length))
    ids = tmp_path / "ids"
    for rows, lengths in (([[3, 1, 4]], []), ([[3, 1, 4], [1, 5, 9]], [3])):
        ids.write_text(json.dumps(rows), encoding="utf-8")
        assert invoke("embed", str(TINY_CHECKPOINT), "--ids", str(ids), "--json").status == 0
        assert held == lengths


def test_the_commands_answer(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("3 7 4 7 5", encoding="utf-8")
    outcome = invoke("fill-mask", str(TINY_CHECKPOINT), "--ids", str(ids), "--mask-id", "7", "--top", "2")
    assert outcome.status == 0
    assert [line.split(":")[0] for line in outcome.stdout.splitlines()] == ["position 1", "position 3"]
    outcome = invoke("embed", str(TINY_CHECKPOINT), "--ids", str(ids), "--json")
    assert outcome.status == 0
    assert len(json.loads(outcome.stdout)["embedding"]) == TINY.hidden_size
    outcome = invoke("embed", str(TINY_CHECKPOINT), "--ids", str(ids))
    assert len(outcome.stdout.split()) == TINY.hidden_size
    outcome = invoke("fill-mask", str(TINY_CHECKPOINT), "--ids", str(ids))
    assert outcome.status == 2
    assert "--mask-id" in outcome.stderr


# --- more positions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [17, 32, 40])
@pytest.mark.parametrize("head", HEADS)
def test_an_extended_model_has_its_tables_repeated_and_is_whole(head: Head, length: int, tmp_path: Path) -> None:
    path, out = small_file(tmp_path, "plain", head), tmp_path / "long.pt"
    done = extend(path, out, length)
    before, after = contents(path), contents(out)
    assert done.written == len(before)
    assert before.keys() == after.keys()
    for name, (dtype, shape, data) in before.items():
        if name.endswith("pos_emb.z") or name == "bert.embeddings.position_embeddings.weight":
            row = len(data) // 16
            assert after[name][2] == (data * 3)[: row * length]
        elif name.endswith("pos_emb.t"):
            times = np.frombuffer(after[name][2], np.float32)
            assert np.array_equal(times, np.linspace(0, 1, length).astype(np.float32))
        elif name == POSITION_IDS:
            assert np.array_equal(np.frombuffer(after[name][2], np.int64), np.arange(length))
        else:
            assert after[name] == (dtype, shape, data)
    with open_checkpoint(out) as checkpoint:
        assert checkpoint.config.long_conv_l_max == checkpoint.config.max_position_embeddings == length
        assert verify(checkpoint, tokens_of(checkpoint.config, length=length), CANONICAL).passed


def test_extending_and_converting_is_converting_and_extending(tmp_path: Path) -> None:
    path = small_file(tmp_path, "plain", MASKED_LM)
    extend(path, tmp_path / "long.pt", 40)
    convert(tmp_path / "long.pt", tmp_path / "one.safetensors")
    convert(path, tmp_path / "short.safetensors")
    extend(tmp_path / "short.safetensors", tmp_path / "other.safetensors", 40)
    assert contents(tmp_path / "one.safetensors") == contents(tmp_path / "other.safetensors")


@pytest.mark.parametrize("length", [15, 16, 2**21])
def test_a_length_that_is_no_extension_is_refused(length: int, tmp_path: Path) -> None:
    out = tmp_path / "long.pt"
    with pytest.raises(CheckpointError, match="has 16 positions"):
        extend(TINY_CHECKPOINT, out, length)
    assert not out.exists()
    assert not record_path(out).exists()


def test_what_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "long.pt"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="--force"):
        extend(TINY_CHECKPOINT, out, 32)
    assert out.read_bytes() == b"mine"
    outcome = invoke("checkpoint", "extend", str(TINY_CHECKPOINT), str(out), "--length", "32", "--force")
    assert outcome.status == 0
    assert "32 positions" in outcome.stdout
