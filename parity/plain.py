"""Values as JSON knows them: the one place where what JSON cannot write becomes text."""

from __future__ import annotations

import json
import math
from typing import Any, Final

_PLAIN: Final = frozenset({str, int, bool, type(None)})


def plain(value: Any) -> Any:
    """Return `value` with infinities and NaN as the texts "infinity", "-infinity" and "nan", and tuples as lists.

    Python's `float` reads all three back.
    """
    if value.__class__ in _PLAIN:  # most of what there is
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    return value


def json_line(value: Any) -> str:
    """Return `value` as JSON without blanks, on one line that ends with a newline."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False) + "\n"


def json_text(value: Any, sort_keys: bool = False) -> str:
    """Return `value` as indented JSON that ends with a newline."""
    return json.dumps(plain(value), indent=2, sort_keys=sort_keys, allow_nan=False) + "\n"


LONGEST_NAME: Final = 1000
"""Characters of a text that a line shows."""


def one_line(text: object) -> str:
    """Return `text` on one line, what is no printable character spelt out, the middle left out where it is very long.

    The end stays: it is where a message says what to do.
    """
    line = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in str(text))
    if len(line) <= LONGEST_NAME:
        return line
    half = LONGEST_NAME // 2
    return f"{line[:half]} ... ({len(line)} characters) ... {line[-half:]}"
