"""True float64 for any MLX module, its source untouched: forms, the context that puts them in place, and the survey.

MLX's float64 keeps the dtype, and in many functions float32's accuracy. `float64_forms()` mends that for as long as it
is open, and reports what it cannot mend as a precision leak.
"""

from parity.float64.context import float64_forms
from parity.float64.forms import FORMLESS, FORMS, METHOD_FORMS
from parity.float64.leaks import Leak, Leaks
from parity.float64.spectrum import Float64Spectrum

__all__ = ["FORMLESS", "FORMS", "METHOD_FORMS", "Float64Spectrum", "Leak", "Leaks", "float64_forms"]
