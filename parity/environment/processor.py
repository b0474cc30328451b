"""The CPU's model and the instruction sets by which numerical libraries choose their kernels."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The extensions by which kernels differ in bits; the many other flags (aes, hypervisor, ...) never select
# one. Linux, macOS on Intel and macOS on Apple silicon spell them differently, and each spelling is kept.
_RELEVANT: Final = re.compile(
    r"sse4[._][12]|avx.*|fma|f16c|amx_.*"  # x86
    r"|asimd.*|fphp|fp16|fhm|e?bf16|dotprod|i8mm|sve.*|sme.*"  # Arm
)
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Processor:
    """A CPU: `model` as it names itself ('unknown' where it does not), `flags` sorted, in lower case."""

    model: str
    flags: tuple[str, ...]


def read_processor() -> Processor:
    """Describe this machine's CPU; on a system other than Linux and macOS the flags are empty."""
    match platform.system():
        case "Linux":
            return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        case "Darwin":
            return parse_sysctl(_sysctl())
        case _:
            return Processor(platform.processor() or _UNKNOWN, ())


def parse_cpuinfo(text: str) -> Processor:
    """Read model and flags from the text of /proc/cpuinfo.

    Flags are those that every core has, so a big.LITTLE machine reports what any thread may rely on.

    Args:
        text: lines `name : value`, one block per core; x86 says `flags`, Arm says `Features`.
    """
    models = re.findall(r"^(?:model name|Model)\s*: *(.+)$", text, re.MULTILINE)
    cores = [set(found.split()) for found in re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)]
    common = set.intersection(*cores) if cores else set()
    return Processor(models[0] if models else _UNKNOWN, _relevant(common))


def parse_sysctl(text: str) -> Processor:
    """Read model and flags from the output of `sysctl machdep.cpu hw.optional` on macOS.

    Args:
        text: lines `name: value`. Intel lists names in machdep.cpu.*features, Apple has
            hw.optional.arm.FEAT_X: 1.
    """
    entries = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    words = {
        word
        for name, value in entries.items()
        if name.startswith("machdep.cpu.") and name.endswith("features")
        for word in value.split()
    }
    arm = "hw.optional.arm.FEAT_"
    present = (name for name, value in entries.items() if name.startswith(arm) and value == "1")
    words |= {name.removeprefix(arm) for name in present}
    return Processor(entries.get("machdep.cpu.brand_string", _UNKNOWN), _relevant(words))


def _relevant(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(word for word in map(str.lower, words) if _RELEVANT.fullmatch(word)))


def _sysctl() -> str:
    # check=False: sysctl answers non-zero when one of the two trees is missing, and still prints the other.
    command = ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
