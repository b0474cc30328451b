"""The baseline: what runs of this code were accepted as being, by environment and budget. `reports/baseline.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from parity.accuracy import Stratum
from parity.errors import GateError, NothingToJudgeError
from parity.files import write_whole
from parity.gate.drift import Accepted, Group, GroupBaseline, Sample, StratumBaseline, pool
from parity.gate.records import Record, read_model, read_object, require_schema, reviewable_json
from parity.gate.runs import Run
from parity.spec.precision import RungName

BASELINE_SCHEMA: Final = 2
REMEDY: Final = "`parity baseline accept RUN --reason ...` writes one"
DIGITS: Final = 4
"""Digits after the point of what is kept, in bits: 0.0001 bits are 0.007 % of an error."""
ABOUT: Final = ("system", "machine", "cpu_model", "mlx_device", "versions.mlx", "versions.torch", "versions.numpy")
PLATFORM: Final = ("system", "machine", "mlx_device")
"""What an unknown environment must have in common with its fallback: elsewhere MLX computes with other kernels."""

Figures = tuple[int, int, float, float, float, float]
"""Cases, fewest cases of a run, mean and spread of r, mean and spread of the port's own error in bits of u."""


class RungRecord(Record):
    """A component under one profile at one rung.

    `tensors` are hashes of the port's tensors in order of execution, in the run with the first seed, `others` of each
    other seed the hashes of its cases and of all tensors together; `group` the
    spread of the mean r from run to run and its degrees of freedom, None where every stratum is exact; `port` the same
    of the port's own error.
    """

    cases: str
    tensors: tuple[str, ...]
    others: Mapping[str, tuple[str, str]] = Field(default_factory=dict)
    group: tuple[float, int] | None = None
    port: tuple[float, int] | None = None
    strata: Mapping[str, Mapping[str, Figures]] = Field(default_factory=dict)


class EnvironmentRecord(Record):
    """The accepted runs of one environment and budget; `fallback` says that unknown environments are judged by it."""

    about: Mapping[str, str]
    code: str
    seeds: tuple[int, ...] = Field(min_length=1)
    fallback: bool
    components: Mapping[str, Mapping[str, Mapping[RungName, RungRecord]]]

    @property
    def groups(self) -> dict[Group, RungRecord]:
        """Every component, profile and rung."""
        return {
            (component, profile, rung): record
            for component, profiles in self.components.items()
            for profile, rungs in profiles.items()
            for rung, record in rungs.items()
        }

    def accepted(self, port: bool = False) -> Accepted:
        """Return the figures as the tests of drift take them: of r, or of the port's own error."""
        strata, groups = [], []
        for (component, profile, rung), record in self.groups.items():
            for length_class, families in record.strata.items():
                for family, (cases, fewest, mean, spread, port_mean, port_spread) in families.items():
                    stratum = Stratum(component, profile, rung, length_class, family)  # type: ignore[arg-type]
                    moments = (port_mean, port_spread) if port else (mean, spread)
                    strata.append(StratumBaseline(stratum, cases, fewest, *moments))
            group = record.port if port else record.group
            if group is not None:
                groups.append(GroupBaseline((component, profile, rung), *group))
        return Accepted(len(self.seeds), strata, groups)

    @property
    def content(self) -> str:
        """Return 16 hexadecimal digits over all that is accepted: the ledger names what it accepts by them."""
        return hashlib.sha256(reviewable_json(self.model_dump(mode="json")).encode()).hexdigest()[:16]


class Baseline(Record):
    """All environments, by `fingerprint/budget`."""

    kind: Literal["parity baseline"] = "parity baseline"
    schema_version: int = Field(BASELINE_SCHEMA, alias="schema")
    environments: Mapping[str, EnvironmentRecord] = Field(default_factory=dict)

    def fallback(self, budget: str, environment: Mapping[str, str]) -> tuple[str, EnvironmentRecord] | None:
        """Return the environment by which an unknown one of the same platform is judged, None if none is named."""
        return next(
            (
                (key, record)
                for key, record in self.environments.items()
                if record.fallback and key.endswith(f"/{budget}") and _platform(record.about) == _platform(environment)
            ),
            None,
        )


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        GateError: It does not exist, is unreadable, of another kind or schema, or damaged.
        NothingToJudgeError: It holds no environment.
    """
    data = read_object(path, "baseline", REMEDY)
    if data.get("kind") != "parity baseline":
        raise GateError(f"{str(path)!r} is no baseline: its kind is {data.get('kind')!r}; {REMEDY}")
    require_schema(data, BASELINE_SCHEMA, "baseline", path, REMEDY)
    baseline = read_model(Baseline, data, "baseline", path, REMEDY)
    if not baseline.environments:
        raise NothingToJudgeError(f"baseline {str(path)!r} is empty: it holds no environment; {REMEDY}")
    return baseline


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline.

    Raises:
        OutputError: It cannot be written.
    """
    document = baseline.model_dump(mode="json", by_alias=True)
    write_whole(path, reviewable_json(document), "choose another with --baseline", make_folder=True)


