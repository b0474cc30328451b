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


def tokens_of(config: ModelConfig, **given: Any) -> Tokens:
    """Return the ids of a text, of a file with one sequence, or drawn ones; the arguments are `sequences_of`'s.

    Raises:
        CaseError: As `sequences_of`, or the file has several sequences.
    """
    found = sequences_of(config, **given)
    if len(found) > 1:
        raise CaseError(f"one sequence is taken here, and the file has {len(found)}")
    return found[0]


def sequences_of(
    config: ModelConfig,
    *,
    text: str | None = None,
    tokenizer: Path | None = None,
    ids: Path | None = None,
    length: int | None = None,
    seed: int = 0,
    mask_id: int | None = None,
    drawn_types: bool = False,
) -> tuple[Tokens, ...]:
    """Return the ids of a text, of a file, or drawn ones where neither is named; all sequences of one length.

    Args:
        config: The model that they are for.
        text: A text; `tokenizer` turns it into ids.
        tokenizer: A folder with `tokenizer.json`, or with BERT's `vocab.txt`; or either file.
        ids: A file of integers: a JSON list, one list a sequence where there are several, apart by blanks, or a JSON
            object of `ids` with an attention `mask` and token `types` of the same shape, or one of them.
        length: Positions: longer sequences are cut, shorter ones padded with `pad_token_id`. Where it is None, as
            many as the longest sequence has.
        seed: Of drawn ids.
        mask_id: The id of [MASK]; that of the tokenizer, else BERT's, where it is None.
        drawn_types: Draw token types as well where ids are drawn.

    Raises:
        CaseError: Nothing can be made of what is given, an id is not in the vocabulary, or the model has fewer
            positions.
    """
    if text is not None and ids is not None:
        raise CaseError("--text and --ids are two ways to say the same; give one")
    words: Sequence[str] = ()
    given = _Given([])
    if text is not None:
        ids_of_text, words, own_mask = _tokenized(text, tokenizer)
        given = _Given([ids_of_text])
        mask_id = own_mask if mask_id is None else mask_id
        source = f"of a text, by the tokenizer {one_line(tokenizer)}"
    elif ids is not None:
        given, source = _read(ids), f"of {one_line(ids)}"
    else:
        source = f"random in [0, {config.vocab_size}), seed {seed}: no --text and no --ids"
    mask = BERT_MASK if mask_id is None else mask_id
    if text is None and ids is None:
        count = min(USUAL_LENGTH, positions_of(config)) if length is None else length
        _require_positions(count, config)
        rng = np.random.Generator(np.random.Philox(seed))
        drawn = _drawn(config, count, rng, mask)
        given = _Given(
            [drawn], types=[rng.integers(0, config.type_vocab_size, count).tolist()] if drawn_types else None
        )
    longest = max(map(len, given.ids), default=0)
    wanted = longest if length is None else length
    _require_positions(wanted if longest else 0, config)
    for row in given.ids:
        _require_known(np.array(row, dtype=np.int64), config)
    rows = np.array([_fitted(row, wanted, config.pad_token_id) for row in given.ids])
    kept = [
        _fitted([1] * len(row) if given.mask is None else given.mask[n], wanted, 0) for n, row in enumerate(given.ids)
    ]
    types = None if given.types is None else np.array([_fitted(row, wanted, 0) for row in given.types])
    if wanted < longest:
        source += f", cut from {longest}"
    elif min(map(len, given.ids)) < wanted:
        source += f", padded from {min(map(len, given.ids))}"
    return tokens_of_rows(config, rows, source, mask=np.array(kept), types=types, mask_id=mask, words=words)


