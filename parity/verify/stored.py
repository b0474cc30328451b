"""Answers that somebody stored, the original code's for one, held against the reference in float64 and the port.

A file has ids and what a model made of them; as npz, safetensors or JSON:

| what | name |
|---|---|
| ids, (b, l) or (l,) | `ids`, `input_ids`, `input:ids` |
| logits, (b, l, v) or (l, v); of a classifier (b, labels), (labels,) | `logits`, `y`, `output:y.f64`, `output:y.f32` |
| embeddings of a classifier, (b, d) or (d,) | `embedding`, `output:embedding.f64`, `output:embedding.f32` |
| token types, as ids; zeros where there are none | `types`, `token_type_ids`, `input:tt` |
| attention mask, as ids, ones where there is none | `mask`, `attention_mask`, `input:mask` |

The names with colons are those of golden files, whose other tensors are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from parity.checkpoint import Checkpoint
from parity.checkpoint.layout import MASKED_LM
from parity.checkpoint.opening import is_safetensors, open_file
from parity.checkpoint.tensors import File
from parity.errors import CaseError, CheckpointError
from parity.plain import one_line
from parity.spec.arrays import AnyArray
from parity.spec.precision import BY_DTYPE, RUNGS
from parity.tokens import Tokens, require_takes, tokens_of_rows
from parity.tolerance import constant, rounding_of
from parity.verify.judge import Error, distance, over

MAX_BYTES: Final = 2**27
"""Bytes of a JSON file of answers."""

INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ids": ("ids", "input_ids", "input:ids"),
    "types": ("types", "token_type_ids", "input:tt"),
    "mask": ("mask", "attention_mask", "input:mask"),
}
ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "y": ("logits", "y", "output:y.f64", "output:y.f32"),
    "embedding": ("embedding", "output:embedding.f64", "output:embedding.f32"),
}
PASSED_OVER: Final = ("input:", "output:", "param:")


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes:
        source: Where it is from.
        sequences: Its ids, all of one length.
        answers: `logits` (b, l, v) of a masked-language model; `y` (b, labels), `embedding` (b, d) of a classifier.
    """

    source: str
    sequences: tuple[Tokens, ...]
    answers: Mapping[str, AnyArray]


