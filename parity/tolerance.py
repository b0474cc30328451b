"""The one table of tolerances: allowed = C * u * g(shape) * S(data), every number beside its derivation and source.

There is no bare atol or rtol in this project. u is the unit roundoff of the dtype in which a tensor is held, g grows
with the shape, S is a scale that the data set, and C is a constant near 1 that was measured. Two kinds of S exist:

* *propagated*: the float64 reference is run with every operation's inputs perturbed by that operation's own error
  (`GROWTH`, below); what arrives at a tensor, in units of u, is g * S there. It holds for every composite.
* *explicit*: for the leaves whose error analysis is classical (block-diagonal product, FFT convolution), a closed
  form of the inputs. It holds beside the propagated one: the main output must satisfy both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from parity.spec.arrays import Array
from parity.spec.precision import Rung

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Constant:
    """A number of the table, why it is what it is, and where that was measured or proven."""

    value: float
    why: str
    source: str


CALIBRATION: Final = "docs/tolerances.md, section 'Calibration': `parity run --profile all`, column `ratio`"

CONSTANTS: Final[Mapping[str, Constant]] = {
    "propagated_rms": Constant(
        6.0,
        "rms error over the predicted rms of 64 draws. An ill-conditioned tensor errs in one degree of freedom, so the "
        "quotient is Student's t with 64; a perturbation has 0.58 u where a rounding has 0.43, so 6 is 8.1 sigma: "
        "false alarm 3e-11 a tensor of that kind, and none worth naming for any other",
        CALIBRATION,
    ),
    "propagated_max": Constant(
        6.0,
        "largest error over the largest of those draws, which is no smaller than their rms: the same reasoning",
        CALIBRATION,
    ),
    "tf32_share": Constant(
        0.5,
        "share of the worst error of a stratum that products in float32 leave at most where it is attributed to TF32: "
        "one bit of the three or more that were lost; what TF32 does is measured, not predicted",
        CALIBRATION,
    ),
    "float64": Constant(
        4.0,
        "factor on all of the above at f64, where the port's sin, exp, erf and transforms are substitutes",
        "sin 2u abs, exp 2.5(|x|+1)u rel, erf 16u abs: tests of parity.backends",
    ),
    "margin": Constant(
        1.0,
        "bits that a port may lose against the reference on average: two faithful orders of summation differ by less",
        "`parity calibrate`: mean bits lost per stratum",
    ),
    "margin_saturated": Constant(
        2.0,
        "the same for poolers of inputs with a large mean: tanh or softmax saturates, the error sits in the few "
        "elements that do not, and the ratio of a case scatters by 1.1 bits instead of 0.2",
        "`parity calibrate`: attention_pooler and pooler, f32, offset",
    ),
    "margin_sequential": Constant(
        2.0,
        "the same for sums of 192 products: the BLAS of MLX's CPU wheel adds them up one after the other, torch's in "
        "lanes side by side, which divides the error by the root of their number; 1.4 bits lost",
        "`parity calibrate blockdiag_linear`, f32, long sums; Higham and Mary, SIAM J. Sci. Comput. 41 (2019) A2815",
    ),
    "margin_beyond": Constant(
        2.0,
        "bits beyond the margin that a single case may lose",
        "`parity calibrate`: the spread of a case is 0.1 to 0.7 bits",
    ),
    "margin_luck": Constant(
        4.0,
        "predicted errors within which a case beyond is the reference's luck: 5.4 sigma, Student's t with 64: 1e-6",
        "as `propagated_rms`",
    ),
    "drift_floor": Constant(
        0.07,
        "bits, 5 % of the error, by which a port may grow less accurate than accepted without being stopped, however "
        "surely that is known",
        "docs/gate.md: other orders of summation of one library's release move strata by 0.01 to 0.1 bits",
    ),
    "drift_alarm": Constant(
        1e-4,
        "probability that a run of unchanged code is stopped by any test of its accuracy against accepted runs",
        "200 runs with other seeds then stay without a false alarm with a probability of 98 %: docs/gate.md",
    ),
    "history_alarm": Constant(
        1e-3,
        "probability that the history of a component that never changed shows an onset",
        "a table that a person reads, and no gate: docs/gate.md",
    ),
    "tighten_from": Constant(
        0.5,
        "bits by which an allowance of the ledger exceeds what is needed before it is proposed to tighten it",
        "half the standard margin: less is the scatter of an upper bound from run to run",
    ),
    "tighten_slack": Constant(
        0.25,
        "bits that a tightened allowance leaves above what was needed",
        "largest scatter seen of a stratum's upper bound over runs: `parity calibrate`, spread / sqrt(6)",
    ),
    "rounding_plateau": Constant(
        100.0,
        "float64 error over u64 kappa up to which it is rounding",
        "errors of ports that mean the same stand below 20; numerics of the mutants: 10^3 and more",
    ),
    "leak_roughness": Constant(
        0.15,
        "share of an error at f64 that four units of float32's last place change, above which it is rounding: leaks "
        "show 0.22 (erf, whose approximation errs smoothly) to 1.8, meanings 2^-22 times their conditioning, at most "
        "0.001 for a kappa of 1100. It is asked for below `propagated_rms` times the error predicted for f32, of which "
        "the largest leak seen is 0.63",
        "docs/accuracy.md, section 'What kind of failure': tests/harness/test_meaning.py",
    ),
    "matmul_rms": Constant(
        0.4,
        "rms of e_ij / (|x_i| |w_j|) over sqrt(K) u; largest seen 0.28 over normal, positive, sparse data",
        "Higham and Mary, SIAM J. Sci. Comput. 41 (2019) A2815; sampled by tests/harness/test_tolerance.py",
    ),
    "matmul_max": Constant(
        2.0,
        "|e_ij| over sqrt(K) u (|X||W|)_ij; largest seen 1.53",
        "Higham and Mary (2019); measured for K = 4..3072",
    ),
    "argument": Constant(
        4.0,
        "roundings on the way to an argument or a grid point: step, product, sum, function",
        "counted in both constructors; PyTorch's linspace differs from MLX's and NumPy's by at most 1 ulp",
    ),
    "survey_float64": Constant(
        64.0,
        "rel L2 in u that an operation may have and still keep float64: 6 bits for its roundings and its truth's "
        "(14 u seen, a pseudoinverse); the next coarser format is 29 bits away",
        "`parity env --survey`; the same 6 bits part formats in parity.environment",
    ),
    "survey_half": Constant(
        2.0,
        "rel L2 in u that an operation may have and still keep bfloat16 or float16: half a unit for the result and as "
        "much for every intermediate rounded to 16 bits (1.4 u seen); bfloat16 inside float16 makes 3.3, a gradient "
        "that subtracts what it has rounded 2.6 and more",
        "`parity env --survey`",
    ),
    "float64_module": Constant(
        1e-12,
        "rel L2 of a module inside the float64 context from torch's float64: 9000 u for the roundings of both and the "
        "conditioning of small random layers; what float32 leaves in one operation is 1e-9 or more",
        "`parity float64`",
    ),
    "float64_layer": Constant(
        1e-13,
        "rel L2 of the M2-BERT layer's output and of each of its gradients, float64 against float64: 900 u, with a "
        "kappa of 300 to 900; the largest seen, 9e-14, is the gradient of a bias, a sum over a linspace whose "
        "roundings align",
        "`parity float64`",
    ),
    "outside": Constant(
        100.0,
        "where the pair's call runs the model once, what it does around it (a sum, a loss, a slice) may leave this "
        "many times the model's own total error, or u if that is larger: looked at only where no module errs",
        "a sum of n terms loses up to n u; 100 of one size are more than any model sums outside of its modules",
    ),
    "signature": Constant(
        1e-3,
        "share of a residual that a simple operation may leave unexplained and still be named",
        "another fault leaves about 1, rounding at f64 about 1e-12 of a fault of 1e-4",
    ),
    "zoo_float64": Constant(
        1e-10,
        "rel L2 of a port's logits from the reference's, float64 against float64: 1e6 u for two or three layers; the "
        "largest seen of a port that means the same is 9e-14, the smallest of one that does not 1.8e-4",
        "acceptance bound of the zoo; `parity.suites.zoo.run_zoo`",
    ),
    "golden_reference": Constant(
        1e-12,
        "rel L2 of the reference's float64 from the original code's: the same formulas, summed in another order; "
        "`golden_f32` times the rounding predicted for float64 where that is more",
        "acceptance bound of the golden files; the largest seen is printed by `parity golden`. On another processor "
        "than the files' a gradient whose terms cancel is off by 8.1e-12, 0.73 of what is predicted",
    ),
    "golden_port": Constant(
        1e-10,
        "rel L2 of the port's float64 from the original code's, its transform and substitutes included",
        "acceptance bound of the golden files; the largest seen is printed by `parity golden`",
    ),
    "golden_f32": Constant(
        4.0,
        "float32 error over the noise floor: the original code's own float32 error, at least the predicted one",
        "two equally good float32 computations; the largest seen is printed by `parity golden`",
    ),
    "golden_file": Constant(
        6.0,
        "the original code's own float32 error over the predicted one, by the reasoning of `propagated_rms`",
        "the largest seen over the 44 files is 2.0",
    ),
    "golden_f32_median": Constant(
        2.0,
        "median over a file's tensors of the above: two equally good computations stand below 1; largest seen 1.1",
        "the same",
    ),
    "golden_slope": Constant(
        1e-7,
        "central differences at h = 2^-17 over |gradient| |direction|: truncation h^2 = 6e-11, rounding u/h = 1e-11, "
        "times the curvature of the model",
        "Taylor's theorem; a gradient off by a factor of 2 shows as 0.1 and more",
    ),
    "fftconv_rms": Constant(
        2.0,
        "rms error of a channel over u sqrt(log2 2L) Sh; largest seen 1.45 over 162564 channels",
        "Higham, Accuracy and Stability, theorem 24.2; Schatzman, SIAM J. Sci. Comput. 17 (1996) 1150",
    ),
    "fftconv_max": Constant(
        2.0,
        "|e| over u log2(2L) |u| |k|; largest seen 1.24",
        "Cauchy-Schwarz on the sum of lagged products; measured on the same channels",
    ),
}


NOISE_DRAWS: Final = 16
"""Perturbed runs behind a noise floor that only bounds from below: golden files, laws."""

SCREENING_DRAWS: Final = 8
"""Perturbed runs behind every predicted error at first."""

REFINED_DRAWS: Final = 64
"""Perturbed runs where a tensor is near its allowance or beyond; `propagated_rms` counts on their number."""

MOST_VALUES: Final = 4
"""Values of one integer up to which all that rounding allows are taken to be known; with more, none is refused.