def tokens_of_rows(
    config: ModelConfig,
    ids: AnyArray,
    source: str,
    *,
    mask: AnyArray | None = None,
    types: AnyArray | None = None,
    mask_id: int | None = None,
    words: Sequence[str] = (),
) -> tuple[Tokens, ...]:
    """Return sequences of one length, the rows of (b, l) integers.

    Args:
        config: The model that they are for.
        ids: The ids.
        source: Where they are from, in words.
        mask: (b, l) ones, zeros where a sequence is padded; ones where it is None.
        types: (b, l) token types, zeros where it is None.
        mask_id: The id of [MASK]; BERT's where it is None.
        words: The word of every id.

    Raises:
        CaseError: An id or a type is not in its table, a mask is neither 0 nor 1 or keeps nothing, or the model has
            fewer positions.
    """
    _require_positions(ids.shape[1], config)
    _require_known(ids.reshape(-1), config)
    kept = np.ones_like(ids) if mask is None else mask
    if not np.isin(kept, (0, 1)).all() or not kept.any(axis=1).all():
        raise CaseError(
            "an attention mask has ones, and zeros where a sequence is padded; it keeps one position at least"
        )
    if types is not None and not set(types.reshape(-1).tolist()) <= set(range(config.type_vocab_size)):
        raise CaseError(f"token types of this model are 0 to {config.type_vocab_size - 1}; got others")
    special = BERT_MASK if mask_id is None else mask_id
    return tuple(
        Tokens(
            row,
            kept[number],
            tuple(int(place) for place in np.flatnonzero((row == special) & (kept[number] == 1))),
            source,
            words,
            None if types is None else types[number],
        )
        for number, row in enumerate(ids)
    )


def require_takes(types: bool, sequences: Sequence[Tokens]) -> None:
    """Refuse sequences that a model cannot take together.

    Args:
        types: Whether it takes token types: masked-language models do, classifiers and retrieval models do not.
        sequences: All of one length.

    Raises:
        CaseError: There is none, their lengths differ, or a type is not zero where none is taken.
    """
    lengths = sorted({len(one.ids) for one in sequences})
    if len(lengths) != 1:
        raise CaseError(
            f"sequences that are run together have one length; got {lengths or 'none'}: pad the shorter ones"
        )
    if not types and any(one.types is not None and one.types.any() for one in sequences):
        raise CaseError("token types other than zero: a classifier or retrieval model takes none")


@dataclass(frozen=True)
class _Given:
    """Sequences as a file or a text has them: of their own lengths, with what belongs to each id."""

    ids: list[list[int]]
    mask: list[list[int]] | None = None
    types: list[list[int]] | None = None


def _fitted(row: list[int], length: int, filling: int) -> list[int]:
    """Cut or fill up a sequence."""
    return [*row[:length], *[filling] * (length - len(row))]


def positions_of(config: ModelConfig) -> int:
    """Return how many positions a model takes."""
    if not config.use_positional_encodings:
        return config.long_conv_l_max
    return min(config.long_conv_l_max, config.max_position_embeddings)


def _drawn(config: ModelConfig, count: int, rng: np.random.Generator, mask: int) -> list[int]:
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


def _read(path: Path) -> _Given:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # what a device or a pipe has says no size
        if len(data) > MAX_BYTES:
            raise CaseError(f"{one_line(path)!r} has more bytes than a file of ids may have, {MAX_BYTES}")
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{one_line(path)!r} cannot be read: {one_line(error)}") from None
    try:
        found = json.loads(text) if text.lstrip()[:1] in ("[", "{") else [int(word) for word in text.split()]
    except (ValueError, RecursionError):
        found = None
    fields = found if isinstance(found, dict) else {"ids": found}
    rows = {name: _rows(values) for name, values in fields.items()}
    if not rows.keys() <= {"ids", "mask", "types"} or rows.get("ids") is None or None in rows.values():
        raise CaseError(
            f"{one_line(path)!r} is no list of ids: integers apart by blanks, a JSON list of integers, one list a "
            "sequence where there are several, or a JSON object of ids, mask and types"
        )
    lengths = {name: [len(row) for row in values or ()] for name, values in rows.items()}
    wrong = next((name for name in rows if lengths[name] != lengths["ids"]), None)
    if wrong is not None:
        raise CaseError(f"{one_line(path)!r}: {wrong} have lengths {lengths[wrong]}, and ids {lengths['ids']}")
    return _Given(rows["ids"] or [], rows.get("mask"), rows.get("types"))


def _rows(values: Any) -> list[list[int]] | None:
    """Return a list of integers as one row, a list of such lists as it is, None of anything else."""
    if not isinstance(values, list):
        return None
    rows = values if values and all(isinstance(row, list) for row in values) else [values]
    good = all(type(number) is int and abs(number) < 2**31 for row in rows for number in row)
    return rows if good else None


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
