"""What JSON cannot write becomes text, at any depth, and Python reads it back."""

from __future__ import annotations

import json
import math

import pytest

from parity.plain import json_text, plain

INFINITE = {"a": [math.inf, -math.inf, 1.5], "b": (math.nan, 2, None, "inf"), "c": {"d": math.inf, "e": True}}


def test_infinities_and_nan_become_text_wherever_they_are() -> None:
    assert plain(INFINITE) == {
        "a": ["infinity", "-infinity", 1.5],
        "b": ["nan", 2, None, "inf"],
        "c": {"d": "infinity", "e": True},
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_python_reads_the_text_back(value: float) -> None:
    assert float(plain(value)).hex() == value.hex()


def test_the_text_is_json_that_no_parser_refuses() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = json_text(INFINITE)
    assert json.loads(text, parse_constant=refuse) == plain(INFINITE)
    assert text.endswith("}\n")
