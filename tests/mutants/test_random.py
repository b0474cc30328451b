"""Random edits: each changes what it says and nothing else, equivalent ones are told apart, and the rest is seen."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from harness_pieces import F32, F64, invoke
from mlx import nn
from scipy import stats

from parity.api import Pair, complete
from parity.backends.convert_mlx import mlx_from_numpy, numpy_from_mlx
from parity.backends.port import run_port
from parity.cases import largest_structures
from parity.errors import TargetError
from parity.examine import first_bad
from parity.mutants import drawn
from parity.mutants.drawn import Range, Rate, editable, largest_true, random_mutants, sensitivities
from parity.mutants.edits import LARGEST_K, Edit, Place, draw_edit, find_places, plant
from parity.spec.profile import CANONICAL
from parity.suites import select

ROOT = Path(__file__).parents[2]
SQUARE = Place("", "Module", (4, 4))
VALUES = np.arange(1.0, 17.0).reshape(4, 4)
THIRD = np.where(np.arange(4) == 2, 0.0, 1.0)

EXPECTED = {
    "shift": (Edit(SQUARE, "shift", axis=0), np.roll(VALUES, 1, 0)),
    "transpose": (Edit(SQUARE, "transpose", axis=0, other=1), VALUES.T),
    "halves": (Edit(SQUARE, "halves", axis=1), np.concatenate([VALUES[:, 2:], VALUES[:, :2]], 1)),
    "scale": (Edit(SQUARE, "scale", k=40), VALUES * (1 + 2.0**-40)),
    "drop": (Edit(SQUARE, "drop", axis=1, index=2), VALUES * THIRD),
    "sign": (Edit(SQUARE, "sign", axis=0, index=2), VALUES * (2 * THIRD - 1)[:, None]),
    "negate": (Edit(SQUARE, "negate"), -VALUES),
    "length": (Edit(SQUARE, "length", axis=0), VALUES[[0, 1, 2, 2]]),
    "float32": (Edit(SQUARE, "float32"), VALUES.astype(np.float32)),
    "bfloat16": (Edit(SQUARE, "bfloat16"), VALUES),
}


@pytest.mark.parametrize(("edit", "expected"), EXPECTED.values(), ids=EXPECTED)
def test_an_edit_does_what_it_says_in_float64(edit: Edit, expected: Any) -> None:
    with mx.stream(mx.cpu):
        actual, dtype = numpy_from_mlx(edit.of(mlx_from_numpy(VALUES, "float64")))
    assert dtype == "float64"
    np.testing.assert_array_equal(actual, expected)


def test_a_cast_loses_digits_and_gives_the_dtype_back() -> None:
    with mx.stream(mx.cpu):
        third = mlx_from_numpy(np.array([1 / 3]), "float64")
        for what, dtype in (("float32", np.float32), ("bfloat16", None)):
            actual = numpy_from_mlx(Edit(SQUARE, what).of(third))[0]  # type: ignore[arg-type]
            assert actual != 1 / 3
            assert dtype is None or actual == np.float64(dtype(1 / 3))


class Twice(nn.Module):
    """Calls one part twice, another once, the third never."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.pair, self.idle = nn.Linear(3, 3), Both(), nn.Linear(3, 3)

    def __call__(self, x: mx.array) -> mx.array:
        first, second = self.pair(self.part(self.part(x)))
        return first + second


class Both(nn.Module):
    """Gives out two tensors and a number."""

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return x, 2 * x


def output(model: nn.Module) -> Any:
    return np.array(model(mx.ones((2, 3))))


def test_places_are_all_calls_outputs_and_parameters_of_what_is_called() -> None:
    model = Twice()
    places = find_places(model, lambda: model(mx.ones((2, 3))))
    found = {(it.module, it.parameter, it.call, it.calls, it.leaf) for it in places}
    assert found == {
        ("", "", 1, 1, 0),
        ("part", "", 1, 2, 0),
        ("part", "", 2, 2, 0),
        ("part", "weight", 1, 1, 0),
        ("part", "bias", 1, 1, 0),
        ("pair", "", 1, 1, 0),
        ("pair", "", 1, 1, 1),
    }
    assert type(model.part) is nn.Linear


