"""M2-BERT in PyTorch, faithful to the original: the reference that a port is judged against.

One file per component, state-dict names as in the published checkpoints, float32 and float64, differentiable. Dropout
is the identity, since parity is judged in evaluation mode. `mlx_impl` mirrors the files, classes and argument names.

Source: HazyResearch/m2 at 7d359e8, folder bert/src; Fu et al., arXiv 2310.12109; Poli et al., arXiv 2302.10866.

Axes: `b` batch, `l` position, `d` channel, `n` transform length, `k` block, `p` in-features of a block, `q`
out-features of a block.
"""

from reference_torch.activations import Gelu
from reference_torch.blockdiag import BlockdiagLinear, MonarchMultiply, blockdiag_multiply, monarch_multiply
from reference_torch.embeddings import BertEmbeddings
from reference_torch.fft_conv import FFTConv, fftconv
from reference_torch.heads import AttentionPooler, MaskedLMHead, Pooler, sentence_embedding
from reference_torch.hyena import ExponentialModulation, HyenaFilter, PositionalEmbedding, Sin
from reference_torch.mixer import MonarchMixer, ShortConvolution
from reference_torch.mlp import GatedMlp, Mlp
from reference_torch.model import (
    BertEncoder,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLayer,
    BertModel,
)
from reference_torch.norm import LayerNorm
from reference_torch.precision import cast

__all__ = [
    "AttentionPooler",
    "BertEmbeddings",
    "BertEncoder",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertLayer",
    "BertModel",
    "BlockdiagLinear",
    "ExponentialModulation",
    "FFTConv",
    "GatedMlp",
    "Gelu",
    "HyenaFilter",
    "LayerNorm",
    "MaskedLMHead",
    "Mlp",
    "MonarchMixer",
    "MonarchMultiply",
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