def with_environment(baseline: Baseline, key: str, record: EnvironmentRecord) -> Baseline:
    """Return the baseline with one environment more or instead.

    There is one fallback for each budget and platform at most.
    """
    budget, platform = key.rpartition("/")[2], _platform(record.about)
    others = {
        name: other.model_copy(update={"fallback": False})
        if record.fallback and name.rpartition("/")[2] == budget and _platform(other.about) == platform
        else other
        for name, other in baseline.environments.items()
        if name != key
    }
    return Baseline(schema=BASELINE_SCHEMA, environments={**others, key: record})


def _platform(about: Mapping[str, str]) -> list[str | None]:
    return [about.get(name) for name in PLATFORM]


def record_of(runs: Sequence[Run], fallback: bool) -> EnvironmentRecord:
    """Return what these runs of one environment are accepted as.

    Raises:
        GateError: A run failed, or they are not runs of the same code, environment, budget and components.
    """
    first = runs[0]
    for run in runs:
        if run.verdict != "pass":
            words = next(iter(run.failures), "nothing was compared")
            raise GateError(
                f"run {str(run.folder)!r} did not pass, and no baseline can loosen an absolute allowance: {words}"
            )
        lacking = next((group for group in run.groups if group not in run.digests), None)
        if lacking is not None:
            raise GateError(f"run {str(run.folder)!r} has no hash of {' '.join(lacking)}: run it again")
        for what in ("fingerprint", "budget", "code", "own", "groups"):
            if getattr(run, what) != getattr(first, what):
                raise GateError(
                    f"runs {str(first.folder)!r} and {str(run.folder)!r} differ in their {what}: what is accepted "
                    "together has all in common but the seed"
                )
    if len({run.seed for run in runs}) < len(runs):
        raise GateError(f"two of the runs have the same seed: {', '.join(str(run.seed) for run in runs)}")
    accepted, port = (_rounded(pool(samples)) for samples in _samples(runs))
    return EnvironmentRecord(
        about={name: first.environment[name] for name in ABOUT if name in first.environment},
        code=first.code,
        seeds=tuple(run.seed for run in runs),
        fallback=fallback,
        components=_components(runs, accepted, port),
    )


def require_no_smaller(key: str, known: EnvironmentRecord, record: EnvironmentRecord) -> None:
    """Refuse to accept less than was accepted.

    Raises:
        GateError: The record holds fewer runs, or lacks a component, profile or rung.
    """
    lost = [group for group in known.groups if group not in record.groups]
    fewer = len(record.seeds) < len(known.seeds)
    if lost or fewer:
        what = f"{len(lost)} groups would be lost, the first is {' '.join(lost[0])}" if lost else ""
        runs = f"{len(record.seeds)} runs would take the place of {len(known.seeds)}" if fewer else ""
        raise GateError(f"baseline {key}: {'; '.join(filter(None, (what, runs)))}; --smaller accepts that")


def _samples(runs: Sequence[Run]) -> tuple[list[Sample], list[Sample]]:
    """Return r, and the port's own error, of every run."""
    return [run.sample for run in runs], [run.port_sample for run in runs]


def _rounded(accepted: Accepted) -> Accepted:
    strata = [replace(s, mean=round(s.mean, DIGITS) + 0.0, spread=round(s.spread, DIGITS)) for s in accepted.strata]
    groups = [replace(group, spread=round(group.spread, DIGITS + 1)) for group in accepted.groups]
    return replace(accepted, strata=strata, groups=groups)


def _components(
    runs: Sequence[Run], accepted: Accepted, port: Accepted
) -> dict[str, dict[str, dict[RungName, RungRecord]]]:
    run, *others = runs
    found: dict[str, dict[str, dict[RungName, RungRecord]]] = {}
    groups, port_groups = (
        {group.group: (group.spread, group.degrees) for group in each.groups} for each in (accepted, port)
    )
    for group in run.groups:
        component, profile, rung = group
        strata: dict[str, dict[str, Figures]] = {}
        for each, own in zip(accepted.strata, port.strata, strict=True):
            if each.group == group:
                figures = (each.cases, each.fewest, each.mean, each.spread, own.mean, own.spread)
                strata.setdefault(each.stratum.length_class, {})[each.stratum.family] = figures
        digest = run.digests[group]
        found.setdefault(component, {}).setdefault(profile, {})[rung] = RungRecord(  # type: ignore[index]
            cases=digest.cases,
            tensors=tuple(digest.tensors.values()),
            others={str(o.seed): (o.digests[group].cases, o.digests[group].joint) for o in others},
            group=groups.get(group),
            port=port_groups.get(group),
            strata=strata,
        )
    return found
