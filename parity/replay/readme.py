"""README.txt of a bundle: what failed, what is stored, and how to run it again."""

from __future__ import annotations

import json

from parity.replay.bundle import SUFFIX, ArrayRecord, OffendingTensor, Record

TEMPLATE = """{component} under profile {profile} at {rung}: {verdict}

case         {case}
fingerprint  {fingerprint} (bundle.json has the whole environment)

Offending tensors ({count} of {failed} failing ones), in execution order:
{tensors}

Inputs and parameters:
{arrays}

To run it again, with the packages of mlx-parity installed:

    parity replay THIS{suffix}   both sides, judged again; --side reference or --side port for one
    python run_reference.py         the reference alone, with torch and without MLX
    python run_port.py              the port alone, with MLX and without torch
    python run_both.py              both, without a verdict

The scripts read tensors.safetensors and bundle.json from their own folder. Keys of tensors.safetensors: input/NAME,
parameter/NAME (names of the checkpoint), and truth/NAME, reference/NAME, port/NAME for every offending tensor. Values
are float64, which holds those of every narrower format exactly; bundle.json names the dtype that each tensor had.
"""

HOW = {
    "alias": "alias of another parameter",
    "constructor": "too large: drawn again from the seed and the reference's constructor (needs torch)",
    "seed": "too large: drawn again from the seed",
    "stored": "stored",
}


def readme(record: Record) -> str:
    """Return the text."""
    return TEMPLATE.format(
        component=record.component,
        profile=record.profile.name,
        rung=record.rung,
        verdict=f"first bad tensor {record.first_bad}" if record.first_bad else "failed once, passed when run again",
        case=json.dumps(record.case, sort_keys=True, separators=(",", ":")),
        fingerprint=record.fingerprint,
        count=len(record.tensors) if record.failed else 0,
        failed=record.failed,
        tensors="\n".join(map(_tensor, record.tensors)),
        arrays="\n".join(map(_array, record.arrays)) or "  none: each side's own fresh parameters are compared",
        suffix=SUFFIX,
    )


def _tensor(tensor: OffendingTensor) -> str:
    held = {
        "whole": "stored whole",
        "windows": f"too large: stored around its largest errors, flat ranges {_ranges(tensor)}",
        "none": "too large: only its digest is stored",
    }[tensor.kept]
    return f"  {tensor.name}: {tensor.numbers.reason or 'passes'} ({held})"


def _ranges(tensor: OffendingTensor) -> str:
    return ", ".join(f"[{start}, {stop})" for start, stop in tensor.windows)


def _array(record: ArrayRecord) -> str:
    return f"  {record.role} {record.name} {tuple(record.shape)}: {HOW[record.kept]}"
