"""From a failing examination to the bytes of its bundle: equal failures give equal bytes."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePath
from typing import Final, Literal

import numpy as np
import safetensors.numpy

from parity.backends.reference import fresh_parameters
from parity.cases import draw_parameters
from parity.environment import collect
from parity.errors import ReplayError
from parity.examine import Bench, Examination
from parity.replay.bundle import (
    MEMBERS,
    README,
    RECORD,
    SCHEMA,
    SCRIPTS,
    SIDES,
    SUFFIX,
    TENSORS,
    ArrayRecord,
    HeldTensor,
    Numbers,
    OffendingTensor,
    Record,
    Side,
    Windows,
    array_key,
    cut,
    digest,
)
from parity.replay.limits import limit
from parity.replay.readme import readme
from parity.replay.sides import errors_of
from parity.spec.arrays import AnyArray, Array
from parity.spec.checkpoint import set_aside_reason
from parity.spec.precision import Rung
from parity.spec.profile import HyperProfile
from parity.trace import TracedTensor
from parity.verdict import Judgement

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold: every member has it, whenever it was written."""

SLACK: Final = 1024
"""Bytes by which a second try aims lower, for what deflates worse together than apart."""


@dataclass(frozen=True)
class Packed:
    """A bundle ready to be written: the name of its file, and its bytes."""

    name: str
    data: bytes


def pack(bench: Bench, profile: HyperProfile, rung: Rung, examination: Examination) -> Packed:
    """Return the bundle of an examination.

    Everything is stored whole if it fits `LIMITS["file_bytes"]`. Otherwise the first bad tensor comes first, whole if
    it fits, then the other offending tensors in windows, then parameters that cannot be drawn again from seed and shape
    alone, inputs, and the other parameters. Of an input or a parameter that does not fit, the digest is kept.

    Raises:
        ReplayError: Names and digests alone are too large.
    """
    content = _Content(bench, profile, rung, examination)
    budget = limit("file_bytes")
    while budget > 0:
        data = _zipped(content.members(budget))
        if len(data) <= limit("file_bytes"):
            short = hashlib.sha256(data).hexdigest()[:10]
            return Packed(f"{bench.pair.name}-{profile.name}-{rung.name}-{short}{SUFFIX}", data)
        budget -= len(data) - limit("file_bytes") + SLACK
    raise ReplayError(
        f"the bundle of {bench.pair.name} exceeds {limit('file_bytes')} bytes without any array: it has too many names"
    )


def numbers_of(judgement: Judgement) -> Numbers:
    """Return the part of a judgement that a bundle keeps."""
    return Numbers(
        reason=judgement.reason,
        ratio=judgement.ratio,
        scaled=judgement.scaled,
        conditioning=judgement.conditioning,
        port=None if judgement.port is None else errors_of(judgement.port),
        reference=None if judgement.reference is None else errors_of(judgement.reference),
        port_over_reference=judgement.port_over_reference,
    )


def failing(examination: Examination) -> list[str]:
    """Return the failing tensors in execution order."""
    return [name for name, judgement in examination.judgements.items() if not judgement.passed]


@dataclass
class _Shelf:
    """What is stored so far, and how many bytes are left, deflated and unpacked."""

    deflated: int
    unpacked: int
    arrays: dict[str, AnyArray] = field(default_factory=dict)

    def take(self, arrays: Mapping[str, AnyArray]) -> bool:
        """Store all of `arrays` if they fit, else none of them; what is stored already costs nothing."""
        if arrays.keys() <= self.arrays.keys():
            return True
        plain = sum(array.nbytes for array in arrays.values())
        if plain > min(self.unpacked, self.deflated * limit("deflation")):
            return False
        small = sum(len(zlib.compress(array.tobytes(), 9)) for array in arrays.values())
        if small > self.deflated:
            return False
        self.arrays |= arrays
        self.deflated -= small
        self.unpacked -= plain
        return True


