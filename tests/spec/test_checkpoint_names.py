"""Constants of a checkpoint are set aside by their whole name, with a reason; nothing else is."""

from __future__ import annotations

import pytest

from parity.spec.checkpoint import SET_ASIDE, set_aside_reason


@pytest.mark.parametrize(
    "name",
    [
        "position_ids",
        "bert.embeddings.position_ids",
        "flashfft.twiddle",
        "bert.encoder.layer.0.attention.filter_fn.flashfft.f_32_fft",
    ],
)
def test_a_constant_is_set_aside_with_a_reason(name: str) -> None:
    reason = set_aside_reason(name)
    assert reason in SET_ASIDE.values()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bert.embeddings.position_embeddings.weight",
        "my_position_ids",
        "position_ids.weight",
        "flashfft",
        "myflashfft.table",
        "cls.predictions.decoder.weight",
    ],
)
def test_anything_else_is_used(name: str) -> None:
    assert set_aside_reason(name) is None
