"""The arrays of a case follow from it alone, and every rung of its ladder holds them exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.backends.reference import build_reference, fresh_parameters
from parity.cases import FAMILIES, FULL_LADDER, Case, draw_inputs, draw_parameters
from parity.cases.arrays import generator, to_grid
from parity.cases.draw import SCALES, TINY_SCALE, cases
from parity.cases.families import Family
from parity.errors import CaseError
from parity.metrics import round_to
from parity.pairs import InputSpec, Pair
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import CANONICAL
from parity.suites import PAIRS, select

Array = npt.NDArray[Any]
MIXER: Final = select(["monarch_mixer"])[0]
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def arrays_of(pair: Pair, case: Case) -> dict[str, Array]:
    fresh = fresh_parameters(build_reference(pair, case.options, CANONICAL))
    return {**draw_parameters(pair, case, fresh), **{f"input:{name}": x for name, x in draw_inputs(pair, case).items()}}


def mixer_case(**changes: Any) -> Case:
    return replace(Case.make("monarch_mixer", MIXER.corpus[0], seed=3), **changes)


def equal(left: dict[str, Array], right: dict[str, Array]) -> bool:
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data(), pair=st.sampled_from(PAIRS))
def test_every_rung_of_the_ladder_holds_every_array_exactly(data: st.DataObject, pair: Pair) -> None:
    case = data.draw(cases(pair))
    for values in arrays_of(pair, case).values():
        for rung in case.ladder:
            np.testing.assert_array_equal(round_to(values.astype(np.float64), RUNGS[rung]), values)


@EVERY_FAMILY
@pytest.mark.parametrize("scale", SCALES)
def test_every_family_at_every_scale_fits_the_full_ladder(family: str, scale: int) -> None:
    x = draw_inputs(MIXER, mixer_case(family=family, scale=scale, ladder=FULL_LADDER))["x"]
    assert np.isfinite(x).all()
    assert np.abs(x).max() > 0


@EVERY_FAMILY
def test_the_tiny_scale_fits_the_fine_ladder(family: str) -> None:
    x = draw_inputs(MIXER, mixer_case(family=family, scale=TINY_SCALE, ladder=("f64", "f32")))["x"]
    assert 0 < np.abs(x).max() < 2.0**-4


def test_exactness_would_fail_for_values_off_the_grid() -> None:
    x = np.random.Generator(np.random.Philox(1)).standard_normal(50)
    assert not np.array_equal(round_to(x, RUNGS["bf16"]), x)
    assert np.array_equal(round_to(to_grid(x, mixer_case()), RUNGS["bf16"]), to_grid(x, mixer_case()))


@pytest.mark.parametrize("order", [("f16", "bf16", "f32", "f64"), ("bf16", "f64", "f16", "f32")])
def test_the_order_in_which_a_ladder_names_its_rungs_does_not_matter(order: tuple[RungName, ...]) -> None:
    assert equal(draw_inputs(MIXER, mixer_case(ladder=order)), draw_inputs(MIXER, mixer_case()))


def test_the_same_case_draws_the_same_arrays() -> None:
    assert equal(arrays_of(MIXER, mixer_case()), arrays_of(MIXER, mixer_case()))


def test_another_seed_draws_other_arrays_everywhere() -> None:
    first, second = arrays_of(MIXER, mixer_case()), arrays_of(MIXER, mixer_case(seed=4))
    same = [name for name in first if np.array_equal(first[name], second[name])]
    assert {name.rsplit(".", 1)[1] for name in same} == {"t"}  # positions are kept as they are


def test_no_array_depends_on_which_others_are_drawn() -> None:
    case = mixer_case()
    fresh = fresh_parameters(build_reference(MIXER, case.options, CANONICAL))
    together = draw_parameters(MIXER, case, fresh)
    for name in fresh:
        np.testing.assert_array_equal(draw_parameters(MIXER, case, {name: fresh[name]})[name], together[name])


def test_an_array_depends_on_its_own_name() -> None:
    case, fresh = mixer_case(), np.zeros((3, 4))
    drawn = draw_parameters(MIXER, case, {"a.weight": fresh, "b.weight": fresh})
    assert not np.array_equal(drawn["a.weight"], drawn["b.weight"])


def test_a_generator_follows_from_seed_and_name() -> None:
    draws = {(seed, name): generator(seed, name).random() for seed in (1, 2) for name in ("a", "b")}
    assert len(set(draws.values())) == 4
    assert generator(1, "a").random() == draws[1, "a"]


@pytest.mark.parametrize("scale", [20, 1000, 5000])
def test_an_overflow_of_the_coarsest_rung_is_named(scale: int) -> None:
    with pytest.raises(CaseError, match=f"x overflows the ladder f64,f32,bf16,f16 at family normal, scale {scale}"):
        draw_inputs(MIXER, mixer_case(scale=scale))


# --- kinds of inputs ------------------------------------------------------------------------------------


def drawn(spec: InputSpec, seed: int = 0) -> Array:
    pair = replace(MIXER, inputs=lambda structure: {"x": spec})
    return draw_inputs(pair, mixer_case(seed=seed))["x"]


def test_ids_lie_in_their_range_and_reach_both_ends() -> None:
    ids = drawn(InputSpec((40, 40), "ids", low=2, high=7))
    assert np.issubdtype(ids.dtype, np.integer)
    assert (ids.min(), ids.max()) == (2, 6)


@pytest.mark.parametrize(("kind", "dtype"), [("mask", np.integer), ("weight_mask", np.floating)])
def test_a_mask_has_a_one_in_every_row_and_zeros_on_the_right_the_left_or_between(kind: Any, dtype: Any) -> None:
    masks = [drawn(InputSpec((50, 6), kind), seed) for seed in range(12)]
    for mask in masks:
        assert np.issubdtype(mask.dtype, dtype)
        assert set(mask.ravel()) == {0, 1}
        assert mask.any(axis=1).all()
    steps = [np.diff(mask, axis=1) for mask in masks]
    right, left = ([bool((sign * step <= 0).all()) for step in steps] for sign in (1, -1))
    assert any(right)
    assert any(left)
    assert not all(r or l for r, l in zip(right, left, strict=True))


def test_labels_hold_what_enters_no_loss_and_at_least_one_that_does() -> None:
    labels = [drawn(InputSpec((3, 4), "labels", high=9), seed) for seed in range(12)]
    assert all((values > 0).any() for values in labels)
    assert {0, -100} <= set(np.concatenate(labels).ravel())
    assert max(values.max() for values in labels) < 9


def test_a_rule_draws_the_parameter_that_it_names_and_the_first_rule_wins() -> None:
    rules = ((r"weight$", lambda fresh, rng: fresh + 1), (r".", lambda fresh, rng: fresh + 2))
    pair = replace(MIXER, parameters=rules)
    values = draw_parameters(pair, mixer_case(), {"a.weight": np.zeros(2), "a.bias": np.zeros(2)})
    assert (values["a.weight"].tolist(), values["a.bias"].tolist()) == ([1, 1], [2, 2])


@pytest.mark.parametrize(
    "name",
    ["layernorm.weight", "filter_fn.implicit_filter.1.freq", "filter_fn.pos_emb.z", "filter_fn.modulation.deltas"],
)
def test_nothing_hides_behind_its_initial_value(name: str) -> None:
    structure = next(structure for structure in MIXER.corpus if structure.get("hyena_training_additions"))
    case = Case.make(MIXER.name, structure, seed=1)
    fresh = fresh_parameters(build_reference(MIXER, structure, CANONICAL))
    values = draw_parameters(MIXER, case, fresh)
    assert (values[name] != fresh[name]).mean() > 0.9


# --- families -------------------------------------------------------------------------------------------

SHAPE: Final = (3, 16, 4)
AXIS: Final = 1


def made(name: str, shape: tuple[int, ...] = SHAPE, axis: int = AXIS, seed: int = 5) -> Array:
    family: Family = FAMILIES[name]
    return family(np.random.Generator(np.random.Philox(seed)), shape, axis)


@EVERY_FAMILY
@pytest.mark.parametrize(
    ("shape", "axis"), [(SHAPE, 1), (SHAPE, 2), (SHAPE, -1), ((2, 1, 3), 1), ((5,), 0), ((5,), -1)]
)
def test_a_family_fills_any_shape(family: str, shape: tuple[int, ...], axis: int) -> None:
    values = made(family, shape, axis)
    assert values.shape == shape
    assert values.dtype == np.float64
    assert np.isfinite(values).all()


@EVERY_FAMILY
def test_a_family_repeats_itself_and_follows_its_generator(family: str) -> None:
    np.testing.assert_array_equal(made(family), made(family))
    assert not np.array_equal(made(family), made(family, seed=6))


def test_normal_numbers_have_mean_zero_and_spread_one() -> None:
    values = made("normal", (100, 100))
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, rel=0.05)


def test_positive_numbers_are_positive() -> None:
    assert (made("positive") > 0).all()


def test_constant_numbers_vary_over_channels_and_not_over_positions() -> None:
    values = made("constant")
    assert (values == values[:, :1]).all()
    assert len(np.unique(values[:, 0])) == 12


def test_offset_numbers_have_a_mean_far_above_their_spread() -> None:
    values = made("offset")
    assert values.mean() == pytest.approx(32, abs=1)
    assert values.std() < 2


def test_a_tone_has_one_frequency_a_channel() -> None:
    power = np.abs(np.fft.rfft(made("tone"), axis=AXIS)) ** 2
    strongest = power.max(axis=AXIS)
    np.testing.assert_allclose(strongest, power.sum(axis=AXIS), rtol=1e-12)
    assert len(np.unique(power.argmax(axis=AXIS))) > 1


def test_a_burst_has_one_loud_position() -> None:
    loudness = np.abs(made("burst")).max(axis=(0, 2))
    assert np.sort(loudness)[-1] > 1000 * np.sort(loudness)[-2]


@pytest.mark.parametrize(
    ("family", "length", "place"),
    [
        ("impulse_first", 16, 0),
        ("impulse_middle", 16, 8),
        ("impulse_middle", 5, 2),
        ("impulse_last", 16, 15),
        ("impulse_first", 1, 0),
        ("impulse_middle", 1, 0),
        ("impulse_last", 1, 0),
    ],
)
def test_an_impulse_stands_at_one_position_with_a_value_for_each_channel(family: str, length: int, place: int) -> None:
    values = made(family, (3, length, 4))
    assert np.flatnonzero(np.abs(values).max(axis=(0, 2))).tolist() == [place]
    assert len(np.unique(values[:, place])) == 12
    assert (values[:, place] >= 1).all()


def test_a_family_is_applied_along_the_axis_of_positions_and_scaled() -> None:
    pair = replace(MIXER, inputs=lambda structure: {"x": InputSpec((2, 3, 8), positions=2)})
    x = draw_inputs(pair, mixer_case(family="impulse_last", scale=5))["x"]
    assert np.flatnonzero(np.abs(x).max(axis=(0, 1))).tolist() == [7]
    assert (x[..., 7] >= 32).all()
