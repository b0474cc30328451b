"""Two runs, or two parts of one: what changed beyond noise.

A *stratum* is a component, profile and rung; of each the errors of the port's main output are compared, case by case
where both sides have the same cases (equal seeds and structures give equal inputs), else as two samples.

* Paired: d = log2(e_B / e_A) of every case that both have. Each error is in units of its rung's u, and no smaller than
  `ROUNDED`: an exact case counts as that, not as infinitely good, and between rungs d is the *excess* over what the
  format alone costs. Student's t-test of the mean of d, its spread no smaller than `SMALLEST_SPREAD`; a rank test of a
  dozen cases could never be significant after the correction for a hundred strata, however large the change.
* Unpaired: Welch's t-test of log2(e / predicted error), both no smaller than `ROUNDED`: the prediction takes out how
  hard a case is.

Holm's method holds the family-wise error over all strata of all contrasts at `LEVEL`. Two deterministic runs of one
code with one seed are equal in every bit, hence no change; with other seeds, a row appears in at most one of 100
comparisons.

Source: Student, Biometrika 6 (1908) 1; Welch, Biometrika 34 (1947) 28; Holm, Scand. J. Stat. 6 (1979) 65.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from parity.errors import ReportError
from parity.pages.run_files import Run
from parity.spec.precision import RUNGS, rung_called

LEVEL: Final = 0.01
"""Probability that a comparison without any change shows one."""

FEWEST: Final = 6
"""Cases below which a stratum is not tested, as many as the first look of the accuracy test has."""

LARGEST: Final = 64.0
"""Bits that an infinite error counts for; with `ROUNDED`, an error as large as the truth counts 55 at f64. Where a case
counts this much, the interval is open to that side: a cap is no measurement."""

SMALLEST_SPREAD: Final = 1e-3
"""Standard deviation of d in bits below which it is taken to be this: six equal changes prove no certainty."""

ROUNDED: Final = 0.25
"""Units of u below which an error counts as this: rounding one random number costs 0.4 u on average, and a case that
happens to be exact, as products of inputs of few digits are, says no more than that it rounds well."""

MOVED: Final = 25
"""Layers that are listed as having moved most."""

By = Literal["profile", "rung"]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One side of a contrast: a run, or the part of it that has one profile or rung."""

    run: Run
    label: str
    by: By | None = None
    value: str = ""

    def place(self, profile: str, rung: str) -> tuple[str, str]:
        """Return profile and rung with that which is varied taken out, so that both sides have the same key."""
        return ("" if self.by == "profile" else profile, "" if self.by == "rung" else rung)

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a row or series is part of this side."""
        return self.by is None or row[self.by] == self.value


@dataclass(frozen=True)
class Change:
    """One stratum of one contrast.

    Args:
        contrast: Labels of both sides.
        component, profile, rung: The stratum; what is varied is spelt A -> B.
        cases: Cases compared; of two samples, the smaller one's.
        paired: Whether case by case.
        bits: Mean change in bits; positive where B errs more.
        low, high: Its 95 % confidence interval.
        error_a, error_b: Median errors, rel L2.
        p: Of no change; 1 where it was not tested.
        adjusted: By Holm's method.
        same: Whether every case that both sides have has the same error on both.
        tested: Whether there were enough cases.
    """

    contrast: str
    component: str
    profile: str
    rung: str
    cases: int
    paired: bool
    bits: float
    low: float
    high: float
    error_a: float
    error_b: float
    p: float
    same: bool
    tested: bool
    adjusted: float = 1.0

    @property
    def significant(self) -> bool:
        """Whether it is beyond noise."""
        return self.tested and self.adjusted < LEVEL


@dataclass(frozen=True)
class Difference:
    """Something that is not an error: what A says, what B says."""

    what: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found.

    Args:
        title: What was compared.
        sides: Labels, verdicts and fingerprints of both sides, one line each.
        code: Whether both sides ran the same code, in one sentence; empty within one run.
        changes: All strata, the most significant first, then by size.
        differences: Verdicts, code, what was asked for, environment, fidelity.
        verdicts: Layers whose verdict is another.
        only: Strata that one side alone has, with the reason where it is known.
        moved: Layers whose worst error moved most; not tested.
        command: How to make it again.
    """

    title: str
    sides: tuple[str, ...]
    code: str
    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[Difference, ...]
    only: tuple[str, ...]
    moved: tuple[tuple[str, float, float, float], ...]
    command: str = ""

    @property
    def significant(self) -> list[Change]:
        """What changed beyond noise."""
        return [change for change in self.changes if change.significant]

    @property
    def same(self) -> list[Change]:
        """What has the same error in every case: there is no change that could be tested."""
        return [change for change in self.changes if change.same]

    @property
    def tested(self) -> list[Change]:
        """What was tested and is not the same."""
        return [change for change in self.changes if change.tested and not change.same]

    @property
    def untested(self) -> list[Change]:
        """What has too few cases."""
        return [change for change in self.changes if not (change.tested or change.same)]


