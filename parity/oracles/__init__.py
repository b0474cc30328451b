"""Independent truth: leaf operations at 50 decimal digits, from exactly the float64 numbers that are stored.

No framework and no float64 arithmetic is involved, so the float64 reference itself can be put on trial.
"""

from parity.oracles.agreement import Agreement, agreement
from parity.oracles.carried import DIGITS, Carried, fifty_digits, stored

__all__ = ["DIGITS", "Agreement", "Carried", "agreement", "fifty_digits", "stored"]
