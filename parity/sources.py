"""Where a pair is declared: the file and line at which a reviewer looks, and to which an annotation is pinned."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from parity.pairs import Pair


def pair_sources(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return `FILE:LINE` of every pair whose file lies under the current folder, by name.

    The line is that of the call that is given the pair's name as a literal; 1 where there is none, as for a name that
    is computed.
    """
    found = {pair.name: _source(pair) for pair in pairs}
    return {name: source for name, source in found.items() if source is not None}


def _source(pair: Pair) -> str | None:
    path = _file(pair)
    if path is None or not path.is_file():
        return None
    try:
        place = path.resolve().relative_to(Path.cwd().resolve())
        tree = ast.parse(path.read_bytes())
    except (ValueError, SyntaxError):  # elsewhere on the machine, where no reviewer sees it; or no source of Python
        return None
    return f"{place.as_posix()}:{next(_lines(tree, pair.name), 1)}"


def _file(pair: Pair) -> Path | None:
    place = pair.target.partition("::")[0]
    if place.endswith(".py"):
        return Path(place)
    module = sys.modules.get(place.partition(":")[0]) if place else inspect.getmodule(pair.reference)
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _lines(tree: ast.Module, name: str) -> Iterator[int]:
    """Yield the lines of the calls whose first argument, or whose `name=`, is the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
            if any(isinstance(value, ast.Constant) and value.value == name for value in [*node.args[:1], *named]):
                yield node.lineno
