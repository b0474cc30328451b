"""The bundle of one failure: its schema, and reading it back with everything verified. No framework is imported.

A bundle is one `.parity.zip`:

| member | what |
|---|---|
| `bundle.json` | component, case, profile, rung, environment, the judgement's numbers, a digest of every array |
| `tensors.safetensors` | inputs, parameters, offending tensors (truth, reference, port), as float64 or integers |
| `run_reference.py`, `run_port.py`, `run_both.py` | one side alone, or both |
| `README.txt` | what failed, what is stored, and how to run it |

An array that would make the file too large is not stored: `bundle.json` holds its digest, and it is drawn again from
the case's seed, which is deterministic. Of a large tensor the windows around the largest errors are kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError

from parity.cases import Case, draw_inputs, draw_parameters
from parity.errors import ReplayError
from parity.pairs import Pair
from parity.replay.limits import limit
from parity.spec.arrays import AnyArray, Array
from parity.spec.devices import Devices, devices_in
from parity.spec.precision import RungName
from parity.spec.profile import HyperProfile

SCHEMA: Final = 1
"""Version of `bundle.json`; it grows when a field changes its meaning, or comes or goes."""

README: Final = "README.txt"
RECORD: Final = "bundle.json"
TENSORS: Final = "tensors.safetensors"
SCRIPTS: Final = ("run_both.py", "run_port.py", "run_reference.py")
MEMBERS: Final = (README, RECORD, *SCRIPTS, TENSORS)
SUFFIX: Final = ".parity.zip"

Side = Literal["truth", "reference", "port"]
SIDES: Final[tuple[Side, ...]] = ("truth", "reference", "port")

Windows = tuple[tuple[int, int], ...]
"""Flat [start, stop) in row-major order."""

Number = Annotated[float, Field(strict=False)]
"""A float that may be infinite or NaN, which JSON writes as text."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="strings")

    def to_json(self) -> Any:
        """Return what JSON knows: infinite numbers and NaN as text, which `model_dump` would leave as they are."""
        return json.loads(self.model_dump_json())


class ArrayRecord(_Frozen):
    """An input or a parameter of the case.

    Attributes:
        name: Its name, a parameter's as in the checkpoint.
        role: `input` or `parameter`.
        sha256: Its `digest`.
        shape: Its shape.
        kept: `stored` in the file; `alias` of another parameter; drawn again from the case's `seed`; or drawn from the
            seed and what the reference's `constructor` makes, which needs torch.
        alias_of: The parameter whose values it shares.
    """

    name: str
    role: Literal["input", "parameter"]
    sha256: Sha256
    shape: tuple[int, ...]
    kept: Literal["stored", "alias", "seed", "constructor"]
    alias_of: str = ""


class HeldTensor(_Frozen):
    """One side of an offending tensor: digest and shape of the whole, its own dtype, digest of what the file holds."""

    sha256: Sha256
    shape: tuple[int, ...]
    dtype: str
    held_sha256: Sha256 | None


class Errors(_Frozen):
    """Error of one side against truth, as `parity.metrics.ErrorMetrics` defines its fields."""

    count: int
    rms: Number
    max_abs: Number
    max_abs_index: tuple[int, ...]
    rel_l2: Number
    ulp_max: Number
    bias: Number


class Numbers(_Frozen):
    """The judgement of one tensor, as `parity.verdict.Judgement` defines its fields."""

    reason: str
    ratio: Number
    scaled: Number
    conditioning: Number
    port: Errors | None
    reference: Errors | None
    port_over_reference: Number | None


class OffendingTensor(_Frozen):
    """One tensor that failed.

    Attributes:
        name: Its name.
        numbers: Its judgement.
        truth, reference, port: What is known of each side; None where it has no tensor of that name.
        kept: Whether the file holds it `whole`, in `windows`, or not at all (`none`).
        windows: What is held, the same for all sides.
    """

    name: str
    numbers: Numbers
    truth: HeldTensor | None
    reference: HeldTensor | None
    port: HeldTensor | None
    kept: Literal["whole", "windows", "none"]
    windows: Windows = ()

    def side(self, side: Side) -> HeldTensor | None:
        """Return what is known of one side."""
        return {"truth": self.truth, "reference": self.reference, "port": self.port}[side]

    def is_truth(self, side: Side) -> bool:
        """Whether what is held of the side is bit for bit the truth, and so not stored a second time."""
        about = self.side(side)
        held = None if about is None else about.held_sha256
        return held is not None and self.truth is not None and held == self.truth.held_sha256


