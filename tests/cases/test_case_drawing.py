"""Drawing repeats itself, shrinking reaches the smallest failure, and the corpus holds what luck would miss."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import HypothesisProvider

from parity.cases import FAMILIES, FINE_LADDER, FULL_LADDER, Case, corpus_cases, draw_cases, shrink_case
from parity.cases.draw import SCALES, TINY_SCALE
from parity.errors import ConfigError
from parity.pairs import Pair
from parity.suites import PAIRS, select

EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
FFTCONV: Final = select(["fftconv"])[0]
HYENA: Final = select(["hyena_filter"])[0]


# --- drawing --------------------------------------------------------------------------------------------


@EVERY_PAIR
def test_the_same_seed_draws_the_same_cases(pair: Pair) -> None:
    assert draw_cases(pair, 8, seed=1) == draw_cases(pair, 8, seed=1)


@EVERY_PAIR
def test_constants_of_a_loaded_module_draw_no_other_cases(pair: Pair, neighbour: Callable[[], None]) -> None:
    before = draw_cases(pair, 40, seed=1)
    neighbour()
    assert draw_cases(pair, 40, seed=1) == before


def test_constants_of_a_loaded_module_draw_other_integers_elsewhere(neighbour: Callable[[], None]) -> None:
    before = integers_drawn()
    neighbour()
    assert integers_drawn() != before, "Hypothesis takes none of them: the test above shows nothing any more"


def test_drawing_leaves_hypothesis_as_it_was(neighbour: Callable[[], None]) -> None:
    neighbour()
    before = integers_drawn()
    draw_cases(FFTCONV, 5, seed=1)
    assert integers_drawn() == before


def test_a_hypothesis_that_cannot_be_kept_from_constants_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HypothesisProvider, "_maybe_draw_constant")
    with pytest.raises(ConfigError, match="cannot be told to leave constants alone"):
        draw_cases(FFTCONV, 5, seed=1)


def test_another_seed_draws_other_cases() -> None:
    assert set(draw_cases(FFTCONV, 20, seed=1)) != set(draw_cases(FFTCONV, 20, seed=2))


def test_two_pairs_do_not_share_their_draws() -> None:
    twin = Pair(**{**vars(FFTCONV), "name": "twin"})
    seeds = [{case.seed for case in draw_cases(pair, 20, seed=1)} for pair in (FFTCONV, twin)]
    assert seeds[0] != seeds[1]


@EVERY_PAIR
def test_no_case_is_drawn_twice_and_no_more_than_asked_for(pair: Pair) -> None:
    drawn = draw_cases(pair, 12, seed=3)
    assert 0 < len(set(drawn)) == len(drawn) <= 12
    assert {case.component for case in drawn} == {pair.name}


def test_a_draw_of_many_reaches_every_family_scale_and_ladder() -> None:
    drawn = draw_cases(FFTCONV, 400, seed=1)
    assert {case.family for case in drawn} == set(FAMILIES)
    assert {case.ladder for case in drawn} == {FULL_LADDER, FINE_LADDER}
    assert {case.scale for case in drawn if case.ladder == FULL_LADDER} == set(SCALES)
    assert {case.scale for case in drawn if case.ladder == FINE_LADDER} == {*SCALES, TINY_SCALE}


def test_a_structure_is_sizes_and_switches_and_never_an_array() -> None:
    values = [value for pair in PAIRS for case in draw_cases(pair, 5, seed=1) for value in case.options.values()]
    assert {type(value) for value in values} <= {int, bool, float, str}


@pytest.fixture
def neighbour(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Load a module that holds a hundred numbers, such as any new table of constants brings."""
    mark = zlib.crc32(request.node.name.encode())  # Hypothesis forgets no number that it has read: others in each test
    name = f"neighbour_{mark:08x}"
    numbers = [*range(2, 60), *range(mark, mark + 42)]
    (tmp_path / f"{name}.py").write_text(f"NUMBERS = {numbers}\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def load() -> None:
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))

    return load


def integers_drawn() -> list[int]:
    """Return what Hypothesis itself draws from one seed."""
    drawn: list[int] = []

    @seed(1)
    @settings(max_examples=300, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**32 - 1))
    def collect(value: int) -> None:
        drawn.append(value)

    collect()
    return drawn


# --- shrinking ------------------------------------------------------------------------------------------


def options_of(case: Case | None) -> dict[str, Any]:
    assert case is not None
    return case.options


def test_the_smallest_failure_is_found() -> None:
    found = shrink_case(
        FFTCONV, lambda case: case.options["L"] >= 5 and case.options["bidirectional"], seed=1, effort=200
    )
    assert options_of(found) == {"batch": 1, "d_model": 1, "L": 5, "bidirectional": True, "gelu": False}
    assert found is not None
    assert (found.family, found.scale, found.seed, found.ladder) == ("normal", 0, 0, FULL_LADDER)


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        (lambda case: case.family == "burst", ("family", "burst")),
        (lambda case: case.scale < 0, ("scale", SCALES[-1])),
        (lambda case: case.ladder == FINE_LADDER, ("ladder", FINE_LADDER)),
        (lambda case: case.seed >= 1000, ("seed", 1000)),
    ],
    ids=["family", "scale", "ladder", "seed"],
)
def test_what_does_not_matter_is_at_its_simplest(fails: Callable[[Case], bool], expected: tuple[str, Any]) -> None:
    found = shrink_case(FFTCONV, fails, seed=1, effort=300)
    assert found is not None
    simplest = {"family": "normal", "scale": 0, "ladder": FULL_LADDER, "seed": 0}
    assert {name: getattr(found, name) for name in simplest} == {**simplest, expected[0]: expected[1]}
    assert found.options["L"] == 1


