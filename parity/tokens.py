"""Token ids to run a checkpoint on: of a text, of a file, or drawn; what they are is always said."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from parity.errors import CaseError
from parity.plain import one_line
from parity.spec.arrays import AnyArray
from parity.spec.config import ModelConfig

BERT_MASK: Final = 103
"""The id of [MASK] in BERT's own vocabulary, which all public checkpoints use."""

USUAL_LENGTH: Final = 128
"""Ids that are drawn where no length is asked for, or as many as the model has positions."""

DRAWN_MASKS: Final = 8
"""Masks among drawn ids."""

MAX_BYTES: Final = 2**24
"""Bytes of a file of ids or of a text."""


@dataclass(frozen=True)
class Tokens:
    """One sequence.

    Attributes:
        ids: (l,) integers.
        kept: (l,) ones, zeros where the sequence is padded.
        masks: Positions of [MASK].
        source: Where the ids are from, in words.
        words: The word of every id of the vocabulary; empty where no tokenizer was given.
        types: (l,) token types, zeros where it is None; only masked-language models take others.
    """

    ids: AnyArray
    kept: AnyArray
    masks: tuple[int, ...]
    source: str
    words: Sequence[str] = ()
    types: AnyArray | None = None

    def word(self, number: int) -> str:
        """Return the word of an id where it is known, else the id itself."""
        return self.words[number] if number < len(self.words) else str(number)


def tokens_of(
    config: ModelConfig,
    *,
    text: str | None = None,
    tokenizer: Path | None = None,
    ids: Path | None = None,
    length: int | None = None,
    seed: int = 0,
    mask_id: int | None = None,
) -> Tokens:
    """Return the ids of a text, of a file, or drawn ones where neither is named.

    Args:
        config: The model that they are for.
        text: A text; `tokenizer` turns it into ids.
        tokenizer: A folder with `tokenizer.json`, or with BERT's `vocab.txt`; or either file.
        ids: A file of integers, as a JSON list or apart by blanks.
        length: Positions: longer sequences are cut, shorter ones padded with `pad_token_id`.
        seed: Of drawn ids.
        mask_id: The id of [MASK]; that of the tokenizer, else BERT's, where it is None.

    Raises:
        CaseError: Nothing can be made of what is given, an id is not in the vocabulary, or the model has fewer
            positions.
    """
    if text is not None and ids is not None:
        raise CaseError("--text and --ids are two ways to say the same; give one")
    words: Sequence[str] = ()
    if text is not None:
        found, words, own_mask = _tokenized(text, tokenizer)
        mask_id = own_mask if mask_id is None else mask_id
        source = f"of a text, by the tokenizer {one_line(tokenizer)}"
    elif ids is not None:
        found, source = _read(ids), f"of {one_line(ids)}"
    else:
        found, source = [], f"random in [0, {config.vocab_size}), seed {seed}: no --text and no --ids"
    mask = BERT_MASK if mask_id is None else mask_id
    if text is None and ids is None:
        count = min(USUAL_LENGTH, positions_of(config)) if length is None else length
        _require_positions(count, config)
        found = _drawn(config, count, seed, mask)
    array = np.array(found, dtype=np.int64)
    _require_known(array, config)
    wanted = len(array) if length is None else length
    _require_positions(wanted, config)
    padded = np.full(wanted, config.pad_token_id, dtype=np.int64)
    padded[: len(array)] = array[:wanted]
    kept = (np.arange(wanted) < len(array)).astype(np.int64)
    if wanted < len(array):
        source += f", cut from {len(array)}"
    elif wanted > len(array):
        source += f", padded from {len(array)}"
    masks = tuple(int(place) for place in np.flatnonzero((padded == mask) & (kept == 1)))
    return Tokens(padded, kept, masks, source, words)


def positions_of(config: ModelConfig) -> int:
    """Return how many positions a model takes."""
    if not config.use_positional_encodings:
        return config.long_conv_l_max
    return min(config.long_conv_l_max, config.max_position_embeddings)


def _drawn(config: ModelConfig, count: int, seed: int, mask: int) -> list[int]:
    rng = np.random.Generator(np.random.Philox(seed))
    ids = rng.integers(0, config.vocab_size, count)
    if mask < config.vocab_size:
        ids[rng.permutation(count)[: min(DRAWN_MASKS, max(1, count // 8))]] = mask
    return [int(number) for number in ids]


def _require_positions(count: int, config: ModelConfig) -> None:
    if count > positions_of(config):
        raise CaseError(
            f"{count} positions, and the model has {positions_of(config)}: cut with --length, or `parity checkpoint "
            "extend` makes a model of more"
        )
    if count < 1:
        raise CaseError("there are no ids; at least one is needed")


def _require_known(ids: AnyArray, config: ModelConfig) -> None:
    wrong = next((number for number in ids.tolist() if not 0 <= number < config.vocab_size), None)
    if wrong is not None:
        raise CaseError(f"the id {wrong} is not in the vocabulary, which has 0 to {config.vocab_size - 1}")


def _read(path: Path) -> list[int]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CaseError(
                f"{one_line(path)!r} has {path.stat().st_size} bytes; a file of ids has at most {MAX_BYTES}"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{one_line(path)!r} cannot be read: {one_line(error)}") from None
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else [int(word) for word in text.split()]
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(type(number) is int and abs(number) < 2**31 for number in found):
        raise CaseError(f"{one_line(path)!r} is no list of ids: integers apart by blanks, or a JSON list of integers")
    return found


def _tokenized(text: str, place: Path | None) -> tuple[list[int], Sequence[str], int | None]:
    """Return ids with [CLS] and [SEP], the vocabulary in order, and the id of [MASK]."""
    if place is None:
        raise CaseError("--text needs --tokenizer FOLDER, with tokenizer.json or vocab.txt; or give --ids")
    tokenizer = _tokenizer(place)
    encoded = tokenizer.encode(text)
    words = [""] * tokenizer.get_vocab_size()
    for word, number in tokenizer.get_vocab().items():
        if number < len(words):
            words[number] = word
    return list(encoded.ids), words, tokenizer.token_to_id("[MASK]")


def _tokenizer(place: Path) -> Any:
    try:
        library: Any = importlib.import_module("tokenizers")
    except ImportError:
        raise CaseError("--text needs the library tokenizers: pip install 'mlx-parity[text]'; or give --ids") from None
    named = [place] if place.is_file() else [place / "tokenizer.json", place / "vocab.txt"]
    path = next((path for path in named if path.is_file()), None)
    if path is None:
        raise CaseError(f"--tokenizer {one_line(place)!r} has neither tokenizer.json nor vocab.txt")
    try:
        if path.suffix == ".json":
            return library.Tokenizer.from_file(str(path))
        return library.BertWordPieceTokenizer(str(path), lowercase=True)
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
        raise CaseError(f"--tokenizer {one_line(path)!r} cannot be read: {one_line(error)}") from None
