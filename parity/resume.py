"""What a run has finished, kept in a journal beside its report, so that a killed run goes on where it was.

Parts are the cases of a component, the search for a near case, the steps over all cases (gradients, failures, special
values), and the strata of a length class. A part is taken from the journal as it was, or computed anew; never half of
it. So a resumed run gives the same bytes.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from parity.accuracy import Assessment
from parity.cases import Case
from parity.errors import ConfigError, OutputError, ResumeError
from parity.files import JOURNAL
from parity.journal import Journal, JournalKind, header_of, hold_journal, open_journal
from parity.results import Digest, Failure, Measurement, Row, Skip

FORMAT: Final = 1
GOES_ON: Final = "what is finished is kept: make room, and --resume goes on with it"
Checked = TypeVar("Checked")
Part = tuple[str, str, Any]
"""Component, name of the part, and what it found, as JSON knows it."""

_ASSESSMENTS: Final = TypeAdapter(list[Assessment])
_MEASUREMENTS: Final = TypeAdapter(list[Measurement])
MEASURED: Final = "measurements"
"""Field of a row that every case lengthens: a part has what its own case appended."""
_TEXTS: Final = frozenset(
    {"component", "profile", "rung", "tensor", "kind", "verdict", "reason", "max_abs_index", "worst_case", "rerun"}
)
"""Fields of a row that hold text: a text in any other is an infinite number."""


class Progress(Protocol):
    """Finished parts of a run."""

    def found(self, component: str, name: str) -> Any:
        """Return what a finished part found, None if it is not finished."""

    def keep(self, component: str, name: str, data: Any) -> None:
        """Keep a finished part."""

    def remaining(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that says of an OutputError that everything is kept, if it is."""

    def discard(self) -> None:
        """Forget everything: the report is written."""