class _Content:
    """What one bundle can hold, laid out for a budget."""

    def __init__(self, bench: Bench, profile: HyperProfile, rung: Rung, examination: Examination) -> None:
        self.bench, self.profile, self.rung, self.examination = bench, profile, rung, examination
        self.failing = failing(examination)
        self.names = (self.failing or [*bench.truth.outputs, *bench.truth.exact])[: limit("tensors")]
        self.sides: Mapping[Side, Mapping[str, TracedTensor]] = {
            "truth": bench.truth.everything,
            "reference": bench.reference(rung).everything,
            "port": {} if examination.port is None else examination.port.everything,
        }
        used = {} if bench.pair.fresh else bench.state
        self.parameters = {name: array for name, array in used.items() if set_aside_reason(name) is None}
        self.digests = {name: digest(array) for name, array in self.parameters.items()}
        drawn = fresh_parameters(bench.module).keys() & self.parameters.keys()
        originals = {self.digests[name]: name for name in sorted(drawn, reverse=True)}
        self.aliases = {n: originals[d] for n, d in self.digests.items() if n not in drawn and d in originals}
        self._own = {name: array for name, array in self.parameters.items() if name not in self.aliases}
        self.environment = collect(bench.pair.devices)

    def members(self, budget: int) -> dict[str, bytes]:
        """Return the members of the file with about `budget` bytes of arrays."""
        shelf = _Shelf(budget, limit("unpacked_bytes") // 2)
        shelf.take(self._everything())
        tensors = [self._keep_tensor(shelf, name) for name in self.names]
        parameters = self._stored_parameters(shelf, self._constructed)
        arrays = list(self._keep_inputs(shelf))
        parameters |= self._stored_parameters(shelf, self._own.keys() - parameters)
        arrays += self._parameter_records(parameters)
        record = Record(
            schema_version=SCHEMA,
            component=self.bench.pair.spelling,
            case=json.loads(self.bench.case.to_json()),
            profile=self.profile,
            rung=self.rung.name,
            environment=self.environment.to_dict(),
            fingerprint=self.environment.key(),
            first_bad=self.failing[0] if self.failing else "",
            failed=len(self.failing),
            tensors=tuple(tensors),
            arrays=tuple(arrays),
            detail=self._detail(),
        )
        scripts = {name: (resources.files("parity.replay") / "scripts" / name).read_bytes() for name in SCRIPTS}
        return {
            **scripts,
            README: readme(record).encode(),
            RECORD: (json.dumps(record.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode(),
            TENSORS: safetensors.numpy.save({name: np.array(a, order="C") for name, a in shelf.arrays.items()}),
        }

    def _everything(self) -> dict[str, AnyArray]:
        inputs = {array_key("input", name): array for name, array in self.bench.inputs.items()}
        parameters = {array_key("parameter", name): array for name, array in self._own.items()}
        return {key: array for name in self.names for key, array in self._held(name, ()).items()} | inputs | parameters

    def _detail(self) -> str:
        details = (self.examination.judgements[name].detail for name in self.failing)
        return without_folders(next((detail for detail in details if detail), ""))[-limit("detail_characters") :]

    # Offending tensors ---------------------------------------------------------------------------------------------

    def _keep_tensor(self, shelf: _Shelf, name: str) -> OffendingTensor:
        """Store the first bad tensor whole if it fits; any other one too large for that in windows, without trying."""
        whole = self._held(name, ())
        kept: Literal["whole", "windows", "none"] = "whole"
        windows: Windows = ()
        small = max((array.size for array in whole.values()), default=0) <= limit("window") * limit("windows")
        stored = whole.keys() <= shelf.arrays.keys()
        if not (stored or ((small or name == self.names[0]) and shelf.take(whole))):
            windows = self._windows(name)
            kept = "windows" if shelf.take(self._held(name, windows)) else "none"
            windows = windows if kept == "windows" else ()
        judgement = self.examination.judgements[name]
        about = {side: self._about(side, name, windows, stored=kept != "none") for side in SIDES}
        return OffendingTensor(
            name=name,
            numbers=numbers_of(judgement),
            truth=about["truth"],
            reference=about["reference"],
            port=about["port"],
            kept=kept,
            windows=windows,
        )

    def _held(self, name: str, windows: Windows) -> dict[str, AnyArray]:
        """Return what is to be stored of a tensor; a side whose bits are the truth's, as at f64, is not repeated."""
        found = {side: cut(t.values, windows) for side in SIDES if (t := self.sides[side].get(name)) is not None}
        truth = digest(found["truth"]) if "truth" in found else ""
        return {array_key(s, name): a for s, a in found.items() if s == "truth" or digest(a) != truth}

    def _about(self, side: Side, name: str, windows: Windows, stored: bool) -> HeldTensor | None:
        tensor = self.sides[side].get(name)
        if tensor is None:
            return None
        return HeldTensor(
            sha256=digest(tensor.values),
            shape=tensor.values.shape,
            dtype=tensor.dtype,
            held_sha256=digest(cut(tensor.values, windows)) if stored else None,
        )

    def _windows(self, name: str) -> Windows:
        tensors = [tensor.values for side in SIDES if (tensor := self.sides[side].get(name)) is not None]
        if len(tensors) < len(SIDES) or len({values.shape for values in tensors}) > 1:
            return ((0, min(values.size for values in tensors)),) if tensors else ()
        return peaks(tensors[-1], tensors[0])

    # Inputs and parameters -----------------------------------------------------------------------------------------

    def _keep_inputs(self, shelf: _Shelf) -> Iterator[ArrayRecord]:
        for name, array in self.bench.inputs.items():
            stored = shelf.take({array_key("input", name): array})
            yield ArrayRecord(
                name=name,
                role="input",
                sha256=digest(array),
                shape=array.shape,
                kept="stored" if stored else "seed",
            )

    def _stored_parameters(self, shelf: _Shelf, names: Set[str]) -> set[str]:
        """Store those that fit, the smallest first, and return their names."""
        order = sorted(names, key=lambda name: (self._own[name].nbytes, name))
        return {name for name in order if shelf.take({array_key("parameter", name): self._own[name]})}

    def _parameter_records(self, stored: Set[str]) -> Iterator[ArrayRecord]:
        for name, array in self.parameters.items():
            yield ArrayRecord(
                name=name,
                role="parameter",
                sha256=self.digests[name],
                shape=array.shape,
                kept=self._how(name, stored),
                alias_of=self.aliases.get(name, ""),
            )

    def _how(self, name: str, stored: Set[str]) -> Literal["stored", "alias", "seed", "constructor"]:
        if name in self.aliases:
            return "alias"
        if name in stored:
            return "stored"
        return "constructor" if name in self._constructed else "seed"

    @functools.cached_property
    def _constructed(self) -> frozenset[str]:
        """Parameters that follow from more than seed and shape: over zeros they come out different."""
        zeros = {name: np.zeros(array.shape) for name, array in self._own.items()}
        drawn = draw_parameters(self.bench.pair, self.bench.case, zeros)
        return frozenset(name for name in self._own if digest(drawn[name]) != self.digests[name])


def peaks(port: Array, truth: Array) -> Windows:
    """Return windows around the largest errors, in order of place; what is non-finite on one side alone comes first."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(port - truth).ravel()
    error[np.isnan(error)] = np.inf
    error[((port == truth) | (np.isnan(port) & np.isnan(truth))).ravel()] = 0.0
    width, size = min(limit("window"), error.size), error.size
    starts: list[int] = []
    for _ in range(min(limit("windows"), -(-size // max(width, 1)))):
        start = max(0, min(int(error.argmax()) - width // 2, size - width))
        starts.append(start)
        error[start : start + width] = -1.0
    return _joined(sorted(starts), width)


def _joined(starts: list[int], width: int) -> Windows:
    """Windows of `width` from sorted starts; those that touch or overlap become one."""
    windows: list[tuple[int, int]] = []
    for start in starts:
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], start + width)
        else:
            windows.append((start, start + width))
    return tuple(windows)


def without_folders(text: str) -> str:
    """Shorten the paths of a traceback to file and parent: a bundle says nothing of the machine's folders."""
    return re.sub(r'File "([^"]+)"', lambda match: f'File "{"/".join(PurePath(match[1]).parts[-2:])}"', text)


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file in which nothing depends on when and where it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in MEMBERS:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, members[name], compresslevel=9)
    return buffer.getvalue()
