"""Blame: which module of a port first goes wrong, by what each makes of the reference's own numbers."""

from parity.blame.backward import trace_backward
from parity.blame.beside import trace_backward_beside
from parity.blame.forward import trace_forward
from parity.blame.links import Link, Links, links_by_name, links_by_pairing, links_of_pair
from parity.blame.signature import residual_signature
from parity.blame.table import BlameRow, BlameTable

__all__ = [
    "BlameRow",
    "BlameTable",
    "Link",
    "Links",
    "links_by_name",
    "links_by_pairing",
    "links_of_pair",
    "residual_signature",
    "trace_backward",
    "trace_backward_beside",
    "trace_forward",
]