class NoProgress:
    """Keeps nothing."""

    def found(self, component: str, name: str) -> Any:  # noqa: ARG002
        """Return None: nothing was kept."""
        return None

    def keep(self, component: str, name: str, data: Any) -> None:
        """Do nothing."""

    def remaining(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing: nothing is kept."""
        return contextlib.nullcontext()

    def discard(self) -> None:
        """Do nothing."""


class KeptProgress:
    """Keeps every part in a journal."""

    def __init__(self, journal: Journal[Part]) -> None:
        self.journal = journal
        self.parts = {(component, name): data for component, name, data in journal.parts}

    def found(self, component: str, name: str) -> Any:
        """Return what a finished part found, None if it is not finished."""
        return self.parts.get((component, name))

    def keep(self, component: str, name: str, data: Any) -> None:
        """Append a finished part to the journal."""
        self.journal.append((component, name, data))

    @contextlib.contextmanager
    def remaining(self) -> Iterator[None]:
        """Say of an OutputError that everything is kept.

        Raises:
            OutputError: That one, and what goes on with the run.
        """
        try:
            yield
        except OutputError as error:
            raise OutputError(f"{error}; {GOES_ON}") from None

    def discard(self) -> None:
        """Remove the journal."""
        self.journal.path.unlink(missing_ok=True)


@contextlib.contextmanager
def progress_of(folder: Path | None, header: Mapping[str, Any] | None, resume: bool) -> Iterator[Progress]:
    """Open the journal in `folder`; without `resume` it begins anew.

    Without a header nothing is kept, and a journal that another run left is only held, so that none goes on meanwhile.

    Raises:
        ResumeError: The journal is that of another run, damaged, or in use.
        OutputError: It cannot be read or written.
    """
    if folder is None:
        yield NoProgress()
        return
    kind: JournalKind[Part] = JournalKind(
        name="journal",
        command="parity run",
        work="run",
        remedy="run without --resume to begin anew",
        error=ResumeError,
        write=list,
        read=_part,
        goes_on=GOES_ON,
    )
    if header is None:
        with hold_journal(kind, folder / JOURNAL):
            yield NoProgress()
        return
    with open_journal(kind, folder / JOURNAL, {"log": "parity run", "format": FORMAT, **header}, not resume) as journal:
        yield KeptProgress(journal)


def seed_to_resume(folder: Path) -> int | None:
    """Return the seed of the unfinished run in `folder`, None if there is none."""
    header = header_of(folder / JOURNAL) or {}
    seed = header.get("seed")
    return seed if type(seed) is int else None


def require_resumable(folder: Path | None) -> Path:
    """Return `folder`.

    Raises:
        ConfigError: There is none: single cases leave no journal.
    """
    if folder is None:
        raise ConfigError("--resume goes on with a run into a folder; --case runs one case, which is quicker run again")
    return folder


def _part(data: Any) -> Part:
    component, name, found = data
    return str(component), str(name), found


class Gathering(Protocol):
    """What the cases of a component leave behind; `asked` are all its cases in the order in which they ran."""

    rows: dict[tuple[str, str, str], Row]
    failing: Any
    worst: Any
    counts: Any
    case_skips: Any
    distances: dict[str, float]
    unpaired: dict[str, str]
    digests: Any

    @property
    def component(self) -> str:
        """Name of the component."""

    @property
    def asked(self) -> Sequence[Case]:
        """The cases."""


Rows = dict[tuple[str, str, str], dict[str, Any]]


def snapshot(run: Gathering) -> Rows:
    """Return the fields of every row as they are now; of its measurements, which cases append, how many there are."""
    return {key: {**vars(row), MEASURED: len(row.measurements)} for key, row in run.rows.items()}


def changes(run: Gathering, before: Rows) -> dict[str, Any]:
    """Return what a case added: the fields of rows that changed since `before`, and all else, which is small."""
    rows = []
    for key, row in run.rows.items():
        old = before.get(key, {})
        now = {**vars(row), MEASURED: [asdict(each) for each in row.measurements[old.get(MEASURED, 0) :]]}
        rows.append([*key, {name: value for name, value in now.items() if name not in old or old[name] != value}])
    number = {case: index for index, case in enumerate(run.asked)}
    return {
        "rows": rows,
        "failing": [[*place, [number[case] for case in cases]] for place, cases in run.failing.items()],
        "worst": [[*place, ratio, number[case]] for place, (ratio, case) in run.worst.items()],
        "counts": [[*place, count] for place, count in run.counts.items()],
        "case_skips": [[*place, count] for place, count in run.case_skips.items()],
        "distances": run.distances,
        "unpaired": run.unpaired,
        "digests": [[*place, digest.cases, digest.tensors] for place, digest in run.digests.items()],
    }


def restore(run: Gathering, data: Mapping[str, Any]) -> None:
    """Bring `run` to where it was when `changes` returned `data`."""
    for profile, rung, tensor, fields in data["rows"]:
        key = (profile, rung, tensor)
        row = run.rows.setdefault(key, Row(run.component, profile, rung, tensor, "output", 0))
        for name, value in fields.items():
            if name == MEASURED:
                measured: list[Measurement] = _checked(_MEASUREMENTS, value)
                row.measurements += measured
            else:
                setattr(row, name, float(value) if isinstance(value, str) and name not in _TEXTS else value)
    asked = run.asked
    run.failing.update({(p, r): [asked[number] for number in numbers] for p, r, numbers in data["failing"]})
    run.worst.update({(p, r): (float(ratio), asked[number]) for p, r, ratio, number in data["worst"]})
    run.counts.update({(p, r): count for p, r, count in data["counts"]})
    run.case_skips.update({(p, r, reason): count for p, r, reason, count in data["case_skips"]})
    run.distances.update({profile: float(distance) for profile, distance in data["distances"].items()})
    run.unpaired.update(data["unpaired"])
    for profile, rung, cases, tensors in data["digests"]:
        run.digests[profile, rung].resume(cases, tensors)


def pack_assessments(assessments: Sequence[Assessment]) -> list[dict[str, Any]]:
    """Return assessments as JSON knows them."""
    return [asdict(assessment) for assessment in assessments]


def unpack_assessments(data: Any) -> list[Assessment]:
    """Return what `pack_assessments` was given.

    Raises:
        ResumeError: The data is nothing of the kind.
    """
    return _checked(_ASSESSMENTS, data)


@dataclass(frozen=True)
class Found:
    """What a step over all cases of a component found: rows, failures, skips, what has no counterpart, digests."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    unpaired: dict[str, str] = field(default_factory=dict)
    digests: list[Digest] = field(default_factory=list)


_FOUND: Final = TypeAdapter(Found)


def pack_found(found: Found, bundles: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what a step found, and the bundles that it packed, as JSON knows them."""
    packed = {path: base64.b64encode(content).decode("ascii") for path, content in bundles.items()}
    return {"found": asdict(found), "bundles": packed}


def unpack_found(data: Any) -> tuple[Found, dict[str, bytes]]:
    """Return what `pack_found` was given.

    Raises:
        ResumeError: The data is nothing of the kind.
    """
    bundles = {path: base64.b64decode(content) for path, content in data["bundles"].items()}
    return _checked(_FOUND, data["found"]), bundles


def _checked(adapter: TypeAdapter[Checked], data: Any) -> Checked:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ResumeError(
            f"the journal holds a part that is none: {first['msg']} at {first['loc']}; run without --resume"
        ) from None