def test_an_edit_of_the_second_call_leaves_the_first_alone_pass_by_pass() -> None:
    model = Twice()
    weight, bias, x = np.array(model.part.weight), np.array(model.part.bias), np.ones((2, 3))
    once = x @ weight.T + bias
    plant(model, Edit(Place("part", "Linear", (2, 3), call=2, calls=2), "negate"))
    expected = -3 * (once @ weight.T + bias)
    for _ in range(2):
        np.testing.assert_allclose(output(model), expected, rtol=1e-5)
    assert type(model.idle) is nn.Linear


def test_an_edit_of_one_of_two_outputs_leaves_the_other_alone() -> None:
    model = Twice()
    clean = output(model)
    plant(model, Edit(Place("pair", "Both", (2, 3), leaf=1), "negate"))
    np.testing.assert_allclose(output(model), -clean / 3, rtol=1e-5)


def test_an_edit_of_a_parameter_changes_it_alone() -> None:
    model = Twice()
    weight, bias = np.array(model.part.weight), np.array(model.part.bias)
    plant(model, Edit(Place("part", "Linear", (3, 3), parameter="weight"), "shift", axis=0))
    np.testing.assert_array_equal(np.array(model.part.weight), np.roll(weight, 1, 0))
    np.testing.assert_array_equal(np.array(model.part.bias), bias)


def test_drawn_edits_fit_their_places_and_are_the_seeds() -> None:
    places = [SQUARE, Place("a", "A", (1, 5)), Place("b", "B", ()), Place("c", "C", (3, 2), parameter="weight")]

    def draw(seed: int) -> list[Edit]:
        rng = np.random.Generator(np.random.Philox(seed))
        return [draw_edit(places, rng) for _ in range(400)]

    edits = draw(0)
    assert edits == draw(0) != draw(1)
    assert {edit.what for edit in edits} == EXPECTED.keys()
    for edit in edits:
        shape = edit.place.shape
        if edit.what in ("shift", "halves", "drop", "sign", "length"):
            assert shape[edit.axis] > 1
            assert 0 <= edit.index < shape[edit.axis]
        if edit.what == "transpose":
            assert shape[edit.axis] == shape[edit.other]
            assert edit.axis != edit.other
        if edit.what == "scale":
            assert 1 <= edit.k <= LARGEST_K
    assert {bool(edit.place.parameter) for edit in edits} == {True, False}


@pytest.fixture(scope="module")
def mlp() -> Range:
    (pair,) = select(["mlp"])
    return Range(pair, 0, CANONICAL, 0)


def place_of(place: Range, module: str, parameter: str = "") -> Place:
    return next(it for it in place.places if it.module == module and it.parameter == parameter)


def test_an_edited_port_is_seen_in_the_module_that_is_edited(mlp: Range) -> None:
    for found in mlp.examine([Edit(place_of(mlp, "act"), "scale", k=30)], F64):
        assert first_bad(found.judgements) == "act"


def test_the_port_without_an_edit_is_unchanged_and_passes(mlp: Range) -> None:
    assert mlp.unchanged(mlp.examine([], F64))
    assert not mlp.seen([], F64)
    assert not mlp.seen([], F32)


def test_an_edit_that_changes_no_bit_is_equivalent_and_one_that_does_is_not(mlp: Range) -> None:
    twice = [Edit(place_of(mlp, "act"), "negate")] * 2
    assert mlp.unchanged(mlp.examine(twice, F64))
    assert not mlp.unchanged(mlp.examine(twice[:1], F64))
    assert mlp.unchanged(mlp.examine([Edit(place_of(mlp, "act"), "scale", k=53)], F64))


def test_a_port_that_raises_is_changed_and_seen(mlp: Range) -> None:
    wrong = [Edit(place_of(mlp, "act"), "transpose", axis=0, other=1)]
    assert not mlp.unchanged(mlp.examine(wrong, F64))
    assert mlp.seen(wrong, F64)


def test_mutants_follow_from_seed_and_number_alone(mlp: Range) -> None:
    some = random_mutants(mlp, 0, [3, 4], 0)
    assert random_mutants(mlp, 0, [4], 0) == some[1:]
    assert random_mutants(mlp, 0, [3], 1)[0].edits != some[0].edits
    assert [mutant.number for mutant in some] == [3, 4]