def sides_of(runs: Sequence[Run], by: By | None, base: str = "", rungs: Sequence[str] = ()) -> list[tuple[Side, Side]]:
    """Return the contrasts that a command asks for.

    Args:
        runs: Two runs, or one whose profiles or rungs are compared.
        by: What is varied within one run.
        base: The profile or rung that the others are compared with; the first one if empty.
        rungs: The rungs that are compared; all if empty.

    Raises:
        ReportError: The runs and `by` do not fit, or there is nothing to compare with.
    """
    if len(runs) == 2 and by is None:
        return [_across(*runs)]
    if len(runs) != 1 or by is None:
        raise ReportError("compare takes two runs, or one run and --by profile or --by rung")
    (run,) = runs
    known = list(dict.fromkeys(str(row[by]) for row in run.judged if not rungs or row["rung"] in rungs))
    base = base or next(iter(known), "")
    if base not in known:
        raise ReportError(f"the run has no {by} {base!r}; allowed: {', '.join(known) or 'none, it compared nothing'}")
    others = [value for value in known if value != base]
    if not others:
        raise ReportError(f"the run has one {by} alone, {base!r}: there is nothing to compare it with")
    return [(Side(run, base, by, base), Side(run, other, by, other)) for other in others]


def _across(one: Run, other: Run) -> tuple[Side, Side]:
    """Two whole runs; where each has a single profile, or rung, and not the same, these stand against each other."""
    names = (one.name or "A", other.name or "B")
    for by in ("profile", "rung"):
        found = [sorted({str(row[by]) for row in run.judged}) for run in (one, other)]
        if found[0] != found[1] and all(len(values) == 1 for values in found):
            varied: By = "profile" if by == "profile" else "rung"
            return Side(one, names[0], varied, found[0][0]), Side(other, names[1], varied, found[1][0])
    return Side(one, names[0]), Side(other, names[1])


def compare(contrasts: Sequence[tuple[Side, Side]], rungs: Sequence[str] = (), command: str = "") -> Comparison:
    """Compare the sides of every contrast.

    Args:
        contrasts: From `sides_of`.
        rungs: The rungs that are compared; all if empty.
        command: What made the comparison.
    """
    changes: list[Change] = []
    only: list[str] = []
    for a, b in contrasts:
        first, second = (_strata(side, rungs) for side in (a, b))
        changes += [_change(a, b, first[key], second[key]) for key in first if key in second]
        only += [*_alone(a, b, first.keys() - second.keys()), *_alone(b, a, second.keys() - first.keys())]
    only += _skipped({id(side.run): side.run for pair in contrasts for side in pair}.values())
    sides = {side.label: side for pair in contrasts for side in pair}
    return Comparison(
        title=_title(contrasts),
        sides=tuple(_described(side) for side in sides.values()),
        code=_code(*contrasts[0]),
        changes=tuple(sorted(_holm(changes), key=lambda change: (change.adjusted, change.p, -abs(change.bits)))),
        differences=tuple(difference for pair in contrasts for difference in _differences(*pair)),
        verdicts=tuple(difference for pair in contrasts for difference in _verdicts(*pair, rungs)),
        only=tuple(dict.fromkeys(only)),
        moved=_moved(contrasts, rungs),
        command=command,
    )


