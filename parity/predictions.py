"""What was predicted from a case once, kept in a file: predictions do not depend on the port under test.

The rounding that a tensor may carry is drawn from perturbed runs of the reference, and costs many times what the runs
themselves do. It follows from the reference, its weights and inputs, the rung and the seed, so that a run that changes
the port alone can take it from the run before; so do the reference's own errors, kept under the hash of its answer.
What is taken is what would be computed, to the bit: verdicts and their bytes are the same with the file, without it,
and after half of it is lost.

An entry belongs to a subject, a hash of everything that it follows from:

* the project's code, and that of somebody's own target (`parity.code`, `parity.own_code`);
* machine and switches, as far as they can change a bit (`parity.environment`), and every installed package's version;
* the pair, the case, what the reference reads of the profile, weights and inputs, to the last bit.

The truth is computed every time, and held against the hash of what it was when it was computed twice: one that differs
is an error, since nothing that it follows from has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from parity.errors import ConfigError, OutputError
from parity.spec.arrays import AnyArray

SCHEMA: Final = 1
WAIT_S: Final = 60.0
"""Seconds for which one process waits for another to have written; each writes for some milliseconds."""

_REMEDY: Final = "choose another file with --predictions, or, if no run is using it, delete it: it is computed anew"
_TABLE: Final = (
    "CREATE TABLE answers (subject TEXT, question TEXT, answer TEXT, PRIMARY KEY (subject, question)) WITHOUT ROWID"
)

Answer = Mapping[str, tuple[float, ...]]
"""Numbers by name: of tensors, for the most part."""


class Predictions(Protocol):
    """What is kept about one subject."""

    def found(self, question: str) -> Answer | None:
        """Return what is kept, None if nothing is."""

    def keep(self, question: str, answer: Answer) -> None:
        """Keep an answer."""


class NoPredictions:
    """Keeps nothing."""

    def found(self, question: str) -> Answer | None:  # noqa: ARG002
        """Return None: nothing was kept."""
        return None

    def keep(self, question: str, answer: Answer) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class PredictionFile:
    """A file of predictions that answers for one state of code, machine and libraries.

    Args:
        path: The file, made by `opened` where there is none; not relative, since a builder may change the folder.
        identity: Hash of code, machine and libraries.
        own: By target the hash of somebody's own code, `parity.own_code`.
    """

    path: Path
    identity: str
    own: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: Path, identity: str, own: Mapping[str, str] | None = None) -> PredictionFile:
        """Make the file, or take it; what it holds of another identity is forgotten, since nothing can use it.

        Raises:
            ConfigError: It is no file of predictions, or one of another version.
            OutputError: It cannot be written.
        """
        place = _resolved(path)
        with _connected(place, make=True) as store:
            _require_schema(place, store)
            store.execute("DELETE FROM answers WHERE substr(subject, 1, ?) <> ?", (len(identity), identity))
        return cls(place, identity, dict(own or {}))

    def answers(self) -> int:
        """Return how many answers the file holds.

        Raises:
            ConfigError: The file is damaged.
            OutputError: It cannot be read.
        """
        with _connected(self.path) as store:
            (count,) = store.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)

    def of(self, subject: str) -> KeptPredictions:
        """Return what is kept about a subject, `subject_of`."""
        return KeptPredictions(self, subject)


class KeptPredictions:
    """What a file keeps about one subject."""

    def __init__(self, file: PredictionFile, subject: str) -> None:
        self._file, self._subject = file, f"{file.identity} {subject}"

    def found(self, question: str) -> Answer | None:
        """Return what is kept, None if nothing is.

        Raises:
            ConfigError: The file is damaged.
            OutputError: It cannot be read.
        """
        with _connected(self._file.path) as store:
            rows = store.execute(
                "SELECT answer FROM answers WHERE subject = ? AND question = ?", (self._subject, question)
            ).fetchall()
        return _parsed(self._file.path, rows[0][0]) if rows else None

    def keep(self, question: str, answer: Answer) -> None:
        """Keep an answer; of two processes that keep one, both keep the same.

        Raises:
            OutputError: The file cannot be written.
        """
        text = json.dumps({name: list(numbers) for name, numbers in answer.items()})
        with _connected(self._file.path) as store:
            store.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (self._subject, question, _sealed(text)))


def subject_of(words: Mapping[str, object], *tensors: Mapping[str, AnyArray]) -> str:
    """Return 64 hexadecimal digits of SHA-256 over words and tensors: names, dtypes, shapes and every bit.

    Args:
        words: What JSON can say; its keys may stand in any order.
        tensors: Weights, inputs. The order of names counts, as a reference may go by it.
    """
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for group in tensors:
        digest.update(b"\ngroup")
        for name, array in group.items():
            digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(bytes_of(array))
    return digest.hexdigest()


def packages_hash() -> str:
    """Return 16 hexadecimal digits over the names and versions of all installed packages: a reference may use any."""
    installed = {f"{it.name.lower()}=={it.version}" for it in importlib.metadata.distributions()}
    return identity_of(*sorted(installed))


def bytes_of(array: AnyArray) -> memoryview:
    """Return the bytes of an array in row-major order, without a copy where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def identity_of(*hashes: str) -> str:
    """Return 16 hexadecimal digits that stand for all of `hashes`."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def remembered(kept: Predictions, question: str, compute: Callable[[], Answer]) -> Answer:
    """Return what is kept, or compute and keep it."""
    answer = kept.found(question)
    if answer is None:
        answer = compute()
        kept.keep(question, answer)
    return answer


def _sealed(text: str) -> str:
    """Return the text behind its own hash: a bit that was lost on the way would be a looser tolerance."""
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}"


def _parsed(path: Path, sealed: str) -> Answer:
    text = str(sealed).partition(" ")[2]
    if _sealed(text) != sealed:
        raise ConfigError(f"predictions {str(path)!r} are damaged: an answer is not what was kept; {_REMEDY}")
    return {name: tuple(float(number) for number in numbers) for name, numbers in json.loads(text).items()}


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"predictions {str(path)!r} cannot be used: {reason}; {_REMEDY}") from None


@contextlib.contextmanager
def _connected(path: Path, make: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction, which is undone by whatever goes wrong; make it where there is none."""
    store = None
    try:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(
            f"{path.as_uri()}?mode={'rwc' if make else 'rw'}", timeout=WAIT_S, isolation_level=None, uri=True
        )
        # No power failure can do worse than lose what is computed anew: no need to wait for the disk.
        store.execute("PRAGMA synchronous = OFF")
        store.execute("BEGIN IMMEDIATE")
        yield store
        store.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise OutputError(f"predictions {str(path)!r} cannot be used: {error}; {_REMEDY}") from None
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{str(path)!r} is no file of predictions: {error}; {_REMEDY}") from None
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"predictions {str(path)!r} cannot be used: {reason}; {_REMEDY}") from None
    finally:
        if store is not None:
            store.close()


def _require_schema(path: Path, store: sqlite3.Connection) -> None:
    (version,) = store.execute("PRAGMA user_version").fetchone()
    (tables,) = store.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and not tables:
        store.execute(_TABLE)
        store.execute(f"PRAGMA user_version = {SCHEMA}")
    elif version != SCHEMA or store.execute("SELECT name FROM sqlite_master").fetchall() != [("answers",)]:
        raise ConfigError(f"{str(path)!r} is no file of predictions of this version; {_REMEDY}")
