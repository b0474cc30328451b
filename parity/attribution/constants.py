"""Every number on which an attribution rests, with its reason and source; form and reading as in `parity.tolerance`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from parity.tolerance import Constant

SHOWN: Final = "docs/attribution.md, section 'Figures', and the command that prints it"

ATTRIBUTION: Final[Mapping[str, Constant]] = {
    "beta": Constant(
        0.1,
        "a correct port has every beta within 0.1 of 0, a wrong one within 0.1 of 1; between them lie 40 of the "
        "largest standard errors that count",
        SHOWN,
    ),
    "standard_error": Constant(
        0.02,
        "a beta counts if its standard error is below this: 0.1 is then 5 of them, P = 6e-7 a beta",
        "normal distribution; the errors are those of perturbed runs, which overstate rounding about twofold",
    ),
    "within_noise": Constant(
        6.0,
        "rms of the residual over the predicted rounding up to which rounding may be all there is",
        "parity.tolerance, propagated_rms: the same reasoning",
    ),
    "share": Constant(
        0.99,
        "share of the squared residual that an alternative must explain where it leaves more than rounding: ten times "
        "closer; alternatives that make numbers grow make their rounding grow as well",
        SHOWN,
    ),
    "collinear": Constant(
        0.98,
        "cosine between two signatures from which a joint fit could not part them: the variance of either beta would "
        "grow 25-fold",
        "variance inflation 1 / (1 - cos^2)",
    ),
    "apart": Constant(
        6.0,
        "distance of two alternatives, in standard deviations of the noise along it, from which the port's outputs "
        "decide between them; below it they are reported together",
        "normal distribution: a wrong choice has P = Q(3) at that distance and falls as its square",
    ),
    "nothing": Constant(
        1e-6,
        "rms of a signature, in units of the rounding, below which it is that of no change: what float64 rounds",
        "u64 / u32 = 2e-9, with room; a signature of this size had a standard error of 1e4 over 1e4 elements",
    ),
    "rank": Constant(
        1e-10,
        "singular values below this part of the largest count as 0 in the joint fit; the columns have unit norm",
        "float64 with 1e6 between its roundoff and this",
    ),
    "closer": Constant(
        2.0,
        "another profile is called nearest if the port is this many times closer to it than to its own",
        "between two computations of one meaning the quotient is 1; of two meanings it is 10 and more",
    ),
    "shrinkage": Constant(
        4.0,
        "weight, in draws, of a tensor's mean variance in the variance of each of its elements",
        "keeps an element that few draws moved from counting beyond measure: chi-squared with 16 degrees of freedom",
    ),
}

DRAWS: Final = 16
"""Perturbed runs of each case: they give every element its weight and every beta its standard error."""

LARGEST_PROBE: Final = 1 << 14
"""Elements taken from one tensor, chosen at random where it has more: what bounds memory and time."""


def number(name: str) -> float:
    """Return the value of a number of the table."""
    return ATTRIBUTION[name].value
