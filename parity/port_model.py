"""The MLX model of a checkpoint, to use: sentence embeddings, and words for [MASK].

    with open_checkpoint(Path("m2.pt")) as checkpoint:
        model = load_port(checkpoint)
    embedding(model, tokens)          # (d,)
    fillings(model, tokens, top=5)    # likely words at every [MASK]

torch is not needed, and not imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np
from mlx import nn

import mlx_impl
from mlx_impl.ops import Ops
from mlx_impl.weights import move_axes, port_name
from parity.checkpoint import Checkpoint
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, Head
from parity.errors import CaseError, CheckpointError
from parity.spec.arrays import AnyArray, Array
from parity.spec.profile import HyperProfile
from parity.tokens import Tokens, require_takes

BUDGET_BYTES: Final = 2**28
"""What the transforms of a long convolution hold at once where nobody says otherwise: 128 channels of 32,768."""


@dataclass(frozen=True)
class PortModel:
    """A loaded model.

    Attributes:
        head: Its class.
        module: It, in float32 and evaluation mode.
    """

    head: Head
    module: nn.Module


@dataclass(frozen=True)
class Filling:
    """A word for a [MASK]: its position, its id, and its probability there."""

    position: int
    token: int
    probability: float


def load_port(checkpoint: Checkpoint, profile: HyperProfile, budget_bytes: int | None = BUDGET_BYTES) -> PortModel:
    """Build the MLX model of an open checkpoint, in float32.

    Args:
        checkpoint: It; may be closed afterwards.
        profile: What the model means; `canonical` is the published one.
        budget_bytes: See `mlx_impl.Ops`.

    Raises:
        CheckpointError: A number is NaN or infinite, or cannot be read.
    """
    with mx.stream(mx.cpu):
        ops = Ops(profile, budget_bytes=budget_bytes)
        mx.random.seed(0)
        module: nn.Module = getattr(mlx_impl, checkpoint.head)(checkpoint.config, profile=profile, ops=ops)
        weights = []
        for name, tensor in checkpoint.stored.items():
            values = np.asarray(tensor.numpy(), dtype=np.float32)
            if not np.isfinite(values).all():
                raise CheckpointError(f"NaN or infinity in {name}: no model computes anything with it")
            weights.append((port_name(name), move_axes(name, mx.array(values))))
            mx.eval(weights[-1][1])
        module.load_weights(weights, strict=True)
        module.eval()
    return PortModel(checkpoint.head, module)


HELD_BYTES: Final = 2**30
"""What the filters that are held may take: those of 12 layers of 768 channels at 2,048 positions take 288 MiB."""


def hold_filters(model: PortModel, length: int, limit_bytes: int = HELD_BYTES) -> int:
    """Make the long filters of one length once, for sequences to come; worth it from the second sequence on.

    No bit of an answer depends on it. Filters beyond the limit are made anew for every sequence, as all are without.

    Returns:
        How many bytes are held.

    Raises:
        ValueError: The model has fewer positions.
    """
    held = 0
    with mx.stream(mx.cpu):
        for module in model.module.modules():
            if isinstance(module, mlx_impl.HyenaFilter):
                module.release()
                needed = module.bias.nbytes * length * (2 if module.bidirectional else 1)
                if held + needed <= limit_bytes:
                    module.hold(length)
                    held += needed
    return held


CACHE_BYTES: Final = 2**29
"""What MLX may keep of freed arrays while a model is at work: two of the largest of a layer at 16,384 positions."""


@contextmanager
def freed_memory_kept(limit_bytes: int = CACHE_BYTES) -> Iterator[None]:
    """Let MLX keep the memory of freed arrays for arrays to come, while the context lasts.

    On a CPU it keeps 32 MiB by itself, less than one activation of a layer; all beyond goes back to the operating
    system, and comes again page by page. Afterwards the limit is what it was, and what was kept is given back.
    """
    before = mx.set_cache_limit(limit_bytes)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
        mx.clear_cache()


def embedding(model: PortModel, tokens: Tokens) -> Array:
    """Return the vector (d,) that stands for a sequence.

    Of a classifier or retrieval model its own embedding; of a masked-language model the mean of the hidden states over
    the positions that are no padding.

    Raises:
        CaseError: The model takes no token types, and some are not zero.
    """
    require_takes(model.head == MASKED_LM, (tokens,))
    with mx.stream(mx.cpu):
        ids, kept, types = _inputs(tokens)
        if model.head == CLASSIFICATION:
            return _numbers(model.module(ids, kept)["embedding"][0])
        hidden = model.module.bert(ids, types)
        weight = kept.astype(hidden.dtype)[..., None]
        return _numbers((mx.sum(hidden * weight, axis=1) / mx.sum(weight, axis=1))[0])


def fillings(model: PortModel, tokens: Tokens, top: int = 5) -> list[list[Filling]]:
    """Return the `top` likeliest words at every [MASK], likeliest first.

    Raises:
        CaseError: The model has no such head, or there is no [MASK].
    """
    if model.head != MASKED_LM:
        raise CaseError(f"only a masked-language model fills a [MASK]; this is a {model.head}: use parity embed")
    if not tokens.masks:
        raise CaseError("there is no [MASK] among the ids; put one into the text, or name its id with --mask-id")
    with mx.stream(mx.cpu):
        ids, _, types = _inputs(tokens)
        hidden = model.module.bert(ids, types)
        logits = model.module.cls(hidden[:, list(tokens.masks)])
        chances = _numbers(mx.softmax(logits, axis=-1)[0])
    found = []
    for place, row in zip(tokens.masks, chances, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        found.append([Filling(place, int(number), float(row[number])) for number in order])
    return found


def _inputs(tokens: Tokens) -> tuple[mx.array, mx.array, mx.array | None]:
    def row(values: AnyArray) -> mx.array:
        return mx.array(values.astype(np.int32))[None]

    return row(tokens.ids), row(tokens.kept), None if tokens.types is None else row(tokens.types)


def _numbers(array: mx.array) -> Array:
    return np.array(array, dtype=np.float64)
