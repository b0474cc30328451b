"""Partners by name: exact names, a table of renames, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from parity.errors import PairingError
from parity.pairing import Node, pair_trees
from parity.pairing.names import by_name


def named(*names: str) -> dict[str, Node]:
    return {
        name: Node(name, "Linear", order=index, output_shapes={"out": (2, 3)}, input_shapes={"in[0]": (2, 3)})
        for index, name in enumerate(names)
    }


def test_exact_names_are_partners() -> None:
    assert by_name(named("a", "b"), named("b", "c"), ()) == {"b": ("b", "exact name")}


def test_renames_follow_each_other_and_the_reason_names_them() -> None:
    found = by_name(named("layer.0.attention"), named("h.0.attn"), [(r"^layer\.", "h."), ("attention$", "attn")])
    assert found == {"layer.0.attention": ("h.0.attn", r"rename table: ^layer\. -> h., attention$ -> attn")}
    assert by_name(named("a"), named("b"), {"a": "b"}) == {"a": ("b", "rename table: a -> b")}


def test_a_rename_goes_before_an_exact_name() -> None:
    found = by_name(named("a", "b"), named("a", "b"), {"^a$": "b"})
    assert found == {"a": ("b", "rename table: ^a$ -> b")}


def test_a_name_whose_rename_leads_nowhere_keeps_its_own_place() -> None:
    found = by_name(named("a.0", "a.1"), named("b.0", "a.1"), {"^a": "b"})
    assert found == {"a.0": ("b.0", "rename table: ^a -> b"), "a.1": ("a.1", "exact name")}


def test_an_alias_counts_as_a_name() -> None:
    shared = {"a": Node("a", "Linear", order=0, aliases=("tied",))}
    assert by_name(shared, named("tied"), ()) == {"a": ("tied", "shared module, named tied")}
    assert by_name(named("tied"), shared, ()) == {"tied": ("a", "shared module, named tied")}


REFUSED = {
    "matches nothing": ({"encoder": "h"}, r"rename 'encoder' matches none of the reference's 2 modules \(layer\.0"),
    "leads to nothing": ({"layer": "blocks"}, r"makes 'layer\.0' 'blocks\.0', and the port has no module .* nearest"),
    "collides": ({r"layer\.\d": "h.0"}, r"make both 'layer\.0' and 'layer\.1' the port's 'h\.0'"),
    "is no pattern": ({"layer.(": "h."}, r"rename 'layer\.\(' -> 'h\.' is no regular expression"),
}


@pytest.mark.parametrize(("renames", "message"), REFUSED.values(), ids=REFUSED)
def test_a_rename_that_does_nothing_is_refused(renames: dict[str, str], message: str) -> None:
    with pytest.raises(PairingError, match=message):
        pair_trees([*named("layer.0", "layer.1").values()], [*named("h.0", "h.1").values()], renames)


def test_a_name_that_occurs_twice_is_refused() -> None:
    with pytest.raises(PairingError, match="the port lists 'a' more than once"):
        pair_trees([*named("a").values()], [*named("a").values()] * 2)


def test_a_node_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(PairingError, match=r"'a' was called 0 time\(s\) and has order 3"):
        Node("a", "Linear", calls=0, order=3)
    with pytest.raises(PairingError, match="'a' was called 1"):
        Node("a", "Linear")


def test_values_of_another_shape_than_the_node_says_are_refused() -> None:
    with pytest.raises(PairingError, match=r"values of out of module 'a' have shape \(3,\)"):
        Node("a", "Linear", order=0, output_shapes={"out": (2,)}, values={"out": np.zeros(3)})