Key = tuple[str, str, str]


def _strata(side: Side, rungs: Sequence[str]) -> dict[Key, Mapping[str, Any]]:
    """Return the series of the main outputs: of a component's outputs the last is the main one."""
    found: dict[Key, Mapping[str, Any]] = {}
    for series in side.run.details["series"]:
        if side.has(series) and (not rungs or series["rung"] in rungs):
            found[series["component"], *side.place(series["profile"], series["rung"])] = series
    return found


def _change(a: Side, b: Side, first: Mapping[str, Any], second: Mapping[str, Any]) -> Change:
    one, other = _cases(a, first), _cases(b, second)
    both = [case for case in one if case in other]
    fewest = min(len(one), len(other))
    paired = len(both) >= max(FEWEST, fewest / 2) or 0 < len(both) == fewest
    if paired:
        found = _paired(*(np.array([side[case][0] for case in both]) for side in (one, other)))
    else:
        found = _unpaired(*(np.array(list(side.values())).reshape(-1, 2) for side in (one, other)))
    u = [rung_called(series["rung"]).u for series in (first, second)]
    errors = [[error * unit for error, _ in side.values()] for side, unit in zip((one, other), u, strict=True)]
    return Change(
        contrast=f"{a.label} → {b.label}",
        component=first["component"],
        profile=_arrow(first["profile"], second["profile"]),
        rung=_arrow(first["rung"], second["rung"]),
        cases=len(both) if paired else fewest,
        paired=paired,
        error_a=float(np.median(errors[0])) if errors[0] else math.nan,
        error_b=float(np.median(errors[1])) if errors[1] else math.nan,
        **found,
    )


def _arrow(one: str, other: str) -> str:
    return one if one == other else f"{one} → {other}"


