"""Tensors of containers by path, arguments by parameter name, and which modules a selection means."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import CaptureError, SelectionError
from parity.trace.calls import Call, by_parameter, leaves, selected, signature_of, unpack

A, B, C = (np.full(1, float(number)) for number in range(3))


class Couple(NamedTuple):
    left: Any
    right: Any


@dataclass
class Output:
    hidden: Any
    cache: Any = None


class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: an ordered dict whose keys are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class KVCache:
    pass


LEAVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a bare tensor": (A, {"": A}),
    "a tuple": ((A, B), {"0": A, "1": B}),
    "a named tuple": (Couple(A, B), {"0": A, "1": B}),
    "nested containers": ({"states": [{"k": A}, (B, C)]}, {"states.0.k": A, "states.1.0": B, "states.1.1": C}),
    "a dataclass": (Output(A, (B,)), {"hidden": A, "cache.0": B}),
    "a ModelOutput": (ModelOutput(logits=A, past=None), {"logits": A}),
    "plain values": ((A, None, 3, 0.5, "text", True), {"0": A}),
    "one tensor twice": ((A, A), {"0": A, "1": A}),
    "nothing": (None, {}),
}


@pytest.mark.parametrize(("tree", "expected"), LEAVES.values(), ids=LEAVES)
def test_leaves_are_the_tensors_by_path(tree: Any, expected: dict[str, Any]) -> None:
    found = leaves(tree)
    assert list(found) == list(expected)
    assert all(found[path] is expected[path] for path in expected)


def test_objects_that_are_no_containers_are_reported() -> None:
    assert unpack({"x": A, "cache": [KVCache(), None], "kind": np.float32}) == (
        {"x": A},
        (("cache.0", "KVCache"), ("kind", "type")),
    )


def test_a_module_among_the_arguments_is_no_container_of_its_weights() -> None:
    class Module(dict[str, Any]):
        def named_modules(self) -> list[Any]:
            return []

    assert unpack([Module(weight=A)]) == ({}, (("0", "Module"),))


def test_two_tensors_at_one_path_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"two tensors have the path 'a\.b'"):
        leaves({"a.b": A, "a": {"b": B}})


def test_a_container_that_holds_itself_is_refused() -> None:
    tree: list[Any] = [A]
    tree.append(tree)
    with pytest.raises(CaptureError, match="the list at '1' holds itself"):
        leaves(tree)


trees = st.recursive(
    st.just(A) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


def count(tree: Any) -> int:
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else None
    return int(tree is A) if parts is None else sum(map(count, parts))


@given(trees)
def test_no_tensor_is_lost(tree: Any) -> None:
    assert len(leaves(tree)) == count(tree)


# --- arguments --------------------------------------------------------------------------------------------


def plain(x: Any, mask: Any = None, *rest: Any, scale: float = 1.0, **more: Any) -> None:
    pass


ARGUMENTS: dict[str, tuple[Any, Sequence[Any], dict[str, Any], dict[str, Any]]] = {
    "by position": (plain, (1, 2), {}, {"x": 1, "mask": 2}),
    "by keyword": (plain, (), {"mask": 2, "x": 1}, {"x": 1, "mask": 2}),
    "more by position": (plain, (1, 2, 3, 4), {}, {"x": 1, "mask": 2, "2": 3, "3": 4}),
    "more by keyword": (plain, (1,), {"scale": 2.0, "other": 5}, {"x": 1, "scale": 2.0, "other": 5}),
    "a call that will fail": (plain, (), {"mask": 2}, {"mask": 2}),
    "no signature": (None, (1, 2), {"k": 3}, {"0": 1, "1": 2, "k": 3}),
}


@pytest.mark.parametrize(("function", "args", "kwargs", "expected"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_have_their_parameters_names(
    function: Callable[..., Any] | None, args: Sequence[Any], kwargs: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert by_parameter(function and signature_of(function), args, kwargs) == expected


def test_python_does_not_know_every_signature() -> None:
    assert signature_of(type) is None or signature_of(int) is None or signature_of(range) is None


# --- selection --------------------------------------------------------------------------------------------

NAMES = {name: (name,) for name in ("", "embed", "layers.0", "layers.0.mlp", "layers.1", "layers.1.mlp")}

SELECTIONS: dict[str, tuple[Sequence[str], set[str]]] = {
    "everything by default": ((), set(NAMES)),
    "one": (("embed",), {"embed"}),
    "the root": (("",), {""}),
    "a star crosses dots": (("layers.*",), {"layers.0", "layers.0.mlp", "layers.1", "layers.1.mlp"}),
    "two globs": (("embed", "*.mlp"), {"embed", "layers.0.mlp", "layers.1.mlp"}),
    "exclusions alone": (("!*.mlp", "!"), {"embed", "layers.0", "layers.1"}),
    "an exclusion first": (("!*.mlp", "layers.?*"), {"layers.0", "layers.1"}),
}


@pytest.mark.parametrize(("select", "expected"), SELECTIONS.values(), ids=SELECTIONS)
def test_a_selection_means_these_modules(select: Sequence[str], expected: set[str]) -> None:
    assert selected(NAMES, select) == expected


def test_a_module_is_meant_by_any_of_its_names() -> None:
    names = {"a": ("a", "b.act"), "c": ("c",)}
    assert selected(names, ["b.*"]) == {"a"}
    assert selected(names, ["!b.act"]) == {"c"}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (["layer.*"], r"the glob 'layer\.\*' matches none of 6 modules; nearest: layers"),
        (["!embeddings"], "the glob 'embeddings' matches none of 6 modules; nearest: embed"),
        (["layers.**"], r"holds '\*\*'; .* write 'layers\.\*'"),
        ("embed", "select is the text 'embed'"),
    ],
)
def test_a_selection_that_means_nothing_is_refused_in_one_line(select: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message) as refusal:
        selected(NAMES, select)
    assert "\n" not in str(refusal.value)


def test_a_calls_name_says_which_one_it_is() -> None:
    call = Call("a.b", 2, "Linear", 0, 0, (), {}, {}, {})
    assert call.name == "a.b#2"
