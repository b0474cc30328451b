"""The arrays of a case: drawn in float64 from Philox, then rounded until every rung of the ladder holds them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np

from parity.cases.case import Case
from parity.cases.families import FAMILIES
from parity.errors import CaseError
from parity.metrics import round_to
from parity.pairs import InputSpec, Pair
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import RUNGS


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the generator of the array `name`: no array's values depend on which others are drawn."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def to_grid(values: Array, case: Case) -> Array:
    """Round `values` through every rung of the case's ladder, finest first; the result is exact on all of them."""
    narrower = [RUNGS[name] for name in case.ladder if name != "f64"]  # what is held in float64 is exact at f64
    for rung in sorted(narrower, key=lambda rung: -rung.digits):
        values = np.asarray(round_to(values, rung))
    return values


def draw_inputs(pair: Pair, case: Case) -> dict[str, AnyArray]:
    """Draw every input of the case.

    Raises:
        CaseError: An input overflows the coarsest format of the ladder.
    """
    return {name: _draw_input(name, spec, case) for name, spec in pair.inputs(case.options).items()}


def draw_parameters(pair: Pair, case: Case, fresh: Mapping[str, Array]) -> dict[str, Array]:
    """Draw every parameter and buffer of the case from the freshly initialised values `fresh`.

    Raises:
        CaseError: A value overflows the coarsest format of the ladder.
    """
    drawn = {
        name: _draw_parameter(pair, name, start, generator(case.seed, f"parameter:{name}"))
        for name, start in fresh.items()
    }
    if not drawn:
        return {}
    # Rounded all at once: a model of many small tensors spends its time in the calls otherwise.
    rounded = to_grid(np.concatenate([values.reshape(-1) for values in drawn.values()]), case)
    parts = np.split(rounded, np.cumsum([values.size for values in drawn.values()])[:-1])
    return {name: _finite(part.reshape(drawn[name].shape), name, case) for name, part in zip(drawn, parts, strict=True)}


def _draw_parameter(pair: Pair, name: str, fresh: Array, rng: np.random.Generator) -> Array:
    for pattern, rule in pair.parameters:
        if re.search(pattern, name):
            return rule(fresh, rng)
    if fresh.ndim < 2:
        return np.asarray(0.3 * rng.standard_normal(fresh.shape))
    return np.asarray(rng.standard_normal(fresh.shape) / np.sqrt(fresh.shape[-1]))


def _draw_input(name: str, spec: InputSpec, case: Case) -> AnyArray:
    rng = generator(case.seed, f"input:{name}")
    if spec.kind == "float":
        with np.errstate(over="ignore"):
            values = np.ldexp(FAMILIES[case.family](rng, spec.shape, spec.positions), _int32(case.scale))
        return _finite(to_grid(values, case), name, case)
    if spec.kind == "ids":
        return _ids(rng, spec)
    if spec.kind == "labels":
        return _labels(rng, spec)
    mask = _mask(rng, spec.shape).astype(np.int64)
    return mask.astype(np.float64) if spec.kind == "weight_mask" else mask


def _ids(rng: np.random.Generator, spec: InputSpec) -> AnyArray:
    """Draw ids, the first and the last one among them wherever there is room for two: tables are cut at their ends."""
    ids: AnyArray = rng.integers(spec.low, spec.high, spec.shape)
    if ids.size > 1:
        ids.flat[rng.choice(ids.size, 2, replace=False)] = spec.low, spec.high - 1
    return ids


IGNORED_LABELS = (0, -100)
"""Labels that enter no loss: padding, and what PyTorch's cross-entropy ignores by default."""


def _labels(rng: np.random.Generator, spec: InputSpec) -> AnyArray:
    labels: AnyArray = rng.integers(1, spec.high, spec.shape)
    ignored = rng.choice(IGNORED_LABELS, spec.shape)
    chosen: AnyArray = np.where(rng.random(spec.shape) < 0.4, ignored, labels)
    chosen.flat[0] = labels.flat[0]
    return chosen


def _mask(rng: np.random.Generator, shape: tuple[int, ...]) -> AnyArray:
    """Rows padded on the right, on the left, or with holes, one form for the whole array; no row is empty."""
    rows, positions = shape
    place, form = np.arange(positions), int(rng.integers(3))
    lengths, kept = rng.integers(1, positions + 1, (rows, 1)), rng.integers(positions, size=(rows, 1))
    holes = (rng.random(shape) < 0.5) | (place == kept)
    return np.asarray((place < lengths, place >= positions - lengths, holes)[form])


def _int32(scale: int) -> int:
    """Bound a scale to what `ldexp` takes; beyond, every number is 0 or infinite all the same."""
    return max(-(2**31), min(scale, 2**31 - 1))


def _finite(values: Array, name: str, case: Case) -> Array:
    if not np.isfinite(values).all():
        raise CaseError(
            f"{name} overflows the ladder {','.join(case.ladder)} at family {case.family}, scale {case.scale}"
        )
    return values
