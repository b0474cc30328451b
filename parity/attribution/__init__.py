"""Attribution: which other meaning of the reference a port computes, from its outputs alone.

A library of alternatives (a suite holds them; nothing here knows a model) says what porters get wrong. Each is computed
by the float64 reference, and what the port's residual has of it is measured: beta 0 for the meaning itself, 1 for the
alternative, whether the difference stands above the rounding or below it.
"""

from parity.attribution.alternative import Alternative, Probe, replaced
from parity.attribution.attribute import Attribution, Finding, Investigation, ProfileDistance, attribute
from parity.attribution.local import LocalAttribution
from parity.attribution.text import explain_failure, explanation, profile_sentence, sentence, table_lines

__all__ = [
    "Alternative",
    "Attribution",
    "Finding",
    "Investigation",
    "LocalAttribution",
    "Probe",
    "ProfileDistance",
    "attribute",
    "explain_failure",
    "explanation",
    "profile_sentence",
    "replaced",
    "sentence",
    "table_lines",
]
