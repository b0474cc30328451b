"""Fused operations as the elementary ones that they stand for, so that each of those can be perturbed.

Attention: S = a Q K^T + M, P = softmax(S), Y = P V. Backwards, with D = rowsum(dY Y): dV = P^T dY,
dS = P (dY V^T - D), dQ = a dS K, dK = a dS^T Q.

Source: Dao et al., FlashAttention, arXiv:2205.14135, algorithms 1 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch


def _scores(q: torch.Tensor, k: torch.Tensor, causal: bool, mask: torch.Tensor | None, factor: float) -> torch.Tensor:
    scores = torch.matmul(q, k.mT) * factor
    if mask is not None:
        scores = scores + mask
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores


def _factor(q: torch.Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _per_query_head(values: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Several heads of queries may share one of keys and values."""
    return values if values.shape[1] == q.shape[1] else values.repeat_interleave(q.shape[1] // values.shape[1], 1)


def _per_head(gradient: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    if gradient.shape[1] == shared.shape[1]:
        return gradient
    return gradient.unflatten(1, (shared.shape[1], -1)).sum(2)


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    _dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = _scores(q, _per_query_head(k, q), causal, attn_mask, _factor(q, scale))
    blind = torch.isneginf(scores).all(-1, keepdim=True)
    probabilities = torch.softmax(scores, -1).masked_fill(blind, 0.0)
    return torch.matmul(probabilities, _per_query_head(v, q)), torch.logsumexp(scores, -1)


def _attention_backward(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    y: torch.Tensor,
    log_sums: torch.Tensor,
    _dropout: float,
    causal: bool,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    factor, keys, values = _factor(q, scale), _per_query_head(k, q), _per_query_head(v, q)
    scores = _scores(q, keys, causal, attn_mask, factor)
    blind = torch.isneginf(scores).all(-1, keepdim=True)
    probabilities = torch.exp(scores - log_sums[..., None]).masked_fill(blind, 0.0)
    ds = probabilities * (torch.matmul(dy, values.mT) - (dy * y).sum(-1, keepdim=True))
    dq, dk = torch.matmul(ds, keys) * factor, torch.matmul(ds.mT, q) * factor
    return dq, _per_head(dk, k), _per_head(torch.matmul(probabilities.mT, dy), v)


STEPS: Final[Mapping[str, Callable[..., Any]]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
"""Fused operations, by their name without namespace, with the operation's own arguments and results."""
