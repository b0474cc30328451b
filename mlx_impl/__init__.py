"""M2-BERT in MLX: the port under test, mirroring the files, classes and argument names of `reference_torch`.

Every numeric primitive whose choice a profile or a rung governs is a method of `Ops`; layers call it and nothing
beneath it, so that a float64 substitute or another kernel goes in without touching a layer.

Axes: `b` batch, `l` position, `d` channel, `n` transform length, `k` block, `p` in-features of a block, `q`
out-features of a block.
"""

from mlx_impl.activations import Gelu
from mlx_impl.blockdiag import BlockdiagLinear, MonarchMultiply, blockdiag_multiply, monarch_multiply
from mlx_impl.embeddings import BertEmbeddings
from mlx_impl.fft_conv import FFTConv, fftconv
from mlx_impl.heads import AttentionPooler, MaskedLMHead, Pooler, sentence_embedding
from mlx_impl.hyena import ExponentialModulation, HyenaFilter, PositionalEmbedding, Sin
from mlx_impl.linear import Embedding, Linear
from mlx_impl.mixer import MonarchMixer, ShortConvolution
from mlx_impl.mlp import GatedMlp, Mlp
from mlx_impl.model import (
    BertEncoder,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLayer,
    BertModel,
)
from mlx_impl.norm import LayerNorm
from mlx_impl.ops import Ops
from mlx_impl.precision import cast

__all__ = [
    "AttentionPooler",
    "BertEmbeddings",
    "BertEncoder",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertLayer",
    "BertModel",
    "BlockdiagLinear",
    "Embedding",
    "ExponentialModulation",
    "FFTConv",
    "GatedMlp",
    "Gelu",
    "HyenaFilter",
    "LayerNorm",
    "Linear",
    "MaskedLMHead",
    "Mlp",
    "MonarchMixer",
    "MonarchMultiply",
    "Ops",
    "Pooler",
    "PositionalEmbedding",
    "ShortConvolution",
    "Sin",
    "blockdiag_multiply",
    "cast",
    "fftconv",
    "monarch_multiply",
    "sentence_embedding",
]
