"""Every number on which a pairing rests, with its reason; form and reading as in `parity.tolerance`.

Evidence is counted in nats: a difference of e between two candidates makes the better one exp(e) times as likely. The
weights are judgements, ordered by what survives a faulty port: what a module is and where it stands outweighs what it
computes, except where values agree, which no accident brings about. `tests/pairing/test_random_trees.py` is their
trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from parity.tolerance import Constant

TRIAL: Final = "tests/pairing/test_random_trees.py"

PAIRING: Final[Mapping[str, Constant]] = {
    "agree": Constant(
        0.01,
        "relative L2 distance up to which two arrays are the same values: float16 through tens of layers stays below, "
        "and unrelated arrays of n elements come within it with a probability of about 0.01^n",
        "parity.spec.precision: u = 4.9e-4 for float16; geometry of the sphere",
    ),
    "clear": Constant(
        100.0,
        "a layout is recognised if every other one is this many times further off",
        "a right layout of float64 values is off by rounding, 1e-15, a wrong one of real data by about 1",
    ),
    "rounding": Constant(
        1e-12,
        "distances below it are the same to `clear`: 0 against 1e-16 says nothing",
        "u64 = 1.1e-16, with room for 1e4 of them",
    ),
    "kind": Constant(3.0, "the same type of layer, or the same words in the name of its class", TRIAL),
    "kind_group": Constant(-1.0, "another layer of the same group, such as SiLU for GELU: a likely mistake", TRIAL),
    "shape": Constant(2.0, "the same shape of the main output; three quarters of it with the axes moved", TRIAL),
    "shape_size": Constant(0.5, "as many elements in another shape", TRIAL),
    "parameters": Constant(
        2.0, "own parameters of the same shapes up to the order of axes; against it otherwise", TRIAL
    ),
    "parameters_size": Constant(1.0, "as many own parameters in other shapes", TRIAL),
    "inputs_shape": Constant(1.0, "the first input has as many elements; against it otherwise", TRIAL),
    "calls": Constant(-1.0, "called another number of times", TRIAL),
    "children": Constant(
        1.0, "called parts of the same types and number, in half each; against it where only one has any", TRIAL
    ),
    "shell": Constant(-1.0, "only one of them gives out unchanged what one of its parts gives: a wrapper", TRIAL),
    "name": Constant(1.0, "the same last word of the name; by parts of words otherwise", TRIAL),
    "flow": Constant(
        2.0,
        "the input comes from a layer of the same type, or the output goes to one; against it if of another type, and "
        "half as much if only one side shows a layer there",
        TRIAL,
    ),
    "outputs_agree": Constant(8.0, "the outputs have the same values: chance would need 0.01^8", "`agree`"),
    "inputs_agree": Constant(2.0, "the inputs have the same values: siblings share theirs, so it tells little", TRIAL),
    "settled": Constant(8.0, "both layers give the same when run on fresh inputs", "as `outputs_agree`"),
    "informative": Constant(8.0, "elements from which values count in full; fewer count in proportion", "0.01^n"),
    "parent": Constant(2.0, "the nearest paired modules above are partners; against it if they are not", TRIAL),
    "order": Constant(1.0, "a candidate that has a partner of its own would change places with it", TRIAL),
    "near": Constant(1e-3, "settles ties by the place in the order of calls; too small to weigh", TRIAL),
    "anchor": Constant(100.0, "partners by name stay partners: more than all evidence together", "sum of the others"),
    "least": Constant(2.0, "evidence below which two modules are no candidates for each other", TRIAL),
    "chance": Constant(1.0, "evidence that two unrelated modules of one size have", TRIAL),
    "unproven": Constant(
        0.5, "what a guessed layout, or a name that its module belies, leaves of the confidence", TRIAL
    ),
}

LEAST_CONFIDENCE: Final = 0.2
"""Pairs found without a name are given up below it: the next best candidate is four times as likely."""

MOST_PARTS: Final = 4
"""Modules that one fused module may stand for: query, key, value and a gate."""

MOST_PEERS: Final = 8
"""Peers up to which every choice of parts is tried; beyond, only neighbours in the order of calls."""

MOST_AXES: Final = 5
"""Axes up to which every permutation is tried, 120 of them."""


def number(name: str) -> float:
    """Return the value of a number of the table."""
    return PAIRING[name].value
