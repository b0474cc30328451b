"""What pairing decides, one claim each, on trees written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from random_trees import generator

from parity.pairing import Layout, Match, Node, Pairing, pair_trees
from parity.pairing.layout import distance
from parity.spec.arrays import Array

SHAPE = (2, 5, 6)
PLACES = iter(range(10**6))


def values(seed: int, shape: tuple[int, ...] = SHAPE) -> Array:
    return generator(seed).standard_normal(shape)


def node(name: str, kind: str = "Linear", x: Array | None = None, y: Array | None = None, **fields: object) -> Node:
    """A called module, later than every one made before it."""
    x, y = values(0) if x is None else x, values(1) if y is None else y
    given = {"in[0]": x, "out": y}
    standard = {
        "parameters": {"weight": (x.shape[-1], y.shape[-1])} if kind == "Linear" else {},
        "order": next(PLACES),
        "input_shapes": {"in[0]": x.shape},
        "output_shapes": {"out": y.shape},
        "values": given,
    }
    return Node(name, kind, **{**standard, **fields})  # type: ignore[arg-type]


def pairs(pairing: Pairing) -> set[tuple[str, str]]:
    return {(match.reference, match.port) for match in pairing.matches}


def only(pairing: Pairing, reference: str) -> Match:
    (match,) = pairing.partners_of(reference)
    return match


def reasons(alone: Sequence[object]) -> dict[str, str]:
    return {it.name: it.reason for it in alone}  # type: ignore[attr-defined]


# --- siblings -------------------------------------------------------------------------------------------------------


def siblings(*seeds: int, names: str) -> list[Node]:
    parts = [node(f"block.{name}", y=values(seed)) for name, seed in zip(names, seeds, strict=True)]
    return [*parts, node("block", "Attention", y=values(9)), node("", "Model", y=values(9))]


def test_layers_of_one_shape_in_another_order_are_told_apart_by_their_values() -> None:
    pairing = pair_trees(siblings(1, 2, 3, names="qkv"), siblings(2, 3, 1, names="abc"))
    assert pairs(pairing) == {("block.q", "block.c"), ("block.k", "block.a"), ("block.v", "block.b")} | {
        ("block", "block"),
        ("", ""),
    }
    assert only(pairing, "block.q").reason == "order, type, shape, parameters and values agree: rel L2 0e+00"
    assert pairing.complete


def test_without_values_order_decides_and_the_reason_says_so() -> None:
    blank = [[replace(it, values={}) for it in siblings(1, 2, 3, names=names)] for names in ("qkv", "abc")]
    pairing = pair_trees(*blank)
    assert {("block.q", "block.a"), ("block.k", "block.b"), ("block.v", "block.c")} <= pairs(pairing)
    match = only(pairing, "block.k")
    assert match.confidence < 0.75
    assert match.reason.endswith("order alone tells it from another")


def test_a_run_on_fresh_inputs_tells_siblings_apart_where_values_do_not() -> None:
    partner = {"block.q": "block.c", "block.k": "block.a", "block.v": "block.b"}

    def settle(left: Node, right: Node, _layout: Layout) -> float:
        return 1e-16 if partner.get(left.name) == right.name else 1.0

    pairing = pair_trees(siblings(1, 2, 3, names="qkv"), siblings(12, 13, 11, names="abc"), settle=settle)
    assert partner.items() <= pairs(pairing)
    assert "run on fresh inputs: rel L2 1e-16" in only(pairing, "block.q").reason
    assert only(pairing, "block.q").confidence > 0.99


def test_a_layer_whose_values_are_wrong_has_its_partner_still() -> None:
    pairing = pair_trees(siblings(1, 2, 3, names="qkv"), siblings(1, 12, 3, names="abc"))
    assert ("block.k", "block.b") in pairs(pairing)
    assert "values differ" in only(pairing, "block.k").reason
    assert "values agree" not in only(pairing, "block.k").reason


# --- names ----------------------------------------------------------------------------------------------------------


def test_exact_names_hold_though_values_differ_and_say_whose_the_values_are() -> None:
    exchanged = pair_trees(siblings(1, 2, 3, names="qkv"), siblings(2, 1, 3, names="qkv"))
    match = only(exchanged, "block.q")
    assert match.port == "block.q"
    assert match.reason == "exact name, though its values are those of block.k"
    assert match.confidence == 0.5
    assert only(exchanged, "block.v").reason == "exact name: rel L2 0e+00"
    assert only(exchanged, "block.v").confidence == 1.0


def test_an_index_that_moved_is_not_taken_for_a_name() -> None:
    """torch counts the Dropout in its Sequential, MLX has none."""
    x, y, z = values(0), values(1), values(2)
    reference = [node("0", "Linear", x, y), node("1", "Dropout", y, y), node("2", "SiLU", y, z)]
    port = [node("0", "Linear", x, y), node("1", "SiLU", y, z)]
    pairing = pair_trees(reference, port)
    assert pairs(pairing) == {("0", "0"), ("2", "1")}
    assert reasons(pairing.aside_reference) == {"1": "returns its input unchanged"}
    assert pairing.complete


def test_a_name_is_taken_at_last_though_type_or_size_differ() -> None:
    pairing = pair_trees([node("norm", "LayerNorm")], [node("norm", "Linear")])
    assert only(pairing, "norm").reason.startswith("exact name, though their type differs: LayerNorm")
    assert only(pairing, "norm").confidence == 0.5
    pairing = pair_trees([node("a")], [node("a", y=values(1, (2, 5, 7)))])
    assert only(pairing, "a").reason.startswith("exact name, though their size differs")


# --- layouts --------------------------------------------------------------------------------------------------------


def square(axes: tuple[int, ...], seed: int = 1, symmetric: bool = False) -> Array:
    x = values(seed, (1, 4, 4))
    return (x + x.swapaxes(1, 2) if symmetric else x).transpose(axes)


def test_a_square_layout_is_recognised_by_value() -> None:
    reference, port = node("a", "Conv1d", y=square((0, 1, 2))), node("b", "Conv1d", y=square((0, 2, 1)))
    match = only(pair_trees([reference], [port]), "a")
    assert match.layout == "axes (0, 2, 1)"
    assert not match.ambiguous


def test_an_ambiguous_layout_is_reported_and_costs_confidence_unless_a_run_settles_it() -> None:
    sides = [[node(name, "Conv1d", y=square((0, 1, 2), symmetric=True))] for name in "ab"]
    guessed = only(pair_trees(*sides), "a")
    assert guessed.ambiguous
    assert guessed.reason.endswith("; its layout is a guess")

    def settle(_left: Node, _right: Node, layout: Layout) -> float:
        return distance(*layout.align(square((0, 1, 2), seed=5), square((0, 2, 1), seed=5)))

    ran = only(pair_trees(*sides, settle=settle), "a")
    assert (ran.ambiguous, ran.layout) == (False, "axes (0, 2, 1)")
    assert ran.confidence == pytest.approx(2 * guessed.confidence)
    assert pair_trees(*sides).summary()[0] == "1 pairs, 1 with an ambiguous layout"


def test_a_run_that_agrees_with_no_layout_leaves_it_a_guess() -> None:
    sides = [[node(name, "Conv1d", y=square((0, 1, 2), symmetric=True))] for name in "ab"]
    assert only(pair_trees(*sides, settle=lambda *_: 1.0), "a").ambiguous


# --- fused modules --------------------------------------------------------------------------------------------------


def apart(seeds: tuple[int, ...] = (1, 2, 3), widths: tuple[int, ...] = (8, 4, 4)) -> list[Node]:
    parts = [
        node(f"attn.{name}", y=values(seed, (2, 5, width)))
        for name, seed, width in zip("qkv", seeds, widths, strict=True)
    ]
    return [*parts, node("attn.out", x=values(7), y=values(8)), node("attn", "Attention", y=values(8))]


def together(y: Array) -> list[Node]:
    return [node("attn.qkv", y=y), node("attn.last", x=values(7), y=values(8)), node("attn", "Attention", y=values(8))]


def columns(order: str, groups: int = 1) -> Array:
    parts = dict(zip("qkv", (values(1, (2, 5, 8)), values(2, (2, 5, 4)), values(3, (2, 5, 4))), strict=True))
    pieces = {name: np.split(part, groups, axis=-1) for name, part in parts.items()}
    return np.concatenate([pieces[name][group] for group in range(groups) for name in order], axis=-1)


@pytest.mark.parametrize("order", ["qkv", "vqk", "kvq"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_fused_module_is_the_partner_of_all_its_parts_wherever_they_lie(order: str, groups: int) -> None:
    reference, port = apart(), together(columns(order, groups))
    pairing = pair_trees(reference, port)
    assert {("attn.q", "attn.qkv"), ("attn.k", "attn.qkv"), ("attn.v", "attn.qkv")} < pairs(pairing)
    assert pairing.complete
    whole = {it.name: it for it in port}["attn.qkv"].values["out"]
    for part in reference[:3]:
        match = only(pairing, part.name)
        assert (match.confidence, match.ambiguous) == (1.0, False)
        assert distance(*match.layouts["out", "out"].align(part.values["out"], whole)) == 0.0
        assert match.reason == "part of a fused module: attn.qkv holds attn.q, attn.k, attn.v: rel L2 0e+00"


def test_the_fused_side_may_be_the_reference() -> None:
    pairing = pair_trees(together(columns("kvq")), apart())
    assert {("attn.qkv", "attn.q"), ("attn.qkv", "attn.k"), ("attn.qkv", "attn.v")} < pairs(pairing)
    assert len(pairing.partners_of("attn.qkv")) == 3


def test_channels_first_may_be_fused_channels_last() -> None:
    parts = [node(f"m.{name}", "Conv1d", y=values(seed, (2, 3, 5))) for name, seed in zip("ab", (1, 2), strict=True)]
    fused = np.concatenate([part.values["out"].swapaxes(1, 2) for part in parts], axis=-1)
    pairing = pair_trees([*parts, node("m", "Mixer")], [node("m.both", "Conv1d", y=fused), node("m", "Mixer")])
    assert only(pairing, "m.b").layout == "axes (0, 2, 1), columns 3:6 of axis 2 of the port's"


def test_a_part_that_is_wrong_is_found_beside_those_that_are_right() -> None:
    fused = columns("qkv")
    fused[..., 8:12] = values(20, (2, 5, 4))
    pairing = pair_trees(apart(), together(fused))
    match = only(pairing, "attn.k")
    assert match.port == "attn.qkv"
    assert "values differ" in match.reason
    assert match.confidence == pytest.approx(2 / 3)


def test_a_fused_module_whose_values_prove_nothing_is_found_by_shape_and_said_to_be_a_guess() -> None:
    pairing = pair_trees(apart(), together(values(20, (2, 5, 16))))
    match = only(pairing, "attn.q")
    assert (match.port, match.ambiguous, match.confidence) == ("attn.qkv", True, 0.25)
    assert match.reason.endswith("shapes add up, its place is a guess")
    assert pairing.complete


def test_a_run_settles_where_the_parts_of_a_fused_module_lie() -> None:
    fresh = {part.name: part.values["out"] for part in apart()}

    def settle(left: Node, right: Node, layout: Layout) -> float:
        return distance(*layout.align(fresh[left.name], columns("vqk"))) if right.name == "attn.qkv" else 1.0

    match = only(pair_trees(apart((31, 32, 33)), together(values(20, (2, 5, 16))), settle=settle), "attn.q")
    assert (match.layout, match.ambiguous) == ("identity, columns 4:12 of axis 2 of the port's", False)


def test_shapes_that_do_not_add_up_are_no_fused_module() -> None:
    pairing = pair_trees(apart(widths=(8, 4, 5)), together(columns("qkv")))
    assert not pairing.complete
    assert set(reasons(pairing.unpaired_port)) == {"attn.qkv"}
    assert set(reasons(pairing.unpaired_reference)) == {"attn.q", "attn.k", "attn.v"}


# --- modules without a partner --------------------------------------------------------------------------------------


def test_a_layer_of_either_side_that_the_other_lacks_is_listed_with_the_reason() -> None:
    wide = node("c", y=values(2, (2, 5, 9)))
    pairing = pair_trees([node("a"), wide], [node("b"), node("d", "LayerNorm", y=values(3))])
    assert reasons(pairing.unpaired_reference) == {"c": "no candidate of that shape: {'out': (2, 5, 9)}"}
    assert reasons(pairing.unpaired_port) == {"d": "no candidate of that type: LayerNorm among 1 of its size"}
    assert not pairing.complete
    rows = pairing.rows()
    assert [(row["reference"], row["port"]) for row in rows] == [("a", "b"), ("c", ""), ("", "d")]
    assert rows[1]["reason"].startswith("unpaired: no candidate of that shape")
    assert pairing.summary()[1].startswith("1 unpaired in the reference: c (no candidate of that shape")


def test_a_layer_too_many_is_listed_and_the_one_that_took_its_candidate_named() -> None:
    pairing = pair_trees([node("a", y=values(1)), node("b", y=values(2))], [node("c", y=values(2))])
    assert pairs(pairing) == {("b", "c")}
    assert reasons(pairing.unpaired_reference) == {"a": "taken by another: c, its best candidate, has a partner"}


def test_a_poor_candidate_is_below_confidence() -> None:
    fields = {"parameters": {"weight": (3, 4)}, "calls": 2}
    one = node("a", "Alpha", x=values(0, (7,)), y=values(1, (60,)), **fields)
    other = node("b", "Beta", x=values(0, (8,)), y=values(2, (5, 12)))
    pairing = pair_trees([one], [other])
    assert pairing.matches == ()
    assert re.match(r"below confidence: evidence for b is -?[\d.]+ nats", reasons(pairing.unpaired_reference)["a"])


def test_containers_and_wrappers_need_no_partner_and_are_listed() -> None:
    x, y = values(0), values(1)
    reference = [node("layers.0", x=x, y=y), Node("layers", "ModuleList", calls=0), node("", "Model", x, y)]
    port = [node("inner.h.0", x=x, y=y), node("inner", "Inner", x, y), node("", "Model", x, y)]
    pairing = pair_trees(reference, port)
    assert pairing.complete
    assert pairs(pairing) == {("layers.0", "inner.h.0"), ("", "")}
    assert reasons(pairing.aside_reference) == {"layers": "never called, and holds no parameters"}
    assert reasons(pairing.aside_port) == {
        "inner": "a level that only this side has: its 1 part(s) have their partners"
    }


def test_a_level_that_holds_an_unpaired_layer_or_parameters_of_its_own_is_not_set_aside() -> None:
    x, y = values(0), values(1)
    extra = node("inner.gain", "Gain", y, values(3, (2, 5, 2)))
    level = node("inner", "Inner", x, y)
    model = node("", "Model", x, y)
    reference = [node("first", x=x, y=y), node("", "Model", x, y)]
    pairing = pair_trees(reference, [node("inner.h", x=x, y=y), extra, level, model])
    assert set(reasons(pairing.unpaired_port)) == {"inner.gain", "inner"}
    held = replace(level, parameters={"scale": (6,)})
    pairing = pair_trees(reference, [node("inner.h", x=x, y=y, order=level.order - 3), held, model])  # type: ignore[operator]
    assert set(reasons(pairing.unpaired_port)) == {"inner"}


def test_a_dropout_that_changes_something_is_not_set_aside() -> None:
    pairing = pair_trees([node("a", "Dropout")], [])
    assert set(reasons(pairing.unpaired_reference)) == {"a"}
    blank = pair_trees([replace(node("a", "Dropout"), values={})], [])
    assert reasons(blank.aside_reference) == {"a": "Dropout changes nothing where nothing is trained"}


def test_modules_never_called_are_paired_by_their_parameters_or_listed() -> None:
    def table(name: str, width: int) -> Node:
        return Node(name, "Embedding", {"weight": (9, width)}, calls=0)

    pairing = pair_trees([table("a", 4), table("b", 5)], [table("c", 5)])
    assert pairs(pairing) == {("b", "c")}
    assert only(pairing, "b").reason == "never called; parameters of the same shapes"
    assert reasons(pairing.unpaired_reference) == {"a": "never called, and no module has parameters of its shapes"}


def test_the_table_of_kinds_can_be_extended() -> None:
    sides = [node("a", "Gadget", y=values(1))], [node("b", "Widget", y=values(2))]
    plain = pair_trees(*sides)
    told = pair_trees(*sides, kinds=[("Gadget|Widget", "tool/gadget")])
    assert only(told, "a").confidence > only(plain, "a").confidence
    other = pair_trees(*sides, kinds=[("Gadget", "tool/gadget"), ("Widget", "game/widget")])
    assert not other.complete
