"""Outputs of integers and booleans: each element is the truth's, or one that rounding makes of it as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from harness_pieces import META
from mlx import nn as mnn
from small_pairs import run
from torch import nn as tnn

from parity.api import Pair, complete
from parity.blame.failures import blame_failures
from parity.cases import Case
from parity.examine import INNER, Bench, examine
from parity.metrics import compare_exact
from parity.replay.again import replay
from parity.replay.bundle import read_bundle
from parity.report import details_json, layers_csv, report_texts, summary_json
from parity.results import Results
from parity.run import Plan, execute
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL

Give = Callable[[Any], Any]


class Net(tnn.Module):
    """A layer, and what is given of it."""

    def __init__(self, n: int, give: Give, out: int = 5) -> None:
        super().__init__()
        self.lin = tnn.Linear(n, out)
        self.give = give

    def forward(self, x: torch.Tensor) -> Any:
        return self.give(self.lin(x))


class Port(mnn.Module):
    """The same."""

    def __init__(self, n: int, give: Give, out: int = 5) -> None:
        super().__init__()
        self.lin = mnn.Linear(n, out)
        self._give = give

    def __call__(self, x: mx.array) -> Any:
        return self._give(self.lin(x))


def pair_of(give: Give, port_gives: Give, **changes: Any) -> Pair:
    given: dict[str, Any] = {
        "reference": lambda n: Net(n, give),
        "port": lambda n: Port(n, port_gives),
        "configurations": [4, 7],
        "inputs": lambda n: {"x": (2, 3, n)},
    }
    return Pair("net", **{**given, **changes})


def top(y: Any) -> Any:
    return {"y": y, "top": y.argmax(-1)}


def mx_top(y: mx.array) -> Any:
    return {"y": y, "top": mx.argmax(y, axis=-1)}


def constant_top(y: mx.array) -> Any:
    return {"y": y, "top": mx.full(y.shape[:-1], 3, dtype=mx.int32)}


def test_a_port_that_returns_the_same_integers_passes_and_they_count_as_compared() -> None:
    results = run(pair_of(top, mx_top), "f64", "f32", "bf16")
    assert results.verdict == "pass"
    rows = [row for row in results.rows if row.kind == "exact"]
    assert {(row.tensor, row.rung) for row in rows} == {("top", rung) for rung in ("f64", "f32", "bf16")}
    assert all(row.elements == 6 * row.cases and row.mismatched == 0 for row in rows)
    assert all(row.correctly_rounded == 1.0 for row in rows if row.rung == "f64")


@pytest.mark.parametrize("rung", ["f64", "f32", "bf16", "f16"])
def test_a_constant_in_place_of_the_integers_fails(rung: str) -> None:
    results = run(pair_of(top, constant_top), rung)
    (failure,) = results.failures
    assert (failure.kind, failure.first_bad, failure.meaning) == ("exact", "top", None)
    assert "elements are none that rounding allows: at [" in failure.reason
    assert "got 3, expected " in failure.reason
    (row,) = [row for row in results.rows if row.kind == "exact"]
    assert row.verdict == "fail"
    assert 0 < row.mismatched <= row.elements


def test_integers_alone_are_compared() -> None:
    right = run(pair_of(lambda y: y.argmax(-1), lambda y: mx.argmax(y, axis=-1)))
    assert right.verdict == "pass"
    assert {row.tensor for row in right.rows if row.kind == "exact"} == {"y"}
    wrong = run(pair_of(lambda y: y.argmax(-1), lambda y: mx.argmin(y, axis=-1)))
    assert {failure.kind for failure in wrong.failures} == {"exact"}


@pytest.mark.parametrize("dtype", [mx.int64, mx.uint32, mx.int8])
def test_the_width_of_integers_is_no_matter(dtype: mx.Dtype) -> None:
    assert run(pair_of(top, lambda y: {"y": y, "top": mx.argmax(y, axis=-1).astype(dtype)})).verdict == "pass"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param(
            lambda y: mx.argmax(y, axis=-1).astype(y.dtype), "float32, the reference has integers", id="float"
        ),
        pytest.param(lambda y: mx.argmax(y, axis=-1) > 0, "booleans, the reference has integers", id="boolean"),
        pytest.param(lambda y: mx.argmax(y, axis=-1, keepdims=True), "shape (2, 3, 1), the reference", id="shape"),
    ],
)
def test_kind_and_shape_must_agree(given: Give, words: str) -> None:
    (failure,) = run(pair_of(top, lambda y: {"y": y, "top": given(y)}), "f32").failures
    assert words in failure.reason


def test_an_output_of_integers_that_the_port_lacks_fails_and_one_too_many_is_listed() -> None:
    (failure,) = run(pair_of(top, lambda y: {"y": y}), "f32").failures
    assert failure.reason == "the port has no such tensor"
    more = run(pair_of(lambda y: {"y": y}, mx_top), "f32")
    assert more.verdict == "pass"
    assert more.unpaired == {"net": {"top": "the reference has no such tensor"}}


def test_floats_where_the_port_has_integers_fail() -> None:
    give: Give = lambda y: {"y": y, "z": y * 2}  # noqa: E731
    (failure,) = run(pair_of(give, lambda y: {"y": y, "z": (y * 2).astype(mx.int32)}), "f32").failures
    assert failure.reason == "integers, the reference has float32"


def test_booleans_are_compared() -> None:
    assert run(pair_of(lambda y: {"y": y, "on": y > 0}, lambda y: {"y": y, "on": y > 0})).verdict == "pass"
    wrong = run(pair_of(lambda y: {"y": y, "on": y > 0}, lambda y: {"y": y, "on": y > 0.1}))
    assert {failure.first_bad for failure in wrong.failures} == {"on"}


def last_of_equal(y: mx.array) -> mx.array:
    return y.shape[-1] - 1 - mx.argmax(y[..., ::-1], axis=-1)


def ties(y: Any) -> Any:
    """Two scores that are equal but for their rounding, and a third beneath both."""
    first = y[..., :1]
    parts = [first * 3, first + first + first, first * 3 - 1]
    return mx.concatenate(parts, axis=-1) if isinstance(y, mx.array) else torch.cat(parts, -1)


def test_where_rounding_decides_either_is_right_and_a_third_is_not() -> None:
    def give(y: torch.Tensor) -> Any:
        return {"y": y, "top": ties(y).argmax(-1)}

    for port in (lambda y: mx.argmax(ties(y), axis=-1), lambda y: last_of_equal(ties(y))):
        results = run(pair_of(give, lambda y, port=port: {"y": y, "top": port(y)}), "f64", "f32", "bf16")
        assert results.verdict == "pass"
    (failure,) = run(pair_of(give, lambda y: {"y": y, "top": mx.argmin(ties(y), axis=-1)}), "f32").failures
    assert "got 2, expected 0 or 1" in failure.reason


@pytest.mark.parametrize("find", ["argmax", "topk", "max", "argsort"])
def test_among_equal_numbers_any_place_is_right(find: str) -> None:
    """Half of them are zeros behind a ReLU, which no relative perturbation parts."""
    finders: dict[str, Give] = {
        "argmax": lambda y: y.argmax(-1),
        "max": lambda y: y.max(-1).indices,
        "topk": lambda y: y.topk(1).indices[..., 0],
        "argsort": lambda y: y.argsort(-1, descending=True)[..., 0],
    }

    def give(y: torch.Tensor) -> Any:
        return {"y": y, "top": finders[find](-torch.relu(torch.cat([y[..., :1], -y[..., :1]], -1)))}

    def port(y: mx.array) -> Any:
        two = mx.concatenate([y[..., :1], -y[..., :1]], axis=-1)
        return {"y": y, "top": last_of_equal(-mx.maximum(two, 0))}

    def give_zeros(y: torch.Tensor) -> Any:
        return {"y": y, "top": finders[find](torch.relu(-torch.abs(y[..., :2])))}

    def port_zeros(y: mx.array) -> Any:
        return {"y": y, "top": mx.ones(y.shape[:-1], dtype=mx.uint32)}

    assert run(pair_of(give, port), "f64", "f32").verdict == "pass"
    assert run(pair_of(give_zeros, port_zeros), "f64", "f32").verdict == "pass"


@pytest.mark.parametrize("rung", ["f32", "bf16", "f16"])
def test_a_faithful_port_is_not_accused_of_many_near_ties(rung: str) -> None:
    """2000 elements, 50 scores each: at bfloat16 dozens of them are closer than a rounding."""
    pair = pair_of(
        top,
        mx_top,
        reference=lambda n: Net(n, top, 50),
        port=lambda n: Port(n, mx_top, 50),
        inputs=lambda n: {"x": (2, 1000, n)},
        configurations=[16],
    )
    results = run(pair, rung)
    (row,) = [row for row in results.rows if row.kind == "exact"]
    assert row.verdict == "pass"
    if rung == "bf16":
        assert row.correctly_rounded is not None
        assert row.correctly_rounded < 1


def test_places_among_what_underflows_are_any() -> None:
    """Saturated softmaxes: a port that flushes subnormal numbers to 0 orders them otherwise."""

    def port(y: mx.array) -> Any:
        weights = mx.softmax(y, axis=-1)
        flushed = mx.where(weights < 2.0**-126, mx.zeros_like(weights), weights)
        return {"y": y, "top": mx.argsort(-flushed, axis=-1)[..., :4]}

    pair = pair_of(
        top,
        port,
        reference=lambda n: Net(n, lambda y: {"y": y, "top": torch.softmax(y, -1).topk(4).indices}, 50),
        port=lambda n: Port(n, port, 50),
        inputs=lambda n: {"x": (2, 200, n)},
        configurations=[16],
    )
    results = execute(
        Plan(
            [complete(pair)],
            [CANONICAL],
            ("f32",),
            "quick",
            0,
            [Case.make("net", {"CONFIGURATION": 16}, seed=seed, scale=6) for seed in range(2)],
        ),
        Results({"seed": 0}),
    )
    (row,) = [row for row in results.rows if row.kind == "exact"]
    assert row.verdict == "pass"
    assert row.undecided > 0


def test_a_port_that_is_wrong_now_and_then_fails_at_bfloat16() -> None:
    pair = pair_of(
        top,
        mx_top,
        reference=lambda n: Net(n, top, 50),
        port=lambda n: Port(n, lambda y: {"y": y, "top": mx.argmax(y[..., :45], axis=-1)}, 50),
        inputs=lambda n: {"x": (2, 100, n)},
        configurations=[16],
    )
    assert run(pair, "bf16").verdict == "fail"


def test_a_shape_that_depends_on_the_numbers_is_compared() -> None:
    pair = pair_of(lambda y: {"y": y, "n": (y > 0).nonzero()[:, 0]}, nonzero, no_gradients="it leaves MLX")
    assert run(pair).verdict == "pass"


def nonzero(y: mx.array) -> Any:
    found = np.argwhere(np.array((y > 0).astype(mx.float32)))[:, 0]
    return {"y": y, "n": mx.array(found)}


def test_a_port_that_answers_otherwise_the_second_time_is_judged_by_its_worse_answer() -> None:
    calls = []

    def port(y: mx.array) -> Any:
        calls.append(1)
        return mx_top(y) if len(calls) % 2 else constant_top(y)

    pair = complete(pair_of(top, port, no_gradients="they call it a third time"))
    case = Case.make("net", {"CONFIGURATION": 7}, seed=0)
    found = examine(Bench(pair, case, CANONICAL), CANONICAL, RUNGS["f32"])
    assert not found.judgements["top"].passed


def test_a_port_that_raises_fails_where_integers_are_all_there_is() -> None:
    def port(_y: mx.array) -> Any:
        raise ValueError("no")

    (failure,) = run(pair_of(lambda y: y.argmax(-1), port), "f32").failures
    assert failure.reason == "the port raised ValueError: no"


def test_integers_within_are_listed_as_compared_with_nothing() -> None:
    class Router(tnn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return y.argmax(-1)

    class Outer(tnn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.lin, self.router = tnn.Linear(n, n), Router()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.lin(x)
            return y * self.router(y)[..., None]

    class Other(mnn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.lin = mnn.Linear(n, n)

        def __call__(self, x: mx.array) -> mx.array:
            y = self.lin(x)
            return y * mx.argmax(y, axis=-1)[..., None]

    results = run(pair_of(top, mx_top, reference=Outer, port=Other), "f32")
    assert results.verdict == "pass"
    assert results.unpaired == {"net": {"router": INNER}}


def failing_results() -> Results:
    pair = replace(complete(pair_of(top, constant_top)), target="net.py::net")
    results = execute(Plan([pair], [CANONICAL], ("f32",), "quick", 0), Results(dict(META)))
    results.blames += blame_failures([pair], [CANONICAL], results)
    return results


def test_reports_say_how_many_elements_are_wrong(tmp_path: Path) -> None:
    results = failing_results()
    (row,) = [row for row in results.rows if row.kind == "exact"]
    told = json.loads(summary_json(results))
    place = {"component": "net", "profile": CANONICAL.name, "rung": "f32", "tensor": "top"}
    counts = {"elements": row.elements, "mismatched": row.mismatched, "undecided": row.undecided}
    assert told["exact"] == [{**place, **counts}]
    assert told["failures"][0]["kind"] == "exact"
    (line,) = [line for line in layers_csv(results).splitlines() if ",top,exact," in line]
    assert "elements are none that rounding allows" in line
    assert results.blames[0].sentence.startswith("not traced: every float is right")
    assert "every float is right" in details_json(results)
    page = report_texts(results)
    assert "First bad output of integers or booleans, where floats are right" in page["report.html"]
    assert "got 3, expected" in page["report.md"]


def test_a_bundle_holds_the_integers_and_shows_the_same_ones_again(tmp_path: Path) -> None:
    results = failing_results()
    (data,) = results.bundles.values()
    path = tmp_path / "one.parity.zip"
    path.write_bytes(data)
    pair = replace(complete(pair_of(top, constant_top)), target="net.py::net")
    found = replay(read_bundle(path), pair)
    assert found.first_bad == "top"
    assert found.same
    other = replay(read_bundle(path), replace(complete(pair_of(top, mx_top)), target="net.py::net"))
    assert other.failed_now == 0


def test_hashes_of_bits_hold_integers() -> None:
    one, same, other = (run(pair_of(top, give), "f32").digests[0].tensors for give in (mx_top, mx_top, constant_top))
    assert one == same
    assert one["top"] != other["top"]
    assert one["y"] == other["y"]


def test_values_of_one_element_are_collected_and_too_many_say_nothing() -> None:
    truth = np.array([0, 0, 0])
    draws = [np.array([1, value, 0]) for value in range(6)]
    found = compare_exact(np.array([2, 99, 0]), truth, truth, draws, 4)
    assert (found.mismatched, found.undecided, found.open) == (1, 2, 1)
    assert (found.index, found.got, found.allowed) == ((0,), 2, (0, 1))
    assert (found.equal, found.reference_equal) == (1, 3)