@dataclass(frozen=True)
class Agreement:
    """How far reference and port are from one stored answer.

    Attributes:
        answer: Its name.
        dtype: What it is stored in.
        reference: rel L2 of the reference in float64 from it.
        ratio: That error over what rounding explains, root mean square or largest element, the larger.
        port: rel L2 of the port at f32 from it.
        port_ratio: That error over its allowance, as for a module.
        place: Index of the element where the reference is farthest off.
    """

    answer: str
    dtype: str
    reference: float
    ratio: float
    port: float
    port_ratio: float
    place: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether both keep within what is allowed; NaN does not."""
        return self.ratio <= 1 and self.port_ratio <= 1


def agreement(
    answer: str, stored: AnyArray, exact: AnyArray, theirs: AnyArray, port: AnyArray, hidden: float
) -> Agreement:
    """Hold one stored answer against the reference in float64, the reference at f32 and the port at f32.

    What the reference loses at f32 says how rounding is magnified on the way to the answers; in the stored dtype, of
    roundoff u, a faithful model loses u / u32 of it. Allowed is, as for a module,

        2^(margin + margin_beyond) max(|theirs - exact| u / u32, rounding of the result)

    Answers may be few, and the reference lucky in them: it is taken to lose no less, relative to them, than `hidden`,
    its relative error in the hidden states at f32.
    """
    held, single = BY_DTYPE[str(stored.dtype)], RUNGS["f32"]
    mine, lost, port_error = distance(exact, stored), distance(theirs, exact), distance(port, stored)
    lost = replace(lost, rms=max(lost.rms, hidden * mine.size), largest=max(lost.largest, hidden * mine.peak))
    scale = held.u / single.u * (constant("float64") if held.name == "f64" else 1.0)
    places = np.abs(exact.astype(np.float64) - stored.astype(np.float64))
    place = np.unravel_index(int(np.argmax(places)), places.shape)
    return Agreement(
        answer,
        str(stored.dtype),
        mine.relative,
        _ratio(mine, lost, scale, rounding_of(mine.size, mine.peak, held)),
        port_error.relative,
        _ratio(port_error, lost, max(1.0, scale), rounding_of(mine.size, mine.peak, single)),
        tuple(int(number) for number in place),
    )


def _ratio(error: Error, lost: Error, scale: float, rounding: tuple[float, float]) -> float:
    factor = 2 ** (constant("margin") + constant("margin_beyond"))
    return max(
        over(error.rms, factor * max(lost.rms * scale, rounding[0])),
        over(error.largest, factor * max(lost.largest * scale, rounding[1])),
    )


# --- the file ---------------------------------------------------------------------------------------------


def read_stored(path: Path, checkpoint: Checkpoint, mask_id: int | None = None) -> Stored:
    """Read ids and answers, and check them against the model that they are said to be of.

    Raises:
        CaseError: A name or a shape is not what this model takes or gives.
        CheckpointError: The file cannot be read.
    """
    arrays = _arrays(path)
    quoted = f"--golden {one_line(path)!r}"
    inputs = {what: array for what, names in INPUTS.items() if (array := _first(arrays, names)) is not None}
    found = {what: array for what, names in ANSWERS.items() if (array := _first(arrays, names)) is not None}
    known = {name for names in (*INPUTS.values(), *ANSWERS.values()) for name in names}
    strange = next((name for name in arrays if name not in known and not name.startswith(PASSED_OVER)), None)
    if strange is not None:
        raise CaseError(
            f"{quoted} has {one_line(strange)!r}, which is no name that is known: {', '.join(sorted(known))}"
        )
    if "ids" not in inputs or not found:
        missing = "ids" if "ids" not in inputs else "logits"
        there = ", ".join(map(one_line, list(arrays)[:5])) or "nothing"
        names = INPUTS["ids"] if missing == "ids" else (*ANSWERS["y"], *ANSWERS["embedding"])
        raise CaseError(f"{quoted} has no {missing}, under any of the names {', '.join(names)}; it has {there}")
    single = inputs["ids"].ndim == 1
    rows = {what: _rows(quoted, what, array, inputs["ids"].shape) for what, array in inputs.items()}
    sequences = tokens_of_rows(
        checkpoint.config, rows["ids"], f"of {one_line(path)}", mask=rows.get("mask"), types=rows.get("types"),
        mask_id=mask_id,
    )  # fmt: skip
    masked = checkpoint.head == MASKED_LM
    answers = {
        "logits" if masked and what == "y" else what: _answer(
            quoted, what, array[None] if single else array, checkpoint, (len(sequences), len(sequences[0].ids))
        )
        for what, array in found.items()
    }
    require_takes(masked, sequences)
    return Stored(f"of {one_line(path)}", sequences, answers)


def _arrays(path: Path) -> dict[str, AnyArray]:
    quoted = f"--golden {one_line(path)!r}"
    try:
        file = File(path)
        try:
            if not is_safetensors(file) and file.read(0, 1) == b"{":
                return _of_json(quoted, file)
        finally:
            file.close()
    except CheckpointError as error:
        raise CaseError(f"{quoted} {error}") from None
    opened = open_file(path)
    try:
        known = {name for names in (*INPUTS.values(), *ANSWERS.values()) for name in names}
        return {name: tensor.numpy() if name in known else np.empty(0) for name, tensor in opened.tensors.items()}
    finally:
        opened.close()


def _of_json(quoted: str, file: File) -> dict[str, AnyArray]:
    if file.size > MAX_BYTES:
        raise CaseError(f"{quoted} has more than {MAX_BYTES} bytes; as npz it takes less")
    try:
        document = json.loads(file.read(0, file.size).decode())
        return {str(name): np.asarray(values) for name, values in document.items()}
    except (ValueError, RecursionError) as error:
        raise CaseError(f"{quoted} is no JSON object of lists of numbers: {one_line(error)}") from None


def _first(arrays: Mapping[str, AnyArray], names: tuple[str, ...]) -> AnyArray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _rows(quoted: str, what: str, array: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    if array.dtype.kind not in "iub" or array.ndim not in (1, 2) or array.shape != shape or not array.size:
        wanted = "(b, l) or (l,), none empty" if what == "ids" else f"those of ids, {shape}"
        raise CaseError(f"{quoted}: {what} are integers of shape {wanted}; got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64).reshape(-1, shape[-1])


def _answer(quoted: str, what: str, array: AnyArray, checkpoint: Checkpoint, shape: tuple[int, int]) -> AnyArray:
    config = checkpoint.config
    if checkpoint.head == MASKED_LM:
        if what != "y":
            raise CaseError(f"{quoted} has embeddings, which a masked-language model does not give; it gives logits")
        wanted: tuple[int, ...] = (*shape, config.vocab_size)
    else:
        wanted = (shape[0], config.num_labels if what == "y" else config.hidden_size)
    if array.shape != wanted:
        raise CaseError(
            f"{quoted}: {'logits' if what == 'y' else what} have shape {array.shape}; this model gives {wanted}"
        )
    plain: Any = array.astype(np.float64) if array.dtype.kind == "i" else array
    if str(plain.dtype) not in BY_DTYPE:
        raise CaseError(f"{quoted}: answers are float64, float32, bfloat16 or float16; got {array.dtype}")
    if not np.isfinite(plain.astype(np.float64)).all():
        raise CaseError(f"{quoted}: NaN or infinity among the answers")
    return np.asarray(plain)
