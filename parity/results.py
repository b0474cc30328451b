"""What a run produces: one row per component, profile, rung and tensor, gathered over cases; failures and skips."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from parity.accuracy import Assessment
from parity.cases import Case
from parity.meaning import Meaning
from parity.verdict import Judgement

Verdict = Literal["pass", "fail", "skip", "ill-conditioned"]


@dataclass(frozen=True)
class Measurement:
    """One case of one output: errors relative to the truth's norm.

    Args:
        case: The case as JSON.
        port, reference: rel L2 of either side; at f64 the reference is the truth.
        predicted: What faithful arithmetic is predicted to make there.
    """

    case: str
    port: float
    reference: float
    predicted: float


@dataclass(frozen=True)
class Blame:
    """The blame table of one failing case: one dictionary a call, as `parity trace --json` has it."""

    component: str
    profile: str
    rung: str
    case: str
    sentence: str
    rows: tuple[dict[str, Any], ...] = ()


@dataclass
class Row:
    """One tensor of one component under one profile at one rung, the worst over all cases.

    `order` is the tensor's place in the reference's execution, gradients behind all of it; of the statistics, `ratio`
    and those after it belong to the worst case, `special` and the counts to all cases. What follows `rerun` is no
    column: elements by octave of their error in ulps, over all cases, every case of an output, of integers and booleans
    (`exact`) how many elements are none that rounding allows, and how many elements it leaves undecided.
    """

    component: str
    profile: str
    rung: str
    tensor: str
    kind: Literal["intermediate", "output", "exact", "gradient", "none"]
    order: int
    verdict: Verdict = "pass"
    reason: str = ""
    cases: int = 0
    cases_failed: int = 0
    cases_skipped: int = 0
    cases_powerless: int = 0
    elements: int = 0
    ratio: float = 0.0
    headroom_bits: float | None = None
    scaled_error: float = 0.0
    conditioning: float = 0.0
    kappa: float = 0.0
    port_rel_l2: float | None = None
    reference_rel_l2: float | None = None
    port_over_reference: float | None = None
    max_abs: float | None = None
    max_abs_index: str = ""
    ulp_p50: float | None = None
    ulp_p99: float | None = None
    ulp_max: float | None = None
    bias: float | None = None
    bias_z: float | None = None
    correctly_rounded: float | None = None
    reference_correctly_rounded: float | None = None
    nan_mismatches: int = 0
    inf_mismatches: int = 0
    zero_mismatches: int = 0
    subnormal_mismatches: int = 0
    worst_case: str = ""
    rerun: str = ""
    port_ulps: list[int] = field(default_factory=list)
    reference_ulps: list[int] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    mismatched: int = 0
    undecided: int = 0

    def add(self, judgement: Judgement, case: Case, rerun: str) -> None:
        """Count one case and keep its statistics if it is the worst so far."""
        first = self.cases == 0
        self.cases += 1
        self.cases_failed += not judgement.passed
        self.cases_powerless += judgement.powerless and judgement.passed
        self.elements += judgement.port.count - judgement.undecided if judgement.port else 0
        self.undecided += judgement.undecided
        if judgement.exact is not None:
            self.elements += judgement.exact.count
            self.mismatched += judgement.exact.mismatched
            self.undecided += judgement.exact.undecided
        if judgement.special is not None:
            self.nan_mismatches += judgement.special.nan
            self.inf_mismatches += judgement.special.inf
            self.zero_mismatches += judgement.special.zero
            self.subnormal_mismatches += judgement.special.subnormal
        self._count_ulps(judgement)
        if self.kind == "output":
            self._keep_measurement(judgement, case)
        if first or judgement.ratio > self.ratio:
            self._keep_worst(judgement, case, rerun)
        if self.cases_failed:
            self.verdict = "fail"
        else:
            self.verdict = "ill-conditioned" if self.cases_powerless == self.cases else "pass"

    def _count_ulps(self, judgement: Judgement) -> None:
        if judgement.port is not None:
            self.port_ulps = _added(self.port_ulps, judgement.port.ulp_counts)
        if judgement.reference is not None and self.rung != "f64":
            self.reference_ulps = _added(self.reference_ulps, judgement.reference.ulp_counts)

    def _keep_measurement(self, judgement: Judgement, case: Case) -> None:
        port, reference = judgement.port, judgement.reference
        if port is not None and reference is not None:
            errors = (port.rel_l2, reference.rel_l2, judgement.predicted)
            self.measurements.append(Measurement(case.to_json(), *errors))

    def _keep_worst(self, judgement: Judgement, case: Case, rerun: str) -> None:
        self.ratio, self.reason = judgement.ratio, judgement.reason
        self.headroom_bits = -math.log2(judgement.ratio) if 0 < judgement.ratio < math.inf else None
        self.scaled_error, self.conditioning = judgement.scaled, judgement.conditioning
        self.kappa = judgement.kappa
        self.port_over_reference = judgement.port_over_reference
        self.worst_case, self.rerun = case.to_json(), rerun
        port, reference = judgement.port, judgement.reference
        if port is not None and reference is not None:
            self.port_rel_l2, self.reference_rel_l2 = port.rel_l2, reference.rel_l2
            self.max_abs, self.max_abs_index = port.max_abs, " ".join(map(str, port.max_abs_index))
            self.ulp_p50, self.ulp_p99, self.ulp_max = port.ulp_p50, port.ulp_p99, port.ulp_max
            self.bias, self.bias_z = port.bias, port.bias_z
            self.correctly_rounded = port.correctly_rounded
            self.reference_correctly_rounded = reference.correctly_rounded
        if judgement.exact is not None and judgement.exact.count:
            exact = judgement.exact
            self.max_abs_index = " ".join(map(str, exact.index))
            self.correctly_rounded = exact.equal / exact.count
            self.reference_correctly_rounded = exact.reference_equal / exact.count


def _added(counts: list[int], more: tuple[int, ...]) -> list[int]:
    return [one + other for one, other in zip(counts, more, strict=True)] if counts and more else counts or list(more)


@dataclass(frozen=True)
class Failure:
    """One component that failed under one profile at one rung: where it first goes wrong, and how to see it again.

    `first_bad` is the first failing tensor in execution order, in the case that was shrunk (or, where shrinking found
    none, the smallest failing one); `cases_failed` of `cases` failed. `worst_case` is the failing case of the largest
    ratio, and `worst_ratio` that ratio. `kind` says what failed: a tensor; an output of integers or booleans, where
    floats are right (`exact`); a gradient, where tensors are right; NaN or
    an infinity, planted in an input, that comes out elsewhere though numbers are right (`special`, its cases are values
    planted); or a whole stratum that is less accurate than the reference. `meaning` says how a tensor fails, None for
    the other kinds; `attribution` which known meaning the port has. `detail` is the traceback of a port that raised,
    `bundle` the path of what runs it again, relative to the report's folder.
    """

    component: str
    profile: str
    rung: str
    first_bad: str
    reason: str
    ratio: float
    case: str
    shrunk: bool
    rerun: str
    cases: int
    cases_failed: int
    detail: str = ""
    worst_case: str = ""
    worst_ratio: float = 0.0
    meaning: Meaning | None = None
    attribution: tuple[str, ...] = ()
    bundle: str = ""
    kind: Literal["tensor", "exact", "gradient", "special", "stratum"] = "tensor"

    @property
    def replay(self) -> str:
        """The command that runs the bundle again, in the report's folder; empty without a bundle."""
        return shlex.join(["parity", "replay", self.bundle]) if self.bundle else ""