def test_a_dependent_structure_shrinks_too() -> None:
    found = shrink_case(HYENA, lambda case: case.options["L"] < case.options["seq_len"], seed=1, effort=200)
    options = options_of(found)
    assert (options["L"], options["seq_len"], options["d_model"], options["order"]) == (1, 2, 2, 2)


def test_the_same_seed_shrinks_to_the_same_case() -> None:
    def fails(case: Case) -> bool:
        return case.options["d_model"] * case.options["L"] > 20

    assert shrink_case(FFTCONV, fails, seed=1, effort=100) == shrink_case(FFTCONV, fails, seed=1, effort=100)


def test_without_a_failure_nothing_is_found() -> None:
    assert shrink_case(FFTCONV, lambda case: False, seed=1, effort=20) is None


def test_an_exception_in_the_predicate_is_not_taken_for_an_answer() -> None:
    def breaks(case: Case) -> bool:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        shrink_case(FFTCONV, breaks, seed=1, effort=20)


def test_a_case_that_was_found_fails_again_from_its_json() -> None:
    def fails(case: Case) -> bool:
        return case.options["gelu"] and case.options["L"] > 2

    found = shrink_case(FFTCONV, fails, seed=1, effort=100)
    assert found is not None
    assert fails(Case.from_json("fftconv", found.to_json()))


# --- the corpus -----------------------------------------------------------------------------------------


def structures(*names: str) -> list[dict[str, Any]]:
    return [dict(structure) for pair in select(list(names)) for structure in pair.corpus]


def is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, number))


@EVERY_PAIR
def test_every_pair_has_a_corpus_and_each_structure_is_a_case(pair: Pair) -> None:
    cases = corpus_cases(pair, seed=5)
    assert [case.options for case in cases] == [dict(structure) for structure in pair.corpus]
    assert cases


@EVERY_PAIR
def test_the_corpus_takes_seeds_families_and_ladders_in_turn(pair: Pair) -> None:
    cases = corpus_cases(pair, seed=5)
    assert len({case.seed for case in cases}) == len(cases)
    assert [case.family for case in cases] == [list(FAMILIES)[index % len(FAMILIES)] for index in range(len(cases))]
    assert [case.ladder for case in cases] == [(FULL_LADDER, FINE_LADDER)[index % 2] for index in range(len(cases))]
    assert corpus_cases(pair, seed=5) == cases
    assert {case.seed for case in corpus_cases(pair, seed=6)}.isdisjoint({case.seed for case in cases})


SEQUENCES: Final = ("fftconv", "hyena_filter", "monarch_mixer", "layer")
EVERY_SEQUENCE = pytest.mark.parametrize("name", SEQUENCES)


@EVERY_SEQUENCE
def test_the_corpus_has_a_single_position(name: str) -> None:
    assert 1 in [structure["L"] for structure in structures(name)]


@EVERY_SEQUENCE
def test_the_corpus_has_an_odd_prime_length(name: str) -> None:
    assert any(structure["L"] % 2 and is_prime(structure["L"]) for structure in structures(name))


@EVERY_SEQUENCE
def test_the_corpus_has_a_power_of_two(name: str) -> None:
    assert any(structure["L"] in (16, 32, 64, 256) for structure in structures(name))


def test_the_corpus_has_inputs_shorter_than_the_filter() -> None:
    shorter = [structure for structure in structures("hyena_filter") if 1 < structure["L"] < structure["seq_len"]]
    assert any(structure["L"] % 2 for structure in shorter)
    assert any(1 < structure["L"] < structure["l_max"] for structure in structures("monarch_mixer"))
    # SMALL_MODEL's filters are built for 16 positions.
    assert any(1 < structure["L"] < 16 for structure in structures("layer"))


def test_the_corpus_has_square_and_non_divisible_blocks() -> None:
    layers = structures("blockdiag_linear")
    sizes = [(s["in_features"], s["out_features"], s["nblocks"]) for s in layers]
    assert any(i == o and i % k == 0 for i, o, k in sizes)
    assert any(i % k and o % k for i, o, k in sizes)
    assert any(i < k for i, _, k in sizes)
    assert {(s["bias"], s["shuffle"]) for s in layers} >= {(True, False), (False, True), (True, True)}


def test_the_corpus_has_equal_and_unequal_monarch_factors() -> None:
    sizes = [[s[name] for name in "kqplsr"] for s in structures("monarch_multiply")]
    assert any(len(set(row)) == 1 and row[0] > 1 for row in sizes)
    assert any(len(set(row)) >= 5 for row in sizes)


def test_the_corpus_has_an_mlp_whose_blocks_do_not_divide_and_a_dense_one() -> None:
    rows = structures("mlp")
    assert any(s["hidden_size"] % s["monarch_mlp_nblocks"] for s in rows if "monarch_mlp_nblocks" in s)
    assert any(s.get("use_monarch_mlp") is False for s in rows)
    assert {s["cls"] for s in rows} == {"glu", "mlp"}


@pytest.mark.parametrize("name", ["fftconv", "hyena_filter", "monarch_mixer", "layer"])
def test_the_corpus_has_one_direction_and_both(name: str) -> None:
    assert {structure["bidirectional"] for structure in structures(name)} == {True, False}


def test_the_corpus_has_embeddings_of_more_than_one_band_so_that_their_order_shows() -> None:
    assert {5, 7} <= {
        structure.get("hyena_emb_dim", structure.get("emb_dim")) for structure in structures("hyena_filter")
    }


def test_a_strategy_of_the_caller_is_drawn_from() -> None:
    twin = Pair(**{**vars(FFTCONV), "structures": st.just({"L": 1, "batch": 1})})
    assert {case.structure for case in draw_cases(twin, 5, seed=1)} == {(("L", 1), ("batch", 1))}
