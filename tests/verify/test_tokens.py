"""Token ids: of a text, of a file, or drawn; refused where the model cannot take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_pieces import TINY

from parity.errors import CaseError
from parity.tokens import BERT_MASK, positions_of, tokens_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cap", "##ital", "of", "fr", "##ance", "."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


def test_a_text_by_wordpiece(folder: Path) -> None:
    pytest.importorskip("tokenizers")
    tokens = tokens_of(TINY, text="The capital of [MASK].", tokenizer=folder)
    assert [tokens.word(number) for number in tokens.ids] == [
        "[CLS]", "the", "cap", "##ital", "of", "[MASK]", ".", "[SEP]",
    ]  # fmt: skip
    assert tokens.masks == (5,)
    assert tokens.kept.all()
    assert "tokenizer" in tokens.source


def test_a_tokenizer_file_of_the_library(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    assert tokens_of(TINY, text="france", tokenizer=folder).ids.tolist() == [2, 9, 10, 3]
    assert tokens_of(TINY, text="france", tokenizer=folder / "tokenizer.json").ids.tolist() == [2, 9, 10, 3]


def test_a_longer_length_pads_and_a_shorter_one_cuts(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text("5 6 7 8", encoding="utf-8")
    padded = tokens_of(TINY, ids=path, length=6)
    assert padded.ids.tolist() == [5, 6, 7, 8, 0, 0]
    assert padded.kept.tolist() == [1, 1, 1, 1, 0, 0]
    assert "padded from 4" in padded.source
    cut = tokens_of(TINY, ids=path, length=2)
    assert cut.ids.tolist() == [5, 6]
    assert "cut from 4" in cut.source


def test_ids_of_json_and_their_masks(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps([2, 4, 6, 4]), encoding="utf-8")
    assert tokens_of(TINY, ids=path, mask_id=4).masks == (1, 3)
    assert tokens_of(TINY, ids=path).masks == ()


def test_drawn_ids_depend_on_the_seed_and_hold_masks() -> None:
    big = TINY.model_copy(update={"vocab_size": 500})
    one, same, other = tokens_of(big, seed=1), tokens_of(big, seed=1), tokens_of(big, seed=2)
    assert np.array_equal(one.ids, same.ids)
    assert not np.array_equal(one.ids, other.ids)
    assert len(one.ids) == positions_of(big) == 16
    assert len(one.masks) == 2
    assert all(one.ids[place] == BERT_MASK for place in one.masks)
    assert tokens_of(TINY).masks == ()  # 103 is no word of forty
    assert "random" in one.source
    assert "seed 1" in one.source


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("5 40", {}, "the id 40 is not in the vocabulary"),
        ("-1", {}, "the id -1"),
        ("1.5", {}, "no list of ids"),
        ("[1, true]", {}, "no list of ids"),
        ('["a"]', {}, "no list of ids"),
        ("[" * 100_000, {}, "no list of ids"),
        ("9" * 30, {}, "no list of ids"),
        ("", {}, "there are no ids"),
        ("1 " * 17, {}, "the model has 16"),
        ("1", {"length": 17}, "the model has 16"),
        ("1", {"text": "a"}, "give one"),
    ],
)
def test_what_cannot_be_is_refused(content: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CaseError, match=words.replace("[", r"\[")):
        tokens_of(TINY, ids=path, **options)


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(CaseError, match="neither"):
        tokens_of(TINY, text="a", tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CaseError, match="cannot be read"):
        tokens_of(TINY, text="a", tokenizer=tmp_path)


def test_without_the_library_the_way_out_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(CaseError, match="pip install"):
        tokens_of(TINY, text="a", tokenizer=folder)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a system without a file that has no end")
def test_a_device_without_end_is_refused() -> None:
    with pytest.raises(CaseError, match="more bytes than a file of ids may have, 16777216"):
        tokens_of(TINY, ids=Path("/dev/zero"))
