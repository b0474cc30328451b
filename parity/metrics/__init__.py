"""Metrics: pure functions that say how far two tensors are apart, and never whether that is acceptable.

Tensors are float64 NumPy arrays that hold numbers of a format exactly; a `Rung` beside them names the format.
The order of a comparison is shape, special values (`compare_special`), then errors (`measure`).
"""

from __future__ import annotations

from parity.metrics.arrays import Index
from parity.metrics.error import ErrorMetrics, error_ratio, measure, quantisation_error
from parity.metrics.exact import ExactMetrics, compare_exact
from parity.metrics.large import error_of
from parity.metrics.special import SpecialValues, compare_special
from parity.metrics.ulp import ordered, round_to, ulp, ulp_distance, ulp_error

__all__ = [
    "ErrorMetrics",
    "ExactMetrics",
    "Index",
    "SpecialValues",
    "compare_exact",
    "compare_special",
    "error_of",
    "error_ratio",
    "measure",
    "ordered",
    "quantisation_error",
    "round_to",
    "ulp",
    "ulp_distance",
    "ulp_error",
]