Of four equally likely ones, 64 draws miss a given one with a probability of 1e-8, and of five equally likely ones they
show four or fewer with one of 3e-6: beyond that a value that never came is no evidence.
"""

REFINE_FROM: Final = 0.4
REFINE_TO: Final = 100.0
"""Ratios between which the prediction is refined.

Below, eight draws would have to overstate by 2.5 to hide a failure, P(chi2_8 > 50) = 4e-8 where there is a single
degree of freedom; above, no draw makes good what is a hundred times too large.
"""


def constant(name: str) -> float:
    """Return the value of a constant of the table."""
    return CONSTANTS[name].value


def _transform(shapes: Shapes) -> float:
    """sqrt(1 + log2 n) * 1.5: 0.60 to 1.31 sqrt(log2 n) u, the higher end for lengths with a large prime factor."""
    return 1.5 * math.sqrt(1 + math.log2(2 * shapes[0][-1]))


def _exponential(shapes: Shapes) -> float:  # noqa: ARG001
    """MLX's exp is off by (0.9 |x| + 1) ulp; the perturbed argument gives 0.58 |x| u."""
    return 2.0


GROWTH: Final[Mapping[str, Callable[[Shapes], float]]] = {
    "_fft_r2c": _transform,
    "_fft_c2r": _transform,
    "_fft_c2c": _transform,
    "exp": _exponential,
}
"""Amplitude of each operation's backward error in units of u; operations not listed have 1 (one rounding)."""


