"""A constructor takes what it documents: a misspelt option raises, and so does a size that cannot be."""

from __future__ import annotations

import inspect
from typing import Any, Final

import pytest
import torch
from torch import nn

import reference_torch as ref
from parity.spec.config import ModelConfig
from parity.spec.profile import CANONICAL

CLASSES: Final = [name for name in ref.__all__ if inspect.isclass(getattr(ref, name))]
SMALL: Final = ModelConfig(hidden_size=4, intermediate_size=4, num_hidden_layers=1, vocab_size=5, layer_norm_eps=1e-7)
ARGUMENTS: Final[dict[str, Any]] = {"config": SMALL, "profile": CANONICAL}


def required(name: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(ref, name)).parameters.values()
    return {p.name: ARGUMENTS.get(p.name, 2) for p in parameters if p.default is inspect.Parameter.empty}


@pytest.mark.parametrize("name", CLASSES)
def test_an_unknown_option_raises(name: str) -> None:
    assert isinstance(getattr(ref, name)(**required(name)), nn.Module)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        getattr(ref, name)(**required(name), nonsense=1)


@pytest.mark.parametrize("name", CLASSES)
def test_no_constructor_swallows_what_it_does_not_know(name: str) -> None:
    kinds = {p.kind for p in inspect.signature(getattr(ref, name)).parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("emb_dim", [-1, 0, 1, 2, 4])
def test_a_filter_refuses_an_even_or_too_small_embedding(emb_dim: int) -> None:
    with pytest.raises(ValueError, match=f"emb_dim must be odd and at least 3.*got {emb_dim}"):
        ref.HyenaFilter(2, emb_dim=emb_dim)


def test_a_filter_refuses_more_positions_than_it_was_built_for() -> None:
    with pytest.raises(ValueError, match="9 positions, but this filter was built for seq_len = 8"):
        ref.HyenaFilter(2, seq_len=8)(torch.zeros(1, 2, 9))


def test_a_block_diagonal_layer_refuses_another_number_of_features() -> None:
    with pytest.raises(ValueError, match="x has 5 features; this layer takes 6"):
        ref.BlockdiagLinear(6, 4)(torch.zeros(2, 5))


def test_a_block_diagonal_product_refuses_features_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"x has 5 features; weight \(2, 4, 3\) needs k\*p = 6"):
        ref.blockdiag_multiply(torch.zeros(5), torch.zeros(2, 4, 3))


def test_monarch_factors_must_fit_each_other() -> None:
    with pytest.raises(ValueError, match=r"w1 \(2, 3, 2\) and w2 \(3, 2, 3\) do not fit"):
        ref.monarch_multiply(torch.zeros(4), torch.zeros(2, 3, 2), torch.zeros(3, 2, 3))


@pytest.mark.parametrize(
    ("taps", "reverse", "message"),
    [
        (5, None, "kernel has 5 taps; for 4 positions it must have 4 or 8"),
        (8, 4, "kernel has 8 taps; for 4 positions it must have 4"),
        (4, 5, "reverse kernel has 5 taps; for 4 positions it must have 4"),
    ],
    ids=["kernel too long", "both directions twice", "reverse kernel too long"],
)
def test_a_kernel_of_another_length_is_refused(taps: int, reverse: int | None, message: str) -> None:
    k_rev = None if reverse is None else torch.zeros(1, reverse)
    with pytest.raises(ValueError, match=message):
        ref.fftconv(torch.zeros(1, 1, 4), torch.zeros(1, taps), torch.zeros(1), k_rev)


# --- LayerNorm's epsilon ----------------------------------------------------------------------------------


def epsilons(profile: Any = CANONICAL) -> dict[str, float]:
    config = SMALL.model_copy(update={"hyena_training_additions": True})
    model = ref.BertForMaskedLM(config, profile)
    return {name: part.eps for name, part in model.named_modules() if isinstance(part, ref.LayerNorm)}


def test_each_layer_norm_has_the_models_epsilon_for_its_place() -> None:
    assert epsilons() == {
        "bert.embeddings.LayerNorm": 1e-7,
        "bert.encoder.layer.0.attention.layernorm": 1e-5,
        "bert.encoder.layer.0.mlp.layernorm": 1e-7,
        "cls.predictions.transform.LayerNorm": 1e-12,
    }


def test_a_profiles_epsilon_replaces_all_of_them() -> None:
    assert set(epsilons(CANONICAL.replace(layer_norm_eps=1e-3)).values()) == {1e-3}


@pytest.mark.parametrize("eps", [1e-12, 1e-3])
def test_epsilon_stands_inside_the_root_beside_the_biased_variance(eps: float) -> None:
    x = 1e-3 * torch.tensor([[1.0, 2.0, 4.0, 9.0]], dtype=torch.float64)
    layer = ref.LayerNorm(4, 1e-12, CANONICAL.replace(layer_norm_eps=eps)).double()
    expected = (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + eps)
    torch.testing.assert_close(layer(x), expected, rtol=1e-14, atol=0)