@dataclass(frozen=True)
class Skip:
    """Something that was asked for and not run: a whole component, profile and rung, or `cases` cases of it."""

    component: str
    profile: str
    rung: str
    reason: str
    cases: int | None = None


@dataclass(frozen=True)
class Fidelity:
    """How far the meaning of a profile lies from the canonical one: the worst rel L2 of the float64 references."""

    component: str
    profile: str
    rel_l2: float


@dataclass(frozen=True)
class Digest:
    """What the port gave in all cases of a component under one profile at one rung, as short hashes.

    Args:
        component, profile, rung: Where.
        cases: Hash of the cases: equal where the same questions were put.
        tensors: Hash of the values of each tensor over all cases, in order of execution: equal for equal bits.
    """

    component: str
    profile: str
    rung: str
    cases: str
    tensors: Mapping[str, str]


@dataclass
class Results:
    """Everything a run found.

    `meta` says what was asked for, `bundles` holds those of the failures, by their path, `unpaired` the intermediates
    that were compared with nothing, with the reason, by component, and `digests` what the port gave, bit for bit.
    `blames` are the blame tables of failures, `bits` the mantissa bits that operations were measured to have, and
    `sources` says where each pair is declared, as `FILE:LINE`.
    """

    meta: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    fidelity: list[Fidelity] = field(default_factory=list)
    assessments: list[Assessment] = field(default_factory=list)
    bundles: dict[str, bytes] = field(default_factory=dict)
    unpaired: dict[str, dict[str, str]] = field(default_factory=dict)
    digests: list[Digest] = field(default_factory=list)
    blames: list[Blame] = field(default_factory=list)
    bits: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Elements compared over all rows."""
        return sum(row.elements for row in self.rows)

    @property
    def verdict(self) -> Literal["pass", "fail", "nothing compared"]:
        """`fail` if anything failed; `nothing compared` if no value was, whatever gradients were; else `pass`."""
        if (
            self.failures
            or any(row.verdict == "fail" for row in self.rows)
            or not all(assessment.passed for assessment in self.assessments)
        ):
            return "fail"
        return "pass" if any(row.elements for row in self.rows if row.kind != "gradient") else "nothing compared"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 nothing compared."""
        return {"pass": 0, "fail": 1, "nothing compared": 3}[self.verdict]
