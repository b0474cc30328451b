"""Which types of layers are the same in torch, MLX and the libraries built on them.

A family is written `group/layer`. Two layers of one family are the same; two of one group are what one may have been
mistaken for (`norm/layer` for `norm/rms`); two of different groups are never partners. A class that the table does not
know belongs to no family, and is compared by the words of its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

Kinds = Sequence[tuple[str, str]]
"""(pattern that the whole name of a class matches, family), the first that matches."""

KINDS: Final[Kinds] = (
    (r"(Non(DynamicallyQuantizable)|Quantized|QQ)?Linear|Conv1D", "affine/linear"),
    (r"Conv1d", "affine/conv1d"),
    (r"Conv2d", "affine/conv2d"),
    (r"Conv3d", "affine/conv3d"),
    (r"ConvTranspose([123])d", r"affine/conv_transpose"),
    (r"(Quantized)?Embedding", "embedding/table"),
    (r".*RMS_?Norm(Gated)?", "norm/rms"),
    (r".*Layer_?Norm", "norm/layer"),
    (r"GroupNorm", "norm/group"),
    (r"BatchNorm([123]d)?", "norm/batch"),
    (r"InstanceNorm([123]d)?", "norm/instance"),
    (r"SiLU|SiLUActivation|Swish", "activation/silu"),
    (r"(New|Fast|Quick|PytorchGELUTanh|GELUTanh)?G[Ee]LU(Activation|Tanh)?", "activation/gelu"),
    (r"ReLU", "activation/relu"),
    (r"ReLU6", "activation/relu6"),
    (r"ReLUSquared(Activation)?|ReLU2", "activation/relu2"),
    (r"Tanh", "activation/tanh"),
    (r"Sigmoid", "activation/sigmoid"),
    (r"Softplus", "activation/softplus"),
    (r"Mish|MishActivation", "activation/mish"),
    (r"ELU|LeakyReLU|CELU|SELU|PReLU|Hardswish|HardSwish", "activation/other"),
    (r"Softmax|LogSoftmax", "activation/softmax"),
    (r"Dropout([123]d)?|Identity", "nothing/identity"),
    (r"MultiheadAttention|MultiHeadAttention", "attention/multihead"),
    (r"TransformerEncoderLayer", "transformer/encoder_layer"),
    (r"TransformerDecoderLayer", "transformer/decoder_layer"),
    (r"TransformerEncoder", "transformer/encoder"),
    (r"TransformerDecoder", "transformer/decoder"),
    (r"RNN", "recurrent/rnn"),
    (r"GRU", "recurrent/gru"),
    (r"LSTM", "recurrent/lstm"),
    (r".*Rotary.*|RoPE|.*RoPE", "position/rotary"),
)
"""Layers of torch.nn and mlx.nn, and the names that transformers and mlx_lm give to their own."""

IDENTITY: Final = "nothing/identity"


def family_of(kind: str, kinds: Kinds = KINDS) -> str | None:
    """Return the family of the class called `kind`, or None for one that the table does not know."""
    return _family_of(kind, tuple(kinds))


@lru_cache(maxsize=4096)
def _family_of(kind: str, kinds: tuple[tuple[str, str], ...]) -> str | None:
    return next((family for pattern, family in kinds if re.fullmatch(pattern, kind)), None)


def group_of(family: str) -> str:
    """Return the group of a family."""
    return family.partition("/")[0]


@lru_cache(maxsize=4096)
def words_of(name: str) -> frozenset[str]:
    """Return the words of a class's or module's name in lower case: `LlamaAttention` gives llama, attention."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))


def likeness(one: str, other: str) -> float:
    """Return 2 |common words| / (|words| + |words|) of two names, 0 if neither has any."""
    left, right = words_of(one), words_of(other)
    return 2 * len(left & right) / (len(left) + len(right)) if left or right else 0.0
