"""A case is one line of JSON: it comes back equal, and a malformed one is refused with its reason."""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.cases import FAMILIES, FINE_LADDER, FULL_LADDER, Case
from parity.cases.draw import cases
from parity.errors import CaseError
from parity.spec.precision import RUNGS
from parity.suites import PAIRS

generated: Final = settings(max_examples=50, deadline=None, derandomize=True)
GOOD: Final[dict[str, Any]] = {"L": 5, "family": "normal", "ladder": "f64,f32", "scale": -3, "seed": 7}


@generated
@given(data=st.data(), pair=st.sampled_from(PAIRS))
def test_a_case_comes_back_from_json_equal_and_hashes_alike(data: st.DataObject, pair: Any) -> None:
    case = data.draw(cases(pair))
    back = Case.from_json(pair.name, case.to_json())
    assert back == case
    assert hash(back) == hash(case)
    assert back.to_json() == case.to_json()


def test_the_order_of_the_structure_does_not_matter() -> None:
    assert Case.make("a", {"x": 1, "y": 2}) == Case.make("a", {"y": 2, "x": 1})


@pytest.mark.parametrize(
    "changes",
    [{"L": 6}, {"family": "tone"}, {"ladder": "f64"}, {"scale": 3}, {"seed": 8}, {"d": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_counts(changes: dict[str, Any]) -> None:
    assert Case.from_json("a", json.dumps({**GOOD, **changes})) != Case.from_json("a", json.dumps(GOOD))


def test_the_component_counts() -> None:
    assert Case.from_json("a", json.dumps(GOOD)) != Case.from_json("b", json.dumps(GOOD))


def test_the_json_is_one_sorted_line() -> None:
    text = Case.make("a", {"z": True, "L": 5}, "tone", 5, 9, FINE_LADDER).to_json()
    assert text == '{"L":5,"family":"tone","ladder":"f64,f32","scale":5,"seed":9,"z":true}'


def test_the_command_survives_a_shell() -> None:
    case = Case.make("mlp", {"cls": "it's", "L": 5}, ladder=FULL_LADDER)
    words = shlex.split(case.command("canonical", "f32"))
    assert words[:7] == ["parity", "run", "mlp", "--profile", "canonical", "--rung", "f32"]
    assert Case.from_json("mlp", words[words.index("--case") + 1]) == case


def malformed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


MISTAKES: Final = {
    "not JSON": ("{L: 5}", r"case is not JSON: .* at column 2; got '\{L: 5\}'"),
    "empty": ("", "case is not JSON: .*; got ''"),
    "cut off": (malformed()[:-1], "case is not JSON"),
    "list": ("[1]", r"a case is one JSON object with family, scale, seed, ladder and the sizes; got '\[1\]'"),
    "null": ("null", "a case is one JSON object"),
    "text": ('"normal"', "a case is one JSON object"),
    **{
        f"without {field}": (
            json.dumps({k: v for k, v in GOOD.items() if k != field}),
            "one JSON object with .*" + field,
        )
        for field in ("family", "scale", "seed", "ladder")
    },
    "unknown family": (malformed(family="norml"), "unknown family 'norml'; allowed: normal, positive"),
    "family no text": (malformed(family=3), "unknown family 3; allowed: normal"),
    "unknown rung": (malformed(ladder="f64,f8"), "unknown ladder 'f64,f8'; allowed: rungs f64, f32, bf16, f16"),
    "empty ladder": (malformed(ladder=""), "unknown ladder ''"),
    "ladder no text": (malformed(ladder=64), "unknown ladder 64"),
    "ladder with blanks": (malformed(ladder="f64, f32"), "unknown ladder 'f64, f32'"),
    "fractional scale": (
        malformed(scale=0.5),
        "scale and seed must be integers, seed not negative and below 2..63; got 0.5 and 7",
    ),
    "scale no number": (malformed(scale="0"), "scale and seed must be integers.*got '0' and 7"),
    "scale a switch": (malformed(scale=True), "scale and seed must be integers.*got True and 7"),
    "negative seed": (malformed(seed=-1), "seed not negative and below 2..63; got -3 and -1"),
    "fractional seed": (malformed(seed=1.0), "scale and seed must be integers.*got -3 and 1.0"),
    "seed null": (malformed(seed=None), "got -3 and None"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_malformed_case_is_refused_with_what_was_got(text: str, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        Case.from_json("a", text)


@pytest.mark.parametrize("family", [[], {}], ids=["a list", "an object"])
def test_a_family_that_cannot_be_looked_up_is_refused(family: Any) -> None:
    with pytest.raises(CaseError, match="unknown family"):
        Case.from_json("a", malformed(family=family))


@pytest.mark.parametrize("value", [None, [5], {"l": 5}], ids=["null", "a list", "an object"])
def test_a_size_is_a_plain_value(value: Any) -> None:
    with pytest.raises(CaseError, match="sizes and switches must be plain values; got L = "):
        Case.from_json("a", malformed(L=value))


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(CaseError) as caught:
        Case.from_json("a", "x" * 10_000)
    assert len(str(caught.value)) < 300


def test_both_ladders_descend_from_float64() -> None:
    assert tuple(RUNGS) == FULL_LADDER
    assert FULL_LADDER[:2] == FINE_LADDER


def test_every_family_can_be_named_in_a_case() -> None:
    assert [Case.from_json("a", malformed(family=family)).family for family in FAMILIES] == list(FAMILIES)
