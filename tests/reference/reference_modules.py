"""Small float64 modules of the reference, one of each kind, with inputs that fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import nn

import reference_torch as ref
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL

TINY: Final = ModelConfig(
    vocab_size=11,
    hidden_size=6,
    intermediate_size=8,
    num_hidden_layers=2,
    max_position_embeddings=5,
    long_conv_l_max=5,
    hyena_filter_order=4,
    hyena_w=2,
    hyena_training_additions=True,
)
"""Width 6 in 4 blocks, so that padding is at work; LayerNorm before the mixer, so that every parameter exists."""

FREQ: Final = CANONICAL.replace(name="freq", bidir_space="freq", bidir_combine="avg")


class Built(NamedTuple):
    """A module and the inputs that it is called with."""

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]


def reals(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, TINY.vocab_size, shape)


MASK: Final = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])

KINDS: Final[Mapping[str, Callable[[], Built]]] = {
    "block-diagonal linear": lambda: Built(ref.BlockdiagLinear(5, 7, nblocks=3, shuffle=True), (reals(2, 5),)),
    "monarch multiply": lambda: Built(ref.MonarchMultiply(2, 3, 2, 3, 2, 2), (reals(2, 4),)),
    "gelu erf": lambda: Built(ref.Gelu(), (reals(9),)),
    "gelu tanh": lambda: Built(ref.Gelu(CANONICAL.replace(gelu_mode="tanh")), (reals(9),)),
    "layer norm": lambda: Built(ref.LayerNorm(5, 1e-12), (reals(3, 5),)),
    "convolution in time": lambda: Built(ref.FFTConv(2, 3, bidirectional=True, gelu=True), (reals(2, 2, 3),)),
    "convolution in freq": lambda: Built(ref.FFTConv(2, 3, bidirectional=True, profile=FREQ), (reals(2, 2, 3),)),
    "hyena filter": lambda: Built(
        ref.HyenaFilter(
            2, emb_dim=5, order=3, seq_len=5, num_inner_mlps=1, bidirectional=True, normalized=True, shift=0.1
        ),
        (reals(1, 2, 4),),
    ),
    "linear filter": lambda: Built(
        ref.HyenaFilter(2, order=3, seq_len=5, linear_mixer=True, bidirectional=True), (reals(1, 2, 3),)
    ),
    "short convolution": lambda: Built(ref.ShortConvolution(3), (reals(2, 3, 4),)),
    "mixer": lambda: Built(
        ref.MonarchMixer(
            4,
            l_max=5,
            bidirectional=True,
            residual_long_conv=True,
            hyena_w=2,
            hyena_filter_order=3,
            hyena_training_additions=True,
        ),
        (reals(1, 3, 4),),
    ),
    "gated mlp": lambda: Built(ref.GatedMlp(TINY), (reals(1, 2, 6),)),
    "plain mlp": lambda: Built(ref.Mlp(TINY), (reals(1, 2, 6),)),
    "embeddings": lambda: Built(ref.BertEmbeddings(TINY), (ids(2, 4),)),
    "masked-LM head": lambda: Built(ref.MaskedLMHead(TINY), (reals(1, 2, 6),)),
    "pooler": lambda: Built(ref.Pooler(TINY.model_copy(update={"pool_all": True})), (reals(2, 4, 6), MASK)),
    "attention pooler": lambda: Built(ref.AttentionPooler(TINY), (reals(2, 4, 6), MASK)),
}
"""Components, each with every parameter that it can have."""

MODELS: Final[Mapping[str, Callable[[], Built]]] = {
    "layer": lambda: Built(ref.BertLayer(TINY), (reals(2, 4, 6),)),
    "encoder": lambda: Built(ref.BertEncoder(TINY), (reals(2, 4, 6),)),
    "masked LM": lambda: Built(ref.BertForMaskedLM(TINY), (ids(2, 4),)),
    "classifier": lambda: Built(ref.BertForSequenceClassification(TINY), (ids(2, 4), MASK)),
    "classifier with attention": lambda: Built(
        ref.BertForSequenceClassification(TINY.model_copy(update={"attention_pooling": True})), (ids(2, 4), MASK)
    ),
}


def build(kind: str, dtype: torch.dtype = torch.float64) -> Built:
    """Build `kind` from a fixed seed, with parameters and float inputs in `dtype`, nothing at its initial 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module, inputs = {**KINDS, **MODELS}[kind]()
        module.double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Built(module.to(dtype), tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs))


def output_of(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Run and return one tensor: the outputs one after the other, flattened, where there are several."""
    y = module(*inputs)
    return torch.cat([part.reshape(-1) for part in y.values()]) if isinstance(y, dict) else y
