"""The implicit filter: one sine for all places, the position table of the build length, the modulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference_torch import ExponentialModulation, HyenaFilter, PositionalEmbedding, ShortConvolution, Sin, cast

FREQUENCIES = [f"{net}.{i}.freq" for net in ("implicit_filter", "implicit_filter_rev") for i in (1, 3, 5)]


def small(**options: object) -> HyenaFilter:
    torch.manual_seed(3)
    return HyenaFilter(4, **{"emb_dim": 5, "order": 6, "seq_len": 9, "w": 10, "bidirectional": True, **options})  # type: ignore[arg-type]


def test_one_sine_stands_at_every_place_of_both_networks() -> None:
    module = small()
    sines = [part for _, part in module.named_modules(remove_duplicate=False) if isinstance(part, Sin)]
    assert len(sines) == 6
    assert len({id(part) for part in sines}) == 1


def test_the_state_dict_shows_it_under_every_place() -> None:
    assert [name for name in small().state_dict() if name.endswith("freq")] == FREQUENCIES


def test_a_change_of_the_frequency_moves_both_directions() -> None:
    module = small()
    before = module.filter(9), module.filter_rev(9)
    with torch.no_grad():
        module.implicit_filter[1].freq[:] = 3  # type: ignore[union-attr]
    assert not torch.equal(before[0], module.filter(9))
    assert not torch.equal(before[1], module.filter_rev(9))


def test_two_filters_do_not_share_theirs() -> None:
    assert small().implicit_filter[1] is not small().implicit_filter[1]


def test_the_two_directions_have_networks_of_their_own() -> None:
    module = small()
    assert not torch.equal(module.filter(9), module.filter_rev(9))


@pytest.mark.parametrize("emb_dim", [3, 5, 7])
def test_the_position_table_is_time_cosines_and_minus_sines(emb_dim: int) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        z, t = PositionalEmbedding(emb_dim, 7)(7)
    finally:
        torch.set_default_dtype(torch.float32)
    bands = (emb_dim - 1) // 2
    angle = np.linspace(1e-4, bands - 1, bands) * 2 * np.pi * np.arange(7)[:, None] / 7
    expected = np.concatenate([np.linspace(0, 1, 7)[:, None], np.cos(angle), -np.sin(angle)], axis=1)
    np.testing.assert_allclose(z[0].detach(), expected, rtol=0, atol=1e-15 * 4 * (1 + 2 * np.pi * bands))
    np.testing.assert_allclose(t[0, :, 0], np.linspace(0, 1, 7), rtol=0, atol=2.0**-53)


def test_a_shorter_input_takes_the_first_rows_and_recomputes_nothing() -> None:
    module = small().double()
    torch.testing.assert_close(module.filter(4), module.filter(9)[:, :4], rtol=0, atol=1e-13)
    assert torch.equal(module.pos_emb(4)[0], module.pos_emb.z[:, :4])


def test_the_modulation_decays_by_the_absolute_rate() -> None:
    modulation = ExponentialModulation(3, shift=0.5)
    t = torch.tensor([0.0, 0.5, 1.0])[None, :, None]
    expected = torch.exp(-t * modulation.deltas.abs()) + 0.5
    torch.testing.assert_close(modulation(t, torch.ones(1, 3, 3)), expected)
    assert (modulation.deltas < 0).all()
    torch.testing.assert_close(modulation(t, torch.ones(1, 3, 3))[0, 0], torch.full((3,), 1.5))


def test_the_ends_of_the_rates_are_those_of_the_specification() -> None:
    deltas = ExponentialModulation(5).deltas[0, 0]
    np.testing.assert_allclose(deltas[[0, -1]], [np.log(1e-2) / 1.5, np.log(1e-2) / 0.3], rtol=1e-6)


def test_without_modulation_the_network_is_the_filter() -> None:
    module = small(modulate=False)
    assert torch.equal(module.filter(9), module.implicit_filter(module.pos_emb.z))


def test_a_normalised_filter_sums_to_one_over_channels() -> None:
    np.testing.assert_allclose(small(normalized=True).filter(9).abs().sum(-1).detach(), 1.0, rtol=1e-6)


def test_bias_false_takes_the_skip_away() -> None:
    with_skip, without = small().double(), small(bias=False).double()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(without(x) + with_skip.bias[:, None] * x, with_skip(x), rtol=0, atol=1e-13)
    assert not torch.equal(without(x), with_skip(x))
    assert "bias" in dict(without.named_parameters())


def test_a_linear_mixer_is_one_matrix_without_bias() -> None:
    module = small(linear_mixer=True, bidirectional=False)
    assert [name for name, _ in module.named_parameters()] == ["bias", "pos_emb.z", "implicit_filter.0.weight"]


@pytest.mark.parametrize("inner", [0, 1, 3])
def test_the_number_of_inner_layers_is_the_option(inner: int) -> None:
    network = small(num_inner_mlps=inner).implicit_filter
    assert sum(isinstance(part, torch.nn.Linear) for part in network) == inner + 2
    assert sum(isinstance(part, Sin) for part in network) == inner + 1


def test_sin_multiplies_frequency_factor_and_argument() -> None:
    module = Sin(3, w=10, w_mod=2)
    x = torch.tensor([0.1, -0.2, 0.3])
    torch.testing.assert_close(module(x), torch.sin(20 * x)[None].reshape(1, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_filter_stays_in_float32_when_the_rest_goes_below(dtype: torch.dtype) -> None:
    model = torch.nn.ModuleDict({"filter": small(), "linear": torch.nn.Linear(2, 2)})
    cast(model, dtype)
    assert {p.dtype for p in model["filter"].parameters()} == {torch.float32}
    assert {p.dtype for p in model["linear"].parameters()} == {dtype}


def test_casting_to_float64_takes_everything() -> None:
    assert {p.dtype for p in cast(small(), torch.float64).parameters()} == {torch.float64}


@pytest.mark.parametrize("place", [0, 3, 5])
def test_the_short_convolution_is_causal_with_its_taps_in_order(place: int) -> None:
    module = ShortConvolution(2).double()
    with torch.no_grad():
        module.weight[:] = torch.tensor([1.0, 10.0, 100.0])
        module.bias[:] = torch.tensor([0.5, -0.5])
    x = torch.zeros(1, 2, 6, dtype=torch.float64)
    x[..., place] = 1
    response = np.zeros(6)
    response[place : place + 3] = [100.0, 10.0, 1.0][: 6 - place]
    np.testing.assert_array_equal(module(x)[0].detach(), response + np.array([[0.5], [-0.5]]))
