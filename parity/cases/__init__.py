"""Cases: a structure, an input family, a scale and a seed, and the arrays that follow from them."""

from parity.cases.arrays import draw_inputs, draw_parameters
from parity.cases.case import FINE_LADDER, FULL_LADDER, Case
from parity.cases.draw import aim_case, corpus_cases, draw_cases, largest_structures, shrink_case
from parity.cases.families import FAMILIES, STRATUM_FAMILIES

__all__ = [
    "FAMILIES",
    "FINE_LADDER",
    "FULL_LADDER",
    "STRATUM_FAMILIES",
    "Case",
    "aim_case",
    "corpus_cases",
    "draw_cases",
    "draw_inputs",
    "draw_parameters",
    "largest_structures",
    "shrink_case",
]