class Record(_Frozen):
    """Everything of a bundle but the arrays: `bundle.json`.

    Attributes:
        schema_version: `SCHEMA`.
        component: What a command line calls the pair: its name, or `FILE::NAME` or `MODULE:ATTR` of somebody's own.
        case: The case as `Case.to_json` writes it, its seed included.
        profile: Every knob.
        rung: Precision of reference and port.
        environment: Fields of `parity.environment.Environment`.
        fingerprint: Its key.
        first_bad: First failing tensor in execution order; empty if none failed when the case was run again.
        failed: How many tensors failed.
        tensors: The first of them; the outputs, if none failed.
        arrays: Inputs and parameters; no parameters where each side's own fresh ones are compared.
        detail: Traceback of a port that raised, without folders.
    """

    schema_version: Literal[1]
    component: str
    case: dict[str, JsonValue]
    profile: HyperProfile
    rung: RungName
    environment: dict[str, JsonValue]
    fingerprint: str
    first_bad: str
    failed: int
    tensors: tuple[OffendingTensor, ...]
    arrays: tuple[ArrayRecord, ...]
    detail: str = ""


@dataclass(frozen=True)
class Bundle:
    """A record and its arrays, by `array_key`."""

    record: Record
    tensors: Mapping[str, AnyArray]

    @property
    def case(self) -> Case:
        """The case.

        Raises:
            CaseError: It is none.
        """
        return Case.from_json(self.record.component, json.dumps(self.record.case))

    @property
    def switches(self) -> dict[str, str]:
        """Environment variables that were set and can change bits."""
        found = self.record.environment.get("switches")
        return {name: str(value) for name, value in _object(found).items() if value is not None}

    @property
    def devices(self) -> Devices:
        """Where either side ran.

        Raises:
            DeviceError: The environment names none that is known.
        """
        return devices_in(self.record.environment)

    def inputs(self, pair: Pair) -> dict[str, AnyArray]:
        """Return every input, stored or drawn again.

        Raises:
            ReplayError: What is drawn now differs from what failed.
        """
        records = [record for record in self.record.arrays if record.role == "input"]
        drawn = draw_inputs(pair, self.case) if any(record.kept == "seed" for record in records) else {}
        return {record.name: self._array(record, drawn) for record in records}

    def state(self, pair: Pair, fresh: Callable[[], Mapping[str, Array]] | None = None) -> dict[str, AnyArray] | None:
        """Return the state dict with every alias, stored or drawn again; None if the sides build their own parameters.

        Args:
            pair: The pair.
            fresh: Makes the parameters of a freshly built reference, for what follows from its constructor.

        Raises:
            ReplayError: What is drawn now differs from what failed, or `fresh` is needed and not given.
        """
        records = {record.name: record for record in self.record.arrays if record.role == "parameter"}
        if not records:
            return None
        start: dict[str, Array] = {n: np.zeros(record.shape) for n, record in records.items() if record.kept == "seed"}
        built = {name for name, record in records.items() if record.kept == "constructor"}
        if built:
            if fresh is None:
                raise ReplayError(
                    f"{min(built)!r} is too large for the bundle and follows from the reference's constructor, so the "
                    "port cannot run alone; take run_both.py, or `parity replay`, where torch is installed"
                )
            start |= {name: values for name, values in fresh().items() if name in built}
        drawn = draw_parameters(pair, self.case, start)
        found = {name: self._array(record, drawn) for name, record in records.items() if record.kept != "alias"}
        return {name: found[record.alias_of or name] for name, record in records.items()}

    def held(self, tensor: OffendingTensor, side: Side) -> Array | None:
        """Return what the file holds of a side: the whole tensor, or its windows one after the other."""
        found = self.tensors.get(array_key("truth" if tensor.is_truth(side) else side, tensor.name))
        return None if found is None else found.astype(np.float64)

    def _array(self, record: ArrayRecord, drawn: Mapping[str, AnyArray]) -> AnyArray:
        if record.kept == "stored":
            return self.tensors[array_key(record.role, record.name)]
        if record.name not in drawn or digest(drawn[record.name]) != record.sha256:
            raise ReplayError(
                f"the {record.role} {record.name!r} that is drawn from seed {self.case.seed} is not the one that "
                "failed: the generator of cases, or what builds the reference, has changed; replay with the version "
                f"that wrote the bundle, mlx-parity {_version(self.record.environment)}"
            )
        return drawn[record.name]


