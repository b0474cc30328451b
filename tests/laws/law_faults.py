"""Bugs that break a law, planted in the reference or in the port one at a time, each with a law that must catch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import pytest
import torch

from mlx_impl import blockdiag as blockdiag_port
from mlx_impl import fft_conv, heads, hyena, mixer, model, norm
from parity.laws import Side
from parity.spec.profile import CANONICAL, HyperProfile
from reference_torch import fft_conv as reference_fft_conv
from reference_torch import heads as reference_heads
from reference_torch import hyena as reference_hyena
from reference_torch import model as reference_model
from reference_torch import norm as reference_norm


@dataclass(frozen=True)
class LawFault:
    """One bug: what was written, where, how to plant it, and the law and component that must break."""

    name: str
    side: Side
    plant: Callable[[pytest.MonkeyPatch], None]
    law: str
    component: str


# In the port ---------------------------------------------------------------------------------------------------


def _added_skip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, D: mx.broadcast_to(D, u.shape))


def _one_skip_weight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, D: u * D[:, :1])


def _no_skip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, D: mx.zeros_like(u))


def _rectified_skip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "skip_term", lambda u, D: mx.maximum(u, 0) * D)


def _circular(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "fft_length", lambda l: l)


def _odd_length(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fft_conv, "fft_length", lambda l: 2 * l - 1)


def _other_space(patch: pytest.MonkeyPatch) -> None:
    original = fft_conv._both_directions

    def both(k: mx.array, k_rev: mx.array, n: int, profile: HyperProfile, ops: Any) -> Any:
        return original(k, k_rev, n, profile.replace(bidir_space="freq"), ops)

    patch.setattr(fft_conv, "_both_directions", both)


def _unconjugated(patch: pytest.MonkeyPatch) -> None:
    def both(k: mx.array, k_rev: mx.array, n: int, profile: HyperProfile, ops: Any) -> Any:
        norm = ops.fft_scales.kernel
        return ops.spectrum_sum(ops.rfft(k, n, norm), ops.rfft(k_rev, n, norm))

    patch.setattr(fft_conv, "_both_directions", both)


def _reversed_kernel(patch: pytest.MonkeyPatch) -> None:
    original = fft_conv.fftconv

    def fftconv(u: mx.array, k: mx.array, *rest: Any) -> mx.array:
        return original(u, k[..., ::-1], *rest)

    patch.setattr(fft_conv, "fftconv", fftconv)
    patch.setattr(hyena, "fftconv", fftconv)


def _averaged(patch: pytest.MonkeyPatch) -> None:
    original = fft_conv._both_directions

    def both(k: mx.array, k_rev: mx.array, n: int, profile: HyperProfile, ops: Any) -> Any:
        return original(k, k_rev, n, profile.replace(bidir_combine="avg"), ops)

    patch.setattr(fft_conv, "_both_directions", both)


def _mixed_batch(patch: pytest.MonkeyPatch) -> None:
    original = fft_conv.FFTConv.__call__

    def call(self: fft_conv.FFTConv, u: mx.array) -> mx.array:
        return original(self, u - 1e-6 * mx.mean(u, axis=0, keepdims=True))

    patch.setattr(fft_conv.FFTConv, "__call__", call)


def _norm_over_positions(patch: pytest.MonkeyPatch) -> None:
    def call(self: norm.LayerNorm, x: mx.array) -> mx.array:
        axes = (-2, -1)
        centred = x - mx.mean(x, axis=axes, keepdims=True)
        return centred * mx.rsqrt(mx.var(x, axis=axes, keepdims=True) + self.eps) * self.weight + self.bias

    patch.setattr(norm.LayerNorm, "__call__", call)


def _centred_short_convolution(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mixer.ShortConvolution, "padding", 1)


def _recomputed_filter(patch: pytest.MonkeyPatch) -> None:
    def call(self: hyena.PositionalEmbedding, L: int) -> tuple[mx.array, mx.array]:
        fresh = hyena.PositionalEmbedding(self.z.shape[-1], L)
        return fresh.z.astype(self.z.dtype), fresh.t.astype(self.t.dtype)

    patch.setattr(hyena.PositionalEmbedding, "__call__", call)


def _last_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hyena.PositionalEmbedding, "__call__", lambda self, L: (self.z[:, -L:], self.t[:, -L:]))


def _mask_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(heads, "_masked_mean", lambda x, mask, _ops=None: mx.mean(x, axis=1))


def _mean_over_padding(patch: pytest.MonkeyPatch) -> None:
    def masked_mean(x: mx.array, mask: mx.array | None, _ops: object = None) -> mx.array:
        return mx.mean(x if mask is None else x * mask[..., None], axis=1)

    patch.setattr(heads, "_masked_mean", masked_mean)


def _last_token(patch: pytest.MonkeyPatch) -> None:
    def call(self: heads.Pooler, x: mx.array, mask: mx.array | None = None) -> mx.array:
        return self.ops.tanh(self.dense(x[:, -1]))

    patch.setattr(heads.Pooler, "__call__", call)


def _mask_of_ones_adds(patch: pytest.MonkeyPatch) -> None:
    original = heads.AttentionPooler._attend

    def attend(self: heads.AttentionPooler, x: mx.array, mask: mx.array | None) -> mx.array:
        return original(self, x, None if mask is None else mask * 1.0625)

    patch.setattr(heads.AttentionPooler, "_attend", attend)


def _padding_counted(patch: pytest.MonkeyPatch) -> None:
    original = model.BertForMaskedLM.loss

    def loss(self: model.BertForMaskedLM, logits: mx.array, labels: mx.array) -> mx.array:
        return original(self, logits, mx.where(labels == 0, 1, labels))

    patch.setattr(model.BertForMaskedLM, "loss", loss)


def _labels_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model.BertForMaskedLM, "loss", lambda self, logits, labels: mx.mean(logits))


def _copied_decoder(patch: pytest.MonkeyPatch) -> None:
    def tie(self: heads.Decoder, table: Any) -> None:
        self.weight = mx.array(table.weight)

    patch.setattr(heads.Decoder, "tie", tie)


def _own_frequencies(patch: pytest.MonkeyPatch) -> None:
    original = hyena._filter_mlp

    def filter_mlp(emb_dim: int, order: int, d_model: int, inner: int, act: hyena.Sin, owns: bool, ops: Any) -> Any:
        own = hyena.Sin(order, 1, act.w_mod, ops)
        return original(emb_dim, order, d_model, inner, own, True, ops)

    patch.setattr(hyena, "_filter_mlp", filter_mlp)


def _bias_twice(patch: pytest.MonkeyPatch) -> None:
    original = blockdiag_port.BlockdiagLinear.__call__

    def call(self: blockdiag_port.BlockdiagLinear, x: mx.array) -> mx.array:
        y = original(self, x)
        return y if self.bias is None else y + self.bias

    patch.setattr(blockdiag_port.BlockdiagLinear, "__call__", call)


def _interleaved_split(patch: pytest.MonkeyPatch) -> None:
    def split(x: mx.array, parts: int, axis: int) -> list[mx.array]:
        return [x[:, part::parts] for part in range(parts)] if (parts, axis) == (3, 1) else mx.split(x, parts, axis)

    class Core:
        def __getattr__(self, name: str) -> Any:
            return split if name == "split" else getattr(mx, name)

    patch.setattr(mixer, "mx", Core())


# In the reference ----------------------------------------------------------------------------------------------


def _reference_conv(change: Callable[..., torch.Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        original = reference_fft_conv.fftconv

        def fftconv(
            u: torch.Tensor,
            k: torch.Tensor,
            D: torch.Tensor,
            k_rev: torch.Tensor | None = None,
            profile: HyperProfile = CANONICAL,
        ) -> torch.Tensor:
            return change(original, u, k, D, k_rev, profile)

        patch.setattr(reference_fft_conv, "fftconv", fftconv)
        patch.setattr(reference_hyena, "fftconv", fftconv)

    return plant


def _reference_added_skip(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any) -> torch.Tensor:
    return original(u, k, 0 * D, k_rev, profile) + D.reshape(1, -1, 1)


def _reference_one_weight(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any) -> torch.Tensor:
    return original(u, k, D.flatten()[:1].expand(D.numel()), k_rev, profile)


def _reference_circular(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any) -> torch.Tensor:
    l = u.shape[-1]
    y = torch.fft.irfft(torch.fft.rfft(u) * torch.fft.rfft(k[..., :l]), n=l)
    return y + u * D.reshape(1, -1, 1)


def _reference_reversed(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any) -> torch.Tensor:
    return original(u, k.flip(-1), D, k_rev, profile)


def _reference_conjugate(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any) -> torch.Tensor:
    return original(u, k, D, k_rev, profile.replace(bidir_space="freq"))


def _reference_batch(original: Any, u: Any, k: Any, D: Any, k_rev: Any, profile: Any) -> torch.Tensor:
    return original(u - 1e-6 * u.mean(0, keepdim=True), k, D, k_rev, profile)


def _reference_norm(patch: pytest.MonkeyPatch) -> None:
    def forward(self: reference_norm.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean((-2, -1), keepdim=True)
        variance = centred.square().mean((-2, -1), keepdim=True)
        return centred / (variance + self.eps).sqrt() * self.weight + self.bias

    patch.setattr(reference_norm.LayerNorm, "forward", forward)


def _reference_recomputed(patch: pytest.MonkeyPatch) -> None:
    def forward(self: reference_hyena.PositionalEmbedding, L: int) -> tuple[torch.Tensor, torch.Tensor]:
        fresh = reference_hyena.PositionalEmbedding(self.z.shape[-1], L).to(self.z.dtype)
        return fresh.z, fresh.t

    patch.setattr(reference_hyena.PositionalEmbedding, "forward", forward)


def _reference_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference_heads, "_masked_mean", lambda x, mask: x.mean(dim=1))


def _reference_decoder(patch: pytest.MonkeyPatch) -> None:
    original = reference_model.BertForMaskedLM.__init__

    def init(self: reference_model.BertForMaskedLM, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        decoder = self.cls.predictions.decoder
        decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())

    patch.setattr(reference_model.BertForMaskedLM, "__init__", init)


def _reference_frequencies(patch: pytest.MonkeyPatch) -> None:
    original = reference_hyena._filter_mlp

    def filter_mlp(emb_dim: int, order: int, d_model: int, inner: int, act: Any) -> Any:
        return original(emb_dim, order, d_model, inner, reference_hyena.Sin(order, 1, act.w_mod))

    patch.setattr(reference_hyena, "_filter_mlp", filter_mlp)


def _reference_tanh_of_products(patch: pytest.MonkeyPatch) -> None:
    original = torch.einsum

    def einsum(equation: str, *operands: torch.Tensor) -> torch.Tensor:
        y = original(equation, *operands)
        return y + 1e-9 * y * y

    patch.setattr(torch, "einsum", einsum)


def _port(name: str, plant: Callable[[pytest.MonkeyPatch], None], *broken: tuple[str, str]) -> list[LawFault]:
    return [LawFault(name, "port", plant, law, component) for law, component in broken]


def _reference(name: str, plant: Callable[[pytest.MonkeyPatch], None], *broken: tuple[str, str]) -> list[LawFault]:
    return [LawFault(name, "reference", plant, law, component) for law, component in broken]


LAW_FAULTS = (
    *_port("+D for u*D", _added_skip, ("zero", "fftconv"), ("linearity", "fftconv"), ("skip", "fftconv")),
    *_port("one D for all channels", _one_skip_weight, ("channels", "fftconv"), ("skip", "hyena_filter")),
    *_port("no D", _no_skip, ("skip", "fftconv"), ("impulse", "hyena_filter")),
    *_port("u rectified before D", _rectified_skip, ("linearity", "hyena_filter")),
    *_port("FFT length L", _circular, ("impulse", "fftconv"), ("direct_sum", "fftconv"), ("causality", "fftconv")),
    *_port("FFT length 2L - 1", _odd_length, ("impulse", "fftconv"), ("direct_sum", "fftconv")),
    *_port("freq for time", _other_space, ("impulse", "fftconv"), ("direct_sum", "hyena_filter")),
    *_port("reverse spectrum not conjugated", _unconjugated, ("impulse", "fftconv"), ("direct_sum", "fftconv")),
    *_port("kernel reversed", _reversed_kernel, ("impulse", "fftconv"), ("direct_sum", "hyena_filter")),
    *_port("avg for sum", _averaged, ("impulse", "fftconv"), ("direct_sum", "fftconv")),
    *_port("batch rows mixed", _mixed_batch, ("batch", "fftconv")),
    *_port("LayerNorm over positions", _norm_over_positions, ("positions", "mlp"), ("positions", "mlm_head")),
    *_port("short convolution centred", _centred_short_convolution, ("causality", "monarch_mixer")),
    *_port("filter recomputed for L", _recomputed_filter, ("length", "hyena_filter"), ("length", "monarch_mixer")),
    *_port("last rows of z", _last_rows, ("length", "hyena_filter")),
    *_port("mask ignored", _mask_ignored, ("padding", "pooler")),
    *_port("masked sum divided by all positions", _mean_over_padding, ("padding", "pooler")),
    *_port("last token for first", _last_token, ("padding", "pooler")),
    *_port("a mask of ones scales", _mask_of_ones_adds, ("padding", "attention_pooler")),
    *_port("label 0 counted", _padding_counted, ("padding", "masked_lm")),
    *_port("labels ignored", _labels_ignored, ("padding", "masked_lm")),
    *_port("decoder copied", _copied_decoder, ("ties", "masked_lm")),
    *_port("frequencies of their own", _own_frequencies, ("ties", "hyena_filter"), ("ties", "layer")),
    *_port("bias added twice", _bias_twice, ("zero", "blockdiag_linear")),
    *_port("x1, x2, v interleaved", _interleaved_split, ("channels", "monarch_mixer")),
    *_reference("+D for u*D", _reference_conv(_reference_added_skip), ("zero", "fftconv"), ("skip", "hyena_filter")),
    *_reference("one D for all channels", _reference_conv(_reference_one_weight), ("channels", "fftconv")),
    *_reference("FFT length L", _reference_conv(_reference_circular), ("impulse", "fftconv"), ("causality", "fftconv")),
    *_reference("kernel reversed", _reference_conv(_reference_reversed), ("direct_sum", "fftconv")),
    *_reference("freq for time", _reference_conv(_reference_conjugate), ("impulse", "hyena_filter")),
    *_reference("batch rows mixed", _reference_conv(_reference_batch), ("batch", "fftconv")),
    *_reference("LayerNorm over positions", _reference_norm, ("positions", "mlp")),
    *_reference("filter recomputed for L", _reference_recomputed, ("length", "hyena_filter")),
    *_reference("mask ignored", _reference_mask, ("padding", "pooler")),
    *_reference("decoder copied", _reference_decoder, ("ties", "masked_lm")),
    *_reference("frequencies of their own", _reference_frequencies, ("ties", "hyena_filter")),
    *_reference("block products bent by 1e-9", _reference_tanh_of_products, ("linearity", "blockdiag_linear")),
)