@dataclass(frozen=True)
class Factors:
    """By how much a device errs more than the table says, as `parity calibrate --write` measured it.

    Args:
        values: Name in `CALIBRATED` and factor, at least 1.
        source: The file that a command line names, empty where none is.
    """

    values: tuple[tuple[str, float], ...] = ()
    source: str = ""

    def at(self, rung: Rung) -> Factors:
        """Return those that hold at `rung`: none at f64, which is the CPU's."""
        return NO_FACTORS if rung.name == "f64" else self

    def of(self, name: str) -> float:
        """Return the factor of an error model, 1 where it is as the table says."""
        return next((factor for known, factor in self.values if known == name), 1.0)

    def of_operation(self, operation: str) -> float:
        """Return the factor of an operation, by its name without namespace."""
        return self.of(_CALIBRATED_BY.get(operation, "")) if self.values else 1.0


NO_FACTORS: Final = Factors()
"""The table as it is."""

CALIBRATED: Final[Mapping[str, tuple[str, ...]]] = {
    "transform": ("_fft_r2c", "_fft_c2r", "_fft_c2c"),
    "exp": ("exp",),
    "sin": ("sin", "cos"),
    "tanh": ("tanh",),
    "gelu": ("gelu", "gelu_backward"),
    "layer_norm": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax": ("_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data"),
    "product": ("mm", "addmm", "bmm", "baddbmm"),
    "depthwise": ("convolution", "convolution_backward"),
    "sum": ("sum", "mean"),
    "matmul_rms": (),
    "matmul_max": (),
    "fftconv_rms": (),
    "fftconv_max": (),
}
"""What depends on the device: error models by the operations that they stand for; the last four are of `Scale`."""

