"""What the pages read of a run's files, spelt out: a member of another shape is refused before it is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parity.errors import ReportError
from parity.spec.precision import RUNGS

CODED: Final = ("component", "profile", "rung", "tensor", "verdict", "kind", "reason", "worst_case")
"""Columns of texts that a page draws."""

NUMBERS: Final = (
    "order",
    "cases",
    "cases_failed",
    "elements",
    "ratio",
    "headroom_bits",
    "scaled_error",
    "kappa",
    "port_rel_l2",
    "reference_rel_l2",
    "port_over_reference",
    "max_abs",
    "ulp_p50",
    "ulp_p99",
    "ulp_max",
    "bias",
    "correctly_rounded",
    "reference_correctly_rounded",
)
"""Columns of numbers that a page draws."""

Number = int | float | Literal["infinity", "-infinity", "nan"]
Count = Annotated[int, Field(ge=0)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True)


class _Place(_Shape):
    component: str
    profile: str
    rung: str


class _Judged(_Place):
    rung: Literal["f64", "f32", "bf16", "f16"]


class _Counts(_Shape):
    rows: Count
    rows_failed: Count
    elements_compared: Count
    strata: Count
    strata_failed: Count
    skipped: Count


class _Meaning(_Shape):
    kind: str


class _Failure(_Place):
    kind: str
    first_bad: str
    reason: str
    rerun: str
    detail: str
    replay: str
    cases: Count
    cases_failed: Count
    worst_ratio: Number
    attribution: list[str]
    meaning: _Meaning | None


class _Skip(_Place):
    reason: str
    cases: Count | None


class _Fidelity(_Shape):
    component: str
    profile: str
    rel_l2: Number


class _Stratum(_Place):
    length_class: str
    family: str


class _Assessment(_Shape):
    stratum: _Stratum
    cases: Count
    mean: Number
    bound: Number
    margin: Number
    passed: bool
    skipped: str
    reason: str


class _Summary(_Shape):
    verdict: Literal["pass", "fail", "nothing compared"]
    budget: str
    seed: int
    fingerprint: str = ""
    code: str = ""
    own: dict[str, str] = {}
    command: list[str] = []
    findings: list[str] = []
    environment: dict[str, str | int | float | bool | None] = {}
    spelling: dict[str, dict[str, str]] = {}
    counts: _Counts
    failures: list[_Failure]
    skips: list[_Skip]
    fidelity: list[_Fidelity]
    accuracy: list[_Assessment] = []
    unpaired: dict[str, dict[str, str]] | None = None


class _Histogram(_Judged):
    tensor: str
    port: list[Count]
    reference: list[Count]


class _Series(_Judged):
    tensor: str
    case: list[Count]
    port: list[Number]
    reference: list[Number]
    predicted: list[Number]


class _Call(_Shape):
    module: str
    kind: str
    verdict: str
    signature: str
    depth: Count
    own: Number | None
    ratio: Number | None
    inherited: Number | None
    gain: Number | None
    total: Number | None


class _Blame(_Place):
    sentence: str
    rows: list[_Call]


class _Bits(_Shape):
    framework: str
    operation: str
    dtype: str
    bits: Annotated[float, Field(allow_inf_nan=False)] | None
    suspicious: bool


class _Details(_Shape):
    ulp_edges: list[int | float]
    histograms: list[_Histogram]
    series: list[_Series]
    cases: list[str]
    blame: list[_Blame]
    bits: list[_Bits]
    sources: dict[str, str]


def require_summary(document: Mapping[str, Any], what: str) -> None:
    """Raise unless the summary has every member that a page reads, in its shape.

    Raises:
        ReportError: One is missing or of another shape.
    """
    _require(_Summary, document, what)


def require_details(document: Mapping[str, Any], what: str) -> None:
    """Raise unless the details have every member that a page draws, in its shape, and name cases that they have.

    Raises:
        ReportError: As said.
    """
    _require(_Details, document, what)
    if not all(_is_object(case) for case in document["cases"]):
        raise ReportError(f"{what}: cases has one that is no JSON object; run it again")
    bins = len(document["ulp_edges"]) + 1
    for each in document["histograms"]:
        if {len(each["port"]), len(each["reference"])} - {0, bins}:
            raise ReportError(f"{what}: histograms has one without {bins} counts; run it again")
    for each in document["series"]:
        sizes = {len(each[name]) for name in ("case", "port", "reference", "predicted")}
        if len(sizes) != 1 or max(each["case"], default=-1) >= len(document["cases"]):
            raise ReportError(f"{what}: series has one whose cases and errors do not match; run it again")


def require_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], what: str) -> None:
    """Raise unless the table has every column that a page draws, and its tensors rungs that there are.

    Raises:
        ReportError: As said.
    """
    missing = [name for name in (*CODED, *NUMBERS) if name not in columns]
    if missing:
        raise ReportError(f"{what} lacks {', '.join(missing)}; run it again")
    strange = next((row["rung"] for row in rows if row["verdict"] != "skip" and row["rung"] not in RUNGS), None)
    if strange is not None:
        raise ReportError(f"{what} has the rung {strange!r}; allowed: {', '.join(RUNGS)}; run it again")


def _require(shape: type[_Shape], document: Mapping[str, Any], what: str) -> None:
    try:
        shape.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ReportError(f"{what}: {place}: {first['msg']}; run it again") from None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
