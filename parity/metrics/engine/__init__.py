"""The full metric set of a pair of tensors, fast enough to be always on.

`measure_pair` goes through both tensors in blocks, `measure_pair_plain` is NumPy on whole arrays and says what every
number means; they agree in every bit. `measure_error` leaves out what a verdict does not ask.
"""

from __future__ import annotations

from parity.metrics.engine.engine import Kernels, measure_error, measure_pair
from parity.metrics.engine.pair import PairMetrics, StepMetrics, measure_pair_plain

__all__ = ["Kernels", "PairMetrics", "StepMetrics", "measure_error", "measure_pair", "measure_pair_plain"]
