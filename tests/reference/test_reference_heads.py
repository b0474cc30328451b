"""Embeddings, poolers, heads and the loss, against the formulas written out."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
import torch
from reference_modules import MASK, TINY, build

import reference_torch as ref
from parity.spec.config import ModelConfig

IDS: Final = torch.tensor([[3, 0, 7, 2], [1, 1, 0, 9]])


def with_switches(**changes: Any) -> ModelConfig:
    return TINY.model_copy(update=changes)


def test_embeddings_are_the_normalised_sum_of_three_tables() -> None:
    module, _ = build("embeddings")
    types = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    tables = module.word_embeddings, module.token_type_embeddings, module.position_embeddings
    total = tables[0].weight[IDS] + tables[1].weight[types] + tables[2].weight[None, :4]
    torch.testing.assert_close(module(IDS, types), module.LayerNorm(total), rtol=1e-14, atol=1e-14)


def test_types_are_zero_where_none_are_given() -> None:
    module, _ = build("embeddings")
    assert torch.equal(module(IDS), module(IDS, torch.zeros_like(IDS)))


def test_without_position_encodings_the_order_of_tokens_does_not_matter() -> None:
    module = ref.BertEmbeddings(with_switches(use_positional_encodings=False))
    assert torch.equal(module(IDS).flip(1), module(IDS.flip(1)))
    assert "position_ids" not in module.state_dict()


def test_the_pooler_takes_the_first_token() -> None:
    module, x = ref.Pooler(TINY), torch.randn(2, 4, 6)
    torch.testing.assert_close(module(x, MASK), torch.tanh(module.dense(x[:, 0])))


def test_pooling_all_takes_the_mean_over_what_the_mask_keeps() -> None:
    module, x = ref.Pooler(with_switches(pool_all=True)), torch.randn(2, 4, 6)
    expected = torch.stack([x[0, :3].mean(0), x[1, 0]])
    torch.testing.assert_close(module(x, MASK), torch.tanh(module.dense(expected)))


def test_what_stands_at_masked_positions_does_not_matter_to_the_mean() -> None:
    module, x = ref.Pooler(with_switches(pool_all=True)), torch.randn(2, 4, 6)
    changed = torch.where(MASK[..., None].bool(), x, torch.full_like(x, 7.0))
    assert torch.equal(module(x, MASK), module(changed, MASK))


def test_without_a_mask_the_mean_is_over_all_positions() -> None:
    module, x = ref.Pooler(with_switches(pool_all=True)), torch.randn(2, 4, 6)
    torch.testing.assert_close(module(x), module(x, torch.ones(2, 4)))


def test_attention_normalises_along_the_queries_and_multiplies_by_the_mask() -> None:
    module, (x, mask) = build("attention pooler")

    def attend(x: torch.Tensor) -> torch.Tensor:
        q, k, v = module.Wqkv(x).split(6, dim=-1)
        scores = torch.einsum("bld,bsd->bls", q, k) / np.sqrt(6) * mask[:, :, None]
        return torch.einsum("bls,bsd->bld", torch.softmax(scores, dim=1), v)

    first = module.dense2(module.act(module.dense1(attend(x))))
    second = module.dense4(module.act(module.dense3(attend(first))))
    torch.testing.assert_close(module(x, mask), torch.tanh(module.dense(second[:, 0])), rtol=1e-13, atol=1e-13)


def test_the_decoder_is_the_word_table_itself() -> None:
    model = ref.BertForMaskedLM(TINY)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_the_masked_lm_has_no_pooler() -> None:
    assert ref.BertForMaskedLM(TINY).bert.pooler is None


def test_the_loss_is_the_mean_over_labels_above_zero() -> None:
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[0, 2, -100], [4, 0, 0]])
    expected = -(torch.log_softmax(logits, -1)[0, 1, 2] + torch.log_softmax(logits, -1)[1, 0, 4]) / 2
    torch.testing.assert_close(ref.BertForMaskedLM(TINY).loss(logits, labels), expected)


def classified(**switches: Any) -> tuple[ref.BertForSequenceClassification, dict[str, torch.Tensor]]:
    torch.manual_seed(4)
    model = ref.BertForSequenceClassification(with_switches(**switches))
    return model, model(IDS, MASK)


def test_the_classifier_reads_the_pooled_output() -> None:
    model, outputs = classified(pool_all=True)
    assert torch.equal(outputs["y"], model.classifier(outputs["pooled"]))
    assert torch.equal(outputs["embedding"], outputs["pooled"])


def test_with_cls_token_it_reads_the_first_hidden_state() -> None:
    model, outputs = classified(use_cls_token=True)
    assert torch.equal(outputs["y"], model.classifier(outputs["hidden"][:, 0]))
    assert torch.equal(outputs["embedding"], outputs["hidden"][:, 0])


def test_a_normalised_embedding_has_length_one_and_the_same_direction() -> None:
    _, plain = classified()
    _, outputs = classified(use_normalized_embeddings=True)
    np.testing.assert_allclose(outputs["embedding"].norm(dim=-1).detach(), 1.0, rtol=1e-6)
    torch.testing.assert_close(outputs["embedding"] * plain["pooled"].norm(dim=-1, keepdim=True), plain["pooled"])


@pytest.mark.parametrize(("switch", "kind"), [(False, ref.Pooler), (True, ref.AttentionPooler)])
def test_attention_pooling_chooses_the_pooler(switch: bool, kind: type) -> None:
    assert type(classified(attention_pooling=switch)[0].bert.pooler) is kind


def test_the_gate_is_the_first_half_and_goes_through_the_unit() -> None:
    module, (x,) = build("gated mlp")
    gate, value = module.gated_layers(x)[..., :8], module.gated_layers(x)[..., 8:]
    hidden = torch.nn.functional.gelu(gate) * value
    torch.testing.assert_close(module(x), module.layernorm(module.wo(hidden) + x), rtol=0, atol=0)


def test_the_mixer_is_gated_and_adds_the_second_convolution_of_its_input() -> None:
    module, (u,) = build("mixer")
    normed = module.layernorm(u)
    x1, x2, v = module.short_filter(module.in_linear(normed).transpose(1, 2)).split(4, dim=1)
    y = module.filter_fn(v * x1) * x2 + module.filter_fn2(normed.transpose(1, 2))
    torch.testing.assert_close(module(u), module.out_linear(y.transpose(1, 2)), rtol=1e-13, atol=1e-13)
