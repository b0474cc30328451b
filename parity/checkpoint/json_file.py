"""Small JSON objects of files that are not trusted."""

from __future__ import annotations

import json
from typing import Any

from parity.checkpoint.tensors import shown
from parity.errors import CheckpointError


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Raises:
        CheckpointError: It is no JSON, no object, nested too deep, or has a key twice.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is no valid JSON: {shown(error)}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{what} is no JSON object, but a {type(found).__name__}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise CheckpointError(f"{shown(name)!r} stands there twice")
        made[name] = value
    return made


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
