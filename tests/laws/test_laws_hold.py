"""The laws hold for reference and port, whatever structure and seed Hypothesis draws."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from parity.cases.draw import cases
from parity.laws import LAW_RUNGS, SIDES, Application, Ground, Law, Side, Subject
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL, load_profile
from parity.suites import PAIRS
from parity.suites.m2_bert_laws import (
    BATCH,
    CAUSALITY,
    CHANNELS,
    DIRECT_SUM,
    IMPULSE,
    LAWS,
    LENGTH,
    LINEARITY,
    PADDING,
    POSITIONS,
    SKIP,
    TIES,
    ZERO,
)

PROFILES = st.sampled_from((CANONICAL, load_profile("mlx_stable"), load_profile("torch_avg")))
sides = pytest.mark.parametrize("side", SIDES)
few = settings(max_examples=2)


def every(law: Law) -> pytest.MarkDecorator:
    """Parametrize over the applications of a law."""
    names = [application.pair.name for application in law.applications]
    return pytest.mark.parametrize("application", law.applications, ids=names)


def assert_holds(application: Application, side: Side, data: st.DataObject) -> None:
    case = data.draw(cases(application.pair), label="case")
    ground = Ground(application.pair, case, data.draw(PROFILES, label="profile"))
    for rung in LAW_RUNGS:
        claims = list(application.check(Subject(ground, side, RUNGS[rung])))
        assert sum(claim.elements for claim in claims) > 0
        broken = {claim.what: claim.ratio for claim in claims if claim.ratio > 1}
        assert broken == {}, rung


@sides
@every(ZERO)
@few
@given(data=st.data())
def test_silence_gives_silence(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(LINEARITY)
@few
@given(data=st.data())
def test_convolutions_and_products_are_linear(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(SKIP)
@few
@given(data=st.data())
def test_without_a_kernel_the_skip_is_left(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(IMPULSE)
@few
@given(data=st.data())
def test_impulses_give_the_kernel(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(DIRECT_SUM)
@few
@given(data=st.data())
def test_a_convolution_is_its_direct_sum(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(CHANNELS)
@few
@given(data=st.data())
def test_channels_carry_no_order(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(BATCH)
@few
@given(data=st.data())
def test_batch_rows_know_nothing_of_each_other(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(POSITIONS)
@few
@given(data=st.data())
def test_channel_mixing_mixes_no_positions(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(CAUSALITY)
@few
@given(data=st.data())
def test_the_past_does_not_hear_the_future(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(LENGTH)
@few
@given(data=st.data())
def test_a_shorter_input_takes_the_beginning_of_the_filter(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(PADDING)
@few
@given(data=st.data())
def test_what_is_masked_is_not_read(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


@sides
@every(TIES)
@few
@given(data=st.data())
def test_a_shared_parameter_is_one(application: Application, side: Side, data: Any) -> None:
    assert_holds(application, side, data)


def test_every_component_with_inputs_obeys_some_law() -> None:
    assert {name for law in LAWS for name in law.components} == {pair.name for pair in PAIRS if not pair.fresh}


def test_laws_have_names_and_sentences_of_their_own() -> None:
    assert len({law.name for law in LAWS}) == len({law.statement for law in LAWS}) == len(LAWS) == 12