def test_edits_that_change_nothing_are_counted_and_drawn_again(mlp: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_so_far: list[Edit] = []

    def draw(*_: object) -> Edit:
        drawn_so_far.append(Edit(place_of(mlp, "act"), "scale", k=53 if len(drawn_so_far) < 4 else 10))
        return drawn_so_far[-1]

    monkeypatch.setattr(drawn, "draw_edit", draw)
    (mutant,) = random_mutants(mlp, 0, [0], 0)
    assert 2 <= len(mutant.redrawn) <= 4
    assert all(words.startswith("scale by 1 + 2^-53 at act (Gelu)") for words in mutant.redrawn)
    assert mutant.edits[-1].startswith("scale by 1 + 2^-10 at act (Gelu)")


def test_an_edit_that_other_cases_show_is_no_equivalent(monkeypatch: pytest.MonkeyPatch) -> None:
    (pair,) = select(["embeddings"])
    # The first of the structures whose two cases leave a word unread.
    table, unread = next(
        (table, edit)
        for table in (Range(pair, structure, CANONICAL, 0) for structure in range(8))
        for rows in [place_of(table, "word_embeddings", "weight")]
        for edit in [Edit(rows, "drop", index=index) for index in range(rows.shape[0])]
        if table.unchanged(table.examine([edit], F64))
    )
    monkeypatch.setattr(drawn, "draw_edit", lambda *_: unread)
    (mutant,) = random_mutants(table, 0, [0], 0)
    assert mutant.redrawn == ()
    assert "f64" in mutant.seen


def test_an_edit_of_gradients_alone_is_judged_by_them(mlp: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = Edit(place_of(mlp, "act"), "scale", k=53)
    monkeypatch.setattr(drawn, "draw_edit", lambda *_: edit)
    monkeypatch.setattr(Range, "same_gradients", lambda *_: False)
    for err in (True, False):
        monkeypatch.setattr(Range, "gradients_err", lambda *_, err=err: err)
        (mutant,) = random_mutants(mlp, 0, [0], 0)
        assert ("f64" in mutant.seen) == err


def test_gradients_tell_an_edited_port_from_the_port(mlp: Range) -> None:
    act = place_of(mlp, "act")
    assert mlp.same_gradients([Edit(act, "scale", k=53)])
    assert not mlp.gradients_err([])
    for what in ("float32", "negate"):
        assert not mlp.same_gradients([Edit(act, what)])  # type: ignore[arg-type]
        assert mlp.gradients_err([Edit(act, what)])  # type: ignore[arg-type]


class Torso(torch.nn.Module):
    """Two outputs, the second through a part that passes its input on."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.one, self.two, self.side = torch.nn.Linear(n, n), torch.nn.Linear(n, n), torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.one(x), self.two(self.side(x))


class TorsoPort(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.one, self.two, self.side = nn.Linear(n, n), nn.Linear(n, n), nn.Identity()

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return self.one(x), self.two(self.side(x))


@pytest.mark.parametrize("skipped", ["", "never trained"])
def test_gradients_of_every_output_count(skipped: str) -> None:
    """Inputs are float32's numbers, so the cast changes no value, and rounds the second output's derivative alone."""
    given = {"configurations": [5], "inputs": lambda n: {"x": (3, n)}, "no_gradients": skipped}
    torso = Range(complete(Pair("torso", reference=Torso, port=TorsoPort, **given)), 0, CANONICAL, 0)  # type: ignore[arg-type]
    cast = [Edit(place_of(torso, "side"), "float32")]
    assert torso.unchanged(torso.examine(cast, F64))
    assert torso.same_gradients([])
    assert torso.same_gradients(cast) == bool(skipped)
    assert torso.gradients_err(cast) != bool(skipped)
    assert not torso.gradients_err([])


def test_a_port_that_no_edit_changes_is_refused(mlp: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "MOST_REDRAWN", 3)
    monkeypatch.setattr(drawn, "draw_edit", lambda *_: Edit(place_of(mlp, "act"), "scale", k=53))
    with pytest.raises(TargetError, match="3 edits in a row change nothing"):
        random_mutants(mlp, 0, [0], 0)


def test_gates_that_see_nothing_let_every_mutant_survive(mlp: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "first_bad", lambda _judgements: None)
    assert [mutant.seen for mutant in random_mutants(mlp, 0, [0, 1], 0)] == [(), ()]


def test_a_factor_of_the_last_digits_is_seen_down_to_the_tolerance(mlp: Range) -> None:
    by_kind = {it.kind: dict(it.k) for it in sensitivities(mlp)}
    assert by_kind.keys() == {"BlockdiagLinear", "GatedMlp", "Gelu", "LayerNorm"}
    for k in by_kind.values():
        assert k["f64"] is not None
        assert k["f32"] is not None
        assert 40 <= k["f64"] <= 52
        assert 14 <= k["f32"] <= 23


@pytest.mark.parametrize(("threshold", "found"), [(0, None), (1, 0), (17, 16), (53, 52), (99, 52)])
def test_the_search_finds_the_last_that_holds(threshold: int, found: int | None) -> None:
    assert largest_true(lambda k: k < threshold, 53) == found


@pytest.mark.parametrize(("seen", "total"), [(0, 10), (5, 10), (500, 500), (497, 500)])
def test_the_bound_is_clopper_and_pearsons(seen: int, total: int) -> None:
    bound = Rate(seen, total).bound
    expected = 0.0 if seen == 0 else float(stats.beta.ppf(0.05, seen, total - seen + 1))
    assert bound == pytest.approx(expected, abs=1e-12)
    assert Rate(0, 0).bound == 0


def test_only_ports_with_weights_can_be_edited_and_only_right_ones() -> None:
    fresh, right = select(["hyena_buffers"])[0], select(["mlp"])[0]
    assert not editable(fresh)
    with pytest.raises(TargetError, match="cannot be edited"):
        Range(fresh, 0, CANONICAL, 0)
    from stand_ins import tanh

    with tanh(), pytest.raises(TargetError, match="mlp fails as it stands, at act"):
        Range(right, 0, CANONICAL, 0)


def test_the_largest_structures_come_first() -> None:
    (pair,) = select(["mlp"])
    sizes = [math.prod(pair.inputs(structure)["x"].shape) for structure in largest_structures(pair, 0, 3)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] >= max(math.prod(pair.inputs(structure)["x"].shape) for structure in pair.corpus)
    assert len(sizes) == 3


def test_the_clean_bench_is_as_it_was_after_many_edits(mlp: Range) -> None:
    before = run_port(mlp.pair, mlp.benches[0].modules.port(CANONICAL, F64), mlp.benches[0].inputs, F64)
    mlp.examine([Edit(it, "negate") for it in mlp.places], F64)
    after = run_port(mlp.pair, mlp.benches[0].modules.port(CANONICAL, F64), mlp.benches[0].inputs, F64)
    assert all(before[name].values.tobytes() == after[name].values.tobytes() for name in before)


# --- on the command line ------------------------------------------------------------------------------------------


def test_the_command_prints_rates_with_their_bounds_and_the_smallest_factors() -> None:
    done = invoke("mutants", "--random", "6", "mlp", "--seed", "1")
    assert done.status == 0, done.stdout
    assert "f64: seen 6 of 6 (100.0 %), at least 60.70 % with 95 % confidence" in done.stdout
    assert "| BlockdiagLinear | mlp" in done.stdout
    assert "6 random mutants, seed 1" in done.stdout


def test_a_rate_below_what_it_must_be_fails_and_names_the_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "first_bad", lambda _judgements: None)
    done = invoke("mutants", "--random", "2", "mlp")
    assert done.status == 1
    assert "f64: seen 0 of 2 (0.0 %), at least 0.00 %" in done.stdout
    assert done.stdout.count("SURVIVES") == 2


def test_a_pair_of_ones_own_is_edited_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    done = invoke("mutants", "--random", "4", "my_pairs.py::gated_mlp", "--json")
    assert done.status == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["rates"]["f64"]["seen"] == 4
    assert {it["kind"] for it in document["smallest_factors"]} == {"GatedMLP", "Linear", "RMSNorm"}
    wrong = invoke("mutants", "--random", "4", "wrong_port.py::wrong_epsilon")
    assert wrong.status == 2
    assert "fails as it stands" in wrong.stderr
