"""Random trees under other names, levels, layouts, orders and fused leaves pair fully, with faults as well."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings
from random_trees import expected, generator, leaves_of, port_of, random_tree, run, settler, with_fault

from parity.pairing import Pairing, pair_trees

SEEDS = st.integers(0, 10**6)


def pairs(pairing: Pairing) -> set[tuple[str, str]]:
    return {(match.reference, match.port) for match in pairing.matches}


@given(SEEDS)
@settings(max_examples=25)
def test_a_port_built_another_way_pairs_fully(seed: int) -> None:
    tree = random_tree(seed)
    reference, port = run(tree), run(port_of(tree, seed + 1))
    pairing = pair_trees(reference.nodes, port.nodes)
    assert pairs(pairing) == expected(reference, port)
    assert pairing.complete
    assert all(match.reason for match in pairing.matches)


@given(SEEDS, st.integers(0, 100))
@settings(max_examples=20)
def test_it_pairs_fully_with_wrong_weights_in_any_leaf_where_layers_can_be_run(seed: int, place: int) -> None:
    tree = random_tree(seed)
    leaves = leaves_of(tree)
    reference = run(tree)
    port = run(with_fault(port_of(tree, seed + 1), leaves[place % len(leaves)]))
    pairing = pair_trees(reference.nodes, port.nodes, settle=settler(reference, port))
    assert pairs(pairing) == expected(reference, port)
    assert pairing.complete


@given(SEEDS, st.integers(0, 100))
@settings(max_examples=20)
def test_it_pairs_fully_with_wrong_weights_and_no_run_where_the_order_of_calls_is_kept(seed: int, place: int) -> None:
    tree = random_tree(seed)
    leaves = leaves_of(tree)
    reference = run(tree)
    port = run(with_fault(port_of(tree, seed + 1, shuffle=False), leaves[place % len(leaves)]))
    pairing = pair_trees(reference.nodes, port.nodes)
    assert pairs(pairing) == expected(reference, port)
    assert pairing.complete


@given(SEEDS, st.booleans())
@settings(max_examples=15)
def test_the_result_depends_neither_on_the_sides_nor_on_the_order_of_the_nodes(seed: int, faulty: bool) -> None:
    tree = random_tree(seed)
    built = port_of(tree, seed + 1)
    reference, port = run(tree).nodes, run(with_fault(built, leaves_of(tree)[0]) if faulty else built).nodes
    pairing = pair_trees(reference, port)
    assert pair_trees(reference, port) == pairing
    rng = generator(seed)
    shuffled = [[nodes[place] for place in rng.permutation(len(nodes))] for nodes in (reference, port)]
    assert pair_trees(*shuffled) == pairing
    exchanged = pair_trees(port, reference).swapped()
    assert sorted(exchanged.matches, key=repr) == sorted(pairing.matches, key=repr)


def test_the_trial_sees_a_wrong_pair() -> None:
    tree = random_tree(42)
    reference, port = run(tree), run(with_fault(port_of(tree, 43), leaves_of(tree)[0]))
    assert pairs(pair_trees(reference.nodes, port.nodes)) != expected(reference, port)