def array_key(role: str, name: str) -> str:
    """Return the name of an array in `tensors.safetensors`."""
    return f"{role}/{name}"


def digest(array: AnyArray) -> str:
    """Return the sha256 of dtype, shape and values in row-major order, little-endian."""
    plain = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return hashlib.sha256(f"{plain.dtype.str}{plain.shape}".encode() + plain.tobytes()).hexdigest()


def cut(values: Array, windows: Windows) -> Array:
    """Return the windows of `values`, flattened, one after the other; all of it, in its shape, if there are none."""
    flat = values.ravel()
    return np.concatenate([flat[start:stop] for start, stop in windows]) if windows else values


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, from its file or from the folder it was unpacked into, and verify all of it.

    Raises:
        ReplayError: It cannot be read, is no bundle, is cut short, has another schema, an unknown key or an array that
            is not the one its digest says.
    """
    members = _members(path)
    record = _record(path, members[RECORD])
    try:
        tensors = safetensors.numpy.load(members[TENSORS])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"bundle {str(path)!r}: {TENSORS} cannot be read: {error}") from None
    _verify(path, record, tensors)
    return Bundle(record, tensors)


def _members(path: Path) -> dict[str, bytes]:
    try:
        return _folder_members(path) if path.is_dir() else _zip_members(path)
    except OSError as error:
        raise ReplayError(f"bundle {str(path)!r} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ReplayError(
            f"{str(path)!r} is no bundle, or a damaged one: {error}; expected a {SUFFIX} file that `parity run` wrote"
        ) from None


def _folder_members(path: Path) -> dict[str, bytes]:
    missing = [name for name in (RECORD, TENSORS) if not (path / name).is_file()]
    if missing:
        raise ReplayError(f"folder {str(path)!r} is no unpacked bundle: it has no {missing[0]}")
    return {name: (path / name).read_bytes() for name in (RECORD, TENSORS)}


def _zip_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        names = sorted(archive.namelist())
        if names != sorted(MEMBERS):
            got = ", ".join(names)[:200] or "nothing"
            raise ReplayError(f"{str(path)!r} is no bundle: a bundle holds {', '.join(MEMBERS)}; got {got}")
        if sum(entry.file_size for entry in archive.infolist()) > limit("unpacked_bytes"):
            raise ReplayError(f"{str(path)!r} is no bundle: it unpacks to more than {limit('unpacked_bytes')} bytes")
        return {name: archive.read(name) for name in MEMBERS}


def _record(path: Path, text: bytes) -> Record:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ReplayError(f"bundle {str(path)!r}: {RECORD} is not JSON") from None
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA:
        newer = isinstance(found, int) and found > SCHEMA
        advice = "it was written by a newer version: update mlx-parity" if newer else "write it again with `parity run`"
        raise ReplayError(
            f"bundle {str(path)!r}: {RECORD} has schema_version {found!r}; this version reads {SCHEMA}; {advice}"
        )
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"unknown key {where!r}" if first["type"] == "extra_forbidden" else f"{where}: {first['msg']}"
        raise ReplayError(f"bundle {str(path)!r}: {RECORD} is not as schema {SCHEMA} has it: {what}") from None


def _verify(path: Path, record: Record, tensors: Mapping[str, AnyArray]) -> None:
    """Refuse arrays that are missing, left over or other than their digests say, and aliases of nothing."""
    expected = {array_key(a.role, a.name): a.sha256 for a in record.arrays if a.kept == "stored"}
    for tensor in record.tensors:
        for side in SIDES:
            about = tensor.side(side)
            if about is not None and about.held_sha256 is not None and (side == "truth" or not tensor.is_truth(side)):
                expected[array_key(side, tensor.name)] = about.held_sha256
    names = {array.name for array in record.arrays if array.kept != "alias"}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"{name} is left over" for name in sorted(tensors.keys() - expected.keys())]
    problems += [f"{a.name} is an alias of nothing" for a in record.arrays if a.alias_of and a.alias_of not in names]
    problems += [
        f"{name} is not the array that its sha256 says"
        for name in sorted(expected.keys() & tensors.keys())
        if digest(tensors[name]) != expected[name]
    ]
    if problems:
        raise ReplayError(f"bundle {str(path)!r} was changed or damaged: {'; '.join(problems[:3])}")


def _object(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _version(environment: Mapping[str, JsonValue]) -> str:
    return str(_object(environment.get("versions")).get("mlx-parity", "unknown"))
