"""Small pieces that the tests of bundles are made of: failing examinations, bundles on disk, doctored ones."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from planted_faults import PlantedFault

from parity.cases import FINE_LADDER, Case
from parity.examine import Bench, Examination, examine
from parity.pairs import Pair
from parity.replay.bundle import Bundle, read_bundle
from parity.replay.files import write_bundle
from parity.replay.pack import Packed, pack
from parity.spec.precision import RUNGS
from parity.spec.profile import CANONICAL
from parity.suites import select

PUBLISHED = {"bidirectional": True, "residual_long_conv": True, "use_glu_mlp": True, "use_monarch_mlp": True}
SMALL_LAYER = Case.make("layer", {"batch": 2, "L": 5, "hidden_size": 12, "intermediate_size": 24, **PUBLISHED}, seed=7)
LARGE_LAYER = Case.make(
    "layer",
    {
        "batch": 1,
        "L": 64,
        "hidden_size": 128,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
        "long_conv_l_max": 64,
        "hyena_filter_order": 32,
        **PUBLISHED,
    },
    seed=7,
    ladder=FINE_LADDER,
)
LONG_FILTER = Case.make(
    "hyena_filter",
    {"batch": 1, "d_model": 2, "L": 8, "seq_len": 20000, "emb_dim": 5, "order": 4, "w": 10, "bidirectional": True},
    ladder=FINE_LADDER,
)


def pair_of(case: Case) -> Pair:
    """The pair that a case belongs to."""
    return select([case.component])[0]


def examined(case: Case, rung: str = "f64") -> tuple[Bench, Examination]:
    """A case examined under the canonical profile."""
    bench = Bench(pair_of(case), case, CANONICAL)
    return bench, examine(bench, CANONICAL, RUNGS[rung])  # type: ignore[index]


def packed(case: Case, rung: str = "f64") -> Packed:
    """The bundle of a case under the canonical profile."""
    bench, examination = examined(case, rung)
    return pack(bench, CANONICAL, RUNGS[rung], examination)  # type: ignore[index]


def packed_with(fault: PlantedFault, case: Case, rung: str = "f64") -> Packed:
    """The bundle of a case while a fault is planted."""
    with pytest.MonkeyPatch.context() as patch:
        fault.plant(patch)
        return packed(case, rung)


def put(folder: Path, bundle: Packed) -> Path:
    """The bundle as a file."""
    return write_bundle(folder, bundle.name, bundle.data)


def opened(folder: Path, bundle: Packed) -> Bundle:
    """The bundle written and read back."""
    return read_bundle(put(folder, bundle))


def members(path: Path) -> dict[str, bytes]:
    """What a zip file holds."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, changed: Mapping[str, bytes | None]) -> Path:
    """Replace members of a zip file; None drops one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {**members(path), **changed}.items():
            if data is not None:
                archive.writestr(name, data)
    path.write_bytes(buffer.getvalue())
    return path


def doctor(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change bundle.json in place."""
    record = json.loads(members(path)["bundle.json"])
    change(record)
    return rewrite(path, {"bundle.json": json.dumps(record).encode()})
