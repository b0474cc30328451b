"""The directory of a ZIP archive whose members are stored as they are, read so that a crafted one does no harm.

PyTorch and NumPy store members without compression. A compressed member is refused, so nothing is ever unpacked and no
archive can grow; members that overlap, repeat a name, or lie where they cannot, are refused as well.

Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14-16 (end records), 4.5.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from parity.checkpoint.tensors import File, shown
from parity.errors import CheckpointError

MAX_MEMBERS: Final = 100_000
"""Members of an archive: a checkpoint with optimiser state of a model ten times as deep has a tenth of it."""

MAX_DIRECTORY: Final = 2**25
"""Bytes of a directory: 335 for each of so many members, of which names and positions take about 100."""

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_FULL: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 0x1


@dataclass(frozen=True)
class Member:
    """One member: its bytes are those of the archive from `offset` on."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class _Entry:
    name: bytes
    size: int
    packed: int
    method: int
    flags: int
    header: int


def read_archive(file: File) -> dict[str, Member]:
    """Return the members by name, in the order of the directory.

    Raises:
        CheckpointError: The archive is cut, compressed, encrypted, too large, or contradicts itself.
    """
    start, size, count = _directory(file)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise CheckpointError(f"the ZIP directory declares {count} members in {size} bytes; {MAX_MEMBERS} are allowed")
    entries = _entries(file.read(start, size), count)
    members: dict[str, Member] = {}
    end = 0
    last = "the start"
    for entry in sorted(entries, key=lambda entry: entry.header):
        member = _member(file, entry, start)
        if member.name in members:
            raise CheckpointError(f"two members of the archive are called {member.name!r}")
        if entry.header < end:
            raise CheckpointError(f"member {member.name!r} overlaps {last!r}")
        end, last = member.offset + member.size, member.name
        members[member.name] = member
    return {name: members[name] for name in (_text(entry.name) for entry in entries)}


def _directory(file: File) -> tuple[int, int, int]:
    """Return where the directory starts, its bytes and its entries."""
    tail_start = max(0, file.size - _END.size - 0xFFFF)
    tail = file.read(tail_start, file.size - tail_start)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise CheckpointError("the ZIP archive has no directory at its end: truncated?")
    _, disk, first_disk, _, count, size, start, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment != len(tail):
        raise CheckpointError("bytes follow the end of the ZIP archive, or its comment is cut")
    end = tail_start + place
    if disk or first_disk:
        raise CheckpointError("a ZIP archive in several parts is not supported")
    wide = _directory64(file, end)
    if wide is not None:
        for narrow, value, full in zip((start, size, count), wide, (_FULL, _FULL, 0xFFFF), strict=False):
            if narrow not in (full, value):
                raise CheckpointError("the two end records of the ZIP archive contradict each other")
        start, size, count, end = wide
    elif _FULL in (size, start) or count == 0xFFFF:
        raise CheckpointError("the large ZIP archive has no locator of its directory")
    if start + size != end:
        raise CheckpointError(f"the ZIP directory should end at byte {end}, and ends at {start + size}")
    return start, size, count


def _directory64(file: File, end: int) -> tuple[int, int, int, int] | None:
    """Return start, bytes and entries of the directory by the record for large archives, and where that lies.

    PyTorch writes one for small archives as well.
    """
    if end < _LOCATOR.size + _END64.size:
        return None
    name, _, place, _ = _LOCATOR.unpack(file.read(end - _LOCATOR.size, _LOCATOR.size))
    if name != b"PK\x06\x07":
        return None
    if place != end - _LOCATOR.size - _END64.size:
        raise CheckpointError("the ZIP archive's locator leads to no end record")
    name, *_, count, size, start = _END64.unpack(file.read(place, _END64.size))
    if name != b"PK\x06\x06":
        raise CheckpointError("the ZIP archive's locator leads to no end record")
    return start, size, count, place


def _entries(data: bytes, count: int) -> list[_Entry]:
    entries: list[_Entry] = []
    place = 0
    for _ in range(count):
        if len(data) - place < _ENTRY.size or data[place : place + 4] != b"PK\x01\x02":
            raise CheckpointError(f"entry {len(entries)} of the ZIP directory is broken")
        fields = _ENTRY.unpack_from(data, place)
        flags, method, packed, size = fields[3], fields[4], fields[8], fields[9]
        name_size, extra_size, comment_size, header = fields[10], fields[11], fields[12], fields[16]
        place += _ENTRY.size
        name, extra = data[place : place + name_size], data[place + name_size : place + name_size + extra_size]
        place += name_size + extra_size + comment_size
        if place > len(data):
            raise CheckpointError(f"entry {len(entries)} of the ZIP directory is cut")
        size, packed, header = _wide(extra, size, packed, header)
        entries.append(_Entry(name, size, packed, method, flags, header))
    if place != len(data):
        raise CheckpointError(f"{len(data) - place} bytes of the ZIP directory belong to no entry")
    return entries


def _wide(extra: bytes, *fields: int) -> list[int]:
    """Return the fields, those that are full replaced by their 64-bit forms in the extra field, in this order."""
    found = b""
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            found = extra[place + 4 : place + 4 + size]
        place += 4 + size
    values = []
    for field in fields:
        if field == _FULL and len(found) < 8:
            raise CheckpointError("an entry of the ZIP directory lacks its 64-bit size")
        values.append(int.from_bytes(found[:8], "little") if field == _FULL else field)
        found = found[8:] if field == _FULL else found
    return values


def _member(file: File, entry: _Entry, directory: int) -> Member:
    name = _text(entry.name)
    if entry.flags & _ENCRYPTED:
        raise CheckpointError(f"member {name!r} is encrypted")
    if entry.method != 0 or entry.packed != entry.size:
        raise CheckpointError(
            f"member {name!r} is compressed ({entry.packed} bytes for {entry.size}); PyTorch and numpy.savez store "
            "members as they are: save it again with one of these"
        )
    if entry.header + _LOCAL.size > directory:
        raise CheckpointError(f"member {name!r} lies outside the archive")
    fields = _LOCAL.unpack(file.read(entry.header, _LOCAL.size))
    offset = entry.header + _LOCAL.size + fields[9] + fields[10]
    if fields[0] != b"PK\x03\x04" or file.read(entry.header + _LOCAL.size, fields[9]) != entry.name:
        raise CheckpointError(f"member {name!r} is not where the ZIP directory says")
    if offset + entry.size > directory:
        raise CheckpointError(f"member {name!r} declares {entry.size} bytes, more than the archive has")
    return Member(name, offset, entry.size)


def _text(name: bytes) -> str:
    return shown(name.decode("utf-8", "replace"))