_CALIBRATED_BY: Final = {operation: name for name, operations in CALIBRATED.items() for operation in operations}

GELU_OUTPUT: Final = 6.0
"""Error of GELU in units of u |x|: 1 + erf cancels for x < 0, so its natural scale is |x| and not the result.

MLX's erf on the CPU is Abramowitz-Stegun 7.1.26, 8.5 u absolute, and reaches 4.9 u |x|; torch's reaches 5.99 u |x|.
"""

LAYER_NORM_OUTPUT: Final = 4.0
"""Roundings of a LayerNorm that no noise on its input stands for: root, reciprocal, two products, a sum."""

HALF_GROWTH: Final[Mapping[str, float]] = {"native_layer_norm": 2.0, "_softmax": 2.0, "_log_softmax": 3.0}
"""The same with sixteen bits: sums run in float32, so what counts is how often an operation rounds its result.

MLX's LayerNorm rounds the normalised value before scale and shift, its GELU after each of five steps (`GELU_OUTPUT`).
"""


def growth_of(operation: str, shapes: Shapes, half: bool) -> float:
    """Return the amplitude of an operation's backward error in units of u.

    Args:
        operation: Name of the operation without its namespace, for example `addmm`.
        shapes: Shapes of its tensor operands.
        half: Whether it runs in sixteen bits with float32 accumulation.
    """
    if half:
        return HALF_GROWTH.get(operation, 1.0)
    model = GROWTH.get(operation)
    return 1.0 if model is None else model(shapes)


@dataclass(frozen=True)
class Allowance:
    """What a tensor's error may be: root mean square and largest absolute value."""

    rms: float
    maximum: float


def rounding_of(truth_rms: float, truth_max: float, held: Rung) -> tuple[float, float]:
    """Predicted error, rms and largest, of rounding a tensor to the format it is held in: uniform within u |T|."""
    return held.u * truth_rms / math.sqrt(3), held.u * truth_max


def propagated(noise_rms: float, noise_max: float, rung: Rung, held: Rung) -> Allowance:
    """Allowance from the predicted error of a tensor: C * noise + one quantum of its format; at f64 times `float64`.

    Args:
        noise_rms, noise_max: Predicted error at `rung`, the tensor's own rounding included.
        rung: The rung.
        held: Format in which the tensor itself is held, float32 where a module stays in it at a coarser rung.
    """
    factor = constant("float64") if rung.name == "f64" else 1.0
    return Allowance(
        factor * constant("propagated_rms") * noise_rms + held.quantum,
        factor * constant("propagated_max") * noise_max + held.quantum,
    )


