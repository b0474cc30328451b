"""Mutants of embeddings, heads, poolers and whole models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx

from mlx_impl import heads, model
from mlx_impl.embeddings import BertEmbeddings
from mlx_impl.heads import AttentionPooler, Decoder, Pooler, PredictionTransform, sentence_embedding
from mlx_impl.linear import Embedding
from mlx_impl.model import BertEncoder, BertForSequenceClassification, BertModel
from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_build import (
    PORT,
    SPECIFICATION,
    TORCH_HABIT,
    Patch,
    built,
    call,
    function,
    measured,
    method,
    mutants_of,
)

# Embeddings ------------------------------------------------------------------------------------------------------


def _embedded(change: Callable[..., mx.array]) -> Patch:
    """Embeddings become `change(self, words, types, places)`, places 0 where there is no table."""

    def forward(self: Any, _original: Any, ids: mx.array, types: mx.array | None = None) -> mx.array:
        types = mx.zeros_like(ids) if types is None else types
        table = self.position_embeddings
        places = 0 if table is None else table(mx.arange(ids.shape[1])[None])
        return change(self, self.word_embeddings(ids), self.token_type_embeddings(types), places)

    return call(BertEmbeddings, forward)


def _place(change: Callable[[mx.array, int], mx.array]) -> Patch:
    """The table of positions is read at `change(arange(l), rows)`."""

    def read(self: Any, original: Any, ids: mx.array, types: mx.array | None = None) -> mx.array:
        if self.position_embeddings is None:
            return original(ids, types)
        x = self.word_embeddings(ids)
        x = x + self.token_type_embeddings(mx.zeros_like(ids) if types is None else types)
        places = change(mx.arange(ids.shape[1]), self.position_embeddings.weight.shape[0])
        return self.LayerNorm(x + self.position_embeddings(places[None]))

    return call(BertEmbeddings, read)


def _zero_row(self: Any, original: Any, ids: mx.array) -> mx.array:
    rows = original(ids)
    return rows if self.padding_idx is None else mx.where((ids == self.padding_idx)[..., None], 0, rows)


PLACES: Final = ("position_embeddings", "LayerNorm")
_EMBEDDINGS: Final = mutants_of(
    "embeddings",
    "wiring",
    (
        "embeddings-without-types",
        "token types not added",
        SPECIFICATION,
        ("LayerNorm", "token_type_embeddings"),
        _embedded(lambda self, w, _t, p: self.LayerNorm(w + p)),
    ),
    (
        "embeddings-type-zero",
        "the row of type 0 for every token",
        TORCH_HABIT,
        "token_type_embeddings",
        call(BertEmbeddings, lambda _self, original, ids, types=None: original(ids)),
    ),
    (
        "embeddings-without-positions",
        "positions not added",
        SPECIFICATION,
        "LayerNorm",
        _embedded(lambda self, w, t, _p: self.LayerNorm(w + t)),
    ),
    (
        "embeddings-without-norm",
        "no LayerNorm",
        SPECIFICATION,
        ("LayerNorm", ""),
        _embedded(lambda _self, w, t, p: w + t + p),
    ),
    (
        "embeddings-norm-of-words-alone",
        "types and positions added behind the norm",
        SPECIFICATION,
        "LayerNorm",
        _embedded(lambda self, w, t, p: self.LayerNorm(w) + t + p),
    ),
    (
        "embeddings-scaled",
        "words times sqrt d, as in the Transformer",
        PORT,
        "LayerNorm",
        _embedded(lambda self, w, t, p: self.LayerNorm(w * math.sqrt(w.shape[-1]) + t + p)),
    ),
    (
        "places-from-one",
        "positions from 1, as RoBERTa counts them",
        PORT,
        PLACES,
        _place(lambda i, rows: mx.minimum(i + 1, rows - 1)),
    ),
    ("places-by-modulo", "positions modulo 8", PORT, PLACES, _place(lambda i, _rows: i % 8)),
    ("places-reversed", "positions counted from the end", PORT, PLACES, _place(lambda i, _rows: i[::-1])),
    (
        "padding-row-zero",
        "the row of the padding token read as zeros",
        TORCH_HABIT,
        "word_embeddings",
        call(Embedding, _zero_row),
    ),
    (
        "ids-late",
        "the row of the next token",
        PORT,
        ("word_embeddings", "token_type_embeddings"),
        call(Embedding, lambda self, original, ids: original((ids + 1) % self.weight.shape[0])),
    ),
)

# Heads -----------------------------------------------------------------------------------------------------------

_MLM_HEAD: Final = mutants_of(
    "mlm_head",
    "wiring",
    (
        "head-norm-before-unit",
        "gelu(LayerNorm(dense(x)))",
        SPECIFICATION,
        ("*.LayerNorm", "*.transform_act_fn"),
        call(PredictionTransform, lambda self, _original, x: self.transform_act_fn(self.LayerNorm(self.dense(x)))),
    ),
    (
        "head-unit-missing",
        "no unit in the transform",
        SPECIFICATION,
        ("*.transform_act_fn", "*.LayerNorm"),
        call(PredictionTransform, lambda self, _original, x: self.LayerNorm(self.dense(x))),
    ),
    (
        "head-transform-missing",
        "the decoder on the hidden states",
        SPECIFICATION,
        "*",
        call(heads.MaskedLMPredictions, lambda self, _original, x: self.decoder(x)),
    ),
    (
        "decoder-bias-dropped",
        "the decoder's own bias left out",
        SPECIFICATION,
        "*.decoder",
        call(Decoder, lambda self, original, x: original(x) - self.bias),
    ),
    (
        "decoder-scaled",
        "logits divided by sqrt d, as T5 does with tied tables",
        PORT,
        "*.decoder",
        call(Decoder, lambda _self, original, x: original(x) / math.sqrt(x.shape[-1])),
    ),
)


def _pooled(change: Callable[..., mx.array]) -> Patch:
    return function("_masked_mean", lambda _original, x, mask, _ops=None: change(x, mask), heads)


def _mean_over_padding(x: mx.array, mask: mx.array | None) -> mx.array:
    return mx.mean(x if mask is None else x * mask[..., None], axis=1)


def _masked_largest(x: mx.array, mask: mx.array | None) -> mx.array:
    return mx.max(x if mask is None else mx.where(mask[..., None] > 0, x, -math.inf), axis=1)


def _clamped_mean(x: mx.array, mask: mx.array | None) -> mx.array:
    if mask is None:
        return mx.mean(x, axis=1)
    weight = mask.astype(x.dtype)[..., None]
    return mx.sum(x * weight, axis=1) / mx.maximum(mx.sum(weight, axis=1), 1e-9)


_POOLER: Final = mutants_of(
    "pooler",
    "wiring",
    (
        "pooler-mask-ignored",
        "the mean over padding as well",
        measured("22"),
        "dense",
        _pooled(lambda x, _mask: mx.mean(x, axis=1)),
    ),
    (
        "pooler-divides-by-all",
        "the masked sum divided by all positions",
        measured("22"),
        "dense",
        _pooled(_mean_over_padding),
    ),
    (
        "pooler-sum",
        "the masked sum, not divided",
        measured("22"),
        "dense",
        _pooled(lambda x, mask: mx.sum(x if mask is None else x * mask[..., None], axis=1)),
    ),
    ("pooler-largest", "the largest over positions", measured("22"), "dense", _pooled(_masked_largest)),
    (
        "pooler-mean-for-first",
        "pool_all in every pooler",
        measured("22"),
        "dense",
        built(Pooler, lambda self: setattr(self, "pool_all", True)),
    ),
    (
        "pooler-first-for-mean",
        "pool_all ignored",
        measured("22"),
        "dense",
        built(Pooler, lambda self: setattr(self, "pool_all", False)),
    ),
    (
        "pooler-last-token",
        "the last token for the first",
        measured("22"),
        "dense",
        call(
            Pooler,
            lambda self, original, x, mask=None: (
                original(x, mask) if self.pool_all else self.ops.tanh(self.dense(x[:, -1]))
            ),
        ),
    ),
    (
        "pooler-tanh-missing",
        "no tanh",
        SPECIFICATION,
        "",
        call(
            Pooler,
            lambda self, _original, x, mask=None: self.dense(heads._masked_mean(x, mask) if self.pool_all else x[:, 0]),
        ),
    ),
    (
        "pooler-tanh-before",
        "dense(tanh(x)) for tanh(dense(x))",
        SPECIFICATION,
        "dense",
        call(
            Pooler,
            lambda self, _original, x, mask=None: self.dense(
                self.ops.tanh(heads._masked_mean(x, mask) if self.pool_all else x[:, 0])
            ),
        ),
    ),
    (
        "pooler-mean-behind-dense",
        "the mean of tanh(dense(x)) for tanh(dense(mean))",
        SPECIFICATION,
        "dense",
        call(
            Pooler,
            lambda self, original, x, mask=None: (
                heads._masked_mean(self.ops.tanh(self.dense(x)), mask) if self.pool_all else original(x, mask)
            ),
        ),
    ),
)


def _attend(
    score: Callable[[mx.array, mx.array], mx.array] | None = None,
    scale: float | None = None,
    axis: int = 1,
    order: tuple[int, int, int] = (0, 1, 2),
) -> Patch:
    """One round of attention: `score(scores, mask)` masks, softmax over `axis`, thirds of Wqkv in `order`."""

    def change(self: Any, _original: Any, x: mx.array, mask: mx.array | None) -> mx.array:
        thirds = mx.split(self.Wqkv(x), 3, axis=-1)
        q, k, v = (thirds[place] for place in order)
        scores = self.ops.matmul(q, k.swapaxes(-1, -2)) / (math.sqrt(x.shape[-1]) if scale is None else scale)
        if mask is not None:
            kept = mask.astype(x.dtype)
            scores = scores * kept[..., None] if score is None else score(scores, kept)
        return self.ops.matmul(self.ops.softmax(scores, axis=axis), v)

    return method(AttentionPooler, "_attend", change)


def _one_round(self: Any, _original: Any, x: mx.array, mask: mx.array | None = None) -> mx.array:
    return self.ops.tanh(self.dense(self.dense2(self.act(self.dense1(self._attend(x, mask))))[:, 0]))


def _mask_once(self: Any, _original: Any, x: mx.array, mask: mx.array | None = None) -> mx.array:
    x = self.dense2(self.act(self.dense1(self._attend(x, mask))))
    x = self.dense4(self.act(self.dense3(self._attend(x, None))))
    return self.ops.tanh(self.dense(x[:, 0]))


def _first_dense_again(self: Any, _original: Any, x: mx.array, mask: mx.array | None = None) -> mx.array:
    for _ in range(2):
        x = self.dense2(self.act(self.dense1(self._attend(x, mask))))
    return self.ops.tanh(self.dense(x[:, 0]))


ROUND: Final = "dense1"
_ATTENTION: Final = mutants_of(
    "attention_pooler",
    "wiring",
    (
        "attention-softmax-over-keys",
        "softmax over the last axis, as everywhere else",
        SPECIFICATION,
        ROUND,
        _attend(axis=-1),
    ),
    ("attention-unscaled", "scores not divided by sqrt d", SPECIFICATION, ROUND, _attend(scale=1.0)),
    ("attention-mask-ignored", "scores not masked", SPECIFICATION, ROUND, _attend(lambda s, _m: s)),
    (
        "attention-mask-of-keys",
        "the mask along the other axis",
        SPECIFICATION,
        ROUND,
        _attend(lambda s, m: s * m[:, None]),
    ),
    (
        "attention-mask-added",
        "-1e9 where masked, for a product with 0",
        TORCH_HABIT,
        ROUND,
        _attend(lambda s, m: s + (1 - m)[..., None] * -1e9),
    ),
    ("attention-q-and-v-exchanged", "v, k, q in Wqkv", SPECIFICATION, ROUND, _attend(order=(2, 1, 0))),
    ("attention-q-and-k-exchanged", "k, q, v in Wqkv", SPECIFICATION, ROUND, _attend(order=(1, 0, 2))),
    (
        "attention-one-round",
        "the second round left out",
        SPECIFICATION,
        ("dense", "Wqkv", "dense3"),
        call(AttentionPooler, _one_round),
    ),
    (
        "attention-mask-in-first-round",
        "the second round without the mask",
        SPECIFICATION,
        ("dense3",),
        call(AttentionPooler, _mask_once),
    ),
    (
        "attention-first-network-twice",
        "dense1 and dense2 in both rounds",
        SPECIFICATION,
        ("dense1", "dense3"),
        call(AttentionPooler, _first_dense_again),
    ),
)


def _layers(change: Callable[[list[Any]], list[Any]]) -> Patch:
    def run(self: Any, _original: Any, x: mx.array) -> mx.array:
        for layer in change(list(self.layer)):
            x = layer(x)
        return x

    return call(BertEncoder, run)


_ENCODER: Final = mutants_of(
    "encoder",
    "wiring",
    ("layers-reversed", "layers from the last to the first", PORT, "layer.*", _layers(lambda layers: layers[::-1])),
    (
        "layers-first-alone",
        "the first layer in all places",
        PORT,
        ("layer.0", "layer.1*"),
        _layers(lambda layers: layers[:1] * len(layers)),
    ),
    ("layers-last-missing", "one layer fewer", "off-by-one", ("layer.*", ""), _layers(lambda layers: layers[:-1])),
)


def _classified(change: Callable[..., Any]) -> Patch:
    """The outputs of the classifier become `change(self, outputs, mask)`."""
    return call(
        BertForSequenceClassification, lambda self, original, ids, mask=None: change(self, original(ids, mask), mask)
    )


def _from_embedding(self: Any, outputs: dict[str, mx.array], _mask: mx.array | None) -> dict[str, mx.array]:
    return {**outputs, "y": self.classifier(outputs["embedding"])}


def _classified_from(choose: Callable[..., mx.array]) -> Patch:
    def forward(self: Any, _original: Any, ids: mx.array, mask: mx.array | None = None) -> dict[str, mx.array]:
        hidden = self.bert(ids)
        pooled = self.bert.pooler(hidden, mask)
        vector = choose(self, hidden, pooled)
        embedding = sentence_embedding(vector, self.config)
        return {"hidden": hidden, "pooled": pooled, "embedding": embedding, "y": self.classifier(vector)}

    return call(BertForSequenceClassification, forward)


def _embedding(change: Callable[[mx.array], mx.array]) -> Patch:
    return function(
        "sentence_embedding",
        lambda _original, v, config, _ops=None: change(v) if config.use_normalized_embeddings else v,
        model,
    )


_CLASSIFIER: Final = mutants_of(
    "sequence_classification",
    "wiring",
    (
        "classifier-from-embedding",
        "the classifier on the vector of unit length",
        SPECIFICATION,
        ("classifier", ""),
        _classified(_from_embedding),
    ),
    (
        "classifier-cls-token-ignored",
        "the pooled output in spite of use_cls_token",
        SPECIFICATION,
        ("classifier", ""),
        _classified_from(lambda _self, _hidden, pooled: pooled),
    ),
    (
        "classifier-always-cls-token",
        "the first token's state without use_cls_token",
        SPECIFICATION,
        ("classifier", ""),
        _classified_from(lambda _self, hidden, _pooled: hidden[:, 0]),
    ),
    ("embedding-not-normalised", "use_normalized_embeddings ignored", SPECIFICATION, "", _embedding(lambda v: v)),
    (
        "embedding-norm-with-epsilon",
        "1e-6 added to the norm",
        PORT,
        "",
        _embedding(lambda v: v / (mx.linalg.norm(v, axis=-1, keepdims=True) + 1e-6)),
        {"unseen_at_f32": "a few roundings of the norm, where all that lies before it errs more"},
    ),
    ("embedding-norm-over-batch", "unit length over the batch", PORT, "", _embedding(lambda v: v / mx.linalg.norm(v))),
    (
        "mask-not-handed-on",
        "the pooler without the mask",
        measured("22"),
        ("bert.pooler*",),
        call(BertForSequenceClassification, lambda _self, original, ids, _mask=None: original(ids)),
    ),
    (
        "types-one-by-default",
        "token type 1 where none is given",
        TORCH_HABIT,
        "bert.embeddings.token_type_embeddings",
        call(
            BertModel,
            lambda _self, original, ids, types=None: original(ids, mx.ones_like(ids) if types is None else types),
        ),
    ),
)

# Equivalent ------------------------------------------------------------------------------------------------------

_EQUIVALENT: Final = (
    *mutants_of(
        "pooler",
        "wiring",
        (
            "pooler-count-clamped",
            "the number of kept positions at least 1e-9",
            "habit of sentence-transformers",
            (),
            _pooled(_clamped_mean),
        ),
        equivalent="a row without a kept position has no mean; every mask of the suite keeps one",
    ),
    *mutants_of(
        "sequence_classification",
        "wiring",
        (
            "embedding-norm-clamped",
            "the norm at least 1e-12, as in torch's normalize",
            TORCH_HABIT,
            (),
            _embedding(lambda v: v / mx.maximum(mx.linalg.norm(v, axis=-1, keepdims=True), 1e-12)),
        ),
        equivalent="a vector of that little length is no sentence's: its states come from a LayerNorm",
    ),
)

MODEL_MUTANTS: Final[tuple[Mutant, ...]] = (
    *_EMBEDDINGS,
    *_MLM_HEAD,
    *_POOLER,
    *_ATTENTION,
    *_ENCODER,
    *_CLASSIFIER,
    *_EQUIVALENT,
)