def _cases(side: Side, series: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return error and predicted error by case, in units of u."""
    texts, u = side.run.details["cases"], rung_called(series["rung"]).u
    values = zip(series["case"], series["port"], series["predicted"], strict=True)
    return {texts[place]: (float(error) / u, float(predicted) / u) for place, error, predicted in values}


def _paired(one: Numbers, other: Numbers) -> dict[str, Any]:
    """Student's t-test of d, of errors of the same cases in units of u."""
    d = _log_ratio(other, one)
    same = bool((one == other).all())
    if d.size < FEWEST:
        around = 0.0 if same else math.inf
        return _found(float(d.mean()), around, 1.0, same=same, tested=False)
    error = max(float(d.std(ddof=1)), SMALLEST_SPREAD) / math.sqrt(d.size)
    return _tested(d, float(d.mean()), error, d.size - 1, same)


def _unpaired(one: Numbers, other: Numbers) -> dict[str, Any]:
    """Welch's t-test of log2(error / predicted error), of (cases, 2) of both, in units of u."""
    first, second = (_log_ratio(side[:, 0], side[:, 1]) for side in (one, other))
    if min(first.size, second.size) < FEWEST:
        change = float(second.mean() - first.mean()) if first.size and second.size else math.nan
        return _found(change, math.inf, 1.0, same=False, tested=False)
    shares = [max(float(side.std(ddof=1)), SMALLEST_SPREAD) ** 2 / side.size for side in (first, second)]
    error = math.sqrt(sum(shares))
    freedom = sum(shares) ** 2 / sum(
        share**2 / (side.size - 1) for share, side in zip(shares, (first, second), strict=True)
    )
    return _tested(np.concatenate([-first, second]), float(second.mean() - first.mean()), error, freedom, same=False)


def _tested(values: Numbers, mean: float, error: float, freedom: float, same: bool) -> dict[str, Any]:
    """Return the t-test of a mean with this standard error; open to the side on which a value is at the cap."""
    half = 0.0 if same else float(stats.t.ppf(0.975, freedom)) * error
    found = _found(mean, half, float(2 * stats.t.sf(abs(mean) / error, freedom)), same=same, tested=True)
    if (values >= LARGEST).any():
        found["high"] = math.inf
    if (values <= -LARGEST).any():
        found["low"] = -math.inf
    return found


def _found(mean: float, half: float, p: float, *, same: bool, tested: bool) -> dict[str, Any]:
    return {"bits": mean, "low": mean - half, "high": mean + half, "p": p, "same": same, "tested": tested}


def _log_ratio(above: Numbers, below: Numbers) -> Numbers:
    """log2(above / below), both at least `ROUNDED` and infinity a finite size: 0 where both are infinite."""
    bits = [np.log2(np.clip(np.nan_to_num(side, nan=np.inf, posinf=np.inf), ROUNDED, None)) for side in (above, below)]
    with np.errstate(invalid="ignore"):
        ratio = bits[0] - bits[1]
    return np.clip(np.where(np.isnan(ratio), 0.0, ratio), -LARGEST, LARGEST)


def _holm(changes: Sequence[Change]) -> Iterator[Change]:
    """Yield the changes with p adjusted over those that were tested: p_(i) (m - i), made monotonous."""
    tested = sorted((change for change in changes if change.tested), key=lambda change: change.p)
    largest = 0.0
    for place, change in enumerate(tested):
        largest = max(largest, min(1.0, change.p * (len(tested) - place)))
        yield replace(change, adjusted=largest)
    yield from (change for change in changes if not change.tested)


# --- what is not tested -----------------------------------------------------------------------------------


def _title(contrasts: Sequence[tuple[Side, Side]]) -> str:
    by = contrasts[0][0].by
    if contrasts[0][0].run is contrasts[0][1].run:
        others = ", ".join(b.label for _, b in contrasts)
        return f"{'Profiles' if by == 'profile' else 'Rungs'}: {contrasts[0][0].label} against {others}"
    return f"{contrasts[0][0].label} against {contrasts[0][1].label}"


def _described(side: Side) -> str:
    summary = side.run.summary
    what = f", {side.by} {side.value}" if side.by and side.label != side.value else ""
    told = ", ".join(f"{name} {summary.get(name, '-')}" for name in ("budget", "seed", "code", "fingerprint"))
    return f"{side.label}{what}: {summary['verdict']}, {summary['counts']['rows']} tensors, {told}"


def _alone(side: Side, other: Side, keys: Any) -> list[str]:
    return [f"{' '.join(filter(None, key))}: {side.label} has it, {other.label} has not" for key in sorted(keys)]


def _skipped(runs: Any) -> list[str]:
    """What a run left out whole, a line for each profile, or component, and reason."""
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        for skip in run.summary["skips"]:
            if skip["cases"] is None:
                key = (skip["profile"], skip["reason"])
                found[key] = found.get(key, 0) + 1
    return [f"{profile}: {count} combinations not run: {reason}" for (profile, reason), count in found.items()]


def _code(a: Side, b: Side) -> str:
    """Say whether both sides ran the same code: that of the project, and that beside pairs of one's own."""
    if a.run is b.run:
        return ""
    known = [(side.run.summary.get("code"), side.run.summary.get("own", {})) for side in (a, b)]
    if None in (known[0][0], known[1][0]):
        return "a run does not say which code it ran"
    if known[0] == known[1]:
        return f"both ran the same code, {known[0][0]}"
    if known[0][0] == known[1][0]:
        return f"the code beside pairs of one's own differs; the rest is the same, {known[0][0]}"
    return f"the code differs: {known[0][0]} → {known[1][0]}"


def _differences(a: Side, b: Side) -> Iterator[Difference]:
    one, other = a.run.summary, b.run.summary
    if a.run is not b.run:
        yield from _unequal("verdict", one["verdict"], other["verdict"])
        for name in ("code", "budget", "seed"):
            yield from _unequal(name, one.get(name), other.get(name))
        yield from _each_unequal("code beside ", one.get("own", {}), other.get("own", {}))
        yield from _unequal("command", _asked(a.run), _asked(b.run))
        yield from _unequal("components on one side alone", _only(a, b), _only(b, a))
        yield from _unequal("fingerprint", one.get("fingerprint"), other.get("fingerprint"))
        yield from _each_unequal("", one.get("environment", {}), other.get("environment", {}))
    first, second = (_fidelity(side) for side in (a, b))
    for key in sorted(first.keys() & second.keys()):
        yield from _unequal(
            f"fidelity of {' '.join(filter(None, key))}", *(f"{side[key]:.3g}" for side in (first, second))
        )


def _each_unequal(what: str, one: Mapping[str, object], other: Mapping[str, object]) -> Iterator[Difference]:
    for key in sorted(one.keys() | other.keys()):
        yield from _unequal(f"{what}{key}", one.get(key), other.get(key))


def _asked(run: Run) -> str:
    """Return the run's command without its folder, which makes no difference to what was computed."""
    words = iter(run.summary.get("command", []))
    kept = []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(["parity", *kept])


def _only(side: Side, other: Side) -> str | None:
    theirs = {row["component"] for row in other.run.judged}
    return (
        ", ".join(dict.fromkeys(row["component"] for row in side.run.judged if row["component"] not in theirs)) or None
    )


def _unequal(what: str, one: object, other: object) -> Iterator[Difference]:
    if one != other:
        yield Difference(what, "-" if one is None else str(one), "-" if other is None else str(other))


def _fidelity(side: Side) -> dict[tuple[str, str], float]:
    found = [each for each in side.run.summary["fidelity"] if side.by != "profile" or each["profile"] == side.value]
    return {
        (each["component"], "" if side.by == "profile" else each["profile"]): float(each["rel_l2"]) for each in found
    }


def _layers(side: Side, rungs: Sequence[str]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    chosen = [row for row in side.run.judged if side.has(row) and (not rungs or row["rung"] in rungs)]
    return {(row["component"], *side.place(row["profile"], row["rung"]), row["tensor"]): row for row in chosen}


def _verdicts(a: Side, b: Side, rungs: Sequence[str]) -> Iterator[Difference]:
    first, second = _layers(a, rungs), _layers(b, rungs)
    for key in first:
        if key in second and first[key]["verdict"] != second[key]["verdict"]:
            name = f"{' '.join(filter(None, key))} ({a.label} → {b.label})"
            yield Difference(name, first[key]["verdict"], second[key]["verdict"])


def _moved(contrasts: Sequence[tuple[Side, Side]], rungs: Sequence[str]) -> tuple[tuple[str, float, float, float], ...]:
    """Return (layer, bits, error of A, error of B) of those whose error in the same worst case moved most."""
    found: list[tuple[str, float, float, float]] = []
    for a, b in contrasts:
        first, second = _layers(a, rungs), _layers(b, rungs)
        for key in first.keys() & second.keys():
            one, other = first[key], second[key]
            errors = [row["port_rel_l2"] for row in (one, other)]
            if one["worst_case"] == other["worst_case"] and None not in errors:
                scaled = [np.array([row["port_rel_l2"] / RUNGS[row["rung"]].u]) for row in (one, other)]
                name = f"{' '.join(filter(None, key))} ({a.label} → {b.label})"
                found.append((name, float(_log_ratio(scaled[1], scaled[0])[0]), *errors))
    found.sort(key=lambda entry: (-abs(entry[1]), entry[0]))
    return tuple(entry for entry in found[:MOVED] if entry[1])