@dataclass(frozen=True)
class Scale:
    """Explicit allowance of a leaf, elementwise or broadcast: `maximum` bounds |e|, `rms` the rms over `axes`.

    Both are in units of u and hold the constants of the table already. `rms` is compared with the root mean square of
    the error over `axes`; without axes, elementwise errors are divided by it first and their rms is compared with 1.
    `passing` is the magnitude of what is rounded to the tensor's own format on the way, which matters in sixteen bits.
    `constants` are the names of those that bound rms and maximum, where they depend on the device.
    """

    rms: Array
    maximum: Array
    axes: tuple[int, ...] = ()
    passing: Array = field(default_factory=lambda: np.zeros(()))
    constants: tuple[str, str] = ("", "")

    def times(self, factors: Factors, rung: Rung) -> Scale:
        """Return what it is at `rung` on a device that errs by `factors` more."""
        at_rung = factors.at(rung)
        if not at_rung.values:
            return self
        rms, maximum = map(at_rung.of, self.constants)
        return replace(self, rms=rms * self.rms, maximum=maximum * self.maximum)


def matmul_scale(x: Array, weight: Array) -> Scale:
    """Scale of blocks x (..., k, p) times weight (k, q, p), elementwise.

    rms: 0.4 sqrt(p) |x| |w| + |y|, the second for the rounding of the result, which is all there is at p = 1;
    maximum: 2 sqrt(p) (|X||W|).
    """
    root = math.sqrt(x.shape[-1])
    norms = np.einsum("...k,kq->...kq", np.linalg.norm(x, axis=-1), np.linalg.norm(weight, axis=-1))
    products = np.einsum("...kp,kqp->...kq", np.abs(x), np.abs(weight))
    result = np.abs(np.einsum("...kp,kqp->...kq", x, weight))
    return Scale(
        constant("matmul_rms") * root * norms + result,
        constant("matmul_max") * root * products,
        constants=("matmul_rms", "matmul_max"),
    )


def positions_scale(bands: int) -> Scale:
    """Scale of freshly built cosines and sines of f w, f <= B - 1, w <= 2 pi: their argument is rounded 4 times."""
    largest = 2 * math.pi * max(bands - 1, 1)
    return Scale(np.array(constant("argument") * (1 + largest)), np.array(constant("argument") * (1 + largest)))


def grid_scale(values: Array) -> Scale:
    """Scale of freshly built linspaces: each framework rounds step and sum, on the scale of the largest end."""
    largest = np.array(constant("argument") * np.abs(values).max(initial=0.0))
    return Scale(largest, largest)


def fftconv_scale(u: Array, kernel: Array) -> Scale:
    """Scale of the convolution of u (b, d, l) with a kernel (d, n), n = 2l, both directions combined.

    rms over positions: sqrt(log2 n) Sh, Sh^2 = (|u|^2 max|K_f|^2 + |k|^2 max|U_f|^2 + |y_full|^2) / n per channel;
    maximum: log2(n) |u| |k|.
    """
    n = 2 * u.shape[-1]
    u_f, k_f = np.fft.rfft(u, n), np.fft.rfft(kernel, n)
    y_full = np.fft.irfft(u_f * k_f, n)
    norm_u, norm_k = np.linalg.norm(u, axis=-1), np.linalg.norm(kernel, axis=-1)
    squares = (
        norm_u**2 * np.abs(k_f).max(-1) ** 2
        + norm_k**2 * np.abs(u_f).max(-1) ** 2
        + np.linalg.norm(y_full, axis=-1) ** 2
    )
    logarithm = math.log2(n)
    return Scale(
        constant("fftconv_rms") * math.sqrt(logarithm) * np.sqrt(squares / n)[..., None],
        constant("fftconv_max") * logarithm * (norm_u * norm_k)[..., None],
        axes=(-1,),
        constants=("fftconv_rms", "fftconv_max"),
    )
